"""A tower or a wall of blocks that balls run into."""

from __future__ import annotations

import mujoco
import numpy as np

from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, clutter, geom, numbers, wall


def falling_tower(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette = Palette(rng)
    floor = wall([0, 0, 0], "0 0 1", palette.look(textured=1) + ' friction="0.8 0.01 0.001"')
    world = [floor, tower(palette)]
    if rng.random() < 0.7:
        world.append(wall([0, rng.uniform(1.2, 3), 0], "0 -1 0", palette.look(textured=1)))
    if rng.random() < 0.5:
        world.append(clutter(palette, [0, 1.0], [1.5, 0.3], int(rng.integers(2, 6)), 0.0))
    throws = []  # when, s, and with which velocity, m/s
    for i in range(int(rng.integers(1, 4))):
        bearing, radius = rng.uniform(-np.pi, np.pi), rng.uniform(0.05, 0.1)
        outward = np.array([np.cos(bearing), np.sin(bearing), 0])
        # The first at once, so that something moves from the beginning.
        throws.append((rng.uniform(0, 3.5) * (i > 0), -rng.uniform(0.6, 2.5) * outward))
        ball = geom(
            "sphere", [radius], [0, 0, 0], palette.look(0), 'density="900" condim="6" friction="0.6 0.005 0.001"'
        )
        place = numbers(0.9 * outward + [0, 0, radius])
        world.append(f'<body name="ball{i}" pos="{place}"><freejoint/>{ball}</body>')
    cameras = ("camera0", "camera1")
    for name in cameras:
        azimuth, elevation, distance = rng.uniform(-np.pi, 0), rng.uniform(0.15, 0.8), rng.uniform(1.3, 2.2)
        flat = np.cos(elevation)
        eye = distance * np.array([np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(elevation)]) + [0, 0, 0.1]
        world.append(camera(name, eye, np.array([0, 0, 0.2]), fovy_deg=rng.uniform(35, 55)))
    thrown: set[int] = set()

    def drive(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for i, (when, velocity) in enumerate(throws):
            if i not in thrown and data.time >= when:
                data.joint(model.body(f"ball{i}").jntadr[0]).qvel[:3] = velocity
                thrown.add(i)

    def aim(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
        """The cameras stand where the world puts them."""

    return Scene(palette.document("".join(world)), palette.textures, drive, aim, cameras)


def tower(palette: Palette) -> str:
    """Columns of blocks that touch, none of them quite straight."""
    rng, blocks = palette.rng, []
    columns, levels, half = int(rng.integers(1, 4)), int(rng.integers(2, 6)), rng.uniform(0.05, 0.09)
    for column in range(columns):
        for level in range(levels):
            slip = 0.004 * rng.standard_normal(2)
            position = [(column - (columns - 1) / 2) * half * 2.3 + slip[0], slip[1], half * (2 * level + 1) + 0.001]
            look = f'rgba="{palette.colour((0.3, 1), (0.3, 1))}"'
            block = geom("box", [half] * 3, [0, 0, 0], look, 'density="250" friction="0.7 0.01 0.001"')
            blocks.append(f'<body pos="{numbers(position)}"><freejoint/>{block}</body>')
    return "".join(blocks)
