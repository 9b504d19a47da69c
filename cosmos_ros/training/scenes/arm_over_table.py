"""An arm that sweeps its hand over a table among objects, filmed from around the table."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, free_object, numbers, point

SHOULDER_HEIGHT = 0.25  # metres above the table
HAND_LENGTH = 0.14
TABLE_HEIGHT = 0.7


@dataclass(frozen=True)
class Waves:
    """A sum of two sines about a centre, per coordinate: smooth, endless and foreseeable."""

    centre: np.ndarray
    amplitude: np.ndarray  # [2, n]
    frequency: np.ndarray  # [2, n], Hz
    phase: np.ndarray  # [2, n]

    @classmethod
    def random(cls, rng: np.random.Generator, centre: np.ndarray, reach: np.ndarray, hz: tuple[float, float]) -> Waves:
        n = len(centre)
        weights = np.array([[0.75], [0.25]])
        return cls(
            centre,
            weights * reach * rng.uniform(0.4, 1, (2, n)),
            rng.uniform(*hz, (2, n)),
            rng.uniform(0, 2 * np.pi, (2, n)),
        )

    def at(self, time_s: float) -> np.ndarray:
        return self.centre + (self.amplitude * np.sin(2 * np.pi * self.frequency * time_s + self.phase)).sum(0)


@dataclass(frozen=True)
class Arm:
    """A four-joint arm (yaw, shoulder, elbow, wrist), its base at the origin of the table."""

    upper: float
    fore: float
    radius: float
    hand_path: Waves  # yaw [rad], reach [m], height of the hand's tip above the table [m]

    @classmethod
    def random(cls, rng: np.random.Generator) -> Arm:
        centre = np.array([rng.uniform(-0.3, 0.3), rng.uniform(0.38, 0.48), rng.uniform(0.05, 0.17)])
        reach = np.array([rng.uniform(0.3, 1.1), rng.uniform(0.02, 0.14), rng.uniform(0.02, 0.14)])
        return cls(
            upper=rng.uniform(0.32, 0.4),
            fore=rng.uniform(0.3, 0.36),
            radius=rng.uniform(0.025, 0.045),
            hand_path=Waves.random(rng, centre, reach, hz=(0.12, 0.4)),
        )

    def mjcf(self, palette: Palette) -> str:
        rng = palette.rng
        links = [palette.colour((0, 0.9), (0.2, 1)) for _ in range(2)]
        joints = palette.colour((0, 0.5), (0.05, 0.5))
        r = self.radius

        def link(length: float, rgba: str) -> str:
            return f'<geom type="capsule" fromto="0 0 0 {length:.3f} 0 0" size="{r:.3f}" rgba="{rgba}" density="300"/>'

        def hub(size: float) -> str:
            return f'<geom type="sphere" size="{size:.3f}" rgba="{joints}" density="300"/>'

        fingers = "".join(
            f'<geom type="box" size="0.045 0.012 {r * 0.6:.3f}" pos="{HAND_LENGTH - 0.045} {y:.3f} 0" rgba="{joints}"/>'
            for y in (-0.035, 0.035)
        )
        hinge = 'limited="false" damping="2" armature="0.05"'
        return f"""
<geom type="cylinder" size="{r * 2.2:.3f} {SHOULDER_HEIGHT / 2 - 0.02:.3f}" pos="0 0 {SHOULDER_HEIGHT / 2 - 0.02:.3f}"
      rgba="{joints}"/>
<body name="shoulder" pos="0 0 {SHOULDER_HEIGHT}" gravcomp="1">
  <joint name="yaw" axis="0 0 1" {hinge}/>{hub(r * 1.9)}
  <body name="upper" gravcomp="1"><joint name="lift" axis="0 1 0" {hinge}/>{link(self.upper, links[0])}
    <body name="fore" pos="{self.upper:.3f} 0 0" gravcomp="1"><joint name="elbow" axis="0 1 0" {hinge}/>
      {hub(r * 1.4)}{link(self.fore, links[int(rng.integers(2))])}
      <body name="hand" pos="{self.fore:.3f} 0 0" gravcomp="1"><joint name="wrist" axis="0 1 0" {hinge}/>
        {hub(r * 1.3)}<geom type="box" size="0.03 0.05 {r:.3f}" pos="0.04 0 0" rgba="{links[0]}"/>{fingers}
      </body></body></body></body>"""

    ACTUATORS = (
        "<actuator>"
        + "".join(f'<position joint="{j}" kp="300" dampratio="1"/>' for j in ("yaw", "lift", "elbow", "wrist"))
        + "</actuator>"
    )

    def joint_angles(self, time_s: float) -> np.ndarray:
        """Yaw, lift, elbow, wrist in radians that put the hand on its path, fingers down: two links, closed form."""
        yaw, reach, height = self.hand_path.at(time_s)
        rise = max(height, 0.02) + HAND_LENGTH - SHOULDER_HEIGHT
        distance = min(np.hypot(reach, rise), 0.98 * (self.upper + self.fore))
        cosine = (self.upper**2 + self.fore**2 - distance**2) / (2 * self.upper * self.fore)
        elbow = np.pi - np.arccos(np.clip(cosine, -1, 1))
        inner = np.arctan2(self.fore * np.sin(elbow), self.upper + self.fore * np.cos(elbow))
        lift = -(np.arctan2(rise, reach) + inner)  # positive lift turns downwards
        return np.array([yaw, lift, elbow, np.pi / 2 - lift - elbow])


def arm_over_table(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette, arm = Palette(rng), Arm.random(rng)
    world = [f'<geom type="plane" size="6 6 0.1" pos="0 0 {-TABLE_HEIGHT}" material="{palette.surface("floor")}"/>']
    world.append(
        f'<geom type="box" size="{numbers([rng.uniform(0.5, 0.8), rng.uniform(0.6, 1.0), 0.03])}" '
        f'pos="0.4 0 -0.03" material="{palette.surface("table")}" friction="0.6 0.01 0.002"/>'
    )
    if rng.random() < 0.6:
        world.append(
            f'<geom type="plane" size="6 6 0.1" pos="-{rng.uniform(0.6, 2):.2f} 0 0" zaxis="1 0 0" '
            f'material="{palette.surface("wall")}"/>'
        )
    world.append(arm.mjcf(palette))
    n_objects = int(rng.integers(2, 6))
    for i in range(n_objects):
        angle, reach = rng.uniform(-1.1, 1.1), rng.uniform(0.3, 0.65)
        height = rng.uniform(0.06, 0.9) if rng.random() < 0.25 else 0.075
        position = np.array([reach * np.cos(angle), reach * np.sin(angle), height])
        world.append(free_object(palette, f"object{i}", position, size=(0.035, 0.07)))
    cameras = ("camera0", "camera1")
    paths = {name: camera_path(rng) for name in cameras}
    for name, path in paths.items():
        world.append(camera(name, *path.pose(0.0), fovy_deg=rng.uniform(38, 52)))
    kicked = rng.random(n_objects) < 0.5
    kicks = rng.uniform(-0.7, 0.7, (n_objects, 2)) * kicked[:, None]

    def drive(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if data.time == 0:
            data.qpos[:4] = arm.joint_angles(0.0)
            for i in range(n_objects):
                data.joint(model.body(f"object{i}").jntadr[0]).qvel[:2] = kicks[i]
        data.ctrl[:] = arm.joint_angles(data.time)

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, path in paths.items():
            point(model, data, name, *path.pose(data.time))

    xml = palette.document("".join(world), Arm.ACTUATORS)
    return Scene(xml, palette.textures, drive, aim, cameras, settle_s=0.2)


@dataclass(frozen=True)
class CameraPath:
    """A camera that looks at a point from a distance, standing still or circling slowly."""

    target: np.ndarray
    azimuth: float  # rad
    elevation: float  # rad
    distance: float  # m
    turn: float  # rad/s

    def pose(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Eye and target, world coordinates in metres."""
        azimuth = self.azimuth + self.turn * time_s
        direction = [
            np.cos(azimuth) * np.cos(self.elevation),
            np.sin(azimuth) * np.cos(self.elevation),
            np.sin(self.elevation),
        ]
        return self.target + self.distance * np.array(direction), self.target


def camera_path(rng: np.random.Generator) -> CameraPath:
    """Two in three stand still."""
    return CameraPath(
        target=np.array([rng.uniform(0.25, 0.4), rng.uniform(-0.1, 0.1), rng.uniform(0.05, 0.15)]),
        azimuth=rng.uniform(-1.5, 1.5),
        elevation=rng.uniform(0.35, 0.95),
        distance=rng.uniform(1.05, 1.5),
        turn=rng.choice([0.0, rng.uniform(-0.2, 0.2)], p=[0.67, 0.33]),
    )
