"""Joint angles that put a hand where it is wanted: damped least squares on MuJoCo's Jacobian."""

from __future__ import annotations

import mujoco
import numpy as np

DAMPING = 0.03  # keeps a stretched arm calm
HOMESICKNESS = 0.05  # share of the way home that the joints take in every step where the hand does not mind
LARGEST_STEP = 0.25  # rad
FIRST_STEPS, NEXT_STEPS = 150, 4  # of the first pose, which may be far, and of those after it


class Kinematics:
    """A robot alone in the world, whose first joints are the arm's.

    hand  body that is put somewhere
    tip   the point of it that matters, metres in its frame
    axes  [3, 3] the tool's axes in the hand's frame, as columns
    home  the arm's joints at rest, radians; where it has more joints than a pose needs, it stays near
    """

    def __init__(self, model: mujoco.MjModel, hand: str, tip: np.ndarray, axes: np.ndarray, home: np.ndarray) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._hand, self._tip, self._axes, self._home = model.body(hand).id, tip, axes, home
        n = len(home)
        limited = model.jnt_limited[:n].astype(bool)
        self._low = np.where(limited, model.jnt_range[:n, 0], -np.inf)
        self._high = np.where(limited, model.jnt_range[:n, 1], np.inf)
        self._jacobian = np.zeros((6, model.nv))
        self._links = [model.jnt_bodyid[joint] for joint in range(1, n)]

    def pose(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the tip is, metres [3], and the tool's axes [3, 3]."""
        self._data.qpos[: len(joints)] = joints
        mujoco.mj_kinematics(self._model, self._data)
        rotation = self._data.xmat[self._hand].reshape(3, 3)
        return self._data.xpos[self._hand] + rotation @ self._tip, rotation @ self._axes

    def lowest(self, joints: np.ndarray) -> float:
        """Height of the lowest joint of the arm but the first above its base, metres."""
        self.pose(joints)
        return float(self._data.xpos[self._links, 2].min())

    def follow(self, tips: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joints [n, n_joints] for tips [n, 3] and tool axes [n, 3, 3], and by how much each misses, metres [n]."""
        joints, path, missed = self._home.copy(), [], []
        for i, (tip, rotation) in enumerate(zip(tips, axes, strict=True)):
            for _ in range(NEXT_STEPS if i else FIRST_STEPS):
                joints = self._nearer(joints, tip, rotation)
            path.append(joints)
            missed.append(np.linalg.norm(self.pose(joints)[0] - tip))
        return np.array(path), np.array(missed)

    def _nearer(self, joints: np.ndarray, tip: np.ndarray, axes: np.ndarray) -> np.ndarray:
        reached, turned = self.pose(joints)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jac(
            self._model, self._data, self._jacobian[:3], self._jacobian[3:], reached[:, None].reshape(3), self._hand
        )
        jacobian = self._jacobian[:, : len(joints)].copy()
        error = np.concatenate([tip - reached, 0.5 * np.cross(turned.T, axes.T).sum(0)])
        if len(joints) < 6:  # an arm that cannot reach every pose keeps the tip's place, and turns as well as it can
            jacobian[3:] *= 0.1
            error[3:] *= 0.1
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + DAMPING**2 * np.eye(6))
        home = HOMESICKNESS * (self._home - joints)
        step = inverse @ error + home - inverse @ (jacobian @ home)
        step *= min(1.0, LARGEST_STEP / max(np.abs(step).max(), 1e-9))
        return np.clip(joints + step, self._low, self._high)
