"""Errors of a found camera path, whatever its scale, place and direction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cosmos_ros.benchmarks.reconstruction import CameraPath, pose_errors


@pytest.fixture
def true() -> np.ndarray:
    """A camera that goes a metre along x in ten steps and turns by 20 degrees."""
    poses = np.tile(np.eye(4), (11, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("y", np.linspace(0, 20, 11)[:, None], degrees=True).as_matrix()
    poses[:, 0, 3] = np.linspace(0, 1, 11)
    return poses


def elsewhere(poses: np.ndarray) -> np.ndarray:
    """The same path in another coordinate frame, seven times as large."""
    turn = Rotation.from_euler("xyz", [30, -50, 110], degrees=True).as_matrix()
    moved = poses.copy()
    moved[:, :3, :3] = turn @ poses[:, :3, :3]
    moved[:, :3, 3] = 7 * poses[:, :3, 3] @ turn.T + [1, 2, 3]
    return moved


def test_a_similarity_is_no_error(true):
    assert pose_errors(CameraPath(11, tuple(range(11)), elsewhere(true)), true) == pytest.approx((0, 0), abs=1e-5)


def test_frames_that_are_missing_are_left_out(true):
    some = (1, 4, 5, 9)
    assert pose_errors(CameraPath(11, some, elsewhere(true)[list(some)]), true) == pytest.approx((0, 0), abs=1e-5)


def test_a_place_that_is_off_counts_as_a_share_of_the_way(true):
    found = elsewhere(true)
    found[5, :3, 3] += 7 * np.array([0.0, 0, 0.11])
    rotation_deg, place = pose_errors(CameraPath(11, tuple(range(11)), found), true)
    assert rotation_deg == pytest.approx(0, abs=1e-5) and 0.01 < place < 0.03


def test_a_direction_that_is_off_counts_in_degrees(true):
    found = elsewhere(true)
    found[5, :3, :3] = found[5, :3, :3] @ Rotation.from_euler("x", 11, degrees=True).as_matrix()
    rotation_deg, _ = pose_errors(CameraPath(11, tuple(range(11)), found), true)
    assert 0.9 < rotation_deg < 2.5
