"""Training, validation, the sample bag, benchmarks, labelled recordings: random streams that never meet."""

from __future__ import annotations

import enum

import numpy as np


class Split(enum.IntEnum):
    """What an episode is for; the first word of its seed."""

    TRAINING = 0
    VALIDATION = 1
    SAMPLE = 2
    BENCHMARK = 3  # never trained on: the benchmarks' own scenes alone are drawn from it
    LABELLED = 4


def episode_stream(split: Split, index: int) -> np.random.Generator:
    """The random stream of one episode; different (split, index) give independent streams."""
    return np.random.default_rng([split, index])
