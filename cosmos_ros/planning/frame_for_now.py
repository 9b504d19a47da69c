"""Which predicted frame shows a given time: for eyes that get the camera's picture late. No ROS.

Stamps decide. Between two predicted frames the nearer one is shown, as it is and with its own stamp: a blend of two
would show everything that moves twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from cosmos_ros.rollout import NANOSECONDS, GuardedRollout

NONE_YET = "no prediction has been released"
JUMP_NS = NANOSECONDS // 10  # a clock that goes back further begins another time, as of a bag that loops


class NothingToShow(Exception):
    """No released prediction shows that time; the message says why."""


@dataclass(frozen=True)
class Shown:
    """Frame `index` of a rollout.

    frame_id  of the camera that took the rollout's clip
    epoch     in which that clip was taken
    """

    rollout: GuardedRollout
    index: int
    frame_id: str
    epoch: int

    @property
    def stamp_ns(self) -> int:
        return self.rollout.stamps_ns[self.index]


class FrameForNow:
    """The predictions that reach into the future, and which of their frames is the one for a time. Thread-safe.

    alarm     whether the world goes another way than foreseen: nothing is shown while it does
    restarts  how often the camera's images began anew: what was predicted before shows nothing of what comes after
    """

    def __init__(self, alarm: Callable[[], bool] = lambda: False, restarts: Callable[[], int] = lambda: 0) -> None:
        self._alarm, self._restarts_now, self._restarts = alarm, restarts, restarts()
        self._lock = threading.Lock()
        self._rollouts: list[GuardedRollout] = []  # the newest clip last, of one clip the last that was released
        self._frame_id = ""  # of all of these: another camera's begin anew
        self._now_ns = 0
        self._epoch = 0
        self._why_none = NONE_YET

    def epoch(self, now_ns: int) -> int:
        """Changes where clock or camera begin anew; a prediction belongs to that in which its clip was taken."""
        with self._lock:
            self._tell_time(now_ns)
            return self._epoch

    def add(self, rollout: GuardedRollout, epoch: int, now_ns: int, frame_id: str = "") -> None:
        """Take in a released rollout, or a stretch of one, unless it belongs to another time."""
        with self._lock:
            self._tell_time(now_ns)
            ahead_ns = rollout.conditioning_stamps_ns[-1] - now_ns
            if epoch != self._epoch:
                return
            if ahead_ns > _period_ns(rollout):
                self._why_none = f"the last prediction's clip is stamped {ahead_ns / NANOSECONDS:.3f} s after the clock"
                return
            kept = [other for other in self._rollouts if not _replaces(rollout, other)]
            self._rollouts = sorted([*kept, rollout], key=lambda each: each.conditioning_stamps_ns[-1])
            self._frame_id = frame_id

    def clear(self) -> None:
        """Forget all predictions."""
        with self._lock:
            self._rollouts, self._why_none = [], NONE_YET

    def at(self, now_ns: int, ahead_s: float = 0.0) -> Shown:
        """The frame nearest to now + ahead_s, within half a period of it, of the prediction from the newest clip.

        Raises NothingToShow.
        """
        with self._lock:
            self._tell_time(now_ns)
            if self._alarm():
                raise NothingToShow("a surprise alarm stands: the world goes another way than predicted")
            if not self._rollouts:
                raise NothingToShow(self._why_none)
            time_ns = now_ns + round(ahead_s * NANOSECONDS)
            for rollout in reversed(self._rollouts):
                index = min(range(len(rollout.stamps_ns)), key=lambda i: abs(rollout.stamps_ns[i] - time_ns))
                if abs(rollout.stamps_ns[index] - time_ns) <= _period_ns(rollout) / 2:
                    return Shown(rollout, index, self._frame_id, self._epoch)
            raise NothingToShow(_why_not(self._rollouts[-1], time_ns))

    def _tell_time(self, now_ns: int) -> None:
        if (restarts := self._restarts_now()) != self._restarts:
            self._restarts = restarts
            if self._rollouts:
                self._why_none = "the camera's images began anew, and no prediction has been released since"
            self._rollouts, self._epoch = [], self._epoch + 1
        if now_ns < self._now_ns - JUMP_NS:
            self._rollouts, self._epoch = [], self._epoch + 1
            self._why_none = "the clock jumped back, and no prediction has been released since"
            self._now_ns = now_ns
        self._now_ns = max(now_ns, self._now_ns)


def _period_ns(rollout: GuardedRollout) -> float:
    return NANOSECONDS / rollout.frame_rate


def _replaces(new: GuardedRollout, old: GuardedRollout) -> bool:
    """Whether the old one has nothing to show any more: the new one is from a later clip and reaches as far."""
    new_clip, old_clip = new.conditioning_stamps_ns[-1], old.conditioning_stamps_ns[-1]
    is_later = new_clip > old_clip or (new_clip == old_clip and new.first_frame == old.first_frame)
    return is_later and new.stamps_ns[-1] >= old.stamps_ns[-1]


def _why_not(newest: GuardedRollout, time_ns: int) -> str:
    first, last = newest.stamps_ns[0], newest.stamps_ns[-1]
    if time_ns < first:
        return f"the newest prediction begins {(first - time_ns) / NANOSECONDS:.3f} s after the time to show"
    missing = f"{(time_ns - last) / NANOSECONDS:.3f} s"
    return f"the newest prediction ends {missing} before the time to show; predict more often or further ahead"
