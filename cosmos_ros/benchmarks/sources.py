"""Where a benchmark's clips come from: simulated ones, or a user's recordings. Each is shown to the model in turn as a
video and as an image, whatever the benchmark asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosmos_ros.benchmarks.evaluator import Task
from cosmos_ros.benchmarks.simulated_clip import clip_key, window_key, window_of
from cosmos_ros.benchmarks.simulated_set import SimulatedSet
from cosmos_ros.errors import NoFrames
from cosmos_ros.evaluation.recorded import Choice, RecordedWindows
from cosmos_ros.evaluation.results import describe_bag
from cosmos_ros.recordings.windows import Plan, Window
from cosmos_ros.rollout import Clip


@dataclass(frozen=True)
class Simulated:
    """lengths: numbers of conditioning frames."""

    clips: SimulatedSet
    lengths: Sequence[int]

    def tasks(self) -> Iterator[Task]:
        """Films what is not in the cache yet. Raises CannotFilm, NoOpenGL."""
        for kind, seed in self.clips.scenes():
            clip = self.clips.clip(kind, seed)
            yield from (Task(clip.window(n), clip.truth) for n in self.lengths)

    def of_these(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that belong to windows of these clips: a folder may hold those of more clips."""
        asked = {window_key(clip_key(*scene), n) for scene in self.clips.scenes() for n in self.lengths}
        return asked.intersection(keys)

    @property
    def expected(self) -> int:
        return len(self.clips) * len(self.lengths)

    def describe(self) -> dict:
        """What decides the numbers of a clip. So a run of more clips goes on from one of fewer."""
        return {"simulated": self.clips.describe(), "bags": []}

    @property
    def said(self) -> str:
        megabytes = self.clips.bytes / 1e6
        return f"{len(self.clips)} simulated clips; all that are kept in {self.clips.folder}: {megabytes:.1f} MB"


@dataclass(frozen=True)
class Recorded:
    """lengths: numbers of conditioning frames; of each window's frames the first are shown."""

    windows: RecordedWindows
    paths: Sequence[str]
    plan: Plan
    choice: Choice
    lengths: Sequence[int]

    def tasks(self) -> Iterator[Task]:
        """Raises NoFrames where no recording has a window in which something moves."""
        some = False
        for window in self.windows.windows():
            some = True
            whole = _whole(window)
            yield from (Task(window_of(window.key, window.bag, whole, n)) for n in self.lengths)
        if not some:
            raise NoFrames(self.windows.why_none())

    def of_these(self, keys: Iterable[str]) -> set[str]:
        """All: a folder holds windows of the same recordings alone."""
        return set(keys)

    @property
    def expected(self) -> int:
        return self.windows.expected * len(self.lengths)

    def describe(self) -> dict:
        return {
            "simulated": None,
            "bags": [describe_bag(Path(path)) for path in self.paths],
            "every_s": self.plan.every_s,
            "max_age_s": self.plan.max_age_s,
            "image_topic": self.choice.image_topic,
            "min_motion": self.choice.least_motion,
        }

    @property
    def said(self) -> str:
        return f"windows of {', '.join(Path(path).name for path in self.paths)}"


def _whole(window: Window) -> Clip:
    """Clip and truth as one; the truth cut to the clip's size, which it has."""
    clip, truth = window.clip, window.truth
    return Clip(
        np.concatenate([clip.frames, truth.frames]), clip.stamps_ns + truth.stamps_ns, clip.frame_rate, clip.frame_id
    )
