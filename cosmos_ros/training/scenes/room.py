"""A furnished room, seen by a base that turns and drives in it, while others move about."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, geom, look_at

KEPT_FROM_WALLS = 0.35  # metres


@dataclass(frozen=True)
class Tour:
    """A camera's way: along an arc, glancing about, at a height that trembles with the floor."""

    start: np.ndarray  # m, [x, y]
    heading: float  # rad
    turn: float  # rad/s
    speed: float  # m/s
    height: float  # m
    pitch: float  # rad, downwards
    tremble: float  # m
    phase: float

    @classmethod
    def random(cls, rng: np.random.Generator, half_size: np.ndarray) -> Tour:
        return cls(
            start=rng.uniform(-0.6, 0.6, 2) * half_size,
            heading=rng.uniform(-np.pi, np.pi),
            turn=rng.choice([0, rng.uniform(-0.7, 0.7)], p=[0.25, 0.75]),
            speed=rng.choice([0, rng.uniform(0.1, 0.8)], p=[0.3, 0.7]),
            height=rng.uniform(0.3, 1.5),
            pitch=rng.uniform(-0.05, 0.3),
            tremble=rng.uniform(0, 0.02),
            phase=rng.uniform(0, 6),
        )

    def pose(self, time_s: float, half_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The camera's position and a point it looks at, metres."""
        mean_heading = self.heading + self.turn * time_s / 2
        place = self.start + self.speed * time_s * np.array([np.cos(mean_heading), np.sin(mean_heading)])
        place = np.clip(place, KEPT_FROM_WALLS - half_size, half_size - KEPT_FROM_WALLS)
        heading = self.heading + self.turn * time_s + 0.15 * np.sin(0.9 * time_s + self.phase)
        eye = np.array([*place, self.height + self.tremble * np.sin(9 * time_s)])
        return eye, eye + [np.cos(heading), np.sin(heading), -np.tan(self.pitch)]


def room(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette = Palette(rng)
    half_size, height = rng.uniform(2.2, 4.5, 2), rng.uniform(2.3, 3.2)
    world = [shell(palette, half_size, height)]
    world += [along_a_wall(palette, half_size) for _ in range(int(rng.integers(10, 26)))]
    world += [table(palette, half_size) for _ in range(int(rng.integers(0, 4)))]
    walks = []  # start and velocity of each other robot or person, [x, y] in m and m/s
    for i in range(int(rng.integers(0, 3))):
        world.append(walker(palette, i))
        walks.append((rng.uniform(-0.7, 0.7, 2) * half_size, rng.uniform(-0.8, 0.8, 2)))
    tours = {f"camera{i}": Tour.random(rng, half_size) for i in range(2)}
    for name in tours:
        world.append(camera(name, np.array([0, 0, 1.0]), np.array([1.0, 0, 1.0]), fovy_deg=rng.uniform(42, 70)))

    def drive(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
        """Nothing here obeys physics."""

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, tour in tours.items():
            eye, target = tour.pose(data.time, half_size)
            body = model.body(name).mocapid[0]
            data.mocap_pos[body], data.mocap_quat[body] = eye, look_at(eye, target)
        for i, (start, velocity) in enumerate(walks):
            place = np.clip(start + velocity * data.time, KEPT_FROM_WALLS - half_size, half_size - KEPT_FROM_WALLS)
            data.mocap_pos[model.body(f"walker{i}").mocapid[0]] = [*place, 0]

    xml = palette.document("".join(world), height=height, extent=8.0)
    return Scene(xml, palette.textures, drive, aim, tuple(tours))


def shell(palette: Palette, half_size: np.ndarray, height: float) -> str:
    """Floor, ceiling and four walls."""
    w, d = half_size
    surfaces = [
        ([w, d, 0.05], [0, 0, -0.05]),
        ([w, d, 0.05], [0, 0, height + 0.05]),
        *(([w, 0.05, height / 2], [0, side * d, height / 2]) for side in (-1, 1)),
        *(([0.05, d, height / 2], [side * w, 0, height / 2]) for side in (-1, 1)),
    ]
    return "".join(geom("box", size, position, palette.look(textured=1)) for size, position in surfaces)


def along_a_wall(palette: Palette, half_size: np.ndarray) -> str:
    """A cupboard, a box, a picture or a panel."""
    rng = palette.rng
    flat = rng.random() < 0.45
    size = np.array([rng.uniform(0.15, 0.7), 0.025 if flat else rng.uniform(0.15, 0.45), rng.uniform(0.15, 0.9)])
    axis, side, along = rng.integers(2), rng.choice([-1, 1]), rng.uniform(-0.9, 0.9)
    position = np.empty(3)
    position[axis] = side * (half_size[axis] - size[1])
    position[1 - axis] = along * half_size[1 - axis]
    position[2] = rng.uniform(0.9, 1.8) if flat else size[2]
    return geom("box", size if axis == 1 else size[[1, 0, 2]], position, palette.look())


def table(palette: Palette, half_size: np.ndarray) -> str:
    """A table or a stool, on four legs."""
    rng, look = palette.rng, palette.look(textured=0)
    x, y = rng.uniform(-0.5, 0.5, 2) * half_size
    top, (a, b) = rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.6, 2)
    legs = [
        geom("box", [0.025, 0.025, top / 2], [x + i * 0.9 * a, y + j * 0.9 * b, top / 2], look)
        for i in (-1, 1)
        for j in (-1, 1)
    ]
    return geom("box", [a, b, 0.025], [x, y, top], look) + "".join(legs)


def walker(palette: Palette, i: int) -> str:
    """A tall round body with a head."""
    rng = palette.rng
    tall = rng.uniform(0.5, 1.7)
    body = (
        f'<geom type="capsule" fromto="0 0 0.2 0 0 {tall:.2f}" size="{rng.uniform(0.12, 0.22):.3f}" '
        f'rgba="{palette.colour()}"/>'
    )
    head = geom("sphere", [0.12], [0, 0, tall + 0.2], f'rgba="{palette.colour((0.1, 0.6), (0.3, 1))}"')
    return f'<body name="walker{i}" mocap="true">{body}{head}</body>'
