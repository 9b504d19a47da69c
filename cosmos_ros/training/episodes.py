"""Which episode is which: training, validation and the sample bag draw from random streams that never meet."""

from __future__ import annotations

import enum

import numpy as np

from cosmos_ros.training.scenes.arm_over_table import arm_over_table
from cosmos_ros.training.scenes.corridor import corridor
from cosmos_ros.training.scenes.moving_objects import moving_objects
from cosmos_ros.training.scenes.surroundings import Scene

SCENES = (arm_over_table, moving_objects, corridor)


class Split(enum.IntEnum):
    """The first word of an episode's seed."""

    TRAINING = 0
    VALIDATION = 1
    SAMPLE = 2


def episode_stream(split: Split, index: int) -> np.random.Generator:
    """The random stream of one episode; different (split, index) give independent streams."""
    return np.random.default_rng([split, index])


def draw_scene(split: Split, index: int) -> Scene:
    """Episode `index` of a split: the kinds of scene take turns."""
    return SCENES[index % len(SCENES)](episode_stream(split, index))
