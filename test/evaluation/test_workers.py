"""Windows over processes, and what comes where a process ends too soon."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from pathlib import Path

import pytest

from cosmos_ros.evaluation.measure import Settings
from cosmos_ros.evaluation.workers import WorkerDied, over_processes
from cosmos_ros.settings import ForesightConfig

pytestmark = pytest.mark.processes

SETTINGS = Settings(ForesightConfig(device="cpu"), seed=0, samples=1)


@pytest.fixture
def evaluators(monkeypatch):
    """The module window_evaluators, as a worker finds it too."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("window_evaluators")


@pytest.mark.parametrize("workers", [1, 3])
def test_every_window_has_its_outcome(workers, evaluators):
    outcomes = over_processes(iter(range(20)), SETTINGS, workers, evaluators.Squares)
    assert sorted(outcomes) == [n * n for n in range(20)]


def test_no_window_no_worker(evaluators):
    assert list(over_processes(iter(()), SETTINGS, 2, evaluators.Squares)) == []


def test_what_a_worker_raises_arrives_with_its_traceback(evaluators):
    with pytest.raises(ValueError, match="-3 is negative") as caught:
        list(over_processes(iter([1, -3, 2]), SETTINGS, 2, evaluators.Squares))
    assert "in __call__" in str(caught.value.__cause__)


def test_of_an_error_that_does_not_come_through_a_pipe_its_words_do(evaluators):
    with pytest.raises(RuntimeError, match="Stubborn: -10 is far too negative"):
        list(over_processes(iter([-10]), SETTINGS, 1, evaluators.Squares))


def test_a_worker_that_is_killed_while_it_sends_is_noticed(evaluators):
    """Half of an outcome is in the pipe then: the rest must not be waited for."""
    outcomes = over_processes(iter(range(2)), SETTINGS, 1, evaluators.DiesWhileItSends)
    pid = next(outcomes)
    with pytest.raises(WorkerDied) as died:
        next(outcomes)
    assert died.value.window == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_outcome_counts_though_its_worker_has_died_since(evaluators):
    def windows():
        yield "the worker's last one"
        for worker in multiprocessing.active_children():
            worker.join()
        yield "one that no worker takes"

    outcomes = over_processes(windows(), SETTINGS, 1, evaluators.DiesAfterwards)
    assert next(outcomes) == "the worker's last one"
    with pytest.raises(WorkerDied) as died:
        next(outcomes)
    assert died.value.window == "one that no worker takes"


def test_whoever_leaves_early_leaves_no_worker_behind(evaluators):
    outcomes = over_processes(iter([1, 2, 3]), SETTINGS, 1, evaluators.OwnProcess)
    pid = next(outcomes)
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
