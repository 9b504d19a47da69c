"""Which scene an episode shows."""

from __future__ import annotations

from cosmos_ros.training.scenes.arm_over_table import arm_over_table
from cosmos_ros.training.scenes.corridor import corridor
from cosmos_ros.training.scenes.moving_objects import moving_objects
from cosmos_ros.training.scenes.surroundings import Scene
from cosmos_ros.training.splits import Split, episode_stream

SCENES = (arm_over_table, moving_objects, corridor)


def draw_scene(split: Split, index: int) -> Scene:
    """Episode `index` of a split: the kinds of scene take turns."""
    return SCENES[index % len(SCENES)](episode_stream(split, index))
