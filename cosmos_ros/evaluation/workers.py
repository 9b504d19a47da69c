"""Windows are independent: over processes and GPUs of this machine, with the same numbers on any split."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any

import torch

from cosmos_ros.child_processes import Failure, end_with_parent, fresh_processes
from cosmos_ros.device.host_memory import keep_freed_memory
from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.evaluation.measure import Outcome, Settings, WindowEvaluator
from cosmos_ros.settings import ForesightConfig

Evaluator = Callable[[Any], Callable[[Any], Outcome]]

WORKER_BYTES = 10**9  # what a worker takes besides its model: PyTorch, OpenCV, a window's pixels


class WorkerDied(Exception):
    """A worker process was killed, or crashed.

    window  the one that it was lost with; None where that is not known
    """

    def __init__(self, window: Any = None) -> None:
        super().__init__()
        self.window = window


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
            if len(crew) < workers:
                worker = _Worker(context, len(crew), evaluator, settings)
                crew.append(worker)
            else:
                worker = busy.pop(wait(busy)[0])
                yield worker.outcome()  # before the next one begins: the worker may have died since
            worker.begin(window)
            busy[worker.connection] = worker
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
        self._window = window
        try:
            self.connection.send(window)
        except OSError:
            raise WorkerDied(window) from None

    def outcome(self) -> Outcome:
        """Waits for it."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            raise WorkerDied(self._window) from None
        if isinstance(outcome, Failure):
            outcome.raised()
        return outcome


def _work(connection: Connection, index: int, evaluator: Evaluator, settings: Settings) -> None:
    """A worker's life: the index-th, on the index-th GPU, or `gpus` of them, where the device is left open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    end_with_parent()
    keep_freed_memory()
    set_cpu_threads(1)  # sums over several are rounded in another order: the same numbers on any split
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
            connection.send(Failure.of(error))
