"""A simulated room, filmed once."""

from __future__ import annotations

from pathlib import Path

import pytest

import cosmos_ros.training  # noqa: F401  (before MuJoCo: it chooses an OpenGL without a display)


@pytest.fixture(scope="session")
def room(tmp_path_factory):
    """(set, its first clip): 8 frames of 192x320 at 2 Hz, of a room that a camera passes by."""
    pytest.importorskip("mujoco", reason="simulating needs requirements/benchmark.txt")
    from cosmos_ros.benchmarks.scenes.static_room import STATIC_ROOMS
    from cosmos_ros.benchmarks.simulated_set import Filming, SimulatedSet
    from cosmos_ros.training.opengl import NoOpenGL

    folder: Path = tmp_path_factory.mktemp("sets")
    stages = {"passed_by": STATIC_ROOMS["passed_by"]}
    rooms = SimulatedSet("rooms", stages, 1, Filming(8, 2.0, (192, 320)), folder)
    try:
        return rooms, rooms.clip("passed_by", 0)
    except NoOpenGL as error:
        pytest.skip(f"no OpenGL without a display here: {error}")
