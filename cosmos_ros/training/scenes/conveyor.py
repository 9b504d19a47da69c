"""Things that ride on a belt, behind posts and through a tunnel; some are pushed off."""

from __future__ import annotations

import mujoco
import numpy as np

from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, clutter, free_object, geom, wall

HALF_LENGTH, HALF_WIDTH = 2.5, 0.28  # of the belt, metres
END = 1.6  # metres from the middle, where things are taken back to the other end
GRIP = 0.15  # share of the difference to the belt's speed that a thing loses in one physics step


def conveyor(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette = Palette(rng)
    speed = rng.uniform(0.12, 0.7) * rng.choice([-1, 1])
    n = int(rng.integers(3, 8))
    world = [belt(palette), *hiding_places(palette)]
    for i in range(n):
        along = -1.5 + 3.0 * (i + rng.uniform(0.1, 0.9)) / n
        world.append(free_object(palette, f"object{i}", np.array([along, rng.uniform(-0.15, 0.15), 0.12]), (0.04, 0.1)))
    has_pusher = rng.random() < 0.4
    if has_pusher:
        arm = geom("box", [0.1, 0.12, 0.06], [0, 0, 0], palette.look(textured=0))
        world.append(f'<body name="pusher" mocap="true" pos="0 0.5 0.08">{arm}</body>')
    pusher_x, pusher_hz, pusher_phase = rng.uniform(-0.5, 0.5), rng.uniform(0.15, 0.5), rng.uniform(0, 6)
    cameras = ("camera0", "camera1")
    for name in cameras:
        eye = np.array([rng.uniform(-0.7, 0.7), -rng.uniform(0.9, 1.6), rng.uniform(0.25, 1.2)])
        world.append(camera(name, eye, np.array([rng.uniform(-0.3, 0.3), 0, 0.05]), fovy_deg=rng.uniform(38, 60)))
    halt, go = np.sort(rng.uniform(0, 6, 2)) if rng.random() < 0.3 else (np.inf, np.inf)

    def drive(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        belt_speed = 0.0 if halt < data.time < go else speed
        for i in range(n):
            joint = data.joint(model.body(f"object{i}").jntadr[0])
            x, y, z = joint.qpos[:3]
            if abs(y) < HALF_WIDTH and -0.02 < z < 0.16:
                joint.qvel[0] += GRIP * (belt_speed - joint.qvel[0])
            if x * np.sign(speed) > END or z < -0.3:
                joint.qpos[:3], joint.qvel[:] = [-1.5 * np.sign(speed), 0.0, 0.14], 0

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if has_pusher:
            out = 0.5 + 0.5 * np.sin(2 * np.pi * pusher_hz * data.time + pusher_phase)
            data.mocap_pos[model.body("pusher").mocapid[0]] = [pusher_x, 0.52 - 0.3 * out**3, 0.08]

    return Scene(palette.document("".join(world)), palette.textures, drive, aim, cameras, settle_s=0.3)


def belt(palette: Palette) -> str:
    """The floor, the belt and its two rails."""
    rail = [HALF_LENGTH, 0.03, 0.05]
    return "".join(
        [
            wall([0, 0, -0.5], "0 0 1", palette.look(textured=1)),
            geom("box", [HALF_LENGTH, HALF_WIDTH, 0.03], [0, 0, -0.03], palette.look(1), 'friction="0.9 0.01 0.001"'),
            *(geom("box", rail, [0, side * 0.31, 0], palette.look(textured=0)) for side in (-1, 1)),
        ]
    )


def hiding_places(palette: Palette) -> list[str]:
    """At times a tunnel over the belt, posts before it, things and a wall behind it."""
    rng, parts = palette.rng, []
    if rng.random() < 0.7:
        x, half, look = rng.uniform(-0.4, 0.4), rng.uniform(0.08, 0.25), palette.look(textured=1)
        parts += [geom("box", [half, 0.02, 0.2], [x, side * 0.34, 0.2], look) for side in (-1, 1)]
        parts.append(geom("box", [half, 0.36, 0.02], [x, 0, 0.42], look))
    if rng.random() < 0.6:
        parts.append(clutter(palette, [0, 1.0], [1.5, 0.4], int(rng.integers(2, 7)), -0.5, size=(0.1, 0.5)))
    for _ in range(int(rng.integers(0, 3))):
        parts.append(geom("box", [0.04, 0.04, 0.4], [rng.uniform(-0.9, 0.9), -0.42, 0.1], palette.look(textured=0)))
    if rng.random() < 0.7:
        parts.append(wall([0, rng.uniform(1.2, 2.5), 0], "0 -1 0", palette.look(textured=1)))
    return parts
