"""Things that roll, fall, bounce, swing and turn, filmed by a standing camera."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, free_object, numbers

ARENA = 0.9  # half the width of the floor that the camera sees, metres


def moving_objects(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette = Palette(rng)
    world = [
        f'<geom type="plane" size="6 6 0.1" material="{palette.surface("floor")}" friction="0.7 0.01 0.001"/>',
        backdrop(palette),
    ]
    if rng.random() < 0.4:
        world.append(ramp(palette))
    if rng.random() < 0.4:
        world.append(pendulum(palette))
    turntable_speed = 0.0
    if rng.random() < 0.35:
        turntable_speed = rng.uniform(0.6, 2.5) * rng.choice([-1, 1])
        world.append(turntable(palette))
    n_objects = int(rng.integers(2, 7))
    positions = rng.uniform(-0.6, 0.6, (n_objects, 3)) * [1, 1, 0] + [0, 0, 0.15]
    positions[:, 2] += rng.uniform(0, 1.2, n_objects) * (rng.random(n_objects) < 0.6)
    for i, position in enumerate(positions):
        world.append(free_object(palette, f"object{i}", position, size=(0.05, 0.12)))
    velocities = rng.uniform(-1.2, 1.2, (n_objects, 3)) * [1, 1, 0.3] * (rng.random((n_objects, 1)) < 0.8)
    cameras = {f"camera{i}": viewpoint(rng) for i in range(2)}
    for name, eye in cameras.items():
        world.append(camera(name, eye, np.array([0, 0, 0.2]), fovy_deg=rng.uniform(38, 52)))
    lob_at = np.sort(rng.uniform(0.8, 4.5, 3))
    lob_velocity = rng.uniform(0.5, 1.3, 3)
    lobbed = rng.integers(n_objects, size=3)
    done = np.zeros(3, bool)

    def drive(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if data.time == 0:
            for i, velocity in enumerate(velocities):
                data.joint(model.body(f"object{i}").jntadr[0]).qvel[:3] = velocity
        if turntable_speed:
            data.joint("turntable").qvel[:] = turntable_speed
        # Now and then an object that has gone astray comes flying back in, so that no episode falls asleep.
        for k in np.flatnonzero(~done & (lob_at <= data.time)):
            throw_back(data.joint(model.body(f"object{lobbed[k]}").jntadr[0]), lob_velocity[k])
            done[k] = True

    def aim(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
        """The cameras stand where the world puts them."""

    return Scene(palette.document("".join(world)), palette.textures, drive, aim, tuple(cameras))


def throw_back(joint: Any, speed: float) -> None:
    """Puts a free body at the edge of the arena, flying towards its middle at `speed` m/s."""
    bearing = np.arctan2(joint.qpos[1], joint.qpos[0])
    outward = np.array([np.cos(bearing), np.sin(bearing), 0])
    joint.qpos[:3] = ARENA * outward + [0, 0, 0.35]
    joint.qvel[:3] = -speed * outward + [0, 0, 1.0]


def viewpoint(rng: np.random.Generator) -> np.ndarray:
    """Where a camera stands, metres."""
    azimuth, elevation, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.25, 0.9), rng.uniform(1.6, 2.3)
    return distance * np.array(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
    ) + [0, 0, 0.2]


def backdrop(palette: Palette) -> str:
    """Up to two walls around the arena, which things bounce off."""
    rng, walls = palette.rng, []
    for i in range(int(rng.integers(0, 3))):
        side = rng.choice([-1, 1])
        distance = rng.uniform(1.0, 2.0)
        # A low wall keeps the objects in and leaves the view open. Where walls cross, their tops are not in one plane.
        height = rng.choice([0.1, 0.8]) + 0.002 * i
        size, position = ([3, 0.05], [0, side * distance]) if i else ([0.05, 3], [side * distance, 0])
        walls.append(
            f'<geom type="box" size="{numbers([*size, height])}" pos="{numbers([*position, height])}" '
            f'material="{palette.surface(f"wall{i}")}"/>'
        )
    return "".join(walls)


def ramp(palette: Palette) -> str:
    rng = palette.rng
    tilt, bearing = rng.uniform(12, 30), rng.uniform(0, 360)
    return (
        f'<body euler="0 0 {bearing:.1f}"><geom type="box" size="0.4 {rng.uniform(0.2, 0.4):.2f} 0.02" '
        f'pos="0.35 0 0.14" euler="0 {-tilt:.1f} 0" material="{palette.surface("ramp")}"/></body>'
    )


def pendulum(palette: Palette) -> str:
    """A ball on a rod that hangs from above the picture and has been let go off centre. It swings through all else."""
    rng = palette.rng
    length, swing = rng.uniform(0.7, 1.1), rng.uniform(25, 55) * rng.choice([-1, 1])
    position = [*rng.uniform(-0.3, 0.3, 2), length + rng.uniform(0.15, 0.3)]
    return (
        f'<body pos="{numbers(position)}" euler="0 0 {rng.uniform(0, 180):.1f}">'
        f'<body euler="{swing:.1f} 0 0"><joint axis="1 0 0" damping="0.002"/>'
        f'<geom type="capsule" fromto="0 0 0 0 0 {-length:.3f}" size="0.012" rgba="{palette.colour()}" density="200" '
        f'contype="0" conaffinity="0"/>'
        f'<geom type="sphere" pos="0 0 {-length:.3f}" size="{rng.uniform(0.07, 0.13):.3f}" density="800" '
        f'contype="0" conaffinity="0" '
        f'rgba="{palette.colour((0.4, 1), (0.3, 1))}"/></body></body>'
    )


def turntable(palette: Palette) -> str:
    """A slowly turning disc with two blocks on it."""
    rng = palette.rng
    radius = rng.uniform(0.25, 0.4)
    blocks = "".join(
        f'<geom type="box" size="{numbers(rng.uniform(0.03, 0.09, 3))}" pos="{sign * radius * 0.6:.3f} 0 0.1" '
        f'rgba="{palette.colour((0.4, 1), (0.3, 1))}"/>'
        for sign in (-1, 1)
    )
    return (
        f'<body pos="{numbers([*rng.uniform(-0.4, 0.4, 2), 0.03])}"><joint name="turntable" axis="0 0 1"/>'
        f'<geom type="cylinder" size="{radius:.3f} 0.02" material="{palette.surface("turntable")}"/>{blocks}</body>'
    )
