"""Simulated worlds: reproducible, different from split to split, and filmed at exact times."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest

import cosmos_ros.training  # noqa: F401  (before MuJoCo: it chooses an OpenGL without a display)

mujoco = pytest.importorskip("mujoco", reason="simulating needs requirements/train.txt")

from cosmos_ros.training.episodes import SCENES, draw_scene  # noqa: E402
from cosmos_ros.training.scenes.arm_over_table import HAND_LENGTH, arm_over_table  # noqa: E402
from cosmos_ros.training.scenes.corridor import corridor  # noqa: E402
from cosmos_ros.training.scenes.household import walls_of_a_room  # noqa: E402
from cosmos_ros.training.scenes.moving_objects import moving_objects  # noqa: E402
from cosmos_ros.training.scenes.room import room  # noqa: E402
from cosmos_ros.training.scenes.surroundings import Palette, Scene, look_at  # noqa: E402
from cosmos_ros.training.simulation import exposed, film, simulate  # noqa: E402
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


def test_a_frame_is_exposed_for_the_physics_steps_that_end_with_it():
    scene = draw_scene(Split.TRAINING, 0)
    times = np.array([data.time for _, data in simulate(scene, 5, 10.0, exposure=3)]).reshape(5, 3)
    assert np.diff(times, axis=1) == pytest.approx(0.005) and np.diff(times[:, -1]) == pytest.approx(0.1)
    for exposure in (0, 21):
        with pytest.raises(ValueError, match=f"a frame of 20 physics steps cannot be exposed for {exposure}"):
            next(simulate(scene, 2, 10.0, exposure=exposure))


def test_what_moves_while_the_shutter_is_open_is_a_streak_of_less_light():
    pictures = np.zeros((8, 1, 5, 3), np.uint8)
    for i, picture in enumerate(pictures):
        picture[0, i % 4], picture[0, 4] = 200, 90
    frames = exposed(pictures, 4)
    assert frames.shape == (2, 1, 5, 3) and frames.dtype == np.uint8
    assert (frames[:, 0, :4] == 100).all(), "a quarter of the light is half of the number"
    assert (frames[:, 0, 4] == 90).all() and exposed(pictures, 1) is pictures


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


def faces(model: mujoco.MjModel, data: mujoco.MjData) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """The flat faces of everything: geom, outward normal [3] and corners [n, 3], m."""
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    circle = np.array([(np.cos(angle), np.sin(angle)) for angle in np.arange(24) * np.pi / 12])
    found = []
    for g in range(model.ngeom):
        kind, size, axes = model.geom_type[g], model.geom_size[g], data.geom_xmat[g].reshape(3, 3).T

        def add(axis: int, side: int, half: np.ndarray, shape: np.ndarray, deep: float, g: int = g, axes=axes) -> None:
            middle = data.geom_xpos[g] + side * deep * axes[axis]
            corners = middle + (shape * half) @ axes[[(axis + 1) % 3, (axis + 2) % 3]]
            found.append((g, side * axes[axis], corners))

        for side in (-1, 1):
            if kind == mujoco.mjtGeom.mjGEOM_BOX:
                for axis in range(3):
                    add(axis, side, size[[(axis + 1) % 3, (axis + 2) % 3]], square, size[axis])
            elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
                add(2, side, size[[0, 0]], circle, size[1])
        if kind == mujoco.mjtGeom.mjGEOM_PLANE:
            add(2, 1, size[:2], square, 0.0)
    return found


def common_area(normal: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Of two faces in one plane, m^2."""
    right = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    flat = np.stack([right, np.cross(normal, right)], axis=1) / np.linalg.norm(right)
    outlines = [cv2.convexHull((corners @ flat).astype(np.float32)) for corners in (one, other)]
    return cv2.intersectConvexConvex(*outlines)[0]


def torn_faces(model: mujoco.MjModel) -> list[tuple[int, int, float]]:
    """Geoms that have a visible face in one plane with another's, and the area that they share: drawn, it flickers."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    geoms, normals, corners = zip(*faces(model, data), strict=True)
    directions, other = np.array(normals), np.array(geoms)[:, None] != np.array(geoms)
    places = np.array([c[0] @ n for c, n in zip(corners, normals, strict=True)])
    middles = np.array([c.mean(axis=0) for c in corners])
    radii = np.array([np.linalg.norm(c - m, axis=1).max() for c, m in zip(corners, middles, strict=True)])
    other &= np.linalg.norm(middles[:, None] - middles, axis=-1) < radii[:, None] + radii
    facing = directions @ directions.T
    in_one_plane = other & (facing > 0.9999) & (np.abs(places[:, None] - places) < 1e-4)
    back_to_back = other & (facing < -0.9999) & (np.abs(places[:, None] + places) < 1e-4)

    @cache
    def covered(i: int) -> bool:
        shares = [common_area(normals[i], corners[i], corners[k]) for k in np.flatnonzero(back_to_back[i])]
        return sum(shares) > 0.97 * common_area(normals[i], corners[i], corners[i])

    torn = []
    for i, k in np.argwhere(np.triu(in_one_plane)):
        if not covered(i) and not covered(k) and (area := common_area(normals[i], corners[i], corners[k])) > 5e-4:
            torn.append((geoms[i], geoms[k], area))
    return torn


def behind_a_robot(rng: np.random.Generator) -> Scene:
    palette = Palette(rng, mirrors=False)
    world = walls_of_a_room(palette, -0.75, [2.0, 2.5])
    return Scene(palette.document(world), palette.textures, lambda _m, _d: None, lambda _m, _d: None, ())


@cache
def compiled(make: Callable[[np.random.Generator], Scene], seed: int) -> tuple[Scene, mujoco.MjModel]:
    """A scene in which each camera carries a grain of its name."""
    scene = make(np.random.default_rng(seed))
    xml = scene.xml
    for name in scene.cameras:
        xml = xml.replace(f'<camera name="{name}"', f'<geom name="{name}" size="0.001"/><camera name="{name}"')
    return scene, replace(scene, xml=xml).compiled()


@pytest.mark.parametrize("make", [room, corridor, moving_objects, behind_a_robot])
def test_no_two_faces_that_one_sees_lie_in_one_plane(make):
    torn = {seed: torn_faces(compiled(make, seed)[1]) for seed in range(5)}
    assert not any(torn.values()), torn


@pytest.mark.parametrize("make", [room, corridor])
def test_cameras_indoors_keep_clear_of_everything(make):
    for seed in range(5):
        scene, model = compiled(make, seed)
        data, eyes = mujoco.MjData(model), [model.geom(name).id for name in scene.cameras]
        for data.time in np.arange(0, 9.5, 0.5):  # as long as the longest episode
            scene.aim(model, data)
            mujoco.mj_kinematics(model, data)
            for geom in set(range(model.ngeom)) - set(eyes):
                near = min(mujoco.mj_geomDistance(model, data, eye, geom, 1.0, None) for eye in eyes)
                assert near > 0.28, f"metres from a camera to geom {geom} of seed {seed} after {data.time} s"


@pytest.mark.parametrize("make", [room, corridor])
def test_there_is_little_enough_to_draw_indoors(make):
    models = [compiled(make, seed)[1] for seed in range(5)]
    assert all(100 < model.ngeom < 350 and model.nlight <= 7 for model in models)
    # Each light that casts shadows, and each mirror, is drawn with the whole scene once more.
    assert all(model.light_castshadow.sum() == 1 for model in models)
    assert all(np.count_nonzero(model.mat_reflectance) <= 1 for model in models)


def test_a_machine_without_egl_is_told_what_to_install(monkeypatch):
    monkeypatch.delattr(mujoco, "GLContext", raising=False)
    with pytest.raises(RuntimeError, match="apt install libegl1"):
        film(draw_scene(Split.TRAINING, 0), 1, 10.0, 24, 32)


def test_film_gives_every_camera_its_frames():
    scene = draw_scene(Split.TRAINING, 1)
    try:
        frames, blurred = film(scene, 2, 10.0, 40, 64), film(scene, 2, 10.0, 40, 64, exposure=4)
    except (RuntimeError, ImportError, AttributeError, mujoco.FatalError) as error:
        pytest.skip(f"no OpenGL without a display here: {error}")
    assert set(frames) == set(scene.cameras)
    for view in frames.values():
        assert view.shape == (2, 40, 64, 3) and view.dtype == np.uint8
        assert view.std() > 5, "a picture, not one colour"
    for name, view in blurred.items():
        assert view.shape == (2, 40, 64, 3) and view.dtype == np.uint8
        assert 0 < np.abs(view.astype(int) - frames[name]).mean() < 10, "nearly the same picture"
