"""A row of dominoes (momentum handed on)."""

from __future__ import annotations

import numpy as np

from cosmos_ros.benchmarks.scenes.scenery import Scenery, turned
from cosmos_ros.benchmarks.scenes.staged import Staged


def dominoes(rng: np.random.Generator) -> Staged:
    """Five to seven bricks in a row or a shallow curve; the first already leans on its way down."""
    n_bricks = int(rng.integers(5, 8))
    scenery = Scenery(rng, n_bricks)
    half = np.array([rng.uniform(0.022, 0.03), rng.uniform(0.07, 0.1), rng.uniform(0.17, 0.21)])
    spacing = rng.uniform(0.17, 0.21)
    bend, side = rng.uniform(-8, 8), int(rng.choice([-1, 1]))  # degrees from brick to brick
    headings = np.radians(bend) * (np.arange(n_bricks) - (n_bricks - 1) / 2)
    steps = spacing * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    places = np.cumsum(steps, axis=0)
    places = side * (places - places.mean(axis=0))
    material = scenery.material()
    for i, ((x, y), heading) in enumerate(zip(places, headings, strict=True)):
        lean = side * np.radians(rng.uniform(14, 17)) if i == 0 else 0.0
        # Its lower edge stays on the floor.
        height = half[2] * np.cos(lean) + half[0] * abs(np.sin(lean)) + 0.0005
        shift = np.sin(lean) * half[2]
        position = [x + shift * np.cos(heading), y + shift * np.sin(heading), height]
        scenery.solid("box", half, position, turned(("y", np.degrees(lean)), ("z", np.degrees(heading))), material)
    return scenery.staged(
        target=[0, 0, 0.18], distance=1.6, gravity=0.9, azimuths_deg=(-35, 35), elevations_deg=(10, 35)
    )
