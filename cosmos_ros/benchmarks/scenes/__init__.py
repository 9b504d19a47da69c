"""What the benchmarks film, kind of scene -> draws one; no model that ships was trained on it.

Scenes are written with MuJoCo. They are imported when they are asked for: whoever brings recordings needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from cosmos_ros.benchmarks.scenes.staged import Stage


def rooms() -> Mapping[str, Stage]:
    """In which nothing moves except the camera."""
    from cosmos_ros.benchmarks.scenes.static_room import STATIC_ROOMS

    return STATIC_ROOMS


def experiments() -> Mapping[str, Stage]:
    """The eight kinds of the paper, seen by a camera that stands still."""
    from cosmos_ros.benchmarks.scenes.physics import PHYSICS

    return PHYSICS
