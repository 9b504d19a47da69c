"""How a benchmark is declared: what it shows, what it measures of each clip, and what was published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cosmos_ros.benchmarks.scenes.staged import Stage
from cosmos_ros.benchmarks.simulated_clip import GroundTruth
from cosmos_ros.evaluation.measure import Videos
from cosmos_ros.foresight import Foresight

# Row ("model", "repeat_last_frame", "constant_flow", "tokenizer_round_trip", "truth") -> measure -> number of one clip.
# None: it has none there. A bool counts as a share over clips, with its interval.
Numbers = dict[str, dict[str, float | bool | None]]


@dataclass(frozen=True)
class Measure:
    """A column of the benchmark's table.

    key   in a row's numbers
    unit  said below the title, with what is better
    """

    key: str
    title: str
    unit: str
    decimals: int


@dataclass(frozen=True)
class Published:
    """A line of the paper's tables: who, after how many conditioning frames, and its numbers by Measure.key.

    n_conditioning  None: the paper does not tell them apart
    """

    model: str
    n_conditioning: int | None
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Benchmark:
    """One of the benchmarks.

    name            as in the command
    title, question for the report
    stages          kind of scene -> draws one
    clips_per_kind  that the benchmark asks for
    conditioning    frames that the model is shown, in turn: "video" (9 at the published compression), "image" (1)
    metrics         of the evaluation's, measured beside
    measure         the benchmark's own numbers of one clip; the ground truth is None for a recording
    measures        what they mean
    published       the paper's figures
    comparable      Measure.key -> why the published figure may be held against ours, or what differs
    needs           packages without which it cannot run: module -> what for
    notes           for the report: how it is measured
    """

    name: str
    title: str
    question: str
    stages: Mapping[str, Stage]
    clips_per_kind: int
    conditioning: Sequence[str]
    metrics: tuple[str, ...]
    measure: Callable[[Videos, GroundTruth | None, Foresight], Numbers]
    measures: Sequence[Measure]
    published: Sequence[Published]
    comparable: Mapping[str, str]
    notes: Sequence[str]
    needs: Mapping[str, str]
    takes_recordings: bool = False
