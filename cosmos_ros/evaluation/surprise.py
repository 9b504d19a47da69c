"""Surprise on recordings: what the live node would have compared, had its predictions taken no time.

Frames go through the same buffer and the same monitor as in the node, and a prediction is due by the same stamps as in
its continuous mode. Beside the model the floor is measured: the last conditioning frame, repeated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos_ros.cadence import Cadence
from cosmos_ros.errors import NoFrames, NotFinite, StaleFrames, UnevenFrames, VideoBlocked
from cosmos_ros.evaluation.measure import Outcome, Settings
from cosmos_ros.foresight import Foresight
from cosmos_ros.frame_buffer import RESTARTS, Added, FrameBuffer, StampedFrame
from cosmos_ros.images import MAX_PIXELS
from cosmos_ros.planning.calibration import StepSigns
from cosmos_ros.planning.monitor import Alarm, Expectation, Surprise, SurpriseMonitor
from cosmos_ros.planning.surprise import TOKENS, signs_of
from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.recordings.recording import BadRecording
from cosmos_ros.rollout import NANOSECONDS

MODEL, FLOOR = "model", "floor"  # the rows
TOO_FEW_FRAMES = (NoFrames, StaleFrames, UnevenFrames)


@dataclass(frozen=True)
class WatchSettings(Settings):
    """What decides the numbers, besides the recordings.

    frame_rate  Hz, of clips and predictions
    every_s     from one prediction to the next, seconds of stamp time
    """

    frame_rate: float = 0.0
    every_s: float = 1.0
    max_age_s: float = 0.0
    likelihood: bool = True
    image_topic: str = ""
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Task:
    """One recording to watch. index: its place among all"""

    index: int
    path: str

    @property
    def key(self) -> str:
        return f"{self.index:03d}-{Path(self.path).name}"


class RecordingWatcher:
    """Watches recordings with a model of its own. Raises ForesightError."""

    def __init__(self, settings: WatchSettings) -> None:
        self.settings = settings
        self.foresight = Foresight(settings.foresight)
        self.foresight.load()

    def __call__(self, task: Task) -> Outcome:
        """A recording that cannot be read, or only in part, is part of the outcome."""
        record: dict[str, Any] = {"key": task.key, "bag": Path(task.path).name, "time_ns": 0}
        record |= {"first_ns": 0, "comparisons": [], "error": ""}
        counts: Counter[str] = Counter()
        try:
            recording = open_recording(task.path, self.settings.max_pixels)
            frames = recording.frames(recording.image_topic(self.settings.image_topic))
            for surprise in self._surprises(_noting_first(frames, record), counts):
                record["comparisons"].append(_as_record(surprise))
        except BadRecording as error:
            record["error"] = str(error)
        return Outcome(task.key, record | {"counts": dict(sorted(counts.items()))}, "")

    def _surprises(self, frames: Iterable[StampedFrame], counts: Counter[str]) -> Iterator[Surprise]:
        settings, spec = self.settings, self.foresight.spec
        n_conditioning = max(spec.conditioning_lengths)
        n_frames = sum(self.foresight.stretch_lengths(n_conditioning, settings.frames))
        span_s = (n_conditioning + n_frames + 4) / settings.frame_rate + settings.every_s
        buffer = FrameBuffer(
            settings.frame_rate, settings.max_age_s, span_s, conditioning_lengths=spec.conditioning_lengths
        )
        monitor = SurpriseMonitor(
            buffer,
            Alarm(1, 0.0),
            likelihood=self.foresight.likelihood if settings.likelihood else None,
            latent=spec.compression[0],
        )
        cadence, period_ns = Cadence(), round(settings.every_s * NANOSECONDS)
        for frame in frames:
            added = buffer.add(frame)
            if added not in (Added.ADDED, *RESTARTS):
                continue
            if cadence.is_due(frame.stamp_ns, period_ns):
                try:
                    clip = buffer.clip(n_conditioning, until_ns=frame.stamp_ns)
                    rollout = self.foresight.predict(
                        clip,
                        settings.prompt,
                        seed=settings.seed,
                        temperature=settings.temperature,
                        top_p=settings.top_p,
                        frames=n_frames,
                    )
                except (*TOO_FEW_FRAMES, VideoBlocked, NotFinite) as error:
                    counts[error.code] += 1
                else:
                    counts["predictions"] += 1
                    monitor.expect(Expectation(rollout, clip))
            yield from monitor.comparisons()
        counts.update(monitor.counts)


def predictions_of(record: dict, row: str) -> list[list[StepSigns]]:
    """What was measured for a row, prediction by prediction."""
    by_prediction: dict[int, list[StepSigns]] = {}
    for each in record["comparisons"]:
        by_prediction.setdefault(each["from_ns"], []).append((each["step"], each[row]))
    return list(by_prediction.values())


def _as_record(surprise: Surprise) -> dict:
    past, measured = surprise.expectation.past, surprise.measured
    floor = {name: value for name, value in signs_of(past, surprise.pair.of_floor(past)).items() if name != TOKENS}
    return {
        "from_ns": surprise.expectation.from_ns,
        "step": surprise.step,
        "stamp_ns": surprise.stamp_ns,
        "decided_ns": surprise.decided_ns,
        **{name: round(getattr(measured, name), 4) for name in ("psnr", "ssim", "floor_psnr", "floor_ssim")},
        "nats_per_token": None if math.isnan(surprise.nats_per_token) else round(surprise.nats_per_token, 5),
        MODEL: measured.signs,
        FLOOR: floor,
    }


def _noting_first(frames: Iterable[StampedFrame], record: dict) -> Iterator[StampedFrame]:
    """first_ns: of the first frame that has a stamp"""
    for frame in frames:
        record["first_ns"] = record["first_ns"] or frame.stamp_ns
        yield frame
