"""How a benchmark is declared: what it shows, what it measures of each clip, and what was published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cosmos_ros.benchmarks.scenes.staged import Stage
from cosmos_ros.benchmarks.simulated_clip import GroundTruth
from cosmos_ros.evaluation.measure import Videos
from cosmos_ros.foresight import Foresight

# Row ("model", "repeat_last_frame", "constant_flow", "tokenizer_round_trip", "truth") -> measure -> number of one clip.
# None: it has none there. A bool counts as a share over clips, with its interval.
Numbers = dict[str, dict[str, float | bool | None]]


# Where the objects of a frame are in those that follow it; as Sam2 has it.
Tracker = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A column of the benchmark's table.

    key      in a row's numbers
    unit     said below the title, with what is better
    scale    by which the number is multiplied for the table: 100 for shares in per cent
    lacking  why a clip can have no number
    """

    key: str
    title: str
    unit: str
    decimals: int
    scale: float = 1.0
    lacking: str = ""


@dataclass(frozen=True)
class Published:
    """A line of the paper's tables: who, what the model was shown, and its numbers by Measure.key, not scaled.

    conditioning  "video" or "image"; None: the table does not tell them apart
    """

    model: str
    conditioning: str | None
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Benchmark:
    """One of the benchmarks.

    name            as in the command
    title, question for the report
    stages          gives kind of scene -> draws one; asked for where clips are simulated alone, as it needs MuJoCo
    n_clips         of all kinds together; the kinds take turns
    conditioning    frames that the model is shown, in turn: "video" (9 at the published compression), "image" (1)
    metrics         of the evaluation's, measured beside
    measure         the benchmark's own numbers of one clip; the ground truth is None for a recording, the tracker where
                    none is asked for
    refused         likewise of a clip whose rollout or round trip was refused, by what the record says of it
    measures        what they mean
    published       the paper's figures
    comparable      Measure.key -> why the published figure may be held against ours, or what differs
    clips_note      for the report: what the simulated clips show
    notes           likewise: how it is measured
    needs           packages without which it cannot run: module -> what for
    least_width     pixels, of frames that the benchmark can work with: where the model refines at the camera's own
                    resolution, it gets frames so wide; otherwise always its own size
    tracks_objects  whether it can do so by a trained tracker
    takes_recordings  whether it can be run on bags and videos too, which have no ground truth
    """

    name: str
    title: str
    question: str
    stages: Callable[[], Mapping[str, Stage]]
    n_clips: int
    conditioning: Sequence[str]
    metrics: tuple[str, ...]
    measure: Callable[[Videos, GroundTruth | None, Foresight, Tracker | None], Numbers]
    measures: Sequence[Measure]
    published: Sequence[Published]
    comparable: Mapping[str, str]
    clips_note: str
    notes: Sequence[str]
    needs: Mapping[str, str]
    tracks_objects: bool = False
    takes_recordings: bool = False
    least_width: int = 0
    refused: Callable[[Mapping], Numbers] = lambda _refusal: {}
