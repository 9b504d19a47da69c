"""One thread on which guards run one after another, and the watch over it."""

from __future__ import annotations

import atexit
import ctypes
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cosmos_ros.errors import ForesightError, GuardrailUnavailable
from cosmos_ros.guardrail.guard import Guard

T = TypeVar("T")
POLL_S = 0.05  # how often a waiting caller is asked whether it still wants to wait
_RAISE_IN = ctypes.pythonapi.PyThreadState_SetAsyncExc
WARM_UPS = 10  # a slow machine's guards may take as many times as long as they took to warm up


class Watch:
    """What all threads that ask a profile's guards share.

    locks      one for each guard, by its name. A guard judges one thing at a time, whoever asks: OpenCV's cascades, for
               one, do not bear two threads
    occupants  the thread that asked each guard last
    timeout_s  seconds that one answer of a guard may take, see `limit_s`
    """

    def __init__(self, guards: Iterable[Guard], timeout_s: float) -> None:
        self.locks = {guard.name: threading.Lock() for guard in guards}
        self.occupants: dict[str, WatchedThread] = {}
        self.timeout_s = timeout_s
        self._warm_up_s: dict[str, float] = {}

    def warmed_up(self, guard: Guard, seconds: float) -> None:
        """Remember how long the guard's first answer took on this machine."""
        self._warm_up_s[guard.name] = seconds

    def limit_s(self, guard: Guard | None) -> float:
        """After how many seconds without an answer a guard counts as one that hangs.

        The limit is there for guards that hang. A machine on which a guard takes long to warm up is merely slow.
        """
        warm_up_s = self._warm_up_s.get(guard.name, 0.0) if guard else 0.0
        return max(self.timeout_s, WARM_UPS * warm_up_s)


class WatchedThread:
    """Runs jobs in order on a daemon thread of its own; the first failure is kept and ends the thread.

    Python cannot end a thread that hangs, so a thread is left behind instead: once it failed or was closed, nothing
    that its thread still computes is looked at. Each answer of a guard may take the watch's limit, `leniency` times. A
    guard that another thread asks is waited for, unless it hangs there.
    """

    def __init__(self, name: str, watch: Watch, leniency: float = 1.0) -> None:
        self._watch = watch
        self._leniency = leniency
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._pending = 0
        self._running: Guard | None = None
        self._failure: ForesightError | None = None
        self.failed_guard: Guard | None = None  # whose failure the thread's is, where it is a guard's
        self._thread = threading.Thread(target=self._work, name=f"guardrail {name}", daemon=True)
        self._thread.start()
        self._since = self._clock()  # of the last sign of life
        _THREADS.add(self)

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; it ends by returning, or by raising, which is the thread's failure from then on."""
        with self._changed:
            if not self._pending:
                self._since = self._clock()
            self._pending += 1
        self._jobs.put(job)

    def call(self, guard: Guard, question: Callable[[], T]) -> tuple[T, float]:
        """For jobs: the guard's answer to the question, and the seconds it worked on it.

        Raises GuardrailUnavailable where the guard raised, or took longer than it may; and the thread's failure where
        there is one already.
        """
        self.raise_failure()
        self._set_running(guard)
        try:
            with self._occupied(guard):
                try:
                    answer = question()
                finally:
                    seconds = self._set_running(None)  # before another thread may ask it, whose time is not its own
        except GuardrailUnavailable as error:
            raise self._fault_of(guard, error) from error.__cause__
        except BaseException as error:  # whatever it was, even SystemExit: nothing may leave
            fault = GuardrailUnavailable(f"guard {guard.name} failed: {type(error).__name__}: {error}")
            raise self._fault_of(guard, fault) from error
        finally:
            self._set_running(None)
        if seconds > self._limit_s(guard):
            raise self._timed_out(guard)
        return answer, seconds

    def wait(self, waiting: Callable[[], None] | None = None) -> None:
        """Wait until every job is done; `waiting` is called meanwhile and may raise to give up.

        Raises the thread's failure, and GuardrailUnavailable where a guard takes longer than it may.
        """
        while True:
            with self._changed:
                if self._failure is None and self._pending:
                    self._changed.wait(POLL_S)
                self.raise_failure()
                if not self._pending:
                    return
            if waiting is not None:
                waiting()

    def raise_failure(self) -> None:
        """Raise the thread's failure where there is one already; a guard that takes longer than it may is one."""
        with self._changed:
            if self._failure is None and self.overdue:
                self._failure = self._timed_out(self._running)
            if self._failure is not None:
                raise self._failure

    @property
    def overdue(self) -> bool:
        """Whether the guard that is asked, or the thread itself, takes longer than it may."""
        with self._changed:
            return self._pending > 0 and self._clock() - self._since > self._limit_s(self._running)

    def close(self) -> None:
        """Let the thread end after the call it is in, and refuse whatever it still computes."""
        self._fail(GuardrailUnavailable("the screening was left"))
        self._jobs.put(None)

    def end(self) -> None:
        """Break the thread off where it comes back to Python, and wait for that as long as an answer may take.

        For the interpreter's end alone: a guard may be anywhere in its work.
        """
        deadline = time.monotonic() + self._limit_s(self._running)
        while self._thread.is_alive() and time.monotonic() < deadline:
            # Again and again, as a guard may catch it. Nothing is printed of a thread that ends in SystemExit.
            _RAISE_IN(ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SystemExit))
            self._thread.join(POLL_S)

    @contextmanager
    def _occupied(self, guard: Guard) -> Iterator[None]:
        """Wait while other threads ask the guard. Raises TimeoutError where it hangs in one of them."""
        lock, occupants = self._watch.locks[guard.name], self._watch.occupants
        while not lock.acquire(timeout=POLL_S):
            self.raise_failure()  # this thread may have been left meanwhile
            if (other := occupants.get(guard.name)) and other.overdue:
                raise TimeoutError("it hangs in an earlier call")
            self._set_running(guard)  # the time of the wait is not the guard's
        try:
            occupants[guard.name] = self
            self.raise_failure()
            self._set_running(guard)
            yield
        finally:
            lock.release()

    def _set_running(self, guard: Guard | None) -> float:
        """Note a sign of life; returns the seconds since the last one.

        Never fewer than none: the kernel counts what a thread waited only when it has run again.
        """
        with self._changed:
            before, now = self._since, self._clock()
            self._running, self._since = guard, now
            return max(0.0, now - before)

    def _clock(self) -> float:
        """Seconds, not counting those in which the thread waits for a free CPU: a busy machine makes no guard late."""
        return time.monotonic() - queued_s(self._thread.native_id)

    def _limit_s(self, guard: Guard | None) -> float:
        return self._leniency * self._watch.limit_s(guard)

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
        limit = f"{round(self._limit_s(guard), 1):g} s"
        error = f"{who} did not answer within {limit}; the time allowed is the parameter guard_timeout"
        return self._fault_of(guard, GuardrailUnavailable(error))


def queued_s(thread_id: int | None) -> float:
    """Seconds that a thread of this process has waited for a free CPU so far; 0 where the kernel does not say."""
    try:
        return int(Path(f"/proc/self/task/{thread_id}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


_THREADS: weakref.WeakSet[WatchedThread] = weakref.WeakSet()


@atexit.register
def _leave_no_thread_behind() -> None:
    """Wait for guards that still compute: a thread that comes back to an interpreter that has ended aborts the process.

    One that does not come back to Python is given its time once more; then it is taken to hang for ever.
    """
    threads = list(_THREADS)
    for thread in threads:
        thread.close()
    for thread in threads:
        thread.end()
