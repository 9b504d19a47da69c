"""Windows are independent: over processes and GPUs of this machine, or over a Ray cluster, with the same numbers."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any

import torch

from cosmos_ros.child_processes import end_with_parent, fresh_processes
from cosmos_ros.device.host_memory import keep_freed_memory
from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.evaluation.measure import Outcome, Settings, WindowEvaluator
from cosmos_ros.settings import ForesightConfig

Evaluator = Callable[[Any], Callable[[Any], Outcome]]

WORKER_BYTES = 10**9  # what a worker takes besides its model: PyTorch, OpenCV, a window's pixels


class WorkerDied(Exception):
    """A worker process was killed, or crashed."""


def default_workers(config: ForesightConfig, model_bytes: int) -> int:
    """One per GPU, or per `gpus` of them; on the CPU one per core, up to 4 and as many as the memory holds models of
    this size."""
    if config.device == "auto" and torch.cuda.is_available():
        return max(1, torch.cuda.device_count() // config.gpus)
    if config.device.startswith("cuda"):
        return 1
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fitting = free // (2 * model_bytes + WORKER_BYTES)
    return max(1, min(4, len(os.sched_getaffinity(0)), fitting))


def over_processes(
    windows: Iterable[Any], settings: Settings, workers: int, evaluator: Evaluator = WindowEvaluator
) -> Generator[Outcome, None, None]:
    """Outcomes as they come, in any order. Raises what a worker raises; WorkerDied where one ended.

    evaluator  made by each worker, once, of the settings; gives the outcome of a window
    """
    context = fresh_processes(__name__)
    crew: list[_Worker] = []
    busy: dict[Any, _Worker] = {}  # by their connections
    try:
        # The next window is made while the workers are busy, but no more: pixels of all would fill the memory.
        for window in windows:
            outcome = None
            if len(crew) < workers:
                worker = _Worker(context, len(crew), evaluator, settings)
                crew.append(worker)
            else:
                worker = busy.pop(wait(busy)[0])
                outcome = worker.outcome()
            worker.begin(window)
            busy[worker.connection] = worker
            if outcome is not None:
                yield outcome
        while busy:
            yield busy.pop(wait(busy)[0]).outcome()
        for worker in crew:
            worker.connection.close()  # it ends by itself, as a process should
    except BaseException:
        for worker in crew:
            worker.process.kill()  # a window may take minutes: whoever interrupts does not wait for it
        raise
    finally:
        for worker in crew:
            worker.process.join()


def over_ray(
    windows: Iterable[Any], settings: Settings, workers: int, address: str, evaluator: Evaluator = WindowEvaluator
) -> Generator[Outcome, None, None]:
    """The same over a Ray cluster; `address` as ray.init takes it: "auto" is the running one, "local" a new one."""
    import ray
    from ray.util import ActorPool

    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    there = ray.cluster_resources()
    each = settings.foresight.gpus  # GPUs of one worker
    places = int(there.get("GPU", 0)) // each if settings.foresight.device != "cpu" else 0
    actor = ray.remote(num_cpus=1, num_gpus=each if places else 0)(_RayEvaluator)
    places = places or int(there["CPU"])
    try:
        pool = ActorPool([actor.remote(evaluator, settings) for _ in range(min(workers or places, places))])
        for window in windows:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda worker, window: worker.evaluate.remote(window), window)
        while pool.has_next():
            yield pool.get_next_unordered()
    finally:
        ray.shutdown()


class _RayEvaluator:
    def __init__(self, evaluator: Evaluator, settings: Settings) -> None:
        _one_thread()
        self._evaluator = evaluator(settings)

    def evaluate(self, window: Any) -> Outcome:
        return self._evaluator(window)


class _Worker:
    """A process that evaluates one window at a time.

    Each has a pipe of its own. Where several share one, as in a ProcessPoolExecutor, one that is killed while it sends
    leaves half an outcome in it, and whoever reads it waits for ever, since the pipe stays open.
    """

    def __init__(self, context: ForkServerContext, index: int, evaluator: Evaluator, settings: Settings) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, index, evaluator, settings))
        self.process.start()
        theirs.close()  # so that its end is heard on ours

    def begin(self, window: Any) -> None:
        try:
            self.connection.send(window)
        except OSError:
            raise WorkerDied from None

    def outcome(self) -> Outcome:
        """Waits for it."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            raise WorkerDied from None
        if isinstance(outcome, _Failure):
            raise outcome.error from RuntimeError(outcome.traceback)
        return outcome


@dataclass(frozen=True)
class _Failure:
    """What a worker raised."""

    error: Exception
    traceback: str


def _work(connection: Connection, index: int, evaluator: Evaluator, settings: Settings) -> None:
    """A worker's life: the index-th, on the index-th GPU, or `gpus` of them, where the device is left open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    end_with_parent()
    keep_freed_memory()
    _one_thread()
    if settings.foresight.device == "auto" and torch.cuda.is_available():
        places = max(1, torch.cuda.device_count() // settings.foresight.gpus)
        device = f"cuda:{index % places * settings.foresight.gpus}"
        settings = replace(settings, foresight=replace(settings.foresight, device=device))
    evaluate = None
    while True:
        try:
            window = connection.recv()
        except EOFError:  # there are no more
            return
        try:
            # The model is loaded with the first window: what goes wrong then reaches the parent with its message.
            evaluate = evaluate or evaluator(settings)
            connection.send(evaluate(window))
        except Exception as error:
            connection.send(_Failure(_portable(error), traceback.format_exc()))


def _portable(error: Exception) -> Exception:
    """The error, or its words, where it does not come whole through a pipe."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _one_thread() -> None:
    """Sums over several threads are rounded in another order: one thread gives the same numbers on any split."""
    set_cpu_threads(1)
