"""Things that roll or slide down a slope, and to and fro in a trough (moment of inertia, energy)."""

from __future__ import annotations

import numpy as np

from cosmos_ros.benchmarks.scenes.scenery import Scenery, turned
from cosmos_ros.benchmarks.scenes.staged import Staged
from cosmos_ros.training.scenes.surroundings import Numbers

STRIPS = 24  # flat strips that a trough is made of
SPAN_DEG = 150  # of the circle that they fill


def tilted_slope(rng: np.random.Generator) -> Staged:
    """One to three balls, rollers and blocks let go on an incline, down to the floor."""
    scenery = Scenery(rng, n_things := int(rng.integers(1, 4)))
    tilt = np.radians(rng.uniform(18, 30)) * rng.choice([-1, 1])
    half = np.array([0.75, 0.4, 0.03])
    along = np.array([np.cos(tilt), 0, -np.sin(tilt)])  # the slope's own axes; downhill is where this falls
    up = np.array([np.sin(tilt), 0, np.cos(tilt)])
    middle = np.array([0, 0, half[0] * abs(np.sin(tilt)) + half[2]])
    as_the_slope = turned(("y", np.degrees(tilt)))
    more = f'{as_the_slope} friction="0.8 0.002 0.0001"'
    scenery.fixture("box", half, middle, scenery.palette.look(textured=1), more)
    lanes = rng.permutation((np.arange(n_things) - (n_things - 1) / 2) * 0.26)
    uphill = -np.sign(tilt) * along
    for y in lanes:
        r = rng.uniform(0.07, 0.11)
        shape = str(rng.choice(["sphere", "cylinder", "box"], p=[0.5, 0.35, 0.15]))
        block = r * rng.uniform(0.7, 1.0, 3)
        sizes: dict[str, Numbers] = {"sphere": [r], "cylinder": [r, 0.9 * r], "box": block}
        lying = turned(("x", 90)) if shape == "cylinder" else as_the_slope
        height = block[2] if shape == "box" else r
        position = middle + rng.uniform(0.35, 0.62) * uphill + (half[2] + height + 0.002) * up + [0, y, 0]
        scenery.solid(shape, sizes[shape], position, lying)
    return scenery.staged(target=[-0.12 * np.sign(-tilt), 0, 0.25], distance=1.8, gravity=1.5)


def u_shaped_slope(rng: np.random.Generator) -> Staged:
    """One or two balls let go at the rim of a trough, which swing to and fro in it."""
    scenery = Scenery(rng, n_balls := int(rng.integers(1, 3)))
    radius, half_width = rng.uniform(0.55, 0.7), 0.3
    look = scenery.palette.look(textured=1)
    centre = np.array([0, 0, radius + 0.06])
    half_angle = np.radians(SPAN_DEG) / 2
    strip = half_angle / STRIPS
    for angle in np.linspace(strip - half_angle, half_angle - strip, STRIPS):
        outward = np.array([np.sin(angle), 0, -np.cos(angle)])
        size = [1.08 * radius * np.tan(strip), half_width, 0.02]
        more = f'{turned(("y", -np.degrees(angle)))} friction="0.8 0.002 0.0001"'
        scenery.fixture("box", size, centre + (radius + size[2]) * outward, look, more)
    sides = [rng.choice([-1, 1])] if n_balls == 1 else [-1, 1]
    for i, side in enumerate(sides):
        r = rng.uniform(0.08, 0.12)
        angle = side * np.radians(rng.uniform(42, 62))
        position = centre + (radius - r - 0.003) * np.array([np.sin(angle), 0, -np.cos(angle)])
        scenery.solid("sphere", [r], position + [0, 0.13 * (i - (n_balls - 1) / 2) * rng.choice([0, 1]), 0])
    return scenery.staged(
        target=[0, 0, 0.42], distance=1.6, gravity=1.5, azimuths_deg=(-25, 25), elevations_deg=(18, 38)
    )
