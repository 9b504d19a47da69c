"""Requests for predictions, served one at a time: what a busy queue does with another one, cancel, progress. No ROS.

Two kinds of jobs share one worker. A submitted job is a client's goal and ends exactly once, whatever happens. An
offered job (of the continuous mode) runs only while the model is free, and gives way to a submitted one.

A prediction comes in parts, its stretches, and each part leaves as soon as it is there. A job that ends before its last
part does not take back what has left.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from cosmos_ros.device.host_memory import return_freed_memory
from cosmos_ros.errors import Busy, Canceled, ForesightError, NotActive, Preempted
from cosmos_ros.progress import Progress, Stage

REPORT_PERIOD_S = 0.1  # between two reports of the same stage
REST_PERIOD_S = 5.0  # in which memory is given back while no job comes: results and players let go of frames later

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to predict. None: the server's default, or the model's.

    from_image  condition on the newest frame alone, instead of a clip
    until_ns    condition on frames not newer than this stamp, nanoseconds
    samples     how many rollouts of the same clip
    frames      how many frames to predict
    """

    from_image: bool = False
    prompt: str = ""
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    until_ns: int | None = None
    samples: int = 1
    frames: int | None = None


class Part(Protocol):
    """Some frames of a prediction that leave together.

    n_frames  how many, of each sample
    is_last   whether the prediction is complete with it
    """

    @property
    def n_frames(self) -> int: ...
    @property
    def is_last(self) -> bool: ...


def _nothing(*_: object) -> None:
    """Takes the place of a callback."""


class Job:
    """One request from its arrival to its end. Whoever closes it first decides how it ends.

    id           16 bytes, the goal's id; all zeros for a continuous prediction
    on_start     called when the worker takes it up, on the worker's thread
    on_progress  called at every change of stage, in between ten times a second, on the worker's thread
    on_end       called once, when `outcome` is there, on the thread that ended it

    `outcome` is the list of what the queue's `deliver` returned for each part, or the error that ended the job;
    `started` says whether the worker ever took it up, `frames_left` how many frames of each sample have left.
    """

    def __init__(
        self,
        request: Request,
        *,
        id: bytes = bytes(16),
        on_start: Callable[[], None] = _nothing,
        on_progress: Callable[[Progress], None] = _nothing,
        on_end: Callable[[], None] = _nothing,
    ) -> None:
        self.request, self.id = request, id
        self.outcome: Any = None
        self.started = False
        self.frames_left = 0
        self.ended = threading.Event()
        self._on_start, self._on_progress, self._on_end = on_start, on_progress, on_end
        self._closed = False
        self._gives_way = False  # to a submitted job: it was only offered
        self._lock = threading.Lock()
        self._last_stage: Stage | None = None
        self._last_report = 0.0

    @property
    def closed(self) -> bool:
        """Whether its end is decided, though the worker may still be busy with it."""
        return self._closed

    def stop(self, error: ForesightError) -> None:
        """End it with an error, unless its end is decided already. The worker lets go after the pass that it is in."""
        if self._close():
            self._end(error)

    def report(self, progress: Progress) -> None:
        """Pass on how far it is. Raises Canceled once it is closed: that is how a prediction stops."""
        if self._closed:
            raise Canceled("the goal has ended")
        now = time.monotonic()
        if progress.stage is self._last_stage and now - self._last_report < REPORT_PERIOD_S:
            return
        self._last_stage, self._last_report = progress.stage, now
        self._on_progress(progress)

    def _start(self) -> None:
        self.started = True
        self._on_start()

    def _may_leave(self, part: Part) -> bool:
        """Let a part go, unless the end of the job is decided. With the last part it is: it succeeds."""
        with self._lock:
            if self._closed:
                return False
            self.frames_left += part.n_frames
            self._closed = part.is_last
            return True

    def _close(self) -> bool:
        """Take the decision how it ends; False where it was taken already."""
        with self._lock:
            first, self._closed = not self._closed, True
            return first

    def _finish(self, outcome: Any, decided: bool) -> None:
        """End it, where that was decided for it or nobody has decided yet."""
        if decided or self._close():
            self._end(outcome)

    def _end(self, outcome: Any) -> None:
        self.outcome = outcome
        self.ended.set()
        on_end = self._on_end
        # Whoever listens knows the job as well: in such a circle the outcome's frames would wait for the garbage
        # collector, which seldom comes.
        self._on_start = self._on_progress = self._on_end = _nothing
        on_end()


class PredictionQueue:
    """Serves jobs between `open` and `close`, one at a time, on a thread of its own that lives until `destroy`.

    predict  yields the parts of a job's prediction, calling job.report as it goes; raises ForesightError
    deliver  publishes a part and returns what the job's outcome is to hold of it; not called for a job that was stopped

    A job for which either raises ends with that error, and the next one is served. An error that is no ForesightError
    becomes INTERNAL and is logged with its traceback.
    """

    def __init__(
        self, predict: Callable[[Job], Generator[Any, None, None]], deliver: Callable[[Job, Any], Any]
    ) -> None:
        self._predict, self._deliver = predict, deliver
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: Job | None = None
        self._open = self._destroyed = False
        self._refusal = "the queue is closed"
        self._changed = threading.Condition(threading.RLock())  # guards the five above; a job's callbacks may come back
        self._worker = threading.Thread(target=self._work, name="predict", daemon=True)
        self._worker.start()

    @property
    def state(self) -> str:
        """One line on what runs and what waits."""
        with self._changed:
            if self._running is None:
                running = "no goal runs"
            else:
                running = "a continuous prediction runs" if self._running._gives_way else "one goal runs"
            return f"{running}, {len(self._waiting)} waiting" if self._waiting else running

    @property
    def idle(self) -> bool:
        """Whether the worker holds no job and none waits."""
        with self._changed:
            return self._running is None and not self._waiting

    def open(self) -> None:
        """Serve jobs from now on."""
        with self._changed:
            self._open = True

    def refuse(self, reason: str) -> None:
        """Give this reason to every job that comes while the queue is closed."""
        with self._changed:
            self._refusal = reason

    def close(self, reason: str) -> None:
        """End every job with NOT_ACTIVE and this reason, and all that come later; wait until the worker has let go."""
        with self._changed:
            self._open = False
            self._stop_all(NotActive(reason))
            self._changed.wait_for(lambda: self._running is None)

    def destroy(self, reason: str) -> None:
        """Close and end the worker; the queue cannot be opened again."""
        self.refuse(reason)
        self.close(reason)
        with self._changed:
            self._destroyed = True
            self._changed.notify_all()
        self._worker.join()

    def submit(self, job: Job, when_busy: str) -> None:
        """Run the job, now or when its turn comes, or end it with the reason why not.

        when_busy  what becomes of it while another submitted job runs or waits. "reject": it ends with BUSY.
                   "preempt": the others end with PREEMPTED. "queue": it waits its turn
        """
        with self._changed:
            # A stopped job that the worker has not let go of yet is no reason to turn the next one away.
            others = [other for other in self._jobs() if not other.closed]
            busy = any(not other._gives_way for other in others)
            if not self._open:
                job.stop(NotActive(self._refusal))
            elif busy and when_busy == "reject":
                job.stop(Busy("busy with another goal: cancel it, wait, or set `when_busy` to preempt or queue"))
            elif busy and when_busy == "preempt":
                self._stop_all(Preempted("a newer goal took over"))
            elif not busy:
                self._stop_all(Preempted("a goal goes before a continuous prediction"))
            if not job.closed:
                self._append(job)

    def offer(self, job: Job) -> bool:
        """Run the job if nothing runs or waits; else drop it without a word and return False."""
        with self._changed:
            if not self._open or not self.idle:
                return False
            job._gives_way = True
            self._append(job)
            return True

    def cancel(self, job: Job) -> None:
        """End the job with CANCELED, wherever it is."""
        self.drop(job)
        job.stop(Canceled("canceled by the client"))

    def drop(self, job: Job) -> bool:
        """Take a job that waits out of the queue, without ending it; False where it does not wait."""
        with self._changed:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def report_waiting(self) -> None:
        """Have every job that waits say so."""
        with self._changed:
            waiting = tuple(self._waiting)
        for job in waiting:
            if not job.closed:
                job._on_progress(Progress(Stage.WAITING, 0.0))

    def _jobs(self) -> list[Job]:
        return [*filter(None, (self._running,)), *self._waiting]

    def _append(self, job: Job) -> None:
        self._waiting.append(job)
        self._changed.notify_all()

    def _stop_all(self, error: ForesightError) -> None:
        jobs = self._jobs()
        self._waiting.clear()
        for job in jobs:
            job.stop(error)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._serve(job)
            del job  # else what it ended with would wait here for the next one

    def _next(self) -> Job | None:
        """Wait for a job; None when there will be no more."""
        with self._changed:
            self._running = None
            self._changed.notify_all()
        while True:
            if not self._waiting:
                return_freed_memory()
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._destroyed, REST_PERIOD_S)
                if self._destroyed:
                    return None
                if self._waiting:
                    self._running = self._waiting.popleft()
                    return self._running

    def _serve(self, job: Job) -> None:
        delivered: list[Any] = []
        ours = False  # whether the end is ours to tell: it is once the last part may leave
        try:
            job._start()
            with closing(self._predict(job)) as parts:
                for part in parts:
                    if not job._may_leave(part):
                        return
                    ours = part.is_last
                    delivered.append(self._deliver(job, part))
        except ForesightError as error:
            job._finish(_bare(error), ours)
        except Exception as error:
            job._finish(_unexpected(error), ours)
        else:
            job._finish(delivered, ours)


def _bare(error: ForesightError) -> ForesightError:
    """The error without tracebacks: they hold whatever the functions on their way held, and the job too."""
    chain: list[BaseException | None] = [error]
    while chain:
        each = chain.pop()
        if each is not None and each.__traceback__ is not None:  # else it was here already, or never raised
            each.__traceback__ = None
            chain += [each.__cause__, each.__context__]
    return error


def _unexpected(error: Exception) -> ForesightError:
    log.error("a goal failed unexpectedly:\n%s", "".join(traceback.format_exception(error)))
    return ForesightError(f"{type(error).__name__}: {error}; the node's log says where")
