"""Failures: how often a rollout ends in a solid colour, or in a large object out of nowhere."""

from __future__ import annotations

from collections.abc import Mapping

from cosmos_ros.benchmarks.benchmark import Benchmark, Measure, Numbers, Published, Tracker
from cosmos_ros.benchmarks.scenes import experiments, rooms
from cosmos_ros.benchmarks.simulated_clip import GroundTruth
from cosmos_ros.evaluation.aggregate import SOLID_COLOUR
from cosmos_ros.evaluation.measure import Videos
from cosmos_ros.foresight import Foresight

KINDS = ("solid_colour", "sudden_object")


def measure(videos: Videos, _truth: GroundTruth | None, _foresight: Foresight, _tracker: Tracker | None) -> Numbers:
    """Of every row: on the true future, and on its round trip, what fires is a false alarm."""
    found = {row: {each.kind for each in videos.failures(row)} for row in (*videos.rows, "truth")}
    return {row: {"failed": bool(kinds), **{kind: kind in kinds for kind in KINDS}} for row, kinds in found.items()}


def refused(refusal: Mapping) -> Numbers:
    """A rollout that never left, for its solid colour, failed no less."""
    if SOLID_COLOUR not in refusal["reasons"]:
        return {}
    return {"model": {"failed": True, "solid_colour": True, "sudden_object": False}}


def published(model: str, image: float, video: float) -> tuple[Published, Published]:
    return Published(model, "image", {"failed": image}), Published(model, "video", {"failed": video})


BENCHMARK = Benchmark(
    name="failures",
    title="Failures",
    question="How often does a rollout fail for all to see: in one solid colour, or by a large object out of nowhere?",
    stages=lambda: {**rooms(), **experiments()},
    n_clips=100,
    conditioning=("video", "image"),
    metrics=(),
    measure=measure,
    refused=refused,
    measures=(
        Measure("failed", "Failed", "% of clips, in either way", 0, 100),
        Measure("solid_colour", "One solid colour", "% of clips", 0, 100),
        Measure("sudden_object", "Sudden large object", "% of clips", 0, 100),
    ),
    published=(
        *published("Cosmos AR 4B", 0.15, 0.01),
        *published("Cosmos AR 5B Video2World", 0.07, 0.02),
        *published("Cosmos AR 12B", 0.02, 0.01),
        *published("Cosmos AR 13B Video2World", 0.03, 0.00),
    ),
    comparable={
        "failed": "nearly the same protocol: 100 clips, a rollout each, after an image and after nine frames. But the "
        "paper's clips are NVIDIA's own and people looked at the rollouts; here other clips are judged by two "
        "detectors, whose false alarms stand in the rows of the true frames and of their round trips",
    },
    clips_note="The clips show the static rooms of the 3D benchmark and the scenes of the physics benchmark.",
    notes=(
        "One rollout per clip. A rollout that the guardrail refused for its solid colour counts as failed.",
        "A detector's row for the true frames is its rate of false alarms; the tokenizer's round trip shows what lossy "
        "decoding alone sets off. Both detectors look at the frames after the last one that the model was shown.",
    ),
    needs={},
    takes_recordings=True,
)
