"""Stamped camera frames -> the conditioning clip at the model's rate.

Time is the robot's: only stamps count, never the order or the hour of arrival. The live node and the bag replay fill
the same buffer through the same door (`frame_of`, then `FrameBuffer.add`), so both pick the same frames.
"""

from __future__ import annotations

import bisect
import enum
import math
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from cosmos_ros import images
from cosmos_ros.errors import InvalidGoal, NoFrames, StaleFrames, UnevenFrames
from cosmos_ros.images import BadImage
from cosmos_ros.rollout import NANOSECONDS, Clip

FASTEST_CAMERA_HZ = 240  # stamps that creep, as of a driver that takes ms for µs, must not fill the memory
MAX_BYTES = 2**30

_stamp = attrgetter("stamp_ns")


@dataclass(frozen=True)
class StampedFrame:
    """One camera image, its pixels still to be converted.

    stamp_ns  acquisition time, nanoseconds
    load      uint8 [height, width, 3] RGB; called for frames that a clip uses, and only then. May raise BadImage
    n_bytes   what it holds in memory until then
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    encoding: str
    load: Callable[[], np.ndarray]
    n_bytes: int = 0

    @property
    def source(self) -> tuple:
        """What must stay the same for two frames to belong to one clip."""
        return self.frame_id, self.height, self.width, self.encoding


def frame_of(message: Any, max_pixels: int = images.MAX_PIXELS) -> StampedFrame:
    """A sensor_msgs/Image or CompressedImage, checked but not converted. Raises BadImage, also above `max_pixels`."""
    info = images.check(message, max_pixels)
    stamp = message.header.stamp
    return StampedFrame(
        stamp_ns=stamp.sec * NANOSECONDS + stamp.nanosec,
        frame_id=message.header.frame_id,
        height=info.height,
        width=info.width,
        encoding=info.encoding,
        load=lambda: images.to_rgb(message, max_pixels),
        n_bytes=len(message.data),
    )


class Added(enum.Enum):
    """What became of a frame that was added."""

    ADDED = "added"
    LATE = "sorted in behind a newer frame"
    DUPLICATE = "dropped: its stamp is there already"
    UNSTAMPED = "dropped: its stamp is zero, which means that nobody stamped it"
    JUMPED_BACK = "the stamps went backwards: the buffer starts afresh with this frame"
    CHANGED = "the size, encoding or frame_id changed: the buffer starts afresh with this frame"


# The frames before these belong to another recording, as it were.
RESTARTS = (Added.JUMPED_BACK, Added.CHANGED)


class BufferState(NamedTuple):
    """What the buffer holds; `rate` in Hz is the mean over its span, 0 where fewer than two frames are there."""

    frames: int
    oldest_ns: int | None
    newest_ns: int | None
    rate: float


class FrameBuffer:
    """The newest `history_s` seconds of frames, by stamp. Thread-safe; adding copies no pixels.

    - A stamp more than one model period behind the newest is a jump back (a bag that loops, a simulator reset) and
      empties the buffer. Up to one period it is a late delivery and is sorted in.
    - Another size, encoding or frame_id empties it too. A new encoding could be converted, but it means that the
      camera or its driver was set up anew, and a clip across that moment would show a jump that never happened.
    - Frames that share a stamp are one frame: the first stays. A frame without a stamp is dropped.
    - Stamps alone do not bound the memory, for they may creep: the oldest frames also go where there are more than a
      camera of 240 Hz gives in `history_s`, or more than `max_bytes` of them.

    frame_rate            Hz, of the clips: the model's
    max_age_s             how old the newest frame may be, seconds; 0: any age
    history_s             how far back `until` can reach, seconds; memory is history_s times the camera's data rate
    conditioning_lengths  how many frames a clip may have: the model's spec knows
    max_bytes             of all frames together; the newest one stays whatever its size

    Raises ValueError for settings that are not finite and positive, and for a history that cannot hold a clip.
    """

    def __init__(
        self,
        frame_rate: float,
        max_age_s: float,
        history_s: float,
        *,
        conditioning_lengths: Collection[int],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        for name, value in {"frame_rate": frame_rate, "max_age_s": max_age_s, "history_s": history_s}.items():
            if not (math.isfinite(value) and value >= 0) or (value == 0 and name != "max_age_s"):
                raise ValueError(f"{name} must be positive and finite; got {value}")
        self.longest_clip = max(conditioning_lengths)
        if history_s * frame_rate < self.longest_clip - 0.5:
            raise ValueError(
                f"history_s must hold a clip, {self.longest_clip} frames at {frame_rate:g} Hz: at least "
                f"{self.longest_clip / frame_rate:.3f} s; got {history_s}"
            )
        self.frame_rate = frame_rate
        self.max_age_ns = round(max_age_s * NANOSECONDS)
        self.history_ns = round(history_s * NANOSECONDS)
        # Whole nanoseconds, as all stamps: a float64 holds a stamp of today to 256 ns only.
        self.period_ns = math.ceil(NANOSECONDS / frame_rate)
        self.reach_ns = math.ceil(NANOSECONDS / frame_rate / 2)
        self._max_frames = math.ceil(history_s * max(FASTEST_CAMERA_HZ, 2 * frame_rate))
        self._max_bytes = max_bytes
        self._frames: list[StampedFrame] = []  # stamps rise
        self._n_bytes = 0
        self._full = ""
        self.restarts = 0  # how often it has started afresh: what was known before says nothing of what comes after
        self._lock = threading.Lock()

    def add(self, frame: StampedFrame) -> Added:
        """Take the frame in, or say why not."""
        with self._lock:
            happened = self._judge(frame)
            if happened in RESTARTS:
                self.restarts += 1
                self._keep([frame])
            elif happened in (Added.ADDED, Added.LATE):
                bisect.insort(self._frames, frame, key=_stamp)
                self._n_bytes += frame.n_bytes
                self._trim()
            return happened

    def judge(self, frame: StampedFrame) -> Added:
        """What would become of the frame, without adding it."""
        with self._lock:
            return self._judge(frame)

    def clear(self) -> None:
        """Forget all frames, as after a jump of the clock."""
        with self._lock:
            self.restarts += 1
            self._keep([])

    def state(self) -> BufferState:
        with self._lock:
            frames = list(self._frames)
        if not frames:
            return BufferState(0, None, None, 0.0)
        oldest, newest = frames[0].stamp_ns, frames[-1].stamp_ns
        return BufferState(len(frames), oldest, newest, _rate(frames))

    @property
    def full(self) -> str:
        """Why it holds less than its history; empty where it does not."""
        return self._full

    def clip(self, n: int | None = None, until_ns: int | None = None, now_ns: int | None = None) -> Clip:
        """n frames at the model's rate, the last of them the newest, or the newest not after `until_ns`.

        Each frame is the nearest to its ideal time, within half a period, and none serves twice; of two equally
        near the later is taken. A frame whose pixels turn out to be unreadable is forgotten and the clip picked anew.

        n         None: as many as the model's longest clip has
        until_ns  None or 0: the newest. The frame that it names may be up to max_age older than it
        now_ns    the robot's time; without `until_ns` the newest frame may be up to max_age away from it.
                  None: there is no clock to hold the stamps against (a recording)

        Raises InvalidGoal (`until_ns` more than max_age ahead of `now_ns`), NoFrames (none, or none so early),
        StaleFrames, UnevenFrames (a frame is missing: says which and by how much).
        """
        until_ns = until_ns or None
        n = n or self.longest_clip
        while True:
            with self._lock:
                frames = list(self._frames)
            self._check_until(until_ns, now_ns)
            frames = _not_after(frames, until_ns)
            self._check_age(frames[-1].stamp_ns, until_ns, now_ns)
            ideals = [frames[-1].stamp_ns - self._periods_ns(back) for back in range(n)]
            if (clip := self._load(self._pick(frames, ideals, "conditioning frame"))) is not None:
                return clip

    def following(self, stamp_ns: int, n: int) -> Clip:
        """The n frames that came after `stamp_ns` at the model's rate, picked as a clip's frames are.

        What a prediction from a clip that ends at `stamp_ns` is held against. Raises UnevenFrames.
        """
        while True:
            if (clip := self._load(self.frames_following(stamp_ns, n))) is not None:
                return clip

    def frames_following(self, stamp_ns: int, n: int) -> list[StampedFrame]:
        """As `following`, with the frames as they came. Raises UnevenFrames."""
        with self._lock:
            frames = self._frames[bisect.bisect_right(self._frames, stamp_ns, key=_stamp) :]
        ideals = [stamp_ns + self._periods_ns(k) for k in range(n, 0, -1)]
        return self._pick(frames, ideals, "frame")

    def near(self, stamp_ns: int) -> StampedFrame | None:
        """The frame nearest to this time, within half a period; the later of two equally near."""
        with self._lock:
            at = _nearest(self._frames, len(self._frames), stamp_ns)
            near = None if at is None else self._frames[at]
        return near if near is not None and abs(near.stamp_ns - stamp_ns) <= self.reach_ns else None

    def _periods_ns(self, n: int) -> int:
        return round(n * NANOSECONDS / self.frame_rate)

    def _keep(self, frames: list[StampedFrame]) -> None:
        self._frames, self._n_bytes, self._full = frames, sum(frame.n_bytes for frame in frames), ""

    def _trim(self) -> None:
        """Let the oldest frames go that are too old, too many, or too large together."""
        frames, self._full = self._frames, ""
        surplus = bisect.bisect_left(frames, frames[-1].stamp_ns - self.history_ns, key=_stamp)
        if len(frames) - surplus > self._max_frames:
            surplus = len(frames) - self._max_frames
            self._full = f"{self._max_frames} frames, the most that it keeps"
        self._n_bytes -= sum(frame.n_bytes for frame in frames[:surplus])
        while self._n_bytes > self._max_bytes and surplus < len(frames) - 1:
            self._n_bytes -= frames[surplus].n_bytes
            surplus += 1
            self._full = f"{self._max_bytes / 2**20:.0f} MiB of frames, the most that it keeps"
        del frames[:surplus]

    def _judge(self, frame: StampedFrame) -> Added:
        frames = self._frames
        if frame.stamp_ns <= 0:
            return Added.UNSTAMPED
        if not frames:
            return Added.ADDED
        if frame.source != frames[-1].source:
            return Added.CHANGED
        if frame.stamp_ns < frames[-1].stamp_ns - self.period_ns:
            return Added.JUMPED_BACK
        at = bisect.bisect_left(frames, frame.stamp_ns, key=_stamp)
        if at == len(frames):
            return Added.ADDED
        return Added.DUPLICATE if frames[at].stamp_ns == frame.stamp_ns else Added.LATE

    def _check_until(self, until_ns: int | None, now_ns: int | None) -> None:
        if until_ns is None or now_ns is None or not self.max_age_ns:
            return
        if (ahead := until_ns - now_ns) > self.max_age_ns:
            raise InvalidGoal(
                f"`until` is {_seconds(ahead)} ahead of the robot's clock (until {until_ns} ns, now {now_ns} ns, "
                f"max_age {_seconds(self.max_age_ns)}): the two clocks differ, or use_sim_time is set on one side only"
            )

    def _check_age(self, newest_ns: int, until_ns: int | None, now_ns: int | None) -> None:
        reference_ns, name = (now_ns, "now") if until_ns is None else (until_ns, "`until`")
        if reference_ns is None or not self.max_age_ns:
            return
        age = reference_ns - newest_ns
        limit = f"max_age is {_seconds(self.max_age_ns)}"
        if age > self.max_age_ns:
            raise StaleFrames(
                f"the newest frame is {_seconds(age)} older than {name} (stamp {newest_ns} ns, {name} "
                f"{reference_ns} ns), {limit}: is the camera running, and do its stamps and the clock agree "
                "(a played bag and a simulator need use_sim_time)?"
            )
        if -age > self.max_age_ns:
            raise StaleFrames(
                f"the newest frame is stamped {_seconds(-age)} after {name} (stamp {newest_ns} ns, {name} "
                f"{reference_ns} ns), {limit}: the camera's clock and the robot's differ, or use_sim_time is set "
                "and nobody publishes /clock"
            )

    def _pick(self, frames: list[StampedFrame], ideals: list[int], what: str) -> list[StampedFrame]:
        """A frame for each of the falling times `ideals`; oldest first."""
        chosen: list[StampedFrame] = []
        free = len(frames)  # frames[:free] are older than every chosen one
        for ideal in ideals:
            at = _nearest(frames, free, ideal)
            if at is None or abs(frames[at].stamp_ns - ideal) > self.reach_ns:
                which = f"{what} {len(ideals) - len(chosen)} of {len(ideals)} is missing at {self.frame_rate:g} Hz"
                raise UnevenFrames(f"{which}: {self._why_missing(frames, free, ideals, ideal)}")
            chosen.append(frames[at])
            free = at
        return chosen[::-1]

    def _why_missing(self, frames: list[StampedFrame], free: int, ideals: list[int], ideal: int) -> str:
        if not free or ideal < frames[0].stamp_ns:
            begins = f", which begin {_seconds(frames[0].stamp_ns - ideal)} after that frame's time" if frames else ""
            remedy = f"a camera must have run for {_seconds(ideals[0] - ideals[-1])}"
            if full := self._full:
                remedy = f"it is full, with {full}; by its stamps the camera gives {_rate(frames):.0f} Hz"
            return f"the buffer holds {len(frames)} frames{begins} ({ideal} ns); {remedy}"
        nearest = min(abs(frame.stamp_ns - ideal) for frame in frames[:free])
        return (
            f"the nearest free frame is {_seconds(nearest)} from its time {ideal} ns, half a period is "
            f"{_seconds(self.reach_ns)}; the camera gives {_rate(frames):.1f} Hz"
        )

    def _load(self, chosen: list[StampedFrame]) -> Clip | None:
        """The clip; None where a frame could not be read, which is then forgotten."""
        try:
            pixels = np.stack([_pixels(frame) for frame in chosen])
        except _Unreadable as unreadable:
            self._forget(unreadable.frame)
            return None
        return Clip(pixels, tuple(map(_stamp, chosen)), self.frame_rate, chosen[-1].frame_id)

    def _forget(self, frame: StampedFrame) -> None:
        with self._lock:
            self._keep([kept for kept in self._frames if kept is not frame])


class _Unreadable(Exception):
    def __init__(self, frame: StampedFrame) -> None:
        self.frame = frame


def _pixels(frame: StampedFrame) -> np.ndarray:
    try:
        pixels = frame.load()
    except BadImage as error:
        raise _Unreadable(frame) from error
    if pixels.shape != (frame.height, frame.width, 3):
        raise _Unreadable(frame)
    return pixels


def _not_after(frames: list[StampedFrame], until_ns: int | None) -> list[StampedFrame]:
    if not frames:
        raise NoFrames("no image has arrived yet: is the camera's topic right, and does its QoS fit?")
    if until_ns is None:
        return frames
    kept = frames[: bisect.bisect_right(frames, until_ns, key=_stamp)]
    if not kept:
        raise NoFrames(
            f"`until` ({until_ns} ns) lies {_seconds(frames[0].stamp_ns - until_ns)} before the oldest frame that "
            f"is kept ({frames[0].stamp_ns} ns): ask for a later time or raise `history`"
        )
    return kept


def _nearest(frames: list[StampedFrame], free: int, ideal: int) -> int | None:
    """Index of the frame nearest to `ideal` among frames[:free]; the later of two equally near."""
    after = bisect.bisect_left(frames, ideal, hi=free, key=_stamp)
    around = [at for at in (after, after - 1) if 0 <= at < free]
    return min(around, key=lambda at: abs(frames[at].stamp_ns - ideal), default=None)


def _rate(frames: list[StampedFrame]) -> float:
    span = frames[-1].stamp_ns - frames[0].stamp_ns
    return (len(frames) - 1) * NANOSECONDS / span if span else 0.0


def _seconds(ns: int) -> str:
    return f"{ns / NANOSECONDS:.3f} s"
