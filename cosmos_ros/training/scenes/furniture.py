"""What stands about in rooms, away from the walls: tables, chairs, plants, lamps, rugs, people; as MJCF fragments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cosmos_ros.training.scenes.household import printed, quiet, window
from cosmos_ros.training.scenes.surroundings import Palette, geom, numbers


def plant(palette: Palette, place: np.ndarray) -> str:
    """Leaves on stalks in a pot."""
    rng, leaf = palette.rng, f'rgba="{numbers([*palette.rng.uniform((0.05, 0.25, 0.05), (0.35, 0.6, 0.25)), 1])}"'
    pot = rng.uniform(0.12, 0.25)
    parts = [geom("cylinder", [0.14, pot], [*place, pot], palette.look(textured=0))]
    for _ in range(int(rng.integers(4, 8))):
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


def table(palette: Palette, half: np.ndarray, chairs: bool) -> str:
    """A board on four legs, with things on it."""
    rng, look = palette.rng, quiet(palette)
    top = rng.uniform(0.68, 0.8) if chairs else rng.uniform(0.35, 0.7)
    parts = [geom("box", [*half, 0.018], [0, 0, top], look), legs(0.92 * half, top - 0.018, 0.025, look)]
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


def legs(half: np.ndarray, top: float, thick: float, look: str) -> str:
    """Four, up to a board of these half sizes [2] at height `top`."""
    places = [(half - thick) * (i, j) for i in (-1, 1) for j in (-1, 1)]
    return "".join(geom("box", [thick, thick, top / 2], [*place, top / 2], look) for place in places)


def chair(palette: Palette, look: str) -> str:
    """Turned to -y."""
    rng, seat = palette.rng, palette.rng.uniform(0.42, 0.47)
    look = look if rng.random() < 0.5 else quiet(palette)
    board = geom("box", [0.2, 0.19, 0.015], [0, 0, seat], look)
    back = geom("box", [0.195, 0.012, 0.1], [0, 0.17, seat + rng.uniform(0.25, 0.35)], look)
    posts = [geom("box", [0.015, 0.011, 0.2], [side * 0.17, 0.172, seat + 0.2], look) for side in (-1, 1)]
    return board + back + "".join(posts) + legs(np.array([0.19, 0.18]), seat - 0.015, 0.016, look)


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


def person(palette: Palette, i: int) -> str:
    """Somebody who can be moved about: legs, trunk, arms, head; faces along x."""
    rng, tall = palette.rng, palette.rng.uniform(1.0, 1.85)
    trousers, shirt = (f'rgba="{palette.colour((0, 0.8), (0.1, 0.9))}"' for _ in range(2))
    skin = f'rgba="{numbers([*rng.uniform((0.35, 0.22, 0.15), (0.9, 0.7, 0.6)), 1])}"'
    limbs = [  # from, to, radius as shares of the height
        ((0, 0.05, 0.03), (0, 0.05, 0.45), 0.045, trousers),
        ((0, -0.05, 0.03), (0, -0.05, 0.45), 0.045, trousers),
        ((0, 0, 0.5), (0, 0, 0.74), 0.085, shirt),
        ((0.02, 0.12, 0.48), (0, 0.11, 0.76), 0.03, shirt),
        ((0.02, -0.12, 0.48), (0, -0.11, 0.76), 0.03, shirt),
        ((0, 0, 0.82), (0, 0, 0.87), 0.03, skin),
    ]
    parts = [
        f'<geom type="capsule" fromto="{numbers(tall * np.array([*start, *end]))}" size="{tall * r:.4f}" {look}/>'
        for start, end, r, look in limbs
    ]
    hair = f'rgba="{palette.colour((0, 0.6), (0.02, 0.5))}"'
    parts.append(geom("sphere", [0.065 * tall], [0, 0, 0.93 * tall], skin))
    parts.append(geom("sphere", [0.066 * tall], [-0.012 * tall, 0, 0.945 * tall], hair))
    return f'<body name="walker{i}" mocap="true">{"".join(parts)}</body>'


def base(palette: Palette, i: int) -> str:
    """A mobile robot that can be moved about: a round body with a mast and a head."""
    tall, radius = palette.rng.uniform(0.5, 1.3), palette.rng.uniform(0.15, 0.25)
    look = palette.look(textured=0)
    parts = [
        geom("cylinder", [radius, 0.12], [0, 0, 0.17], palette.look(textured=0)),
        geom("cylinder", [0.03, tall / 2], [0, 0, tall / 2], look),
        geom("box", [0.05, 0.1, 0.06], [0, 0, tall], palette.look(textured=0)),
    ]
    return f'<body name="walker{i}" mocap="true">{"".join(parts)}</body>'
