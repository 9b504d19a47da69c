"""A mobile base that drives along a furnished corridor, seen through its own forward camera."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, look_at, numbers

LENGTH = 16.0  # metres
HEIGHT = 2.5


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
            start=rng.uniform(0.2, 4.0),
            speed=rng.uniform(0.25, 1.1),
            surge=rng.uniform(0, 0.25),
            offset=rng.uniform(-0.3, 0.3) * half_width,
            weave=rng.uniform(0, 0.25) * half_width,
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
    palette = Palette(rng)
    half_width = rng.uniform(0.8, 1.7)
    drives = {f"camera{i}": Drive.random(rng, half_width) for i in range(2)}
    world = [walls(palette, half_width), furniture(palette, half_width)]
    walker_speed, walker_start = rng.uniform(-0.6, 0.9), rng.uniform(3.0, 7.0)
    walker_lane = rng.uniform(-0.5, 0.5) * half_width
    if has_walker := rng.random() < 0.5:
        world.append(other_robot(palette))
    for name, path in drives.items():
        world.append(camera(name, *path.pose(0.0), fovy_deg=rng.uniform(45, 65)))

    def drive(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
        """Nothing here obeys physics."""

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if has_walker:
            body = model.body("other_robot").mocapid[0]
            data.mocap_pos[body] = [walker_start + walker_speed * data.time, walker_lane, 0]
        for name, path in drives.items():
            eye, target = path.pose(data.time)
            body = model.body(name).mocapid[0]
            data.mocap_pos[body], data.mocap_quat[body] = eye, look_at(eye, target)

    xml = palette.document("".join(world), height=HEIGHT, extent=12.0, timestep=0.005)
    return Scene(xml, palette.textures, drive, aim, tuple(drives))


def walls(palette: Palette, half_width: float) -> str:
    """Floor, ceiling, two side walls, two ends."""
    middle = LENGTH / 2
    surfaces = {
        "floor": ([middle, half_width, 0.05], [middle, 0, -0.05]),
        "ceiling": ([middle, half_width, 0.05], [middle, 0, HEIGHT + 0.05]),
        "left": ([middle, 0.05, HEIGHT / 2], [middle, half_width + 0.05, HEIGHT / 2]),
        "right": ([middle, 0.05, HEIGHT / 2], [middle, -half_width - 0.05, HEIGHT / 2]),
        "end": ([0.05, half_width, HEIGHT / 2], [LENGTH, 0, HEIGHT / 2]),
    }
    paint = palette.surface("paint") if palette.rng.random() < 0.7 else ""
    return "".join(
        f'<geom type="box" size="{numbers(size)}" pos="{numbers(position)}" '
        f'material="{paint if paint and name in ("left", "right") else palette.surface(name)}"/>'
        for name, (size, position) in surfaces.items()
    )


def furniture(palette: Palette, half_width: float) -> str:
    """Doors and panels on the walls, lamps on the ceiling, boxes and pillars along the way."""
    rng, parts = palette.rng, []
    for x in np.arange(rng.uniform(0.5, 2), LENGTH, rng.uniform(1.2, 3.0)):
        for side in (-1, 1):
            kind, colour = rng.random(), palette.colour((0, 0.9))
            size: list[float] | np.ndarray
            if kind < 0.45:  # a door or a panel, flush with the wall
                size = [rng.uniform(0.3, 0.5), 0.02, rng.choice([1.0, rng.uniform(0.2, 0.5)])]
                position = [x, side * half_width, max(size[2], rng.uniform(0.8, 1.4) * (size[2] < 0.9))]
            elif kind < 0.7:  # a box on the floor
                size = rng.uniform([0.1, 0.1, 0.1], [0.35, 0.3, 0.5])
                position = [x, side * (half_width - size[1]), size[2]]
            elif kind < 0.8:  # a pillar
                size = [0.1, 0.1, HEIGHT / 2]
                position = [x, side * (half_width - 0.1), HEIGHT / 2]
            else:
                continue
            parts.append(f'<geom type="box" size="{numbers(size)}" pos="{numbers(position)}" rgba="{colour}"/>')
        if rng.random() < 0.6:
            parts.append(f'<geom type="box" size="0.3 0.08 0.02" pos="{x:.2f} 0 {HEIGHT}" rgba="1 1 0.95 1"/>')
    return "".join(parts)


def other_robot(palette: Palette) -> str:
    """Another mobile base: a round body with a mast."""
    return (
        f'<body name="other_robot" mocap="true"><geom type="cylinder" size="0.25 0.15" pos="0 0 0.2" '
        f'rgba="{palette.colour((0.2, 1))}"/><geom type="capsule" fromto="0 0 0.35 0 0 1.0" size="0.05" '
        f'rgba="{palette.colour()}"/>'
        f'<geom type="sphere" size="0.1" pos="0 0 1.05" rgba="{palette.colour((0.2, 1))}"/></body>'
    )
