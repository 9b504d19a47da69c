"""One thread on which guards run one after another, and the watch over it."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

from cosmos_ros.errors import ForesightError, GuardrailUnavailable
from cosmos_ros.guardrail.guard import Guard

T = TypeVar("T")
POLL_S = 0.05  # how often a waiting caller is asked whether it still wants to wait


class Watch:
    """What all threads that ask a profile's guards share: a lock for each guard, and how long one may take.

    A guard judges one thing at a time, whoever asks: OpenCV's cascades, for one, do not bear two threads.
    """

    def __init__(self, guards: Iterable[Guard], timeout_s: float) -> None:
        self.locks = {guard.name: threading.Lock() for guard in guards}
        self.timeout_s = timeout_s


class WatchedThread:
    """Runs jobs in order on a daemon thread of its own; the first failure is kept and ends the thread.

    Python cannot end a thread that hangs, so a thread is left behind instead: once it failed or was closed, nothing
    that its thread still computes is looked at. Each guard has `timeout_s` seconds in all, over all of its calls.
    A guard that another thread still occupies (a hung one, say) is waited for within that same time.
    """

    def __init__(self, name: str, watch: Watch) -> None:
        self._locks = watch.locks
        self._timeout_s = watch.timeout_s
        self._spent: dict[str, float] = defaultdict(float)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._pending = 0
        self._running: Guard | None = None
        self._since = time.monotonic()  # of the last sign of life
        self._failure: ForesightError | None = None
        self.failed_guard: Guard | None = None  # whose failure the thread's is, where it is a guard's
        self._thread = threading.Thread(target=self._work, name=f"guardrail {name}", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; it ends by returning, or by raising what then stands as the thread's failure."""
        with self._changed:
            if not self._pending:
                self._since = time.monotonic()
            self._pending += 1
        self._jobs.put(job)

    def call(self, guard: Guard, question: Callable[[], T]) -> tuple[T, float]:
        """For jobs: the guard's answer to the question, and the seconds it took.

        Raises GuardrailUnavailable where the guard raised, or took longer than it may; and the thread's failure where
        there is one already.
        """
        self.raise_failure()
        start = self._set_running(guard)
        try:
            answer = self._ask(guard, question)
        except GuardrailUnavailable as error:
            raise self._fault_of(guard, error) from error.__cause__
        except BaseException as error:  # whatever it was, even SystemExit: nothing may leave
            fault = GuardrailUnavailable(f"guard {guard.name} failed: {type(error).__name__}: {error}")
            raise self._fault_of(guard, fault) from error
        finally:
            seconds = self._set_running(None) - start
            self._spent[guard.name] += seconds
        if self._spent[guard.name] > self._timeout_s:
            raise self._fault_of(guard, self._timed_out(guard))
        return answer, seconds

    def wait(self, waiting: Callable[[], None] | None = None) -> None:
        """Wait until every job is done; `waiting` is called meanwhile and may raise to give up.

        Raises the thread's failure, and GuardrailUnavailable where a guard takes longer than it may.
        """
        while True:
            with self._changed:
                if self._failure is None and self._pending:
                    self._changed.wait(POLL_S)
                if self._failure is None and self._pending and self._overdue():
                    self._failure = self._fault_of(self._running, self._timed_out(self._running))
                if self._failure is not None:
                    raise self._failure
                if not self._pending:
                    return
            if waiting is not None:
                waiting()

    def raise_failure(self) -> None:
        """Raise the thread's failure where there is one already."""
        with self._changed:
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """Let the thread end after the call it is in, and refuse whatever it still computes."""
        self._fail(GuardrailUnavailable("the screening was left"))
        self._jobs.put(None)

    def _ask(self, guard: Guard, question: Callable[[], T]) -> T:
        lock = self._locks[guard.name]
        if not lock.acquire(timeout=self._timeout_s):
            raise TimeoutError(f"an earlier call still occupies it after {self._timeout_s:g} s")
        try:
            self.raise_failure()  # the thread may have been left meanwhile, and others wait for the guard
            return question()
        finally:
            lock.release()

    def _set_running(self, guard: Guard | None) -> float:
        with self._changed:
            self._running, self._since = guard, time.monotonic()
            return self._since

    def _overdue(self) -> bool:
        spent = self._spent[self._running.name] if self._running else 0.0
        return time.monotonic() - self._since + spent > self._timeout_s

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._failure is None:
                try:
                    job()
                except ForesightError as error:
                    self._fail(error)
                except BaseException as error:
                    self._fail(GuardrailUnavailable(f"the guardrail failed: {type(error).__name__}: {error}"))
            del job  # it holds frames
            with self._changed:
                self._pending -= 1
                self._changed.notify_all()

    def _fail(self, error: ForesightError) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()

    def _fault_of(self, guard: Guard | None, error: GuardrailUnavailable) -> GuardrailUnavailable:
        self.failed_guard = guard
        return error

    def _timed_out(self, guard: Guard | None) -> GuardrailUnavailable:
        who = f"guard {guard.name}" if guard else "the guardrail's thread"
        return GuardrailUnavailable(
            f"{who} did not answer within {self._timeout_s:g} s; the time allowed is the parameter guard_timeout"
        )
