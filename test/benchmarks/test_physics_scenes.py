"""The eight kinds of scene do what their names say, and none of them is a training scene."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

import cosmos_ros.training  # noqa: F401  (before MuJoCo: it chooses an OpenGL without a display)

mujoco = pytest.importorskip("mujoco", reason="simulating needs requirements/train.txt")

from cosmos_ros.benchmarks.filming import film_clip  # noqa: E402
from cosmos_ros.benchmarks.scenes.physics import PHYSICS  # noqa: E402
from cosmos_ros.benchmarks.scenes.scenery import turned  # noqa: E402
from cosmos_ros.benchmarks.simulated_set import stream  # noqa: E402
from cosmos_ros.training.episodes import SCENES  # noqa: E402
from cosmos_ros.training.simulation import simulate  # noqa: E402

N = 33


@cache
def motion(kind: str, seed: int = 0) -> SimpleNamespace:
    """Places [N, things, 3] of a scene's things, metres, and their upright axes [N, things, 3]."""
    staged = PHYSICS[kind](stream(kind, seed))
    places, axes = [], []
    for model, data in simulate(staged.scene, N, 10.0):
        bodies = [model.body(name).id for name in staged.objects]
        places.append(data.xpos[bodies].copy())
        axes.append(data.xmat[bodies].reshape(-1, 3, 3)[:, :, 2].copy())
    return SimpleNamespace(places=np.array(places), axes=np.array(axes))


def moved(kind: str) -> np.ndarray:
    """How far each thing is from where it began, metres: [N, things]."""
    places = motion(kind).places
    return np.linalg.norm(places - places[0], axis=2)


@pytest.mark.parametrize("kind", sorted(set(PHYSICS) - {"stable_stack", "gyroscope"}))
def test_something_moves_while_the_model_is_shown_frames_and_after_them(kind):
    assert moved(kind)[8].max() > 0.01
    places = motion(kind).places
    assert np.linalg.norm(places[16] - places[8], axis=1).max() > 0.03


def test_a_free_fall_is_one():
    heights = motion("free_fall").places[..., 2]
    fallen = heights[0] - heights[:10]
    assert fallen == pytest.approx(
        np.repeat(0.5 * 0.9 * (np.arange(10) / 10)[:, None] ** 2, heights.shape[1], 1), abs=0.01
    )
    assert heights.min() > 0.03, "nothing sinks into the floor"


def test_things_go_down_a_slope():
    heights = motion("tilted_slope").places[..., 2]
    assert (heights[24] < heights[0] - 0.1).any() and (heights < heights[0] + 0.01).all()


def test_a_ball_in_a_trough_goes_down_and_up_on_the_other_side():
    x, heights = motion("u_shaped_slope", 1).places[:, 0, 0], motion("u_shaped_slope", 1).places[:, 0, 2]
    assert x[0] * x[-8:].mean() < 0
    lowest = heights.argmin()
    assert 4 < lowest < 28 and heights[lowest:].max() > heights[lowest] + 0.03
    assert heights[lowest:].max() < heights[0]


def test_a_stable_stack_stands_and_an_unstable_one_falls():
    assert moved("stable_stack").max() < 0.005
    heights = motion("unstable_stack").places[..., 2]
    assert heights[-1].max() < heights[0].max() - 0.05


def test_dominoes_fall_one_after_the_other():
    upright = motion("dominoes").axes[..., 2]
    began = [int((upright[:, i] < np.cos(np.radians(20))).argmax()) for i in range(upright.shape[1])]
    assert began[0] < 9 < began[-1]
    assert began[:-1] == sorted(began[:-1]), "in their order"


def test_a_seesaw_throws_its_load_up_once_the_other_thing_has_landed():
    load, falling = motion("seesaw").places[:, 1, 2], motion("seesaw").places[:, 2, 2]
    assert load[:10].max() < load[0] + 0.02, "it waits"
    assert load[10:].max() > load[0] + 0.15 and falling[-1] < falling[0] - 0.3


def test_a_top_keeps_its_tilt_and_its_axis_goes_round():
    axes = motion("gyroscope").axes[:, 0]
    tilt = np.degrees(np.arccos(axes[:, 2]))
    assert tilt.min() > 5 and tilt.max() < 40, "it neither rises nor falls"
    bearing = np.unwrap(np.arctan2(axes[:, 1], axes[:, 0]))
    assert abs(bearing[-1] - bearing[0]) > np.radians(30)


@pytest.mark.parametrize("kind", PHYSICS)
def test_seeds_differ_in_materials_and_viewpoint_and_a_seed_is_the_same_each_time(kind):
    scenes = [PHYSICS[kind](stream(kind, seed)).scene for seed in (0, 0, 1)]
    assert scenes[0].xml == scenes[1].xml
    for part in ("<material", "density=", '<body name="camera"', "<light"):
        first, _, other = ([line for line in scene.xml.split(">") if part in line] for scene in scenes)
        assert first != other


def test_none_of_these_trains_a_model():
    assert not {scene.__name__ for scene in SCENES} & {draw.__name__ for draw in PHYSICS.values()}
    assert not {scene.__module__ for scene in SCENES} & {draw.__module__ for draw in PHYSICS.values()}


def test_a_film_has_masks_of_its_things_and_knows_when_they_touch():
    staged = PHYSICS["free_fall"](stream("free_fall", 0))
    try:
        clip = film_clip(staged, "free_fall", 0, 17, 25.0, (48, 80))
    except (RuntimeError, ImportError, AttributeError, mujoco.FatalError) as error:
        pytest.skip(f"no OpenGL without a display here: {error}")
    truth, places = clip.truth, motion("free_fall").places
    assert clip.frame_rate == 25.0, "the same film at any rate"
    for i, name in enumerate(truth.objects):
        seen = truth.mask(name)
        assert seen.any(axis=(1, 2)).all()
        # Where the mask's middle is, the thing is projected to.
        x, y, depth = truth.intrinsics @ np.linalg.inv(truth.poses[4])[:3] @ [*places[4, i], 1]
        rows, columns = np.nonzero(seen[4])
        assert [columns.mean() + 0.5, rows.mean() + 0.5] == pytest.approx([x / depth, y / depth], abs=1.5)
        hue = clip.frames[4][seen[4]].astype(int)
        assert (hue.max(axis=1) - hue.min(axis=1)).mean() > 40, "things are colourful"
    first = {contact.things: contact for contact in reversed(truth.contacts)}
    lands = first[0, 1]
    assert 10 < lands.frame < 17
    rows, columns = np.nonzero(truth.mask("thing0")[lands.frame])
    assert np.hypot(columns + 0.5 - lands.place[0], rows + 0.5 - lands.place[1]).min() < 3


def test_turns_are_about_the_worlds_axes_one_after_the_other():
    quaternion = np.array(turned(("x", 90), ("z", 90)).split('"')[1].split(), float)
    upright = np.empty(3)
    mujoco.mju_rotVecQuat(upright, np.array([0, 0, 1.0]), quaternion)
    assert upright == pytest.approx([1, 0, 0], abs=1e-3)  # z to -y, and that to x
