"""A recording -> windows: a clip as the live node would pick it at that time, and the frames that truly followed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from cosmos_ros.errors import ForesightError
from cosmos_ros.frame_buffer import Added, FrameBuffer, StampedFrame
from cosmos_ros.rollout import NANOSECONDS, Clip

WINDOW_BYTES = 2**33  # that the frames of one window may take: three seconds of 4K at 60 Hz
PAUSE = 5  # periods without a frame after which the recording counts as begun anew


@dataclass(frozen=True)
class Plan:
    """Where windows lie and what one holds.

    frame_rate      Hz, of clip and truth: the model's
    n_conditioning  frames of a clip
    n_future        true frames after it
    every_s         from one window to the next, seconds of stamp time
    max_age_s       how old a clip's last frame may be at the window's time, as in the node; 0: any age
    """

    frame_rate: float
    n_conditioning: int
    n_future: int
    every_s: float
    max_age_s: float

    @property
    def clip_ns(self) -> int:
        return round((self.n_conditioning - 1) * NANOSECONDS / self.frame_rate)

    @property
    def horizon_ns(self) -> int:
        return round(self.n_future * NANOSECONDS / self.frame_rate)

    @property
    def period_ns(self) -> int:
        return round(NANOSECONDS / self.frame_rate)

    @property
    def span_s(self) -> float:
        """What a window needs of a recording, seconds."""
        return (self.clip_ns + self.horizon_ns) / NANOSECONDS


@dataclass(frozen=True)
class Window:
    """One thing to predict and what really happened.

    time_ns  the goal time: the clip's last frame is the newest not after it
    truth    the frames after the clip, whole camera images
    """

    key: str
    bag: str
    time_ns: int
    clip: Clip
    truth: Clip


@dataclass(frozen=True)
class Skipped:
    """A window that could not be made: an error code of the action (or CUT), and why."""

    bag: str
    time_ns: int
    reason: str
    message: str


class WindowMaker:
    """Cuts one recording into windows, with no more of it in memory than a window needs.

    notes  sentences on what the frames did: jumps, changes, repeated stamps; complete at the end
    """

    def __init__(self, bag: str, index: int, plan: Plan, done: Container[str] = ()) -> None:
        self.plan = plan
        self.notes: list[str] = []
        self._bag, self._index, self._done = bag, index, done
        margin_s = (PAUSE + 3) * plan.period_ns / NANOSECONDS
        self._buffer = FrameBuffer(
            plan.frame_rate,
            plan.max_age_s,
            plan.span_s + margin_s,
            conditioning_lengths=(plan.n_conditioning,),
            max_bytes=WINDOW_BYTES,
        )
        self._due: int | None = None
        self._newest = 0
        self._dropped: dict[Added, int] = {}

    def windows(self, frames: Iterable[StampedFrame]) -> Iterator[Window | Skipped]:
        """Every `every_s` of stamp time from the first moment that has a whole clip behind it.

        Windows whose key is in `done` are passed over. Windows that the recording's end cuts are none at all.
        """
        for frame in frames:
            if cut := self._cut_by(frame):
                yield from self._end(cut)
            happened = self._buffer.add(frame)
            if happened in (Added.DUPLICATE, Added.UNSTAMPED):
                self._dropped[happened] = self._dropped.get(happened, 0) + 1
                continue
            self._newest = max(self._newest, frame.stamp_ns)
            if self._due is None:
                self._due = frame.stamp_ns + self.plan.clip_ns
            # One period more than the last true frame's time: so late may a frame be that is sorted in.
            yield from self._ready(self.plan.horizon_ns + 2 * self.plan.period_ns)
        yield from self._ready(self.plan.horizon_ns - self.plan.period_ns // 2)
        self.notes += [f"{count} times a frame was {happened.value}" for happened, count in self._dropped.items()]

    def _cut_by(self, frame: StampedFrame) -> str:
        """Why no window can reach across this frame; empty where one can."""
        if self._due is None:
            return ""
        at = f"at {frame.stamp_ns} ns"
        match self._buffer.judge(frame):
            case Added.JUMPED_BACK:
                return f"the stamps jump back {at}, by {_s(self._newest - frame.stamp_ns)}"
            case Added.CHANGED:
                return f"the camera changes {at}, to {frame.width}x{frame.height} {frame.encoding} {frame.frame_id}"
        gap_ns = frame.stamp_ns - self._newest
        return f"the camera pauses for {_s(gap_ns)} {at}" if gap_ns > PAUSE * self.plan.period_ns else ""

    def _end(self, cut: str) -> Iterator[Window | Skipped]:
        """Close the stretch of recording before a cut."""
        self.notes.append(cut)
        yield from self._ready(self.plan.horizon_ns - self.plan.period_ns // 2)
        while self._due is not None and self._due <= self._newest:
            yield Skipped(self._bag, self._due, "CUT", cut)
            self._due += self._step_ns
        self._due, self._newest = None, 0

    def _ready(self, reach_ns: int) -> Iterator[Window | Skipped]:
        """The windows that are due and behind which the recording reaches so far."""
        while self._due is not None and self._due + reach_ns <= self._newest:
            key = f"{self._index:03d}-{self._due}"
            if key not in self._done:
                yield self._attempt(key, self._due)
            self._due += self._step_ns

    @property
    def _step_ns(self) -> int:
        return round(self.plan.every_s * NANOSECONDS)

    def _attempt(self, key: str, time_ns: int) -> Window | Skipped:
        try:
            clip = self._buffer.clip(self.plan.n_conditioning, until_ns=time_ns)
            truth = self._buffer.following(clip.stamps_ns[-1], self.plan.n_future)
        except ForesightError as error:
            return Skipped(self._bag, time_ns, error.code, str(error))
        return Window(key, self._bag, time_ns, clip, truth)


def _s(ns: int) -> str:
    return f"{ns / NANOSECONDS:.3f} s"
