"""Robots whose models packages bring: found without running those packages, and moved within their reach."""

from __future__ import annotations

import importlib
import importlib.util
import pickle

import numpy as np
import pytest

import cosmos_ros.training  # noqa: F401  (before MuJoCo: it chooses an OpenGL without a display)

mujoco = pytest.importorskip("mujoco", reason="simulating needs requirements/train.txt")

from cosmos_ros.training.datasets.simulated import SimulatedEpisodes  # noqa: E402
from cosmos_ros.training.episodes import SCENES, draw_scene, shown_in  # noqa: E402
from cosmos_ros.training.opengl import NoOpenGL  # noqa: E402
from cosmos_ros.training.robots import models  # noqa: E402
from cosmos_ros.training.robots.arm import PREFIX, arm_of  # noqa: E402
from cosmos_ros.training.robots.catalogue import PACKAGES, ROBOTS  # noqa: E402
from cosmos_ros.training.robots.models import ALL, RobotUnavailable, robot_models  # noqa: E402
from cosmos_ros.training.robots.tasks import TASKS, work  # noqa: E402
from cosmos_ros.training.robots.teleoperation import KNOTS_HZ, Station, drive, tool_axes  # noqa: E402
from cosmos_ros.training.scenes.robot_at_work import robot_at_work, things  # noqa: E402
from cosmos_ros.training.scenes.surroundings import Palette  # noqa: E402
from cosmos_ros.training.simulation import film, simulate  # noqa: E402
from cosmos_ros.training.splits import Split  # noqa: E402

DROID = "panda-robotiq"
# Where the Panda's joints are, as its data sheet has it; its links are sticks here, its base a mesh, its fingers boxes.
LINKS = (
    ("0 0 0.333", "1 0 0 0", "0 0 0 0 0 -0.2", "-2.9 2.9"),
    ("0 0 0", "1 -1 0 0", "0 0 0 0 -0.3 0", "-1.76 1.76"),
    ("0 -0.316 0", "1 1 0 0", "0 0 0 0.08 0 0", "-2.9 2.9"),
    ("0.0825 0 0", "1 1 0 0", "0 0 0 -0.08 0.38 0", "-3.07 -0.07"),
    ("-0.0825 0.384 0", "1 -1 0 0", "0 0 0 0 0 -0.2", "-2.9 2.9"),
    ("0 0 0", "1 1 0 0", "0 0 0 0.08 0 0", "-0.02 3.75"),
    ("0.088 0 0", "1 1 0 0", "0 0 0 0 0 0.1", "-2.9 2.9"),
)
FINGER = (
    '<body name="finger{0}" pos="0 0 0.1"><joint name="finger{0}" type="slide" axis="0 {0} 0" range="0 0.04"/>'
    '<geom class="seen" type="box" size="0.01 0.004 0.04"/>'
    '<geom group="0" type="box" size="0.01 0.004 0.04"/></body>'
)
TETRAHEDRON = "v 0 0 0\nv 0.1 0 0\nv 0 0.1 0\nv 0 0 0.2\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def stick_panda() -> str:
    body = (
        '<body name="base" pos="0 0 0.107" quat="0.9239 0 0 -0.3827">'
        '<geom class="seen" type="box" size="0.05 0.05 0.03"/>'
        f'<site name="pinch"/>{FINGER.format(1)}{FINGER.format(-1)}</body>'
    )
    for i, (pos, quat, ends, limits) in reversed(list(enumerate(LINKS))):
        body = (
            f'<body pos="{pos}" quat="{quat}"><joint name="joint{i}" range="{limits}"/>'
            f'<geom class="seen" type="capsule" fromto="{ends}" size="0.04"/>{body}</body>'
        )
    return f"""
<mujoco><compiler angle="radian" autolimits="true" meshdir="meshes"/>
  <default><joint axis="0 0 1"/><default class="seen">
    <geom contype="0" conaffinity="0" group="2" density="500"/></default>
  </default>
  <asset><mesh name="foot" file="foot.obj"/></asset>
  <worldbody><light pos="0 0 3"/>
    <body name="link0"><geom class="seen" type="mesh" mesh="foot"/>{body}</body></worldbody>
  <tendon><fixed name="both"><joint joint="finger1" coef="0.5"/><joint joint="finger-1" coef="0.5"/></fixed></tendon>
  <equality><joint joint1="finger1" joint2="finger-1"/></equality>
  <actuator><general name="fingers_actuator" tendon="both" ctrlrange="0 255" biastype="affine"
    gainprm="-0.03137" biasprm="8 -200 -20"/></actuator>
  <keyframe><key qpos="0 0 0 -1.6 0 1.6 0 0 0"/></keyframe>
</mujoco>"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the name that brings DROID's arm, whose own code may never run."""
    assets = tmp_path / "gym_hil" / "assets"
    (assets / "meshes").mkdir(parents=True)
    (tmp_path / "gym_hil" / "__init__.py").write_text("raise RuntimeError('run for its models')")
    (assets / "panda.xml").write_text(stick_panda())
    (assets / "meshes" / "foot.obj").write_text(TETRAHEDRON)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    arm_of.cache_clear()
    yield assets
    arm_of.cache_clear()


def trajectory(scene, n_frames: int = 3) -> np.ndarray:
    return np.array([np.concatenate([d.xpos.ravel(), d.mocap_quat.ravel()]) for _, d in simulate(scene, n_frames, 5.0)])


def test_a_scene_is_the_same_each_time_and_the_robot_follows_its_course(package):
    (model,) = robot_models([DROID])
    first, again = (trajectory(robot_at_work(np.random.default_rng(3), model)) for _ in range(2))
    assert np.array_equal(first, again)
    scene = robot_at_work(np.random.default_rng(3), model)
    puppet, tips = scene.drive.__self__, []
    for _, data in simulate(scene, 8, 5.0):
        joints = [data.joint(PREFIX + name).qpos[0] for name in puppet.arm.joints]
        assert joints == pytest.approx(puppet.path(data.time), abs=0.05)
        tips.append(puppet.hand(data)[0])
    assert np.ptp(tips, axis=0).max() > 0.02, "it moves"
    assert np.min(tips, axis=0)[2] > 0.0, "above the table"


def test_what_its_fingers_close_around_goes_with_the_hand_and_stays_where_it_is_let_go(package):
    (model,) = robot_models([DROID])
    scene = robot_at_work(np.random.default_rng(3), model)
    puppet, off, lifted, held = scene.drive.__self__, [], [], -1
    for _, data in simulate(scene, 45, 5.0):
        thing = data.body(f"thing{max(held, 0)}")
        if (now := int(puppet.held[int(data.time * KNOTS_HZ)])) >= 0:
            held, thing = now, data.body(f"thing{now}")
            off.append(np.linalg.norm(thing.xpos[:2] - puppet.hand(data)[0][:2]))
        lifted.append(thing.xpos[2])
    assert len(off) > 3 and max(off) < 0.06, "metres from the fingers while it is held"
    assert max(lifted) > 0.05 and abs(lifted[-1]) < 0.02, "up, and down again"
    assert min(lifted) > -0.01, "not into the table"


def test_episodes_show_robots_in_half_and_never_one_that_is_held_out_in_training(package):
    (model,) = robot_models([DROID])
    drawn = [draw_scene(Split.TRAINING, index, (model,)) for index in range(12)]
    with_robot = [scene.extend is not None for scene in drawn]
    assert 2 < sum(with_robot) < 10
    assert drawn[0].xml != draw_scene(Split.VALIDATION, 0, (model,)).xml
    alone = [draw_scene(Split.TRAINING, index).extend for index in range(len(SCENES))]
    assert not any(alone), "without robots nothing changes"
    held_out = models.RobotModel(ROBOTS["kinova3"], model.files, "")
    assert shown_in(Split.TRAINING, (model, held_out)) == [model]
    assert shown_in(Split.VALIDATION, (model, held_out)) == [model, held_out]


def test_a_film_shows_a_robot(package):
    index = next(i for i in range(20) if draw_scene(Split.TRAINING, i, robot_models([DROID])).extend)
    (model,) = robot_models([DROID])
    scene = draw_scene(Split.TRAINING, index, (model,))
    try:
        views = film(scene, 2, 5.0, 40, 64)
    except (NoOpenGL, mujoco.FatalError) as error:
        pytest.skip(f"no OpenGL without a display here: {error}")
    assert set(views) == set(scene.cameras)
    assert all(view.std() > 5 for view in views.values()), "pictures, not one colour"


def test_episodes_go_to_worker_processes_with_their_robots(package):
    episodes = SimulatedEpisodes(Split.TRAINING, range(4), (40, 64), robot_models([DROID]))
    assert len(pickle.loads(pickle.dumps(episodes))) == 4


def test_another_version_of_a_model_is_another_robot(package):
    (before,), (same,) = robot_models([DROID]), robot_models([DROID])
    assert before == same
    (package / "meshes" / "foot.obj").write_text(TETRAHEDRON.replace("0.2", "0.3"))
    (after,) = robot_models([DROID])
    assert after.digest != before.digest


def test_a_package_that_is_missing_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        RobotUnavailable, match=r"'panda-robotiq' comes with the package gym-hil.*--no-deps -r req"
    ) as raised:
        robot_models([DROID])
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value), "as it comes from a worker process"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda assets: (assets / "panda.xml").unlink(), "holds no assets/panda.xml"),
        (lambda assets: (assets / "meshes" / "foot.obj").unlink(), "names .*foot.obj, which is not there"),
        (lambda assets: (assets / "panda.xml").write_text("<mujoco>"), "cannot be read"),
        (lambda assets: (assets / "meshes" / "foot.obj").write_text("?"), "is not as expected"),
        (lambda assets: rewrite(assets, 'name="joint6"', 'name="joint6" type="ball"'), "is not as expected"),
        (lambda assets: rewrite(assets, 'name="base"', 'name="hand"'), "is not as expected"),
        (lambda assets: rewrite(assets, "fingers_actuator", "fingers"), "is not as expected"),
    ],
    ids=["no file", "no mesh", "no XML", "broken mesh", "other joints", "other names", "other motors"],
)
def test_a_broken_model_is_an_error_with_words(package, harm, said):
    harm(package)
    with pytest.raises(RobotUnavailable, match=said):
        arm_of(*robot_models([DROID]))


def rewrite(assets, old: str, new: str) -> None:
    text = (assets / "panda.xml").read_text()
    assert old in text
    (assets / "panda.xml").write_text(text.replace(old, new))


def test_the_catalogue_names_only_permissive_packages_and_leaves_robots_to_train_on():
    assert {part.package for robot in ROBOTS.values() for part in robot.parts} == set(PACKAGES)
    assert {licence for _, licence in PACKAGES.values()} <= {"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause"}
    assert 0 < sum(robot.held_out for robot in ROBOTS.values()) < len(ROBOTS) / 2
    assert ROBOTS["ur5e"].credit == "ur5e (robosuite: MIT, gym-hil: Apache-2.0)"


def test_a_course_goes_through_its_stations_and_turns_no_corner_sharply():
    stations = [
        Station(np.array([0.5, y, 0.1]), 0.0, 0.0, opening, pause_s=1.0) for y, opening in ((0.2, 1), (-0.2, 0))
    ]
    course = drive(iter(stations), 5.0, 0.2, np.random.default_rng(0), tremor=0.0)
    assert len(course.tips) == 5 * KNOTS_HZ
    assert course.tips[0] == pytest.approx(stations[0].tip, abs=1e-3)
    assert course.tips[-1] == pytest.approx(stations[1].tip, abs=1e-3) and course.openings[-1] == 0
    assert np.abs(np.diff(course.tips, n=2, axis=0)).max() * KNOTS_HZ**2 < 2.0, "m/s^2"
    assert np.einsum("nij,nik->njk", course.axes, course.axes) == pytest.approx(
        np.eye(3)[None].repeat(250, 0), abs=1e-9
    )


def test_a_tool_points_down_or_outwards_and_opens_across_the_arm():
    assert tool_axes(np.array([0.5, 0, 0.1]), 0.0, 0.0)[:, 2] == pytest.approx([0, 0, -1])
    assert tool_axes(np.array([0.5, 0, 0.1]), 0.0, 0.0)[:, 1] == pytest.approx([0, 1, 0])
    assert tool_axes(np.array([0, 0.5, 0.1]), np.pi / 2, 0.0)[:, 2] == pytest.approx([0, 1, 0])


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_a_real_robot_reaches_its_table_and_closes_its_fingers(name):
    """With the packages of requirements/robots.txt; sizes, names and axes of the catalogue are true of them."""
    try:
        (model,) = robot_models([name])
    except RobotUnavailable as error:
        pytest.skip(str(error))
    arm, robot = arm_of(model), ROBOTS[name]
    near, far = robot.reach
    for spot, height in (((near, 0.0), 0.02), ((0.9 * far, 0.0), 0.02), ((0.0, 0.8 * far), 0.05)):
        angle = np.clip(np.arctan2(spot[1], spot[0]), -robot.sector, robot.sector)
        tip = np.array([np.hypot(*spot) * np.cos(angle), np.hypot(*spot) * np.sin(angle), height])
        axes = tool_axes(tip, robot.lean, 0.0)
        joints, missed = arm.kinematics.follow(tip[None], axes[None])
        assert missed[0] < 0.01
        assert arm.kinematics.pose(joints[0])[1][:, 2] @ axes[:, 2] > 0.95, "it points where it should"
    assert np.abs(arm.fingers[-1] - arm.fingers[0]).max() > 0.01


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_work_without_end(package, task):
    arm = arm_of(*robot_models([DROID]))
    rng = np.random.default_rng(1)
    bench, _ = things(Palette(rng), arm)
    tips = np.array([station.tip for station, _ in zip(work(bench, task, rng), range(60), strict=False)])
    assert len(tips) == 60 and (tips[:, 2] > 0.005).all()
    assert np.hypot(*tips[:, :2].T).max() < 1.6 * arm.robot.reach[1]


def test_all_robots_are_named_in_order(monkeypatch):
    monkeypatch.setattr(models, "_model", lambda robot: robot.name)
    assert robot_models([ALL]) == tuple(sorted(ROBOTS))
    assert robot_models(["ur5e", "iiwa", "ur5e"]) == ("iiwa", "ur5e") and robot_models([]) == ()
