"""Windows are independent: over processes and GPUs of this machine, or over a Ray cluster, with the same numbers."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from typing import Any

import torch

from cosmos_ros.child_processes import end_with_parent, fresh_processes
from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.evaluation.measure import Outcome, Settings, WindowEvaluator
from cosmos_ros.settings import ForesightConfig

Evaluator = Callable[[Any], Callable[[Any], Outcome]]

WORKER_BYTES = 10**9  # what a worker takes besides its model: PyTorch, OpenCV, a window's pixels


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
    """Outcomes as they come, in any order. Raises what a worker raises; BrokenProcessPool where one died.

    evaluator  made by each worker, once, of the settings; gives the outcome of a window
    """
    context = fresh_processes(__name__)
    started = context.Value("i", 0)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(evaluator, settings, started)) as pool:
        pending: set[Future] = set()
        try:
            for window in windows:
                pending.add(pool.submit(_evaluate, window))
                # One more than there are workers waits its turn: pixels of all windows would fill the memory.
                while len(pending) > workers:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            # A window may take minutes: whoever interrupts does not wait for it.
            queue = pool._call_queue  # type: ignore[attr-defined]
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            # Before Python 3.11.5 the executor waits for ever to send a window to a worker that is gone (gh-94777).
            queue._reader.close()
            raise


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


_worker: dict[str, Any] = {}


def _start(evaluator: Evaluator, settings: Settings, started: Any) -> None:
    """Make this process a worker: the i-th, on the i-th GPU, or `gpus` of them, where the device is left open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    end_with_parent()
    _one_thread()
    with started.get_lock():
        index, started.value = started.value, started.value + 1
    if settings.foresight.device == "auto" and torch.cuda.is_available():
        places = max(1, torch.cuda.device_count() // settings.foresight.gpus)
        device = f"cuda:{index % places * settings.foresight.gpus}"
        settings = replace(settings, foresight=replace(settings.foresight, device=device))
    _worker["make"] = functools.partial(evaluator, settings)


def _evaluate(window: Any) -> Outcome:
    # The model is loaded with the first window: what goes wrong then reaches the parent with its message.
    if "evaluator" not in _worker:
        _worker["evaluator"] = _worker["make"]()
    return _worker["evaluator"](window)


def _one_thread() -> None:
    """Sums over several threads are rounded in another order: one thread gives the same numbers on any split."""
    set_cpu_threads(1)
