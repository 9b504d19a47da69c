"""Films from worker processes, in their order; a worker that is killed is an error with words."""

from __future__ import annotations

import os
import signal

import pytest
from torch.utils.data import Dataset

from cosmos_ros.training.datasets import loading
from cosmos_ros.training.datasets.loading import WorkerLost, loaded
from cosmos_ros.training.opengl import NoOpenGL


class Squares(Dataset):
    def __init__(self, n: int, fatal: int | None = None, bad: int | None = None) -> None:
        self._n, self._fatal, self._bad = n, fatal, bad

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, place: int) -> list[int]:
        if place == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if place == self._bad:
            raise NoOpenGL.because("no EGL")
        return [place**2, os.getpid()]


def test_one_item_or_one_worker_needs_no_other_process():
    assert list(loaded(Squares(1), 4)) == [[0, os.getpid()]]
    assert list(loaded(Squares(3), 1)) == [[n**2, os.getpid()] for n in range(3)]
    assert list(loaded(Squares(0), 4)) == []


@pytest.mark.processes
def test_workers_give_items_in_order_and_a_killed_one_is_an_error(monkeypatch):
    monkeypatch.setattr(loading, "START", "fork")  # nothing here that a fork could hurt, and spawning takes seconds
    squares = list(loaded(Squares(9), 2))
    assert [square for square, _ in squares] == [n**2 for n in range(9)]
    assert len({process for _, process in squares}) == 2 and os.getpid() not in dict(squares).values()
    with pytest.raises(WorkerLost, match=r"was killed, .*try fewer --workers"):
        list(loaded(Squares(9, fatal=5), 2))


@pytest.mark.processes
@pytest.mark.parametrize("n_workers", [1, 2])
def test_what_goes_wrong_in_a_worker_arrives_as_it_was_said(n_workers, monkeypatch):
    monkeypatch.setattr(loading, "START", "fork")
    with pytest.raises(NoOpenGL) as caught:
        list(loaded(Squares(5, bad=3), n_workers))
    assert str(caught.value) == str(NoOpenGL.because("no EGL"))
    assert "in __getitem__" in str(caught.value.__cause__), "for who wants to know where"
