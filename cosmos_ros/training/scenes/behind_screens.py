"""Things on smooth courses that pass behind screens and come out again."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from cosmos_ros.training.scenes.surroundings import Palette, Scene, camera, geom, wall

LAP = 2.4  # metres, after which what goes straight on comes in again


@dataclass(frozen=True)
class Course:
    """Where a thing is at a time: on a line, a circle, or swaying."""

    kind: str
    depth: float  # m
    start: float  # m
    speed: float  # m/s or rad/s
    phase: float
    radius: float  # m
    height: float  # m

    @classmethod
    def random(cls, rng: np.random.Generator, height: float) -> Course:
        return cls(
            kind=str(rng.choice(["line", "circle", "sway"])),
            depth=rng.uniform(0.1, 0.7),
            start=rng.uniform(-1, 1),
            speed=rng.uniform(0.2, 0.9) * rng.choice([-1, 1]),
            phase=rng.uniform(0, 2 * np.pi),
            radius=rng.uniform(0.2, 0.7),
            height=height,
        )

    def at(self, time_s: float) -> list[float]:
        if self.kind == "line":
            return [(self.start + self.speed * time_s + LAP / 2) % LAP - LAP / 2, self.depth, self.height]
        if self.kind == "circle":
            angle = 2.5 * self.speed * time_s + self.phase
            return [self.radius * np.cos(angle), 0.1 + 0.7 * self.radius * np.sin(angle), self.height]
        hop = 0.1 * abs(np.sin(2 * time_s + self.phase))
        sway = self.radius * np.sin(3 * self.speed * time_s + self.phase)
        return [0.4 * self.start + sway, self.depth, self.height + hop]


def behind_screens(rng: np.random.Generator) -> Scene:
    """A random scene of this kind; the same generator state gives the same scene."""
    palette = Palette(rng)
    world = [
        wall([0, 0, 0], "0 0 1", palette.look(textured=1)),
        wall([0, rng.uniform(1.0, 2.5), 0], "0 -1 0", palette.look(textured=1)),
    ]
    for _ in range(int(rng.integers(1, 4))):
        size = [rng.uniform(0.06, 0.22), 0.03, rng.uniform(0.15, 0.5)]
        place = [rng.uniform(-0.8, 0.8), rng.uniform(-0.5, 0.0), size[2]]
        world.append(geom("box", size, place, palette.look(textured=0.6)))
    courses = []
    for i in range(int(rng.integers(1, 5))):
        radius = rng.uniform(0.05, 0.14)
        world.append(thing(palette, i, radius))
        courses.append(Course.random(rng, radius))
    cameras = ("camera0", "camera1")
    for name in cameras:
        eye = np.array([rng.uniform(-0.8, 0.8), -rng.uniform(1.3, 2.2), rng.uniform(0.3, 1.2)])
        target = np.array([rng.uniform(-0.2, 0.2), 0.2, 0.2])
        world.append(camera(name, eye, target, fovy_deg=rng.uniform(38, 58)))

    def drive(_model: mujoco.MjModel, _data: mujoco.MjData) -> None:
        """Nothing here obeys physics."""

    def aim(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for i, course in enumerate(courses):
            body, turn = model.body(f"thing{i}").mocapid[0], 2 * course.speed * data.time
            data.mocap_pos[body] = course.at(data.time)
            data.mocap_quat[body] = [np.cos(turn), 0, 0, np.sin(turn)]

    return Scene(palette.document("".join(world)), palette.textures, drive, aim, cameras)


def thing(palette: Palette, i: int, radius: float) -> str:
    """A ball, a box or a drum, with a knob by which one sees that it turns."""
    shape = palette.rng.choice(["sphere", "box", "cylinder"])
    sizes = {"sphere": [radius], "box": [radius, 0.7 * radius, radius], "cylinder": [0.8 * radius, radius]}[shape]
    body = geom(shape, sizes, [0, 0, 0], f'rgba="{palette.colour((0.4, 1), (0.3, 1))}"')
    knob = geom("box", [0.4 * radius, 0.4 * radius, 0.3 * radius], [0, 0, radius], palette.look(textured=0))
    return f'<body name="thing{i}" mocap="true" pos="0 0 {radius:.3f}">{body}{knob}</body>'
