"""Windows over a Ray cluster, and what is said where there is none."""

from __future__ import annotations

import importlib
import socket
import sys
from pathlib import Path

import pytest

from cosmos_ros.errors import SettingError
from cosmos_ros.evaluation import cluster
from cosmos_ros.evaluation.cluster import NoCluster, connected, over_ray
from cosmos_ros.evaluation.measure import Settings
from cosmos_ros.settings import ForesightConfig

SETTINGS = Settings(ForesightConfig(device="cpu"), seed=0, samples=1)


@pytest.fixture
def nobodys() -> str:
    """An address at which nobody listens."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))  # bound, and not listening: nobody else can be there either
        yield f"127.0.0.1:{place.getsockname()[1]}"


def test_none_is_asked_for_and_none_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with connected(None):
        pass


@pytest.fixture
def with_ray():
    pytest.importorskip("ray", reason="Ray is an optional extra: requirements/ray.txt")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_at_which_nobody_listens_is_said_at_once(with_ray, nobodys, scheme):
    with pytest.raises(NoCluster, match=f"no Ray cluster answers at {scheme}{nobodys} .*HOST:PORT"):
        connected(scheme + nobodys).__enter__()


def test_so_is_one_that_the_environment_names(with_ray, nobodys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", nobodys)
    with pytest.raises(NoCluster, match=f"no Ray cluster answers at {nobodys}"):
        connected("auto").__enter__()


@pytest.mark.parametrize("address", ["", "head", "head:", "head:many", "head:99999", ":6379", "http://[::1"])
def test_what_is_no_address_is_refused(with_ray, address):
    with pytest.raises(SettingError, match="is no address of a Ray cluster; give HOST:PORT"):
        connected(address).__enter__()


def test_what_ray_says_of_an_address_reaches_the_user(with_ray, monkeypatch):
    import ray

    def init(**_):
        raise ConnectionError("there is none here")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "_listen", lambda _address: None)
    with pytest.raises(NoCluster, match="--ray auto: there is none here; give HOST:PORT"):
        connected("auto").__enter__()


@pytest.mark.slow
@pytest.mark.processes
def test_outcomes_and_errors_come_from_a_cluster_as_from_processes(with_ray, monkeypatch):
    import ray

    monkeypatch.syspath_prepend(Path(__file__).parent)
    evaluators = importlib.import_module("window_evaluators")
    with connected("local"):
        with pytest.raises(NoCluster, match="could not start .*No module named 'window_evaluators'; every node needs"):
            next(over_ray(iter(range(5)), SETTINGS, 1, evaluators.Squares))
        ray.cloudpickle.register_pickle_by_value(evaluators)
        outcomes = over_ray(iter([2, 3, -3]), SETTINGS, 1, evaluators.Squares)
        assert [next(outcomes), next(outcomes)] == [4, 9]
        with pytest.raises(ValueError, match=r"^-3 is negative$"):
            next(outcomes)
