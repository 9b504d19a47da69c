"""One clip -> its numbers: the evaluation's, and the benchmark's own."""

from __future__ import annotations

from dataclasses import dataclass, field

from cosmos_ros.benchmarks.benchmark import Numbers
from cosmos_ros.benchmarks.catalogue import benchmark
from cosmos_ros.benchmarks.simulated_clip import GroundTruth
from cosmos_ros.evaluation.measure import Outcome, Settings, Videos, WindowEvaluator
from cosmos_ros.recordings.windows import Window


@dataclass(frozen=True)
class Task:
    """A window to predict, and what is known of it besides."""

    window: Window
    truth: GroundTruth | None = None


@dataclass(frozen=True)
class BenchmarkSettings(Settings):
    """What decides the numbers; `benchmark` by name."""

    benchmark: str = field(default="", kw_only=True)


class ClipEvaluator:
    """Evaluates tasks with a model of its own. Raises ForesightError, BadWeights."""

    def __init__(self, settings: BenchmarkSettings) -> None:
        self._benchmark = benchmark(settings.benchmark)
        self._windows = WindowEvaluator(settings)

    def __call__(self, task: Task) -> Outcome:
        def also(videos: Videos) -> dict:
            return {"benchmark": _rounded(self._benchmark.measure(videos, task.truth, self._windows.foresight))}

        outcome = self._windows(task.window, also)
        n = len(task.window.clip.frames)
        seed = task.truth.seed if task.truth else None
        record = outcome.record | {"n_conditioning": n, "kind": task.window.bag, "scene_seed": seed}
        return Outcome(outcome.key, record, outcome.pictures, outcome.seconds)


def _rounded(numbers: Numbers) -> Numbers:
    return {
        row: {key: round(value, 6) if isinstance(value, float) else value for key, value in by.items()}
        for row, by in numbers.items()
    }
