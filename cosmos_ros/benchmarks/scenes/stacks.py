"""Stacks in balance and out of it."""

from __future__ import annotations

import numpy as np

from cosmos_ros.benchmarks.scenes.scenery import Scenery
from cosmos_ros.benchmarks.scenes.staged import Staged


def stable_stack(rng: np.random.Generator) -> Staged:
    """Three to five blocks or drums, each well within the one below: nothing moves."""
    n_things = int(rng.integers(3, 6))
    scenery = Scenery(rng, n_things)
    halves = [rng.uniform(0.13, 0.2), *rng.uniform(0.11, 0.17, n_things - 1)]
    _build(scenery, halves, [rng.uniform(-0.25, 0.25, 2) * half for half in halves])
    return scenery.staged(target=[0, 0, 0.38], distance=1.55, gravity=1.0)


def unstable_stack(rng: np.random.Generator) -> Staged:
    """Three to five blocks that lean out further and further: the upper ones topple."""
    n_things = int(rng.integers(3, 6))
    scenery = Scenery(rng, n_things)
    halves = [rng.uniform(0.13, 0.16)] * n_things
    lean = _direction(rng)
    first = int(rng.integers(1, n_things - 1))  # the lowest block whose load lies beyond the edge below it
    steps = [np.zeros(2)] + [
        halves[0] * (rng.uniform(0.75, 0.95) if level >= first else rng.uniform(0, 0.15)) * lean
        for level in range(1, n_things)
    ]
    _build(scenery, halves, list(np.cumsum(steps, axis=0)))
    return scenery.staged(target=[0.15 * lean[0], 0, 0.38], distance=1.7, gravity=1.2)


def _build(scenery: Scenery, halves: list[float], offsets: list[np.ndarray]) -> None:
    """Blocks (and, where they are in balance, drums) of these half widths, m, from the floor up."""
    rng, top = scenery.rng, 0.0
    for half, offset in zip(halves, offsets, strict=True):
        height = rng.uniform(0.06, 0.085)
        position = [*offset, top + height + 0.0005]
        scenery.solid("box", [half, half * rng.uniform(0.85, 1.0), height], position)
        top += 2 * height + 0.0005


def _direction(rng: np.random.Generator) -> np.ndarray:
    """Mostly sideways, as the cameras see it."""
    angle = rng.uniform(-0.5, 0.5)
    return rng.choice([-1, 1]) * np.array([np.cos(angle), np.sin(angle)])
