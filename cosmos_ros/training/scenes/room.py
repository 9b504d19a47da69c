"""A furnished room, seen by a base that turns and drives in it, while others move about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from cosmos_ros.training.scenes.household import printed, quiet, window
from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, geom, look_at, numbers

KEPT_FROM_WALLS = DEEPEST + 0.45  # metres
CORNER = 0.68  # metres at either end of a wall, where only what stands in corners stands
KEPT_APART = 0.45  # metres, from a camera's way to what stands in the room
MEETING = 0.8  # metres between a camera and somebody's middle, at least
FILMED_S = 10.0
INSTANTS = np.arange(0, FILMED_S, 0.1)

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


def room(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette = Palette(rng, mirrors=False)
    half_size, height = rng.uniform(2.3, 4.5, 2), rng.uniform(2.35, 3.1)
    tours = {f"camera{i}": Tour.random(rng, half_size) for i in range(2)}
    eyes = np.array([[tour.pose(time_s, half_size)[0][:2] for time_s in INSTANTS] for tour in tours.values()])
    walks = [walk for _ in range(int(rng.integers(0, 3))) if (walk := clear_walk(rng, half_size, eyes))]
    taken: Taken = [(eye, KEPT_APART) for eye in eyes[:, ::5].reshape(-1, 2)]
    taken += [(walk(time_s), KEPT_APART) for walk in walks for time_s in INSTANTS[::5]]
    world = [shell(palette, [0, 0], half_size, height), *walls(palette, half_size, height)]
    world += corners(palette, half_size)
    world += [in_the_room(palette, half_size, taken) for _ in range(int(rng.integers(1, 5)))]
    if rng.random() < 0.6:
        world.append(rug(palette, half_size))
    world += [walker(palette, i) for i in range(len(walks))]
    for name in tours:
        world.append(camera(name, np.array([0, 0, 1.0]), np.array([1.0, 0, 1.0]), fovy_deg=rng.uniform(42, 70)))

    def drive(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
        """Nothing here obeys physics."""

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name, tour in tours.items():
            eye, target = tour.pose(data.time, half_size)
            body = model.body(name).mocapid[0]
            data.mocap_pos[body], data.mocap_quat[body] = eye, look_at(eye, target)
        for i, walk in enumerate(walks):
            data.mocap_pos[model.body(f"walker{i}").mocapid[0]] = [*walk(data.time), 0]

    places = rng.uniform(-0.5, 0.5, (int(rng.integers(1, 4)), 2)) * half_size
    light = lamps(palette, list(places), height, reach=0.6 * half_size.max())
    return Scene(palette.document("".join(world), extent=8.0, lamps=light), palette.textures, drive, aim, tuple(tours))


def kept_from_walls(place: np.ndarray, half_size: np.ndarray) -> np.ndarray:
    """The nearest place [x, y] that is out of reach of the furniture along the walls."""
    return np.clip(place, KEPT_FROM_WALLS - half_size, half_size - KEPT_FROM_WALLS)


def clear_walk(
    rng: np.random.Generator, half_size: np.ndarray, eyes: np.ndarray
) -> Callable[[float], np.ndarray] | None:
    """A straight walk, [x, y] at a time, that no camera meets; eyes [cameras, instants, 2]. None: none was found."""
    for _ in range(20):
        start, velocity = rng.uniform(-0.8, 0.8, 2) * half_size, rng.uniform(-0.8, 0.8, 2)

        def walk(time_s: float, start: np.ndarray = start, velocity: np.ndarray = velocity) -> np.ndarray:
            return kept_from_walls(start + velocity * time_s, half_size)

        steps = np.array([walk(time_s) for time_s in INSTANTS])
        if np.linalg.norm(eyes - steps, axis=-1).min() > MEETING:
            return walk
    return None


def walls(palette: Palette, half_size: np.ndarray, height: float) -> list[str]:
    """Four walls, mostly of one paint, with what hangs and stands there: a door and a window surely."""
    rng, parts, paint = palette.rng, [], quiet(palette)
    surely = [[DOOR], [CASEMENT], [CASEMENT] if rng.random() < 0.4 else [], []]
    for facing, most in zip(rng.permutation([(1, 0), (-1, 0), (0, 1), (0, -1)]), surely, strict=True):
        foot, half = -facing * half_size, half_size[0 if facing[0] == 0 else 1]
        look = paint if rng.random() < 0.8 else quiet(palette)
        inside = skirting(palette, half) + furnish(palette, half - CORNER, DEEPEST, IN_A_ROOM, most)
        parts.append(wall_with(foot, facing, half, height, look, inside))
    return parts


def corners(palette: Palette, half_size: np.ndarray) -> list[str]:
    """In each corner a plant, a standard lamp, a bin or nothing."""
    kinds = palette.rng.choice(np.array([plant, standard_lamp, bin_, None]), 4, p=[0.35, 0.2, 0.15, 0.3])
    places = [np.array([i, j]) * (half_size - 0.34) for i in (-1, 1) for j in (-1, 1)]
    return [kind(palette, place) for kind, place in zip(kinds, places, strict=True) if kind is not None]


def plant(palette: Palette, place: np.ndarray) -> str:
    """Leaves on stalks in a pot."""
    rng, leaf = palette.rng, f'rgba="{numbers([*palette.rng.uniform((0.05, 0.25, 0.05), (0.35, 0.6, 0.25)), 1])}"'
    pot = rng.uniform(0.12, 0.25)
    parts = [geom("cylinder", [0.14, pot], [*place, pot], palette.look(textured=0))]
    for _ in range(int(rng.integers(5, 12))):
        tip = [*(place + rng.uniform(-0.2, 0.2, 2)), 2 * pot + rng.uniform(0.15, 0.9)]
        turn = f'euler="{numbers(rng.uniform(0, 180, 3))}"'
        parts.append(geom("ellipsoid", [rng.uniform(0.06, 0.1), 0.04, 0.012], tip, leaf, turn))
        parts.append(f'<geom type="capsule" fromto="{numbers([*place, 2 * pot - 0.02, *tip])}" size="0.006" {leaf}/>')
    return "".join(parts)


def standard_lamp(palette: Palette, place: np.ndarray) -> str:
    """A shade on a pole."""
    top, metal = palette.rng.uniform(1.2, 1.7), f'rgba="{palette.colour((0, 0.3))}"'
    foot, pole = geom("cylinder", [0.14, 0.012], [*place, 0.012], metal), [0.012, top / 2]
    shade = geom("cylinder", [palette.rng.uniform(0.12, 0.2), 0.13], [*place, top], window(palette))
    return foot + geom("cylinder", pole, [*place, top / 2], metal) + shade


def bin_(palette: Palette, place: np.ndarray) -> str:
    """A round bin."""
    high = palette.rng.uniform(0.15, 0.35)
    return geom("cylinder", [palette.rng.uniform(0.12, 0.2), high], [*place, high], palette.look(textured=0.3))


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


def table(palette: Palette, half: np.ndarray, chairs: bool) -> str:
    """A board on four legs, with things on it."""
    rng, look, top = (
        palette.rng,
        quiet(palette),
        palette.rng.uniform(0.68, 0.8) if chairs else palette.rng.uniform(0.35, 0.7),
    )
    parts = [geom("box", [*half, 0.018], [0, 0, top], look), legs([0, 0], 0.92 * half, top - 0.018, 0.025, look)]
    for x in np.arange(-0.8, 0.8, 0.3):
        if rng.random() < 0.5:
            parts.append(thing_on(palette, [x * half[0], rng.uniform(-0.7, 0.7) * half[1]], top + 0.018))
    for side in range(4):
        if chairs and rng.random() < 0.6:
            away = half[side % 2] + rng.uniform(0.05, 0.2)
            turn = {0: -90, 1: 0, 2: 90, 3: 180}[side]
            spot = {0: [away, 0], 1: [0, away], 2: [-away, 0], 3: [0, -away]}[side]
            parts.append(f'<body pos="{numbers([*spot, 0])}" euler="0 0 {turn}">{chair(palette, look)}</body>')
    return "".join(parts)


def legs(middle: Sequence[float], half: np.ndarray, top: float, thick: float, look: str) -> str:
    """Four, up to a board at height `top`."""
    corners = [(i, j) for i in (-1, 1) for j in (-1, 1)]
    places = [np.asarray(middle) + (np.asarray(half) - thick) * corner for corner in corners]
    return "".join(geom("box", [thick, thick, top / 2], [*place, top / 2], look) for place in places)


def chair(palette: Palette, look: str) -> str:
    """Turned to -y."""
    rng, seat = palette.rng, palette.rng.uniform(0.42, 0.47)
    look = look if rng.random() < 0.5 else quiet(palette)
    board = geom("box", [0.2, 0.19, 0.015], [0, 0, seat], look)
    back = geom("box", [0.195, 0.012, 0.1], [0, 0.17, seat + rng.uniform(0.25, 0.35)], look)
    posts = [geom("box", [0.015, 0.014, 0.2], [side * 0.17, 0.172, seat + 0.2], look) for side in (-1, 1)]
    return board + back + "".join(posts) + legs([0, 0], np.array([0.19, 0.18]), seat - 0.015, 0.016, look)


def thing_on(palette: Palette, spot: Sequence[float], height: float) -> str:
    """A book, a jar or a ball at [x, y] on a board."""
    rng = palette.rng
    r, tall = rng.uniform(0.03, 0.09), rng.uniform(0.01, 0.13)
    kind = rng.choice(["box", "cylinder", "sphere"], p=[0.5, 0.35, 0.15])
    sizes = {"box": [r, 0.7 * r, tall], "cylinder": [0.6 * r, tall], "sphere": [0.7 * r]}[kind]
    look = printed(palette) if rng.random() < 0.2 else palette.look(textured=0.1)
    return geom(kind, sizes, [*spot, height + sizes[-1]], look, f'euler="0 0 {rng.uniform(0, 90):.1f}"')


def rug(palette: Palette, half_size: np.ndarray) -> str:
    """Somewhere on the floor, edges askew at times."""
    rng, middle = palette.rng, palette.rng.uniform(-0.4, 0.4, 2) * half_size
    look = printed(palette) if rng.random() < 0.3 else palette.look(textured=0.8)
    turn = f'euler="0 0 {rng.choice([0, rng.uniform(-20, 20)]):.1f}"'
    if rng.random() < 0.25:
        return geom("cylinder", [rng.uniform(0.6, 1.2), 0.004], [*middle, 0.004], look)
    return geom("box", [*rng.uniform(0.5, 1.3, 2), 0.004], [*middle, 0.004], look, turn)


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
