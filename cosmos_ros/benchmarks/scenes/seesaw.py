"""A see-saw with a load on one side and one that comes down on the other (torque)."""

from __future__ import annotations

import numpy as np

from cosmos_ros.benchmarks.scenes.scenery import Scenery, turned
from cosmos_ros.benchmarks.scenes.staged import Staged
from cosmos_ros.training.scenes.surroundings import geom

UNTOUCHABLE = 'contype="0" conaffinity="0"'


def seesaw(rng: np.random.Generator) -> Staged:
    """A plank that lies down on its loaded side, until a heavier thing lands on the raised one."""
    scenery = Scenery(rng, 3)
    side = int(rng.choice([-1, 1]))  # of the load
    reach, width, thick, pivot = 0.62, 0.16, 0.02, 0.17
    tilt = side * np.arcsin((pivot - thick) / reach)
    look = scenery.palette.look(textured=1)
    scenery.fixture("cylinder", [0.05, 0.1], [0, 0, 0.05], look, f"{turned(('x', 90))} {UNTOUCHABLE}")
    for y in (-0.2, 0.2):
        scenery.fixture("box", [0.035, 0.02, pivot / 2], [0, y, pivot / 2], look, UNTOUCHABLE)
    as_the_plank = turned(("y", np.degrees(tilt)))
    scenery.thing(
        lambda look: geom("box", [reach, width, thick], [0, 0, 0], look, _material(300, priority=2)),
        [0, 0, pivot + thick],
        as_the_plank,
        joint='<joint type="hinge" axis="0 1 0" damping="0.05"/>',
    )
    along, up = np.array([np.cos(tilt), 0, -np.sin(tilt)]), np.array([np.sin(tilt), 0, np.cos(tilt)])
    half = rng.uniform(0.08, 0.1)
    place = side * rng.uniform(0.42, 0.52) * along + (thick + half + 0.001) * up + [0, 0, pivot + thick]
    scenery.solid("box", [half] * 3, place, as_the_plank, _material(260))
    heavy = rng.uniform(0.1, 0.12)
    above = [-side * rng.uniform(0.4, 0.5), 0, rng.uniform(0.95, 1.2)]
    shape, size = ("box", [heavy] * 3) if rng.random() < 0.5 else ("sphere", [heavy])
    scenery.solid(shape, size, above, material=_material(rng.uniform(1300, 2600)))
    return scenery.staged(target=[0, 0, 0.5], distance=1.95, gravity=1.0, azimuths_deg=(-30, 30))


def _material(density: float, priority: int = 1) -> str:
    return f'density="{density:.0f}" friction="0.8 0.003 0.0003" condim="6" solref="0.02 0.9" priority="{priority}"'
