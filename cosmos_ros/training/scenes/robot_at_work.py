"""A real robot's model at a cluttered table, worked as people work robots from afar; seen from around and its hand."""

from __future__ import annotations

import mujoco
import numpy as np

from cosmos_ros.training.robots.arm import Arm, arm_of, mount
from cosmos_ros.training.robots.models import RobotModel
from cosmos_ros.training.robots.puppet import THING, Puppet
from cosmos_ros.training.robots.tasks import TASKS, Bench, Lying, work
from cosmos_ros.training.robots.teleoperation import KNOTS_HZ, drive
from cosmos_ros.training.scenes.arm_over_table import TABLE_HEIGHT, CameraPath
from cosmos_ros.training.scenes.household import (
    UNSEEN,
    UNTOUCHABLE,
    flat_things,
    household_thing,
    quiet,
    tray,
    turned,
    walls_of_a_room,
)
from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, clutter, geom, look_at, numbers

FILMED_S = 10.0  # an episode's 48 frames at 5 Hz
LATEST_BEGIN_S = 5.0
TASK_SHARES = (0.4, 0.15, 0.2, 0.15, 0.1)  # of TASKS
TRIES = 6  # at a course that the arm can follow
MISSES = 0.012  # metres off its course, at most
FREE = 0.03  # metres between the table and the lowest joint, at least
FASTEST = 3.5  # rad/s of a joint: a wrist that turns over is faster
AROUND = ("camera0", "camera1")
ON_THE_HAND = "hand_camera"
FURNITURE = 0.55  # metres from a wall, at most
ARMS_REACH = 0.6  # metres: sizes on the table are those of such an arm, and smaller for a smaller one


def robot_at_work(rng: np.random.Generator, model: RobotModel) -> Scene:
    """A random scene of this kind; the same generator state and model give the same scene.

    Raises RobotUnavailable where the model is broken.
    """
    arm, palette = arm_of(model), Palette(rng, mirrors=False)
    room = rng.uniform(1.7, 3.0, 2)
    world = [walls_of_a_room(palette, -TABLE_HEIGHT, room), table(palette, arm, room)]
    bench, bodies = things(palette, arm)
    world += bodies
    puppet = puppet_at(bench, arm, str(rng.choice(TASKS, p=TASK_SHARES)), rng)
    views = {name: viewpoint(rng, arm, room) for name in AROUND}
    for name, view in views.items():
        world.append(camera(name, *view.pose(0.0), fovy_deg=rng.uniform(36, 62)))
    cameras: tuple[str, ...] = AROUND
    seat = np.zeros(3)
    if rng.random() < 0.4:
        cameras = (*AROUND, ON_THE_HAND)
        world.append(camera(ON_THE_HAND, np.array([0, 0, 1.0]), np.array([0.1, 0, 0]), fovy_deg=rng.uniform(55, 85)))
        seat = rng.uniform((0.06, -0.02, -0.12), (0.1, 0.02, -0.07))
        seat[0] *= rng.choice([-1, 1])

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        poses = {name: (view.pose(data.time)[0], look_at(*view.pose(data.time))) for name, view in views.items()}
        if ON_THE_HAND in cameras:
            poses[ON_THE_HAND] = hand_view(*puppet.hand(data), seat)
        for name, (eye, turn) in poses.items():
            body = model.body(name).mocapid[0]
            data.mocap_pos[body], data.mocap_quat[body] = eye, turn

    xml = palette.document("".join(world), extent=4.0, znear=0.004)
    begin_s = rng.uniform(0.2, LATEST_BEGIN_S)
    return Scene(xml, palette.textures, puppet.move, aim, cameras, begin_s, lambda spec: mount(model, spec))


def scale_of(arm: Arm) -> float:
    return arm.robot.reach[1] / ARMS_REACH


def table(palette: Palette, arm: Arm, room: np.ndarray) -> str:
    """A table on legs with flat things, trays and other things on it that stay where they are."""
    rng, far = palette.rng, arm.robot.reach[1]
    middle = np.array([0.6 * far, 0.0])
    half = np.array([rng.uniform(0.75, 1.3) * far + 0.1, rng.uniform(0.9, 1.6) * far])
    half = np.minimum(half, room - FURNITURE - middle)
    palette.mirrors = True
    look = quiet(palette)
    palette.mirrors = False
    parts = [geom("box", [*half, 0.02], [*middle, -0.02], look, UNTOUCHABLE)]
    # What a hand presses down must come up again: a thin table would let it through.
    parts.append(geom("box", [*half, 0.2], [*middle, -0.2], UNSEEN, 'friction="0.8 0.01 0.002"'))
    for x in (-1, 1):
        for y in (-1, 1):
            leg = [middle[0] + x * (half[0] - 0.05), y * (half[1] - 0.05), -TABLE_HEIGHT / 2 - 0.02]
            parts.append(geom("box", [0.025, 0.025, TABLE_HEIGHT / 2 - 0.02], leg, look))
    parts.append(flat_things(palette, [*middle, *half], int(rng.integers(0, 5))))
    # Behind and beside the work, out of the arm's way.
    for side in (-1, 1):
        if rng.random() < 0.5:
            spot = [rng.uniform(0.0, far), side * (0.85 * far + rng.uniform(0.0, 0.2))]
            if abs(spot[1]) + 0.1 < half[1]:
                parts.append(clutter(palette, spot, [0.1, 0.05], int(rng.integers(1, 4)), 0.0, size=(0.02, 0.08)))
    if rng.random() < 0.35:
        parts.append(clutter(palette, [middle[0] + half[0] - 0.1, 0], [0.02, 0.6 * half[1]], 3, 0.0, size=(0.02, 0.08)))
    return "".join(parts)


def things(palette: Palette, arm: Arm) -> tuple[Bench, list[str]]:
    """What the robot works with, and what lies between."""
    rng, robot = palette.rng, arm.robot
    scale = scale_of(arm)
    bench = Bench(
        [], robot.reach, robot.sector, max(0.06, 0.15 * scale), 0.45 * robot.reach[1], robot.lean, robot.gripper.span
    )
    bodies, clearance = [], 0.09 + 0.06 * scale
    for i in range(int(rng.integers(2, 6))):
        spot, yaw = bench.free_spot(rng, -1, clearance), rng.uniform(-0.6, 0.6)
        turn = np.arctan2(spot[1], spot[0]) + yaw
        body, thing = household_thing(
            palette, THING.format(i), spot, turn, (0.25 * robot.gripper.span, 0.42 * robot.gripper.span)
        )
        bench.things.append(Lying(thing, np.array([*spot, 0.0]), turn))
        bodies.append(body)
    if rng.random() < 0.4:  # a tray, bowl or plate, that is nobody's aim
        spot = bench.free_spot(rng, -1, clearance + 0.08)
        others = [lying.foot[:2] for lying in bench.things]
        if min(np.linalg.norm(spot - other) for other in others) > clearance + 0.06:
            if rng.random() < 0.5:
                bodies.append(
                    tray(palette, spot, rng.uniform(0.05, 0.1, 2), rng.uniform(0.02, 0.06), rng.uniform(0, 3))
                )
            else:
                dish = turned(palette, "bowl", rng.uniform(0.05, 0.09), rng.uniform(0.015, 0.06))
                bodies.append(f'<body pos="{numbers([*spot, 0])}">{dish}</body>')
    return bench, bodies


def puppet_at(bench: Bench, arm: Arm, task: str, rng: np.random.Generator) -> Puppet:
    """Work that the arm can do: where a course leads out of its reach or its elbow into the table, another is tried."""
    scale, seconds = scale_of(arm), LATEST_BEGIN_S + FILMED_S + 0.5
    best: tuple[float, Puppet] | None = None
    for _ in range(TRIES):
        pace, tremor = rng.uniform(0.1, 0.38) * scale, rng.uniform(0, 0.003) * scale
        course = drive(work(bench.copy(), task, rng), seconds, pace, rng, tremor)
        joints, missed = arm.kinematics.follow(course.tips, course.axes)
        lowest = min(arm.kinematics.lowest(pose) for pose in joints[::10])
        hurry = np.abs(np.diff(joints, axis=0)).max() * KNOTS_HZ
        badness = max(0.0, missed.max() - MISSES) + max(0.0, FREE - lowest) + max(0.0, hurry - FASTEST)
        if best is None or badness < best[0]:
            best = badness, Puppet.of(arm, joints, course)
        if badness == 0:
            break
    assert best is not None
    return best[1]


def viewpoint(rng: np.random.Generator, arm: Arm, room: np.ndarray) -> CameraPath:
    """From around the table, within the room, nearer to a small robot; nearly always still."""
    far = arm.robot.reach[1]
    target = np.array([rng.uniform(0.35, 0.75), rng.uniform(-0.25, 0.25), rng.uniform(0.1, 0.5)]) * far
    for _ in range(100):
        view = CameraPath(
            target,
            azimuth=rng.uniform(-2.7, 2.7),
            elevation=rng.uniform(0.15, 1.0),
            distance=rng.uniform(1.0, 2.1) * far,
            turn=rng.choice([0.0, rng.uniform(-0.1, 0.1)], p=[0.9, 0.1]),
        )
        eyes = np.array([view.pose(time_s)[0] for time_s in (0.0, FILMED_S + LATEST_BEGIN_S)])
        # Neither in a wall or what stands there, nor among what lies on the table, nor with the base before it.
        away = (np.abs(eyes[:, :2]) < room - FURNITURE).all() and (eyes[:, 2] > 0.2).all()
        if away and (np.hypot(*eyes[:, :2].T) > 0.5 * far).all():
            break
    return view


def hand_view(tip: np.ndarray, axes: np.ndarray, seat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eye and quaternion of a camera that looks past the fingers, `seat` from the tip in the tool's axes."""
    eye = tip + axes @ seat
    back = eye - (tip + 0.03 * axes[:, 2])
    back /= np.linalg.norm(back)
    right = np.cross(-np.sign(seat[0]) * axes[:, 0], back)
    right /= np.linalg.norm(right)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).flatten())
    return eye, quaternion
