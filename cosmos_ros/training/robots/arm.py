"""A robot's model, ready to stand in a scene: no motors, fingers that close on a known course, and its kinematics."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np

from cosmos_ros.training.robots.catalogue import MOUNT, Quaternion, Robot
from cosmos_ros.training.robots.inverse_kinematics import Kinematics
from cosmos_ros.training.robots.models import INSTALL, RobotModel, RobotUnavailable

PREFIX = "robot/"
GRIPPER = "gripper/"
FINGER_STEPS = 21  # openings at which the fingers' joints are known
CLOSING_S = 2.0
HEAVY = 50.0  # kg m^2 or kg, of each joint: what the arm meets gives way, not the arm
HIDDEN = 3  # the group of geoms that are not drawn


@dataclass(frozen=True)
class Arm:
    """What a scene needs to know of a robot to move it.

    hand     the body that its tool belongs to
    axes     [3, 3] the tool's axes in the hand's frame, as columns
    joints   names: the arm's, then the fingers'
    fingers  [FINGER_STEPS, n] positions of the fingers' joints from closed to open

    In a scene all names begin with PREFIX.
    """

    robot: Robot
    kinematics: Kinematics
    hand: str
    axes: np.ndarray
    joints: tuple[str, ...]
    fingers: np.ndarray

    def finger_joints(self, openings: np.ndarray) -> np.ndarray:
        """[n, n_fingers] for openings [n] between 0 and 1."""
        known = np.linspace(0, 1, len(self.fingers))
        return np.stack([np.interp(openings, known, joint) for joint in self.fingers.T], axis=1)


@cache
def arm_of(model: RobotModel) -> Arm:
    """Once per process: reading the meshes takes a second. Raises RobotUnavailable where the model is broken."""
    robot, gripper = model.robot, model.robot.gripper
    prefix = GRIPPER if gripper.part else ""
    try:
        alone = _spec(model).compile()
        if alone.nq != alone.nv or alone.njnt <= len(robot.home):
            raise ValueError(f"its joints are not {len(robot.home)} of an arm and some of fingers")
        hand, axes = prefix + gripper.hand, axes_of(gripper.axes)
        kinematics = Kinematics(alone, hand, np.array(gripper.tip), axes, np.array(robot.home))
        names = tuple(alone.joint(i).name for i in range(alone.njnt))
        motors = [(alone.actuator(prefix + name).id, *ends) for name, *ends in gripper.motors]
        return Arm(robot, kinematics, hand, axes, names, _closing(alone, robot, motors))
    except (ValueError, KeyError, TypeError, AttributeError, mujoco.FatalError) as error:
        raise _unexpected(model, error) from error


def mount(model: RobotModel, spec: mujoco.MjSpec) -> None:
    """Puts the robot at the origin of a scene. Raises RobotUnavailable."""
    try:
        robot = _spec(model)
        for kind in ("actuators", "equalities", "tendons", "sensors", "keys", "excludes", "lights", "cameras", "sites"):
            for part in list(getattr(robot, kind)):
                robot.delete(part)
        for joint in robot.joints:
            joint.armature = HEAVY
        drawn = any(geom.group in (1, 2) for geom in robot.geoms)
        for geom in robot.geoms:
            if drawn and geom.group == 0:
                geom.group = HIDDEN
            geom.conaffinity = 0  # its parts do not meet each other
        with warnings.catch_warnings():
            # MuJoCo warns of a child whose assets are files where the parent's are in memory; both are found.
            warnings.simplefilter("ignore")
            spec.attach(robot, prefix=PREFIX, frame=spec.worldbody.add_frame())
    except (ValueError, KeyError, TypeError, AttributeError, mujoco.FatalError) as error:
        raise _unexpected(model, error) from error


def axes_of(quaternion: Quaternion) -> np.ndarray:
    """[3, 3], axes as columns, of (w, x, y, z) of any length."""
    matrix, unit = np.empty(9), np.array(quaternion, float) / np.linalg.norm(quaternion)
    mujoco.mju_quat2Mat(matrix, unit)
    return matrix.reshape(3, 3)


def _unexpected(model: RobotModel, error: Exception) -> RobotUnavailable:
    return RobotUnavailable(
        f"the model of robot '{model.robot.name}' in {model.files[0]} is not as expected: {error}; "
        f"another version of its package may be: {INSTALL}"
    )


def _spec(model: RobotModel) -> mujoco.MjSpec:
    """The arm with its gripper, as their files have them."""
    spec = mujoco.MjSpec.from_file(str(model.files[0]))
    for file in model.files[1:]:
        gripper, frame = mujoco.MjSpec.from_file(str(file)), spec.body(MOUNT).add_frame()
        if root := model.robot.gripper.root:
            frame.attach_body(gripper.body(root), GRIPPER, "")
        else:
            spec.attach(gripper, prefix=GRIPPER, frame=frame)
    return spec


def _closing(alone: mujoco.MjModel, robot: Robot, motors: list[tuple[int, float, float]]) -> np.ndarray:
    """Where the fingers' joints are from closed to open, as the gripper's own motors move them."""
    data, n_arm = mujoco.MjData(alone), len(robot.home)
    alone.opt.gravity[:] = 0
    steps = round(CLOSING_S / alone.opt.timestep)
    known: list[np.ndarray] = []
    for step in range(-steps // 2, steps + 1):
        data.qpos[:n_arm], data.qvel[:n_arm] = robot.home, 0
        for motor, opened, closed in motors:
            data.ctrl[motor] = opened + (closed - opened) * max(step, 0) / steps
        mujoco.mj_step(alone, data)
        if step >= len(known) * steps / (FINGER_STEPS - 1):
            known.append(data.qpos[n_arm:].copy())
    return np.array(known[::-1])
