"""A scene of a benchmark, and which things in it are of interest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cosmos_ros.training.scenes.surroundings import Scene


@dataclass(frozen=True)
class Staged:
    """scene is filmed by its first camera; objects are the names of the bodies whose masks are kept."""

    scene: Scene
    objects: tuple[str, ...] = ()


Stage = Callable[[np.random.Generator], Staged]  # draws a scene of one kind; the same state draws the same scene
