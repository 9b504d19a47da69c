"""The sample bag that ships: what a robot's camera would have recorded, and worth predicting."""

import math

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

import cosmos_ros.training  # noqa: F401  here, since it starts a process to look for EGL
from cosmos_ros import images
from cosmos_ros.paths import share_directory

BAG = share_directory() / "data" / "sample_bag"
TOPIC = "/camera/image_raw/compressed"


@pytest.fixture(scope="module")
def recording() -> dict[str, list]:
    """(bag time, message) of every topic."""
    messages: dict[str, list] = {}
    with AnyReader([BAG]) as reader:
        for connection, time_ns, raw in reader.messages():
            messages.setdefault(connection.topic, []).append((time_ns, reader.deserialize(raw, connection.msgtype)))
    return messages


def pixels(image) -> np.ndarray:
    """uint8 [height, width, 3] RGB."""
    return images.to_rgb(image)


def stamp_ns(time) -> int:
    return time.sec * 10**9 + time.nanosec


def test_it_is_small():
    assert sum(file.stat().st_size for file in BAG.iterdir()) <= 5_000_000


def test_stamps_are_simulation_time_at_30_hz(recording):
    assert set(recording) == {TOPIC, "/camera/camera_info", "/clock"}
    stamps = [stamp_ns(message.header.stamp) for _, message in recording[TOPIC]]
    assert set(np.diff(stamps)) == {33_333_333, 33_333_334}
    assert stamps[0] > 0
    assert [time for time, _ in recording[TOPIC]] == stamps
    assert [stamp_ns(message.header.stamp) for _, message in recording["/camera/camera_info"]] == stamps
    assert [stamp_ns(message.clock) for _, message in recording["/clock"]] == stamps


def test_images_and_intrinsics_belong_together(recording):
    _, info = recording["/camera/camera_info"][0]
    for _, image in recording[TOPIC]:
        assert image.header.frame_id == "camera_optical_frame"
        assert pixels(image).shape == (info.height, info.width, 3) == (480, 640, 3)
    fx, fy, cx, cy = info.k[0], info.k[4], info.k[2], info.k[5]
    assert fx == fy and (cx, cy) == (319.5, 239.5)
    assert 35 <= math.degrees(2 * math.atan(240 / fy)) <= 60  # the scene's fields of view
    assert np.array_equal(info.p.reshape(3, 4)[:, :3], info.k.reshape(3, 3))
    assert info.header.frame_id == "camera_optical_frame"


def test_the_24_frames_to_predict_differ_from_the_last_one_seen(recording):
    window = [pixels(message).astype(float) for _, message in recording[TOPIC][-97::3]]
    assert len(window) == 33
    psnr = [10 * math.log10(255**2 / np.square(frame - window[8]).mean()) for frame in window[9:]]
    assert np.mean(psnr) < 21
    assert all(np.abs(a - b).max() > 30 for a, b in zip(window, window[1:], strict=False)), "no two frames alike"


def test_the_code_that_made_it_makes_it_again(tmp_path, recording):
    pytest.importorskip("cosmos_ros.training.simulation", reason="simulating needs requirements/train.txt")
    import mujoco

    from cosmos_ros.training.sample_bag import write_sample_bag

    if not mujoco.__version__.startswith("4."):
        pytest.skip(f"MuJoCo 4 made the bag; this is {mujoco.__version__}: a little different")
    try:
        write_sample_bag(tmp_path / "bag", n_frames=3)
    except (RuntimeError, ImportError, AttributeError, mujoco.FatalError) as error:
        pytest.skip(f"no OpenGL without a display here: {error}")
    with AnyReader([tmp_path / "bag"]) as reader:
        again = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages() if c.topic == TOPIC]
    for (_, shipped), made in zip(recording[TOPIC], again, strict=False):
        assert stamp_ns(shipped.header.stamp) == stamp_ns(made.header.stamp)
        # Graphics drivers shade a little differently.
        assert np.abs(pixels(shipped).astype(int) - pixels(made)).mean() < 2
