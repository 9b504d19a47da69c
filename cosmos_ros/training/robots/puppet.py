"""A robot in a scene that follows its course exactly, and carries what its fingers have closed around."""

from __future__ import annotations

from dataclasses import dataclass, field

import mujoco
import numpy as np
from scipy.interpolate import CubicSpline

from cosmos_ros.training.robots.arm import PREFIX, Arm
from cosmos_ros.training.robots.teleoperation import KNOTS_HZ, Course

GRASPED = 0.06  # metres between the fingers' middle and a thing's that they still take, along the table
THING = "thing{}"  # the name of a thing's body


@dataclass
class Puppet:
    """Moves a robot and what it holds; of one scene, which may be run anew.

    path  the robot's joints over time, the arm's first
    held  at each knot of the course which thing is held, or -1
    """

    arm: Arm
    path: CubicSpline
    held: np.ndarray
    _grasp: tuple[int, np.ndarray, np.ndarray] | None = field(default=None, init=False)

    @classmethod
    def of(cls, arm: Arm, joints: np.ndarray, course: Course) -> Puppet:
        """Whose arm has joints [n, n_joints] at the knots of a course."""
        everything = np.concatenate([joints, arm.finger_joints(course.openings)], axis=1)
        return cls(arm, CubicSpline(np.arange(len(joints)) / KNOTS_HZ, everything), course.held)

    def move(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """To where it is at data.time."""
        joints = [model.joint(PREFIX + name) for name in self.arm.joints]
        data.qpos[[int(joint.qposadr[0]) for joint in joints]] = self.path(data.time)
        data.qvel[[int(joint.dofadr[0]) for joint in joints]] = self.path(data.time, 1)
        held = int(self.held[min(int(data.time * KNOTS_HZ), len(self.held) - 1)])
        if data.time == 0 or self._grasp and self._grasp[0] != held:
            self._grasp = None
        if held >= 0:
            self._carry(model, data, held)

    def hand(self, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray]:
        """Where the tip of its tool is, metres [3], and the tool's axes [3, 3]."""
        body = data.body(PREFIX + self.arm.hand)
        rotation = body.xmat.reshape(3, 3)
        return body.xpos + rotation @ np.array(self.arm.robot.gripper.tip), rotation @ self.arm.axes

    def _carry(self, model: mujoco.MjModel, data: mujoco.MjData, held: int) -> None:
        """Keeps a thing between the fingers, as it was when they closed; what they missed stays where it is."""
        thing = data.joint(model.body(THING.format(held)).jntadr[0])
        tip, axes = self.hand(data)
        turn, relative = np.empty(4), np.empty(4)
        mujoco.mju_mat2Quat(turn, axes.flatten())
        if self._grasp is None:
            if np.linalg.norm(thing.qpos[:2] - tip[:2]) > GRASPED:
                return
            mujoco.mju_negQuat(relative, turn)
            mujoco.mju_mulQuat(relative, relative.copy(), thing.qpos[3:])
            self._grasp = held, axes.T @ (thing.qpos[:3] - tip), relative
        _, offset, relative = self._grasp
        turned = np.empty(4)
        mujoco.mju_mulQuat(turned, turn, relative)
        thing.qpos[:3], thing.qpos[3:], thing.qvel[:] = tip + axes @ offset, turned, 0
