"""A scene of a benchmark, and which things in it are of interest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it brings MuJoCo along
    from cosmos_ros.training.scenes.surroundings import Scene


@dataclass(frozen=True)
class Staged:
    """scene is filmed by its first camera; objects are the names of the bodies whose masks and contacts are kept.

    frame_rate  Hz, at which it is filmed for a model of whatever rate; None: the model's
    """

    scene: Scene
    objects: tuple[str, ...] = ()
    frame_rate: float | None = None


Stage = Callable[[np.random.Generator], Staged]  # draws a scene of one kind; the same state draws the same scene
