"""A mobile base that drives along a furnished corridor, seen through its own forward camera."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import mujoco
import numpy as np

from cosmos_ros.training.scenes.furnishings import (
    DEEPEST,
    DOOR,
    FLAT,
    IN_A_CORRIDOR,
    door,
    furnish,
    lamps,
    shell,
    skirting,
    wall_with,
)
from cosmos_ros.training.scenes.household import quiet
from cosmos_ros.training.scenes.surroundings import FILMED, Palette, Scene, camera, point

LENGTH = 16.0  # metres
HEIGHT = 2.5
ASIDE = 0.4  # of the corridor's half width: as far as base and robot leave its middle
KEPT_APART = 0.3  # metres, from the camera's way to what stands along the walls
MEETING = 0.6  # metres between a camera and the other robot's middle, at least


@dataclass(frozen=True)
class Drive:
    """Motion of the base: a cruising speed that breathes, and a gentle weave between the walls."""

    start: float  # m along the corridor
    speed: float  # m/s
    surge: float  # m, amplitude of the speed's breathing
    offset: float  # m from the corridor's middle
    weave: float  # m
    glance: float  # rad, amplitude of the heading's own swing
    frequency: float  # Hz
    phase: float
    camera_height: float  # m
    camera_pitch: float  # rad, downwards

    @classmethod
    def random(cls, rng: np.random.Generator, half_width: float) -> Drive:
        return cls(
            start=rng.uniform(0.7, 4.0),
            speed=rng.uniform(0.25, 1.1),
            surge=rng.uniform(0, 0.25),
            offset=rng.uniform(-0.6, 0.6) * ASIDE * half_width,
            weave=rng.uniform(0, 0.4) * ASIDE * half_width,
            glance=rng.uniform(0, 0.35),
            frequency=rng.uniform(0.05, 0.2),
            phase=rng.uniform(0, 2 * np.pi),
            camera_height=rng.uniform(0.35, 1.3),
            camera_pitch=rng.uniform(0.0, 0.25),
        )

    def pose(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """The camera's position and a point it looks at, metres."""
        wave = 2 * np.pi * self.frequency * time_s + self.phase
        x = self.start + self.speed * time_s + self.surge * np.sin(wave)
        y = self.offset + self.weave * np.sin(wave)
        heading = self.weave * np.cos(wave) + self.glance * np.sin(0.7 * wave)
        eye = np.array([x, y, self.camera_height])
        return eye, eye + [np.cos(heading), np.sin(heading), -np.tan(self.camera_pitch)]


def corridor(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette = Palette(rng, mirrors=False)
    half_width = rng.uniform(0.95, 1.7)
    drives = {f"camera{i}": Drive.random(rng, half_width) for i in range(2)}
    world = walls(palette, half_width)
    walk = clear_walk(rng, half_width, list(drives.values())) if rng.random() < 0.5 else None
    if walk:
        world.append(other_robot(palette))
    for name, path in drives.items():
        world.append(camera(name, *path.pose(0.0), fovy_deg=rng.uniform(45, 65)))

    def drive(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
        """Nothing here obeys physics."""

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if walk:
            start, lane, speed = walk
            data.mocap_pos[model.body("other_robot").mocapid[0]] = [start + speed * data.time, lane, 0]
        for name, path in drives.items():
            point(model, data, name, *path.pose(data.time))

    places = np.array([[x, 0.0] for x in np.arange(rng.uniform(1, 3), LENGTH, rng.uniform(3.2, 5.0))])
    rng.shuffle(places)  # the first casts shadows
    light = lamps(palette, places, HEIGHT, rng.uniform(0.35, 1.3), reach=2.5)
    return Scene(
        palette.document("".join(world), extent=12.0, lamps=light), palette.textures, drive, aim, tuple(drives)
    )


def clear_walk(rng: np.random.Generator, half_width: float, drives: list[Drive]) -> tuple[float, float, float] | None:
    """Start, lane and speed of a robot, m and m/s, that no camera runs into; None: none was found."""
    eyes = np.array([[path.pose(time_s)[0][:2] for time_s in FILMED] for path in drives])
    for _ in range(20):
        start, lane, speed = rng.uniform((3.0, -ASIDE * half_width, -0.6), (9.0, ASIDE * half_width, 0.9))
        steps = np.stack([start + speed * FILMED, np.full(len(FILMED), lane)], axis=1)
        if np.linalg.norm(eyes - steps, axis=-1).min() > MEETING and steps[:, 0].max() < LENGTH - 0.5:
            return start, lane, speed
    return None


def walls(palette: Palette, half_width: float) -> list[str]:
    """Floor, ceiling, two furnished side walls, mostly of one paint, and two ends."""
    rng, middle, paint = palette.rng, LENGTH / 2, quiet(palette)
    parts = [shell(palette, [middle, 0], np.array([middle, half_width]), HEIGHT)]
    deepest = min(DEEPEST, (1 - ASIDE) * half_width - KEPT_APART)
    alike = partial(door, leaf=quiet(palette), trim=quiet(palette)) if rng.random() < 0.7 else door
    entrance = replace(DOOR, make=alike)
    pieces = [entrance if piece is DOOR else piece for piece in IN_A_CORRIDOR]
    high, board = rng.uniform(0.05, 0.14), quiet(palette)
    for side in (-1, 1):
        look = paint if rng.random() < 0.85 else quiet(palette)
        inside = skirting(middle, high, board) + furnish(palette, middle - 0.1, deepest, pieces, [entrance] * 3)
        parts.append(wall_with([middle, side * half_width], [0, -side], middle, HEIGHT, look, inside))
    for x, facing, surely in ((0, 1, []), (LENGTH, -1, [entrance])):
        inside = skirting(half_width, high, board) + furnish(palette, 0.75, 0.1, FLAT, surely)
        parts.append(wall_with([x, 0], [facing, 0], half_width, HEIGHT, quiet(palette), inside))
    return parts


def other_robot(palette: Palette) -> str:
    """Another mobile base: a round body with a mast."""
    return (
        f'<body name="other_robot" mocap="true"><geom type="cylinder" size="0.25 0.15" pos="0 0 0.2" '
        f'rgba="{palette.colour((0.2, 1))}"/><geom type="capsule" fromto="0 0 0.35 0 0 1.0" size="0.05" '
        f'rgba="{palette.colour()}"/>'
        f'<geom type="sphere" size="0.1" pos="0 0 1.05" rgba="{palette.colour((0.2, 1))}"/></body>'
    )
