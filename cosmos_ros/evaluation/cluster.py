"""Windows over a Ray cluster, with the same numbers as over processes of this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Generator, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.errors import ForesightError, SettingError
from cosmos_ros.evaluation.measure import Outcome, Settings
from cosmos_ros.evaluation.workers import Evaluator, WorkerDied

INSTALL = "python -m pip install -r requirements/ray.txt"
ANSWER_S = 5.0  # that an address has to answer
EXPECTED = 'give HOST:PORT of a running cluster, "auto" for the one of this machine, or "local" for a new one'
NEEDED = "every node needs this version of cosmos_ros, and the checkpoint and other files under the same paths"


class NoCluster(ForesightError):
    """No Ray cluster can be worked with; the message says why."""


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connected to a Ray cluster, at an address as ray.init takes it; None: to none, where none is asked for.

    Raises SettingError where Ray is missing or this is no address, NoCluster where no cluster answers.
    """
    if address is None:
        yield
        return
    if importlib.util.find_spec("ray") is None:
        raise SettingError(f"--ray needs Ray, which is not installed: {INSTALL}")
    if address != "local":
        # Ray tries again and again, each time for 40 s and 20 times in all.
        _listen(os.environ.get("RAY_ADDRESS") or address if address == "auto" else address)
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # times that it tries, in spite of the name
    import ray

    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise NoCluster(f"--ray {address}: {error}; {EXPECTED}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _listen(address: str) -> None:
    """Raises SettingError for what is no address, NoCluster where nobody listens there."""
    if address == "auto":
        return  # Ray finds it, or says at once that there is none
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise SettingError(f"--ray {address} is no address of a Ray cluster; {EXPECTED}")
    try:
        socket.create_connection((host, port), ANSWER_S).close()
    except OSError as error:
        raise NoCluster(f"no Ray cluster answers at {address} ({error}); {EXPECTED}") from error


def over_ray(
    windows: Iterable[Any], settings: Settings, workers: int, evaluator: Evaluator
) -> Generator[Outcome, None, None]:
    """Outcomes as they come, in any order, from the cluster that is connected.

    workers  at most; 0: as many as there are CPUs, or GPUs for a model that each needs `gpus` of

    Raises what an evaluator raises, NoCluster where it has no place for one or cannot start it, WorkerDied where one
    ended.
    """
    import ray
    from ray.util import ActorPool

    there = ray.cluster_resources()
    each = settings.foresight.gpus  # GPUs of one worker
    on_gpus = int(there.get("GPU", 0)) // each if settings.foresight.device != "cpu" else 0
    places = on_gpus or int(there.get("CPU", 0))
    if not places:
        raise NoCluster("the Ray cluster has no CPU to work on: give its nodes some (`ray start --num-cpus N`)")
    actor = ray.remote(num_cpus=1, num_gpus=each if on_gpus else 0)(_RayEvaluator)
    pool = ActorPool([actor.remote(evaluator, settings) for _ in range(min(workers or places, places))])
    try:
        for window in windows:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda worker, window: worker.evaluate.remote(window), window)
        while pool.has_next():
            yield pool.get_next_unordered()
    except ray.exceptions.RayTaskError as error:  # around what the evaluator raised, with a traceback in its words
        raise error.cause from error
    except ray.exceptions.RayActorError as error:
        if "creation task" not in str(error):
            raise WorkerDied from error
        why = str(error).splitlines()[-1]
        raise NoCluster(f"a worker could not start on the Ray cluster: {why}; {NEEDED}") from error


class _RayEvaluator:
    def __init__(self, evaluator: Evaluator, settings: Settings) -> None:
        set_cpu_threads(1)  # as in a worker process: the same numbers on any split
        self._make, self._settings = evaluator, settings
        self._evaluate: Any = None

    def evaluate(self, window: Any) -> Outcome:
        # Made with the first window: an actor that fails while it is made gives no error of its own.
        self._evaluate = self._evaluate or self._make(self._settings)
        return self._evaluate(window)
