"""Rooms in which nothing moves except the camera, with prints all over: structure from motion needs texture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import mujoco
import numpy as np

from cosmos_ros.benchmarks.scenes.staged import Staged
from cosmos_ros.benchmarks.simulated_set import LONGEST_S
from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, dull, geom, png, point

KEPT_FROM_WALLS = 0.3  # metres
CLEARANCE = 0.3  # metres, from the camera's way to the nearest piece of furniture
TEXELS = 192  # of a print, along each side
# The sky's light does not come through the ceiling.
LAMP = '<light pos="0 0 2" dir="0 0 -1" directional="false" cutoff="180" castshadow="false" diffuse="0.6 0.6 0.6"/>'


@dataclass(frozen=True)
class Path:
    """A camera's smooth way through the room, and what it looks at.

    start, velocity  metres, m/s; the velocity turns at `turn` rad/s
    gaze, drift      a point that the camera looks at, metres, and that point's velocity, m/s
    """

    start: np.ndarray
    velocity: np.ndarray
    turn: float
    gaze: np.ndarray
    drift: np.ndarray

    def pose(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """The camera's position and the point it looks at."""
        angle = self.turn * time_s / 2
        turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        return self.start + time_s * turned @ self.velocity, self.gaze + time_s * self.drift


def forward(rng: np.random.Generator, half_size: np.ndarray) -> Path:
    """Into the room, as a mobile base drives."""
    start = np.array([rng.uniform(-0.75, -0.6), rng.uniform(-0.35, 0.35), 0]) * [*half_size, 0]
    start[2] = rng.uniform(0.7, 1.4)
    gaze = np.array([half_size[0], rng.uniform(-0.4, 0.4) * half_size[1], rng.uniform(0.7, 1.2)])
    way = (gaze - start) / np.linalg.norm(gaze - start)
    velocity = rng.uniform(0.35, 0.7) * (way + [0, rng.uniform(-0.35, 0.35), 0])
    return Path(start, velocity, rng.uniform(-0.1, 0.1), gaze, np.array([0, rng.uniform(-0.1, 0.1), 0]))


def sideways(rng: np.random.Generator, half_size: np.ndarray) -> Path:
    """Past the room's furniture, looking across."""
    side = rng.choice([-1.0, 1.0])
    start = np.array([rng.uniform(-0.55, -0.25) * half_size[0], -0.7 * half_size[1], rng.uniform(0.8, 1.5)])
    gaze = np.array([start[0] + rng.uniform(-0.5, 0.5), half_size[1], rng.uniform(0.6, 1.1)])
    velocity = np.array([side * rng.uniform(0.3, 0.6), rng.uniform(-0.05, 0.1), rng.uniform(-0.05, 0.05)])
    return Path(start, velocity, 0.0, gaze, velocity * [rng.uniform(0.2, 0.9), 0, 0])


def around(rng: np.random.Generator, half_size: np.ndarray) -> Path:
    """Round about the things in the middle."""
    angle, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 0.7) * half_size.min()
    start = np.array([distance * np.cos(angle), distance * np.sin(angle), rng.uniform(0.9, 1.5)])
    side = rng.choice([-1.0, 1.0])
    speed = rng.uniform(0.3, 0.6)
    velocity = speed * side * np.array([-np.sin(angle), np.cos(angle), 0])
    gaze = np.array([*rng.uniform(-0.3, 0.3, 2), rng.uniform(0.3, 0.7)])
    return Path(start, velocity, 2 * side * speed / distance, gaze, np.zeros(3))


def room_driven_into(rng: np.random.Generator) -> Staged:
    return _static_room(rng, forward)


def room_passed_by(rng: np.random.Generator) -> Staged:
    return _static_room(rng, sideways)


def room_orbited(rng: np.random.Generator) -> Staged:
    return _static_room(rng, around)


STATIC_ROOMS = {"driven_into": room_driven_into, "passed_by": room_passed_by, "orbited": room_orbited}


def _static_room(rng: np.random.Generator, way: Callable[[np.random.Generator, np.ndarray], Path]) -> Staged:
    palette = _Prints(rng)
    half_size, height = rng.uniform(2.2, 3.4, 2), rng.uniform(2.3, 2.9)
    world = [_shell(palette, half_size, height)]
    world.append(LAMP)
    path = way(rng, half_size)
    trail = np.array([path.pose(time_s)[0][:2] for time_s in np.arange(0, LONGEST_S, 0.2)])
    world += [_furniture(palette, half_size, trail) for _ in range(int(rng.integers(14, 24)))]
    world.append(camera("camera", *path.pose(0.0), fovy_deg=rng.uniform(48, 62)))

    def drive(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
        """Nothing here obeys physics."""

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        eye, target = path.pose(data.time)
        eye[:2] = np.clip(eye[:2], KEPT_FROM_WALLS - half_size, half_size - KEPT_FROM_WALLS)
        point(model, data, "camera", eye, target)

    xml = palette.document("".join(world), height=height, extent=8.0)
    return Staged(Scene(xml, palette.textures, drive, aim, ("camera",)))


class _Prints(Palette):
    """Surfaces with patches on them, nowhere twice the same."""

    def surface(self, name: str) -> str:
        """A wall's, a floor's: many small patches."""
        return self._printed(name, n=(18, 36), size=(4, 16))

    def side(self) -> str:
        """A piece of furniture's: a few large ones, as its sides are small."""
        return self._printed(f"look{len(self.assets)}", n=(5, 11), size=(14, 44))

    def _printed(self, name: str, n: tuple[int, int], size: tuple[int, int]) -> str:
        self.textures[f"{name}.png"] = _print(self.rng, int(self.rng.integers(*n)), size)
        self.assets.append(
            f'<texture name="{name}" type="2d" file="{name}.png"/>'
            f'<material name="{name}" texture="{name}" specular="0.1" shininess="0.2" reflectance="0"/>'
        )
        return name


def _print(rng: np.random.Generator, n: int, size: tuple[int, int]) -> bytes:
    """PNG of n patches, each half as large as `size` says in texels, on a cloudy ground."""
    image = np.empty((TEXELS, TEXELS, 3), np.float32)
    image[:] = dull(rng.uniform(90, 200, 3))
    clouds = cv2.resize(rng.normal(size=(6, 6)).astype(np.float32), (TEXELS, TEXELS), interpolation=cv2.INTER_CUBIC)
    image += 12 * clouds[..., None]
    for _ in range(n):
        colour, (width, height) = dull(rng.uniform(0, 255, 3)).tolist(), rng.integers(*size, 2).tolist()
        x, y = rng.integers(0, TEXELS, 2).tolist()
        if rng.random() < 0.4:
            cv2.ellipse(image, (x, y), (width, height), rng.uniform(0, 180), 0, 360, colour, -1)
        else:
            cv2.rectangle(image, (x - width, y - height), (x + width, y + height), colour, -1)
    return png(image)


def _shell(palette: Palette, half_size: np.ndarray, height: float) -> str:
    """Floor, ceiling and four walls, each with a print of its own."""
    w, d = half_size
    surfaces = [
        ([w, d, 0.05], [0, 0, -0.05]),
        ([w, d, 0.05], [0, 0, height + 0.05]),
        *(([w, 0.05, height / 2], [0, side * d, height / 2]) for side in (-1, 1)),
        *(([0.05, d, height / 2], [side * w, 0, height / 2]) for side in (-1, 1)),
    ]
    return "".join(
        geom("box", size, position, f'material="{palette.surface(f"shell{i}")}"')
        for i, (size, position) in enumerate(surfaces)
    )


def _furniture(palette: _Prints, half_size: np.ndarray, trail: np.ndarray) -> str:
    """A box or a pillar on the floor; none where the camera passes, at the points trail [n, 2]."""
    rng = palette.rng
    half = np.array([rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.55)])
    if rng.random() < 0.4:  # in the middle
        place = rng.uniform(-0.28, 0.28, 2) * half_size
    else:  # at a wall
        axis, side = int(rng.integers(2)), rng.choice([-1, 1])
        place = rng.uniform(-0.9, 0.9, 2) * half_size
        place[axis] = side * (half_size[axis] - half[axis])
    look = f'material="{palette.side()}"'
    if np.linalg.norm(trail - place, axis=1).min() < np.linalg.norm(half[:2]) + CLEARANCE:
        return ""
    return geom("box", half, [*place, half[2]], look, f'euler="0 0 {rng.uniform(-20, 20):.1f}"')
