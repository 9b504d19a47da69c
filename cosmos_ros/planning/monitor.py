"""Arriving camera frames, held against the newest prediction that covers them; and the alarm that comes of it. No ROS.

Only stamps decide. The camera frame nearest to a predicted frame's stamp, within half a period, is held against it,
once no frame that is still to come could be nearer: so late frames and lost ones change nothing. A step is left out
where a newer prediction covers its time too. A prediction that took longer to make than its horizon is held against
frames that have come already, as long as the buffer has them.

What is to be compared is decided as frames come (`follow`), which is quick. Comparing takes longer and may lag behind
(`comparisons`): the frames that it needs are kept for it, even where the buffer has begun anew in the meantime.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cosmos_ros.errors import ForesightError, UnevenFrames
from cosmos_ros.frame_buffer import FrameBuffer, StampedFrame
from cosmos_ros.images import BadImage
from cosmos_ros.planning.calibration import Nominal
from cosmos_ros.planning.surprise import FULL, Measured, Pair, Past, error_map, measure, reduced
from cosmos_ros.rollout import NANOSECONDS, Clip, GuardedRollout, Likelihood

MOST_EXPECTATIONS = 8  # that are held: one of 640x1024 takes 65 MB
COMPARED, CALIBRATED = "frames compared", "frames compared that the calibration knows"  # among what is counted

Likely = Callable[[Clip, np.ndarray, str], Likelihood]


@dataclass(frozen=True, eq=False)
class Expectation:
    """A guarded prediction, and what it was made from.

    goal_id     16 bytes, as the message carries it; zeros for the continuous mode
    calibrated  whether it was made as the calibration's were. False: its score says nothing of nominal frames
    """

    rollout: GuardedRollout
    clip: Clip
    goal_id: bytes = bytes(16)
    calibrated: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.rollout, GuardedRollout):
            raise TypeError(f"only guarded frames are held against the camera's; got {type(self.rollout).__name__}")

    @property
    def from_ns(self) -> int:
        """Stamp of the last conditioning frame."""
        return self.clip.stamps_ns[-1]

    @property
    def first_step(self) -> int:
        """Of the rollout's first frame: 1, unless it is a later stretch of a longer prediction."""
        return round((self.rollout.stamps_ns[0] - self.from_ns) * self.rollout.frame_rate / NANOSECONDS)

    @cached_property
    def past(self) -> Past:
        return Past.of([np.ascontiguousarray(frame) for frame in self.rollout.crop.of(self.clip.frames)])


@dataclass(frozen=True, eq=False)
class Surprise:
    """What the comparison of one camera frame came to.

    step        from the last conditioning frame on, 1..n
    decided_ns  the newest stamp when it was known which frame it is
    value       on the calibration's common scale; None where it is not calibrated
    nats_per_token  NaN where the frame's tokens are not complete, or were not asked for
    """

    expectation: Expectation
    step: int
    stamp_ns: int
    frame_id: str
    decided_ns: int
    measured: Measured
    nats_per_token: float
    value: float | None
    score: float
    threshold: float
    surprising: bool
    pair: Pair = field(repr=False)
    seen: np.ndarray = field(repr=False)

    @property
    def calibrated(self) -> bool:
        return self.value is not None

    @property
    def horizon_s(self) -> float:
        return (self.stamp_ns - self.expectation.from_ns) / NANOSECONDS

    def error_map(self) -> np.ndarray:
        """float32 [H, W], levels of 255, of the prediction's pixels. It shows none of the camera's."""
        return error_map(self.expectation.rollout.frames[self.step - self.expectation.first_step], self.seen)


class Alarm:
    """Stands from the frame at which `after` frames in a row were surprising until none has been for `clear_s`.

    Both by the frames' stamps. `count` alarms have been raised; `began_ns` and `greatest` are of the last one.
    """

    def __init__(self, after: int, clear_s: float) -> None:
        self.after, self.clear_ns = after, round(clear_s * NANOSECONDS)
        self.standing = False
        self.count = 0
        self.began_ns = self.ended_ns = 0
        self.greatest = 0.0  # score
        self._in_a_row = 0
        self._greatest = 0.0  # score of these, or since the alarm stands
        self._last_ns = 0  # of a surprising frame

    def take(self, stamp_ns: int, score: float, surprising: bool) -> bool:
        """One more comparison; whether it raised the alarm."""
        raised = False
        if surprising:
            self._in_a_row += 1
            self._last_ns = max(stamp_ns, self._last_ns)
            self._greatest = max(self._greatest, score) if self._in_a_row > 1 or self.standing else score
            raised = not self.standing and self._in_a_row >= self.after
            if raised:
                self.standing, self.began_ns = True, stamp_ns
                self.count += 1
            if self.standing:
                self.greatest = self._greatest
        else:
            self._in_a_row = 0
            if self.standing and stamp_ns - self._last_ns >= self.clear_ns:
                self.standing, self.ended_ns = False, stamp_ns
        return raised

    def jumped(self, stamp_ns: int) -> None:
        """The stamps begin anew here: the time until it clears counts from now on."""
        self._in_a_row, self._last_ns = 0, stamp_ns

    def clear(self) -> None:
        self.standing, self._in_a_row = False, 0


@dataclass(frozen=True)
class _Due:
    """A predicted frame whose camera frame is certain.

    index       in the rollout, from 0
    frame       the camera's
    before      that of the step before, if it is there
    so_far      those of all steps up to this one, if they are wanted and all there; oldest first
    decided_ns  the newest stamp
    era         how often the stamps had begun anew
    noted_s     when that was, by the monitor's clock
    """

    expectation: Expectation
    index: int
    frame: StampedFrame
    before: StampedFrame | None
    so_far: list[StampedFrame] | None
    decided_ns: int
    era: int
    noted_s: float

    @property
    def step(self) -> int:
        return self.expectation.first_step + self.index


class _Live:
    """An expectation, and how far it has been held against the camera's frames."""

    def __init__(self, expectation: Expectation) -> None:
        self.expectation, self.stamps_ns = expectation, expectation.rollout.stamps_ns
        self.index = 0  # of the next predicted frame

    @property
    def over(self) -> bool:
        return self.index == len(self.stamps_ns)

    def is_certain(self, buffer: FrameBuffer, newest_ns: int) -> bool:
        """Whether the camera's frame for the next predicted one cannot change any more."""
        ideal_ns = self.stamps_ns[self.index]
        frame = buffer.near(ideal_ns)
        off_ns = buffer.reach_ns if frame is None else abs(frame.stamp_ns - ideal_ns)
        # A frame that is further behind the newest than a period would be a jump back, and no late one.
        return not off_ns or newest_ns > ideal_ns + off_ns + buffer.period_ns

    def before(self, buffer: FrameBuffer, frame: StampedFrame) -> StampedFrame | None:
        """By the stamps alone, so that a later stretch's first frame has one before it as every other frame has."""
        before = buffer.near(self.stamps_ns[self.index] - buffer.period_ns)
        return None if before is frame else before


class SurpriseMonitor:
    """Holds what a buffer gets against what was expected. Thread-safe; `comparisons` is for one thread.

    A comparison that has waited for longer than the buffer keeps a frame is left out: an alarm that late is none. That
    is a matter of seconds that pass, and not of stamps: a recording may be played fast, and stamps may jump.

    nominal     of the calibration; None: scores are uncalibrated
    threshold   on the calibration's common scale, as Nominal.limit gives it
    likelihood  how likely the model finds frames that followed a clip with a prompt; None: not asked
    latent      frames that share tokens: these are complete with each such frame
    clock       seconds that pass
    counts      of what became of each predicted frame
    """

    def __init__(
        self,
        buffer: FrameBuffer,
        alarm: Alarm,
        nominal: Nominal | None = None,
        threshold: float = 0.0,
        likelihood: Likely | None = None,
        latent: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.alarm = alarm
        self.counts: Counter[str] = Counter()
        self._buffer, self._nominal, self._threshold = buffer, nominal, threshold
        self._likelihood, self._latent = likelihood, latent
        self._live: list[_Live] = []  # the oldest first
        self._due: deque[_Due] = deque()
        self._restarts = buffer.restarts
        self._era = self._compared_era = 0
        self._lock = threading.Lock()

    @property
    def epoch(self) -> int:
        """Changes where the stamps begin anew: what was predicted before says nothing of what comes after."""
        return self._buffer.restarts

    def expect(self, expectation: Expectation, epoch: int | None = None) -> None:
        """Hold frames against this prediction from now on.

        epoch  when its clip was taken; None: now. One from before the stamps began anew is not taken
        """
        with self._lock:
            self._follow_restart()
            if epoch is not None and epoch != self._restarts:
                self.counts["predictions from before the stamps began anew"] += 1
                return
            self._live.append(_Live(expectation))
            self._live.sort(key=lambda live: live.expectation.from_ns)  # stable: of two alike the later one counts
            if len(self._live) > MOST_EXPECTATIONS:
                # Of the oldest clip's the last stretch, whose frames come last; a newer clip may cover them by then.
                oldest = [live for live in self._live if live.expectation.from_ns == self._live[0].expectation.from_ns]
                self._live.remove(max(oldest, key=lambda live: live.expectation.first_step))
                self.counts["predictions that were one too many to hold"] += 1

    def forget(self) -> None:
        """Drop every prediction, and clear the alarm."""
        with self._lock:
            self._live.clear()
            self._due.clear()
            self.alarm.clear()

    def follow(self) -> None:
        """Note what has become due. To be called when a frame has come, before the next one does."""
        with self._lock:
            self._follow_restart()
            newest_ns = self._buffer.state().newest_ns
            if newest_ns is None:
                return
            for live in self._live:
                while not live.over and live.is_certain(self._buffer, newest_ns):
                    self._note(live, newest_ns)
                    live.index += 1
            self._live = [live for live in self._live if not live.over]
            too_late_s = self._clock() - self._buffer.history_ns / NANOSECONDS
            while self._due and self._due[0].noted_s < too_late_s:
                self._due.popleft()
                self.counts["frames that waited too long to be compared"] += 1

    def comparisons(self) -> Iterator[Surprise]:
        """All that have become due since, the oldest prediction's first."""
        self.follow()
        while (due := self._next()) is not None:
            if due.era != self._compared_era:
                self._compared_era = due.era
                self.alarm.jumped(due.expectation.from_ns)
            try:
                surprise = self._compare(due)
            except BadImage:
                self.counts["frames that could not be read or had another size"] += 1
                continue
            self.counts[COMPARED] += 1
            if surprise.calibrated:
                self.counts[CALIBRATED] += 1
                self.alarm.take(surprise.stamp_ns, surprise.score, surprise.surprising)
            yield surprise

    def _next(self) -> _Due | None:
        with self._lock:
            return self._due.popleft() if self._due else None

    def _note(self, live: _Live, newest_ns: int) -> None:
        """What becomes of the next frame of a prediction, whose camera frame is certain."""
        frame = self._buffer.near(live.stamps_ns[live.index])
        if frame is None:
            self.counts["frames that never came, or are kept no longer"] += 1
        elif self._is_covered(live):
            self.counts["left to a newer prediction"] += 1
        else:
            before, so_far = live.before(self._buffer, frame), self._so_far(live)
            now_s = self._clock()
            self._due.append(_Due(live.expectation, live.index, frame, before, so_far, newest_ns, self._era, now_s))

    def _so_far(self, live: _Live) -> list[StampedFrame] | None:
        """The frames of all steps up to the next one, where their tokens are complete with it and every one came."""
        step = live.expectation.first_step + live.index
        if self._likelihood is None or step % self._latent:
            return None
        with suppress(UnevenFrames):
            return self._buffer.frames_following(live.expectation.from_ns, step)
        return None

    def _is_covered(self, live: _Live) -> bool:
        """Whether a newer prediction has a frame for the time of this one's next."""
        ideal_ns, half_ns = live.stamps_ns[live.index], self._buffer.reach_ns
        newer = self._live[self._live.index(live) + 1 :]
        return any(other.stamps_ns[0] - half_ns <= ideal_ns <= other.stamps_ns[-1] + half_ns for other in newer)

    def _follow_restart(self) -> None:
        if (restarts := self._buffer.restarts) != self._restarts:
            self._restarts = restarts
            self._live.clear()
            self._era += 1

    def _compare(self, due: _Due) -> Surprise:
        """Raises BadImage."""
        expectation, frames = due.expectation, due.expectation.rollout.frames
        past, step = expectation.past, due.step
        seen = self._pixels(expectation, due.frame)
        seen_before = past.floor if step == 1 else None
        if due.before is not None:
            with suppress(BadImage):
                seen_before = reduced(self._pixels(expectation, due.before))
        likelihood = self._likelihood_of(expectation, due.so_far)
        pair = Pair(reduced(frames[due.index]), reduced(seen), seen_before)
        measured = measure(past, pair, likelihood)
        value = None
        if self._nominal is not None and expectation.calibrated:
            value = self._nominal.on_scale(step, measured.signs)
        score, threshold = measured.error / FULL, 1.0
        if self._nominal is not None and value is not None:
            score, threshold = self._nominal.score(value), self._nominal.score(self._threshold)
        return Surprise(
            expectation=expectation,
            step=step,
            stamp_ns=due.frame.stamp_ns,
            frame_id=due.frame.frame_id,
            decided_ns=due.decided_ns,
            measured=measured,
            nats_per_token=float("nan") if likelihood is None else float(likelihood.nats_per_token[-1]),
            value=value,
            score=score,
            threshold=threshold,
            surprising=value is not None and value > self._threshold,
            pair=pair,
            seen=seen,
        )

    def _pixels(self, expectation: Expectation, frame: StampedFrame) -> np.ndarray:
        """What the prediction shows of the frame. Raises BadImage."""
        return np.ascontiguousarray(expectation.rollout.crop.of(_loaded(expectation, frame)))

    def _likelihood_of(self, expectation: Expectation, so_far: list[StampedFrame] | None) -> Likelihood | None:
        if self._likelihood is None or so_far is None:
            return None
        try:
            frames = np.stack([_loaded(expectation, frame) for frame in so_far])
            return self._likelihood(expectation.clip, frames, expectation.rollout.prompt)
        except (BadImage, ForesightError):
            return None


def _loaded(expectation: Expectation, frame: StampedFrame) -> np.ndarray:
    """The camera's whole frame. Raises BadImage, also where it is of another size than the clip."""
    pixels, wanted = frame.load(), expectation.clip.frames.shape[1:]
    if pixels.shape != wanted:
        raise BadImage("size", f"the clip's frames are {wanted}, this one is {pixels.shape}")
    return pixels
