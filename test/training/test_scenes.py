"""Simulated worlds: reproducible, different from split to split, and filmed at exact times."""

import numpy as np
import pytest

import cosmos_ros.training  # noqa: F401  (before MuJoCo: it chooses an OpenGL without a display)

mujoco = pytest.importorskip("mujoco", reason="simulating needs requirements/train.txt")

from cosmos_ros.training.episodes import SCENES, draw_scene  # noqa: E402
from cosmos_ros.training.scenes.arm_over_table import HAND_LENGTH, arm_over_table  # noqa: E402
from cosmos_ros.training.scenes.surroundings import look_at  # noqa: E402
from cosmos_ros.training.simulation import film, simulate  # noqa: E402
from cosmos_ros.training.splits import Split  # noqa: E402

KINDS = [scene.__name__ for scene in SCENES]


def trajectory(split: Split, index: int, n_frames: int = 4) -> np.ndarray:
    """Everything's place and every camera's, at 10 Hz."""
    return np.array(
        [
            np.concatenate([d.xpos.ravel(), d.mocap_quat.ravel()])
            for _, d in simulate(draw_scene(split, index), n_frames, 10.0)
        ]
    )


@pytest.mark.parametrize("index", range(len(SCENES)), ids=KINDS)
def test_an_episode_is_the_same_each_time_and_something_moves(index):
    first, again = trajectory(Split.TRAINING, index), trajectory(Split.TRAINING, index)
    assert np.array_equal(first, again)
    assert np.abs(first[-1] - first[0]).max() > 0.01


@pytest.mark.parametrize("index", range(len(SCENES)), ids=KINDS)
def test_splits_and_episodes_differ(index):
    worlds = [draw_scene(split, index).xml for split in Split if split is not Split.BENCHMARK]
    worlds.append(draw_scene(Split.TRAINING, index + len(SCENES)).xml)
    assert len(set(worlds)) == len(worlds)


@pytest.mark.parametrize("frame_rate", [10.0, 20.0])
def test_frames_are_exactly_a_period_apart(frame_rate):
    scene = draw_scene(Split.TRAINING, 0)
    times = [data.time for _, data in simulate(scene, 5, frame_rate)]
    assert times == pytest.approx(scene.settle_s + np.arange(5) / frame_rate, abs=1e-9)


def test_a_rate_between_physics_steps_is_refused():
    with pytest.raises(ValueError, match="no whole number of physics steps"):
        next(simulate(draw_scene(Split.TRAINING, 0), 2, 30.0))


def test_the_arm_follows_its_path():
    scene = arm_over_table(np.random.default_rng(5))
    for _, data in simulate(scene, 20, 10.0):
        wanted = data.ctrl.copy()
        assert np.abs(data.qpos[:4] - wanted).max() < 0.3, "radians behind the commanded joints"
    hand = data.body("hand").xmat.reshape(3, 3)[:, 0]  # the hand's long axis
    assert hand[2] < -0.9, "fingers point down"
    assert data.body("hand").xpos[2] > 0.5 * HAND_LENGTH


def test_a_camera_looks_at_its_target():
    eye, target = np.array([1.0, -2.0, 3.0]), np.array([0.5, 0.5, 0.2])
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, look_at(eye, target))
    right, up, back = rotation.reshape(3, 3).T
    assert back == pytest.approx((eye - target) / np.linalg.norm(eye - target))
    assert right[2] == pytest.approx(0) and up[2] > 0


def test_a_machine_without_egl_is_told_what_to_install(monkeypatch):
    monkeypatch.delattr(mujoco, "GLContext", raising=False)
    with pytest.raises(RuntimeError, match="apt install libegl1"):
        film(draw_scene(Split.TRAINING, 0), 1, 10.0, 24, 32)


def test_film_gives_every_camera_its_frames():
    scene = draw_scene(Split.TRAINING, 1)
    try:
        frames = film(scene, 2, 10.0, 40, 64)
    except (RuntimeError, ImportError, AttributeError, mujoco.FatalError) as error:
        pytest.skip(f"no OpenGL without a display here: {error}")
    assert set(frames) == set(scene.cameras)
    for view in frames.values():
        assert view.shape == (2, 40, 64, 3) and view.dtype == np.uint8
        assert view.std() > 5, "a picture, not one colour"
