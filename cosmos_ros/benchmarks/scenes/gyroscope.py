"""A spinning top (angular momentum)."""

from __future__ import annotations

import mujoco
import numpy as np

from cosmos_ros.benchmarks.scenes.scenery import Scenery, turned
from cosmos_ros.benchmarks.scenes.staged import Staged
from cosmos_ros.training.scenes.surroundings import geom

FOOT = 0.022  # m, the radius of the stem and of its round foot


def gyroscope(rng: np.random.Generator) -> Staged:
    """A top on a floor, tilted and spinning: it does not fall, its axis goes round."""
    scenery = Scenery(rng, 1)
    radius, stem = rng.uniform(0.26, 0.32), rng.uniform(0.2, 0.25)
    spin = rng.uniform(7.5, 9.5) * rng.choice([-1, 1])  # rad/s
    lean_deg, bearing_deg = rng.uniform(12, 22), rng.uniform(0, 360)
    contact = 'friction="0.9 0.0002 0.00001" condim="4" solref="0.02 1"'

    def parts(look: str) -> str:
        # Two dark bars, by which one sees the disc spin.
        bars = "".join(
            geom(
                "box",
                [0.4 * radius, 0.035, 0.027],
                [0.5 * radius * side, 0, 0],
                'rgba="0.1 0.1 0.1 1"',
                'density="20" contype="0" conaffinity="0"',
            )
            for side in (-1, 1)
        )
        disc = geom("cylinder", [radius, 0.025], [0, 0, 0], look, f'density="600" {contact}')
        ends = f'fromto="0 0 {-stem:.4f} 0 0 {0.8 * stem:.4f}" size="{FOOT}"'
        return f'{disc}{bars}<geom type="capsule" {ends} {look} density="100" {contact}/>'

    lean, bearing = np.radians(lean_deg), np.radians(bearing_deg)
    axis = np.array([np.sin(lean) * np.sin(bearing), -np.sin(lean) * np.cos(bearing), np.cos(lean)])
    place = stem * axis + [0, 0, FOOT + 0.001]
    name = scenery.thing(parts, place, turned(("x", lean_deg), ("z", bearing_deg)))

    def drive(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        if data.time == 0:
            # About its own axis: a free joint turns in the body's frame.
            data.joint(model.body(name).jntadr[0]).qvel[3:] = [0, 0, spin]

    return scenery.staged(target=[0, 0, 0.24], distance=1.35, gravity=0.45, drive=drive)
