"""Which scene an episode shows."""

from __future__ import annotations

from cosmos_ros.training.scenes.arm_over_table import arm_over_table
from cosmos_ros.training.scenes.behind_screens import behind_screens
from cosmos_ros.training.scenes.conveyor import conveyor
from cosmos_ros.training.scenes.corridor import corridor
from cosmos_ros.training.scenes.falling_tower import falling_tower
from cosmos_ros.training.scenes.moving_objects import moving_objects
from cosmos_ros.training.scenes.room import room
from cosmos_ros.training.scenes.surroundings import Scene
from cosmos_ros.training.scenes.work_cell import work_cell
from cosmos_ros.training.splits import Split, episode_stream

# An arm at work is what most robots' cameras see: it comes twice.
SCENES = (
    arm_over_table, moving_objects, corridor, work_cell, conveyor, work_cell, falling_tower, room, behind_screens,
)  # fmt: skip


def draw_scene(split: Split, index: int) -> Scene:
    """Episode `index` of a split: the kinds of scene take turns. Raises ValueError for the benchmarks' split."""
    if split is Split.BENCHMARK:
        raise ValueError("the benchmarks draw their own scenes: no model may have been trained on what they show")
    return SCENES[index % len(SCENES)](episode_stream(split, index))
