"""One clip -> its numbers: the evaluation's, and the benchmark's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cosmos_ros.benchmarks.benchmark import Numbers
from cosmos_ros.benchmarks.catalogue import benchmark
from cosmos_ros.benchmarks.sam2 import Sam2
from cosmos_ros.benchmarks.simulated_clip import GroundTruth
from cosmos_ros.device.devices import resolve_device
from cosmos_ros.evaluation.measure import Outcome, Settings, Videos, WindowEvaluator
from cosmos_ros.recordings.windows import Window


@dataclass(frozen=True)
class Task:
    """A window to predict, and what is known of it besides."""

    window: Window
    truth: GroundTruth | None = None


@dataclass(frozen=True)
class BenchmarkSettings(Settings):
    """What decides the numbers; `benchmark` by name.

    sam2  folder of SAM 2's weights, by which objects are tracked; "": they are found by colour
    """

    benchmark: str = field(default="", kw_only=True)
    sam2: str = field(default="", kw_only=True)


class ClipEvaluator:
    """Evaluates tasks with networks of its own. Raises ForesightError, BadWeights."""

    def __init__(self, settings: BenchmarkSettings) -> None:
        self._benchmark = benchmark(settings.benchmark)
        self._windows = WindowEvaluator(settings)
        device = resolve_device(settings.foresight.device)
        self._tracker = Sam2(Path(settings.sam2), device) if settings.sam2 else None

    def __call__(self, task: Task) -> Outcome:
        def also(videos: Videos) -> dict:
            numbers = self._benchmark.measure(videos, task.truth, self._windows.foresight, self._tracker)
            return {"benchmark": _rounded(numbers)}

        outcome = self._windows(task.window, also)
        record = outcome.record | {
            "n_conditioning": len(task.window.clip.frames),
            "scene_seed": task.truth.seed if task.truth else None,
            "frames_sha256": _fingerprint(task.window),
        }
        if "refused" in record:
            record["benchmark"] = self._benchmark.refused(record["refused"])
        return Outcome(outcome.key, record, outcome.pictures, outcome.seconds)


def _fingerprint(window: Window) -> str:
    """Of all pixels, shown and true: another OpenGL may draw the same scene a little differently."""
    digest = hashlib.sha256()
    for frames in (window.clip.frames, window.truth.frames):
        digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def _rounded(numbers: Numbers) -> Numbers:
    return {
        row: {key: round(value, 6) if isinstance(value, float) else value for key, value in by.items()}
        for row, by in numbers.items()
    }
