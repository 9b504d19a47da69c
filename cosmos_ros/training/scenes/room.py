"""A furnished room, seen by a base that turns and drives in it, while others move about."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from cosmos_ros.training.scenes.furnishings import (
    CASEMENT,
    DEEPEST,
    DOOR,
    IN_A_ROOM,
    furnish,
    lamps,
    shell,
    skirting,
    wall_with,
)
from cosmos_ros.training.scenes.furniture import base, bin_, person, plant, rug, standard_lamp, table
from cosmos_ros.training.scenes.household import quiet
from cosmos_ros.training.scenes.surroundings import FILMED, Palette, Scene, camera, numbers, point

KEPT_FROM_WALLS = DEEPEST + 0.45  # metres
CORNER = 0.68  # metres at either end of a wall, where only what stands in corners stands
KEPT_APART = 0.45  # metres, from a camera's way to what stands in the room
MEETING = 0.8  # metres between a camera and somebody's middle, at least

Taken = list[tuple[np.ndarray, float]]  # middles [x, y] and radii of the circles on the floor that are not free


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
            start=rng.uniform(-1, 1, 2) * (half_size - KEPT_FROM_WALLS),
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
        place = kept_from_walls(place, half_size)
        heading = self.heading + self.turn * time_s + 0.15 * np.sin(0.9 * time_s + self.phase)
        eye = np.array([*place, self.height + self.tremble * np.sin(9 * time_s)])
        return eye, eye + [np.cos(heading), np.sin(heading), -np.tan(self.pitch)]


@dataclass(frozen=True)
class Walk:
    """Somebody's straight way, up to the furniture along the walls."""

    start: np.ndarray  # m, [x, y]
    heading: float  # rad
    speed: float  # m/s

    def place(self, time_s: float, half_size: np.ndarray) -> np.ndarray:
        """Where they are [x, y], metres."""
        way = np.array([np.cos(self.heading), np.sin(self.heading)])
        return kept_from_walls(self.start + self.speed * time_s * way, half_size)


def room(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette = Palette(rng, mirrors=False)
    half_size, height = rng.uniform(2.3, 4.1, 2), rng.uniform(2.35, 3.1)
    tours = {f"camera{i}": Tour.random(rng, half_size) for i in range(2)}
    eyes = np.array([[tour.pose(time_s, half_size)[0][:2] for time_s in FILMED] for tour in tours.values()])
    walks, tracks = clear_walks(rng, half_size, eyes, int(rng.integers(0, 3)))
    taken: Taken = [(place, KEPT_APART) for place in tracks[:, ::5].reshape(-1, 2)]
    world = [shell(palette, [0, 0], half_size, height), *walls(palette, half_size, height)]
    world += corners(palette, half_size)
    world += [in_the_room(palette, half_size, taken) for _ in range(int(rng.integers(1, 4)))]
    if rng.random() < 0.6:
        world.append(rug(palette, half_size))
    world += [rng.choice(np.array([person, base]))(palette, i) for i in range(len(walks))]
    for name in tours:
        world.append(camera(name, np.array([0, 0, 1.0]), np.array([1.0, 0, 1.0]), fovy_deg=rng.uniform(42, 70)))

    def drive(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
        """Nothing here obeys physics."""

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, tour in tours.items():
            point(model, data, name, *tour.pose(data.time, half_size))
        for i, walk in enumerate(walks):
            body, turn = model.body(f"walker{i}").mocapid[0], walk.heading / 2
            data.mocap_pos[body] = [*walk.place(data.time, half_size), 0]
            data.mocap_quat[body] = [np.cos(turn), 0, 0, np.sin(turn)]

    n = int(rng.integers(1, 4))
    places, strength = rng.uniform(-0.5, 0.5, (n, 2)) * half_size, rng.uniform(0.35, 1.5) / np.sqrt(n)
    light = lamps(palette, places, height, strength, reach=0.6 * half_size.max())
    return Scene(palette.document("".join(world), extent=8.0, lamps=light), palette.textures, drive, aim, tuple(tours))


def kept_from_walls(place: np.ndarray, half_size: np.ndarray) -> np.ndarray:
    """The nearest place [x, y] that is out of reach of the furniture along the walls."""
    return np.clip(place, KEPT_FROM_WALLS - half_size, half_size - KEPT_FROM_WALLS)


def clear_walks(
    rng: np.random.Generator, half_size: np.ndarray, tracks: np.ndarray, n: int
) -> tuple[list[Walk], np.ndarray]:
    """Up to n on which nobody is met, and the tracks of all, theirs too; tracks [moving, FILMED, 2], metres."""
    walks: list[Walk] = []
    for _ in range(20 * n):
        walk = Walk(rng.uniform(-0.8, 0.8, 2) * half_size, rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 1.1))
        track = np.array([walk.place(time_s, half_size) for time_s in FILMED])
        if len(walks) < n and np.linalg.norm(tracks - track, axis=-1).min() > MEETING:
            walks.append(walk)
            tracks = np.concatenate([tracks, track[None]])
    return walks, tracks


def walls(palette: Palette, half_size: np.ndarray, height: float) -> list[str]:
    """Four walls, mostly of one paint, with what hangs and stands there: a door and a window surely."""
    rng, parts, paint = palette.rng, [], quiet(palette)
    high, board = rng.uniform(0.05, 0.14), quiet(palette)
    surely = [[DOOR], [CASEMENT], [CASEMENT] if rng.random() < 0.4 else [], []]
    for facing, most in zip(rng.permutation([(1, 0), (-1, 0), (0, 1), (0, -1)]), surely, strict=True):
        foot, half = -facing * half_size, half_size[0 if facing[0] == 0 else 1]
        look = paint if rng.random() < 0.8 else quiet(palette)
        inside = skirting(half, high, board) + furnish(palette, half - CORNER, DEEPEST, IN_A_ROOM, most)
        parts.append(wall_with(foot, facing, half, height, look, inside))
    return parts


def corners(palette: Palette, half_size: np.ndarray) -> list[str]:
    """In each corner a plant, a standard lamp, a bin or nothing."""
    kinds = palette.rng.choice(np.array([plant, standard_lamp, bin_, None]), 4, p=[0.35, 0.2, 0.15, 0.3])
    places = [np.array([i, j]) * (half_size - 0.34) for i in (-1, 1) for j in (-1, 1)]
    return [kind(palette, place) for kind, place in zip(kinds, places, strict=True) if kind is not None]


def in_the_room(palette: Palette, half_size: np.ndarray, taken: Taken) -> str:
    """A table, perhaps with chairs, where nobody passes; nothing where there is no such place."""
    rng, radius = palette.rng, palette.rng.choice([1.05, 0.45])
    for _ in range(60):
        spot = rng.uniform(-1, 1, 2) * (half_size - DEEPEST - radius - 0.1)
        if all(np.linalg.norm(spot - other) > radius + reach for other, reach in taken):
            break
    else:
        return ""
    taken.append((spot, radius))
    parts = table(palette, rng.uniform(0.3, 0.6, 2) if radius > 1 else rng.uniform(0.18, 0.3, 2), chairs=radius > 1)
    return f'<body pos="{numbers([*spot, 0])}" euler="0 0 {rng.uniform(0, 180):.1f}">{parts}</body>'
