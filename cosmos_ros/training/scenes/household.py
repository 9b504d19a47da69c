"""Things that lie about where robots work: bottles, cups, bowls, cans, packages, fruit, trays, shelves and pictures."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from cosmos_ros.training.scenes.surroundings import TEXTURE_SIZE, Numbers, Palette, geom, numbers, png, wall

SIDES = 20  # of what is turned on a lathe
UNTOUCHABLE = 'contype="0" conaffinity="0"'
SOLID = 'density="300" condim="4" friction="1 0.01 0.002"'
ROLLING = 'density="300" condim="6" friction="1 0.01 0.004"'
UNSEEN = 'rgba="0 0 0 0" group="3"'


@dataclass(frozen=True)
class Thing:
    """What it measures: half its width where fingers take it, and its height, metres."""

    half_width: float
    height: float


@dataclass(frozen=True)
class Outline:
    """A lathe's work: radii and heights from the bottom's middle round to where the axis is met again."""

    radii: tuple[float, ...]
    heights: tuple[float, ...]


def household_thing(
    palette: Palette, name: str, spot: Numbers, yaw: float, half: tuple[float, float]
) -> tuple[str, Thing]:
    """A free body that stands on the table at spot [2], turned by yaw; half: range of half its width, metres."""
    rng = palette.rng
    r = rng.uniform(*half)
    kind = rng.choice(["package", "bottle", "cup", "can", "fruit", "block"], p=[0.25, 0.15, 0.2, 0.15, 0.1, 0.15])
    if kind in ("package", "block"):
        size = np.array([r, r * rng.uniform(0.8, 1.6), r * (rng.uniform(0.8, 2.2) if kind == "package" else 1.0)])
        look = printed(palette) if kind == "package" else f'rgba="{palette.colour((0.4, 1.0), (0.3, 1.0))}"'
        parts, height = geom("box", size, [0, 0, size[2]], look, SOLID), 2 * size[2]
    elif kind == "fruit":
        size = r * np.array([1, rng.uniform(1, 1.4), rng.uniform(0.85, 1.05)])
        look = f'rgba="{palette.colour((0.6, 1.0), (0.5, 1.0))}"'
        parts, height = geom("ellipsoid", size, [0, 0, size[2]], look, ROLLING), 2 * size[2]
    else:
        height = r * {"bottle": rng.uniform(3.6, 5.2), "cup": rng.uniform(1.8, 2.6), "can": rng.uniform(2.4, 3.6)}[kind]
        parts = turned(palette, kind, r, height)
    body = f'<body name="{name}" pos="{numbers([*spot, 0.001])}" euler="0 0 {np.degrees(yaw):.1f}"><freejoint/>'
    return f"{body}{parts}</body>", Thing(r, height)


def turned(palette: Palette, kind: str, r: float, height: float) -> str:
    """A bottle, cup, can, bowl or plate that stands at the origin."""
    rng = palette.rng
    mesh = lathe(palette, outline(kind, r, height, rng))
    look = f'rgba="{palette.colour((0.0, 1.0), (0.2, 1.0))}"'
    body = f'<geom type="mesh" mesh="{mesh}" {look} mass="0" {UNTOUCHABLE}/>'
    solid = geom("cylinder", [r, height / 2], [0, 0, height / 2], UNSEEN, SOLID)
    extras = ""
    if kind in ("bottle", "can") and rng.random() < 0.7:
        label = [r * 1.01, height * rng.uniform(0.12, 0.25)]
        extras += geom("cylinder", label, [0, 0, height * 0.33], palette.look(textured=0.6), f'{UNTOUCHABLE} mass="0"')
    if kind == "cup" and rng.random() < 0.7:
        ring = [(r * 0.95, 0.75), (r * 1.5, 0.7), (r * 1.5, 0.35), (r * 0.95, 0.25)]
        for (x0, z0), (x1, z1) in zip(ring, ring[1:], strict=False):
            ends = numbers([x0, 0, z0 * height, x1, 0, z1 * height])
            extras += f'<geom type="capsule" fromto="{ends}" size="{r * 0.12:.4f}" {look} mass="0" {UNTOUCHABLE}/>'
    return body + solid + extras


def outline(kind: str, r: float, height: float, rng: np.random.Generator) -> Outline:
    """Of a kind of vessel with this largest radius and height, metres."""
    radii: tuple[float, ...]
    heights: tuple[float, ...]
    if kind == "bottle":
        neck, shoulder = rng.uniform(0.3, 0.45), rng.uniform(0.55, 0.7)
        radii, heights = (0, 0.95, 1, 1, neck, neck, 0), (0, 0, 0.03, shoulder, shoulder + 0.17, 1, 1)
    elif kind == "can":
        radii, heights = (0, 0.9, 1, 1, 0.9, 0.85, 0), (0, 0, 0.04, 0.95, 1, 0.98, 0.98)
    elif kind == "cup":
        foot = rng.uniform(0.65, 1.0)
        radii, heights = (0, foot, 1, 0.9, foot * 0.85, 0), (0, 0, 1, 1, 0.08, 0.08)
    else:  # a bowl or a plate
        foot = rng.uniform(0.35, 0.6)
        radii = (0, foot, (foot + 1) / 1.9, 1, 0.95, (foot + 1) / 2.1, foot, 0)
        heights = (0, 0, 0.35, 1, 1, 0.42, 0.12, 0.1)
    return Outline(tuple(r * each for each in radii), tuple(height * each for each in heights))


def lathe(palette: Palette, shape: Outline) -> str:
    """Adds the closed surface of an outline that is turned about the z axis; returns the mesh's name."""
    name = f"turned{len(palette.assets)}"
    angles = np.arange(SIDES) * 2 * np.pi / SIDES
    vertices = [(0, 0, shape.heights[0])]
    for radius, height in zip(shape.radii[1:-1], shape.heights[1:-1], strict=True):
        vertices += [(radius * np.cos(angle), radius * np.sin(angle), height) for angle in angles]
    vertices.append((0, 0, shape.heights[-1]))
    rings, last = len(shape.radii) - 2, len(vertices) - 1
    faces = []
    for side in range(SIDES):
        other = (side + 1) % SIDES
        faces.append((0, 1 + other, 1 + side))
        for ring in range(rings - 1):
            a, b = 1 + ring * SIDES, 1 + (ring + 1) * SIDES
            faces += [(a + side, a + other, b + other), (a + side, b + other, b + side)]
        faces.append((last, last - SIDES + side, last - SIDES + other))
    corners = " ".join(str(corner) for face in faces for corner in face)
    palette.assets.append(
        f'<mesh name="{name}" vertex="{numbers(np.ravel(vertices))}" face="{corners}" inertia="shell"/>'
    )
    return name


def printed(palette: Palette) -> str:
    """Adds a material like a printed package, poster or screen, the same on every side; returns it as an attribute."""
    image = print_texture(palette.rng)
    return palette.picture("print", image, "cube", f'specular="{palette.rng.uniform(0, 0.4):.2f}"')


def print_texture(rng: np.random.Generator) -> bytes:
    """PNG of blocks, lines of letters and spots on a ground."""
    ground = rng.uniform(40, 250, 3) if rng.random() < 0.6 else np.full(3, rng.uniform(180, 250))
    image = np.broadcast_to(ground, (TEXTURE_SIZE, TEXTURE_SIZE, 3)).astype(np.uint8).copy()
    for _ in range(int(rng.integers(1, 5))):
        colour = rng.uniform(0, 255, 3).tolist()
        corner, size = rng.integers(0, TEXTURE_SIZE, 2), rng.integers(8, TEXTURE_SIZE // 2, 2)
        if rng.random() < 0.6:
            cv2.rectangle(image, corner.tolist(), (corner + size).tolist(), colour, -1)
        else:
            cv2.circle(image, corner.tolist(), int(size[0]) // 2, colour, -1)
    for _ in range(int(rng.integers(0, 5))):
        letters = "".join(chr(code) for code in rng.integers(65, 91, int(rng.integers(3, 9))))
        place = rng.integers(0, TEXTURE_SIZE - 20, 2) + [0, 20]
        cv2.putText(image, letters, place.tolist(), 0, rng.uniform(0.3, 0.9), rng.uniform(0, 255, 3).tolist(), 1)
    return png(image)


def flat_things(palette: Palette, area: Numbers, n: int) -> str:
    """n sheets, boards and cloths on a table whose middle and half sizes are area [4]; nothing stumbles over them."""
    rng, parts, area = palette.rng, [], np.asarray(area)
    for i in range(n):
        size = [*rng.uniform(0.04, 0.2, 2), 0.0006 * (i + 1)]
        place = area[:2] + rng.uniform(-0.8, 0.8, 2) * area[2:]
        look = printed(palette) if rng.random() < 0.4 else palette.look(textured=0.4)
        turn = f'{UNTOUCHABLE} euler="0 0 {rng.uniform(0, 180):.1f}"'
        parts.append(geom("box", size, [*place, size[2]], look, turn))
    return "".join(parts)


def tray(palette: Palette, middle: Numbers, half: Numbers, height: float, yaw: float) -> str:
    """An open box that stands on the table, walls and all."""
    look, (x, y), thin = palette.look(textured=0.3), half, 0.004
    floor = geom("box", [x, y, thin], [0, 0, thin], look)
    sides = "".join(
        geom("box", [thin, y, height / 2], [side * x, 0, height / 2], look)
        + geom("box", [x, thin, height / 2], [0, side * y, height / 2], look)
        for side in (-1, 1)
    )
    return f'<body pos="{numbers([*middle, 0])}" euler="0 0 {np.degrees(yaw):.1f}">{floor}{sides}</body>'


def quiet(palette: Palette) -> str:
    """A look as walls, tables and furniture have: wood, paint or plastic, seldom gaudy; as an attribute."""
    if palette.rng.random() < 0.35:
        return palette.look(textured=1)
    colour = palette.colour(saturation=(0.0, 0.3), value=(0.3, 0.9))
    if palette.rng.random() < 0.3:  # wood
        hue, dark = palette.rng.uniform(0.05, 0.1), palette.rng.uniform(0.4, 0.95)
        colour = numbers([*colorsys.hsv_to_rgb(hue, palette.rng.uniform(0.25, 0.65), dark), 1])
    return f'rgba="{colour}"'


def walls_of_a_room(palette: Palette, floor: float, half: Numbers) -> str:
    """Floor and four walls about the origin, with pictures, windows, cupboards and shelves at some of them."""
    rng, parts = palette.rng, [wall([0, 0, floor], "0 0 1", quiet(palette))]
    same = quiet(palette)
    for facing, distance in (((1, 0), half[0]), ((-1, 0), half[0]), ((0, 1), half[1]), ((0, -1), half[1])):
        place = -np.array(facing) * distance
        parts.append(wall([*place, 0], f"{facing[0]} {facing[1]} 0", same if rng.random() < 0.7 else quiet(palette)))
        parts.append(at_the_wall(palette, np.array(facing), place, floor))
    return "".join(parts)


def at_the_wall(palette: Palette, facing: np.ndarray, place: np.ndarray, floor: float) -> str:
    """What hangs at a wall or stands before it."""
    rng, parts = palette.rng, []
    along = np.array([-facing[1], facing[0]])

    def box(sideways: float, width: float, depth: float, bottom: float, top: float, look: str) -> str:
        middle = place + along * sideways + facing * depth
        size = np.abs(along) * width + np.abs(facing) * depth
        return geom("box", [*size, (top - bottom) / 2], [*middle, (bottom + top) / 2], look, UNTOUCHABLE)

    # Nothing is exactly as deep or as high as another thing that it may overlap: they would show through each other.
    for i in range(int(rng.integers(0, 4))):
        bottom = rng.uniform(0.1, 0.9)
        look = window(palette) if rng.random() < 0.3 else printed(palette)
        parts.append(
            box(
                rng.uniform(-1.5, 1.5),
                rng.uniform(0.1, 0.5),
                0.01 + 0.001 * i,
                bottom,
                bottom + rng.uniform(0.2, 0.8),
                look,
            )
        )
    for i in range(int(rng.integers(0, 3))):
        width, sideways = rng.uniform(0.2, 0.6), rng.uniform(-1.5, 1.5)
        depth, top = rng.uniform(0.12, 0.25), floor + rng.uniform(0.5, 2.0)
        if rng.random() < 0.5:  # a cupboard
            parts.append(box(sideways, width, depth, floor, top, quiet(palette)))
            continue
        look = quiet(palette)
        for board in np.arange(floor + 0.25, top, 0.35) + 0.004 * i:
            parts.append(box(sideways, width, depth, board, board + 0.02, look))
            for _ in range(int(rng.integers(1, 5))):
                thick = rng.uniform(0.02, 0.09)
                offset = sideways + rng.uniform(-0.85, 0.85) * width
                parts.append(
                    box(
                        offset,
                        thick,
                        depth * rng.uniform(0.6, 0.95),
                        board + 0.02,
                        board + rng.uniform(0.1, 0.3),
                        palette.look(textured=0.2),
                    )
                )
    return "".join(parts)


def window(palette: Palette) -> str:
    """Adds a material that shines by itself, as a window or a lamp does; returns it as an attribute."""
    name = f"window{len(palette.assets)}"
    colour = palette.colour(saturation=(0, 0.2), value=(0.7, 1.0))
    palette.assets.append(f'<material name="{name}" rgba="{colour}" emission="{palette.rng.uniform(0.5, 1):.2f}"/>')
    return f'material="{name}"'
