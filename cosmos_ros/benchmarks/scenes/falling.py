"""Things that fall freely onto a plane (gravity, impact, bouncing)."""

from __future__ import annotations

import numpy as np

from cosmos_ros.benchmarks.scenes.scenery import Scenery, turned
from cosmos_ros.benchmarks.scenes.staged import Staged
from cosmos_ros.training.scenes.surroundings import Numbers

SHAPES = ("sphere", "box", "cylinder", "capsule")


def free_fall(rng: np.random.Generator) -> Staged:
    """One to three things let go at rest above a floor, which the first reaches after about 1.2 s."""
    scenery = Scenery(rng, n_things := int(rng.integers(1, 4)))
    places = (np.arange(n_things) - (n_things - 1) / 2) * 0.42
    for x in rng.permutation(places):
        r = rng.uniform(0.09, 0.14)
        shape = str(rng.choice(SHAPES))
        sizes: dict[str, Numbers] = {
            "sphere": [r],
            "box": r * rng.uniform(0.7, 1.1, 3),
            "cylinder": [0.8 * r, r],
            "capsule": [0.6 * r, 0.8 * r],
        }
        position = [x + rng.uniform(-0.05, 0.05), rng.uniform(-0.2, 0.2), rng.uniform(0.7, 1.25)]
        scenery.solid(shape, sizes[shape], position, turned(*zip("xyz", rng.uniform(-40, 40, 3), strict=True)))
    return scenery.staged(target=[0, 0, 0.62], distance=1.95, gravity=0.9)
