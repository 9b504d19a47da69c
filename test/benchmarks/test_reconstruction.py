"""Structure from motion finds the simulator's own camera path, and says so where there is none."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pycolmap", reason="structure from motion needs requirements/benchmark.txt")

from cosmos_ros.benchmarks import reconstruction
from cosmos_ros.benchmarks.reconstruction import CameraPath, NoRoom, camera_path, pose_errors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(room) -> CameraPath:
    _, clip = room
    return camera_path(clip.frames, clip.truth.intrinsics)


def test_the_path_of_true_frames_is_the_simulators(room, path):
    _, clip = room
    assert path.found and path.share == 1
    rotation_deg, place = pose_errors(path, clip.truth.poses)
    assert rotation_deg < 0.5 and place < 0.02


def test_the_same_frames_give_the_same_path(room, path):
    _, clip = room
    again = camera_path(clip.frames, clip.truth.intrinsics)
    assert again.frames == path.frames and np.array_equal(again.poses, path.poses)


def test_frames_without_anything_to_see_have_no_path():
    grey = np.full((6, 48, 64, 3), 90, np.uint8)
    path = camera_path(grey, None)
    assert not path.found and path.frames == ()


def test_frames_of_different_places_are_no_path(room):
    """Half of the frames mirrored: no camera sees a room and its mirror image."""
    _, clip = room
    frames = clip.frames.copy()
    frames[::2] = frames[::2, :, ::-1]
    assert not camera_path(frames, clip.truth.intrinsics).found


def test_where_temporary_files_have_no_room_nothing_is_said_of_the_frames(monkeypatch):
    monkeypatch.setattr(reconstruction, "ROOM_BYTES", 10**18)
    with pytest.raises(NoRoom, match=r"needs 1000000000000 MB for temporary files, and /.* left: .*TMPDIR"):
        camera_path(np.full((3, 48, 64, 3), 90, np.uint8), None)
