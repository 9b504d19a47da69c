"""Which scene an episode shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cosmos_ros.training.robots.models import RobotModel
from cosmos_ros.training.scenes.arm_over_table import arm_over_table
from cosmos_ros.training.scenes.behind_screens import behind_screens
from cosmos_ros.training.scenes.conveyor import conveyor
from cosmos_ros.training.scenes.corridor import corridor
from cosmos_ros.training.scenes.falling_tower import falling_tower
from cosmos_ros.training.scenes.moving_objects import moving_objects
from cosmos_ros.training.scenes.robot_at_work import robot_at_work
from cosmos_ros.training.scenes.room import room
from cosmos_ros.training.scenes.surroundings import Scene
from cosmos_ros.training.scenes.work_cell import work_cell
from cosmos_ros.training.splits import Split, episode_stream

# An arm at work is what most robots' cameras see: it comes twice.
SCENES = (
    arm_over_table, moving_objects, corridor, work_cell, conveyor, work_cell, falling_tower, room, behind_screens,
)  # fmt: skip
ROBOTS_SHARE = 0.5  # of the episodes, where there are robots that packages bring


def draw_scene(split: Split, index: int, robots: Sequence[RobotModel] = ()) -> Scene:
    """Episode `index` of a split: the kinds of scene take turns.

    robots  that packages bring: half of the episodes show one of them. With other robots, or none, an index means
            another episode

    Raises ValueError for the benchmarks' split, RobotUnavailable where a robot's model is broken.
    """
    if split is Split.BENCHMARK:
        raise ValueError("the benchmarks draw their own scenes: no model may have been trained on what they show")
    rng = episode_stream(split, index)
    if robots and rng.random() < ROBOTS_SHARE:
        shown = shown_in(split, robots)
        shares = np.array([model.robot.share for model in shown])
        return robot_at_work(rng, shown[int(rng.choice(len(shown), p=shares / shares.sum()))])
    return SCENES[index % len(SCENES)](rng)


def shown_in(split: Split, robots: Sequence[RobotModel]) -> list[RobotModel]:
    """Those that may be seen in a split: validation shows robots that training does not know, too."""
    return [model for model in robots if split is not Split.TRAINING or not model.robot.held_out]
