"""The continuous mode: predictions of the newest frames at a rate, without anybody asking.

What is due is decided by the frames' stamps alone, and a prediction's clip ends at the frame that made it due: the same
recording gives the same predictions, however fast it is played. A prediction that cannot start at once is skipped and
not queued, and a goal goes before it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from rclpy.impl.rcutils_logger import RcutilsLogger

from cosmos_ros.cadence import Cadence
from cosmos_ros.errors import ForesightError, NoFrames, NotActive, Preempted, StaleFrames, UnevenFrames
from cosmos_ros.node.log import Complaints
from cosmos_ros.queue import Job, PredictionQueue, Request
from cosmos_ros.rollout import NANOSECONDS
from cosmos_ros.settings import ContinuousConfig

LONGEST_REST_S = 60.0
TOO_FEW_FRAMES = (NoFrames, StaleFrames, UnevenFrames)  # the next frame may be the one that was missing


class Continuous:
    """Offers the queue a prediction whenever a frame makes one due.

    settings  the parameters as they are now: they may change at any time
    """

    def __init__(self, queue: PredictionQueue, settings: Callable[[], ContinuousConfig], log: RcutilsLogger) -> None:
        self._queue, self._settings = queue, settings
        self._complaints = Complaints(log.warning)
        self._cadence = Cadence()
        self._used = ContinuousConfig()  # the settings of the last prediction
        self._rest_s = self._resting_until = 0.0  # after a refusal; the latter by time.monotonic()
        self.counts: Counter[str] = Counter()  # of what became of each prediction that was due
        self.last_error = ""

    @property
    def rate(self) -> float:
        """Hz; 0 while the mode is off."""
        return self._settings().continuous_rate

    @property
    def rests_s(self) -> float:
        """Seconds that it will still make no prediction, because the last ones failed."""
        return max(0.0, self._resting_until - time.monotonic())

    def frame_came(self, stamp_ns: int) -> None:
        """A frame with this stamp is in the buffer. Returns at once."""
        settings = self._settings()
        if settings != self._used:  # whatever was refused may pass now
            self._used = settings
            self._cadence.restart()
            self._rest_s = self._resting_until = 0.0
        if not settings.continuous_rate:
            return
        if self._cadence.is_due(stamp_ns, round(NANOSECONDS / settings.continuous_rate)):
            self._offer(stamp_ns, settings)

    def _offer(self, stamp_ns: int, settings: ContinuousConfig) -> None:
        if self.rests_s:
            self.counts["resting after a refusal"] += 1
            return
        request = Request(
            prompt=settings.continuous_prompt,
            seed=settings.continuous_seed if settings.continuous_seed >= 0 else None,
            until_ns=stamp_ns,
            samples=settings.continuous_samples,
            frames=settings.continuous_frames or None,
        )
        job = Job(request, on_end=lambda: self._ended(job))
        if not self._queue.offer(job):
            self.counts["skipped, the model was busy or not active"] += 1

    def _ended(self, job: Job) -> None:
        error = job.outcome
        if not isinstance(error, ForesightError):
            self.counts["published"] += 1
            self.last_error, self._rest_s = "", 0.0
        elif isinstance(error, Preempted):
            self.counts["dropped for a goal"] += 1
        elif isinstance(error, TOO_FEW_FRAMES):
            self.counts["without a clip"] += 1
        elif not isinstance(error, NotActive):
            self._refused(error)

    def _refused(self, error: ForesightError) -> None:
        self.counts["failed"] += 1
        self.last_error = f"{error.code}: {error}"
        self._rest_s = min(LONGEST_REST_S, 2 * self._rest_s or 1.0)
        self._resting_until = time.monotonic() + self._rest_s
        self._complaints.say(
            "continuous", f"the continuous prediction failed and rests for {self._rest_s:.0f} s: {self.last_error}"
        )
