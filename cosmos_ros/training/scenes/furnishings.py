"""What hangs on walls indoors and stands along them, doors and lamps too, as MJCF fragments.

Most are written in the frame of their wall: x along it, y up from the floor, z out of it into the room, metres. No two
faces that a camera sees lie in one plane: which of them it saw would change from pixel to pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from cosmos_ros.training.scenes.household import printed, quiet, window
from cosmos_ros.training.scenes.surroundings import TEXTURE_SIZE, Numbers, Palette, geom, numbers, png

DEEPEST = 0.6  # metres that furniture reaches into the room, at most
GAP = 0.16  # metres between two pieces, at least: frames and curtains reach over
MESH = 0.25  # metres between the points of a large surface for which its light is computed


@dataclass(frozen=True)
class Piece:
    """One kind of furnishing, how often it is drawn, and the range of half its width, metres.

    make  writes it down, given the palette, its middle along the wall, half its width and how deep it may be
    """

    make: Callable[[Palette, float, float, float], str]
    share: float
    half_width: tuple[float, float]


def shell(palette: Palette, middle: Numbers, half_size: np.ndarray, height: float) -> str:
    """Floor and ceiling, which face into the room."""
    # Of all surfaces indoors only the floor reflects: each mirror is drawn with the whole scene once more.
    palette.mirrors = True
    floor = palette.look(textured=1)
    palette.mirrors = False
    ceiling = f'rgba="{palette.colour(saturation=(0.0, 0.12), value=(0.6, 1.0))}"'
    size = [*half_size, MESH]
    return geom("plane", size, [*middle, 0], floor) + geom("plane", size, [*middle, height], ceiling, 'zaxis="0 0 -1"')


def wall_with(foot: Numbers, facing: Numbers, half: float, height: float, look: str, parts: str) -> str:
    """A wall that stands at foot [x, y] and faces along `facing` [x, y], with what is written in its frame."""
    plane = geom("plane", [half, height / 2, MESH], [0, height / 2, 0], look)
    axes = f"{numbers([-facing[1], facing[0], 0])} 0 0 1"
    return f'<body pos="{numbers([*foot, 0])}" xyaxes="{axes}">{plane}{parts}</body>'


def furnish(
    palette: Palette, half: float, deepest: float, pieces: Sequence[Piece], surely: Sequence[Piece] = ()
) -> str:
    """Pieces side by side along a wall from -half to half, as many as fit, some of them surely."""
    rng, shares = palette.rng, np.array([piece.share for piece in pieces])
    drawn, spare = [], 2 * half
    for turn in range(100):
        piece = surely[turn] if turn < len(surely) else pieces[rng.choice(len(pieces), p=shares / shares.sum())]
        width = rng.uniform(*piece.half_width)
        if 2 * width + GAP > spare:
            break
        spare -= 2 * width + GAP
        drawn.append((piece, width))
    gaps = rng.dirichlet(np.ones(len(drawn) + 1)) * spare
    parts, x = [], -half
    for k, gap in zip(rng.permutation(len(drawn)), gaps, strict=False):
        piece, width = drawn[k]
        parts.append(piece.make(palette, x + gap + GAP / 2 + width, width, deepest))
        x += gap + GAP + 2 * width
    return "".join(parts)


def box(left: float, right: float, bottom: float, top: float, front: float, look: str, back: float = 0.0) -> str:
    """A box in the wall's frame, between these planes."""
    half = np.array([right - left, top - bottom, front - back]) / 2
    return geom("box", half, [left + half[0], bottom + half[1], back + half[2]], look)


def frame(left: float, right: float, bottom: float, top: float, broad: float, front: float, look: str) -> str:
    """Bars around an opening; one that begins at the floor has none there."""
    parts = [box(edge, edge + broad, bottom, top, front, look) for edge in (left - broad, right)]
    parts.append(box(left - broad, right + broad, top, top + broad, front, look))
    if bottom > 0:
        parts.append(box(left - broad, right + broad, bottom - broad, bottom, front, look))
    return "".join(parts)


def skirting(half: float, high: float, look: str) -> str:
    """A board along the wall's foot."""
    return box(-half + 0.012, half - 0.012, 0, high, 0.012, look)


def door(palette: Palette, x: float, w: float, _deepest: float, leaf: str = "", trim: str = "") -> str:
    """A leaf in its frame, with a handle, at times with a pane or a sign; looks: random where none are given."""
    rng, top = palette.rng, palette.rng.uniform(1.95, 2.1)
    parts = [box(x - w, x + w, 0, top, 0.02, leaf or quiet(palette))]
    parts.append(frame(x - w, x + w, 0, top, 0.07, 0.045, trim or quiet(palette)))
    latch, side = x + rng.choice([-1, 1]) * (w - 0.12), rng.uniform(0.04, 0.07)
    parts.append(box(latch - side, latch + side, 1.0, 1.03, 0.075, f'rgba="{palette.colour((0, 0.2))}"', back=0.03))
    if rng.random() < 0.6:
        pane = window(palette) if rng.random() < 0.3 else quiet(palette)
        parts.append(box(x - 0.6 * w, x + 0.6 * w, rng.uniform(1.15, 1.5), top - 0.2, 0.026, pane))
    if rng.random() < 0.4:
        parts.append(box(x - 0.6 * w, x + 0.6 * w, 0.2, rng.uniform(0.6, 0.9), 0.028, quiet(palette)))
    return "".join(parts)


def casement(palette: Palette, x: float, w: float, _deepest: float) -> str:
    """A bright window with bars, sill and what stands on it, at times a radiator and curtains."""
    rng, trim, g = palette.rng, quiet(palette), 0.8 * w
    bottom, top = rng.uniform(0.65, 1.0), rng.uniform(1.8, 2.15)
    parts = [
        box(x - g, x + g, bottom, top, 0.01, outlook(palette)),
        frame(x - g, x + g, bottom, top, 0.05, 0.04, trim),
        box(x - g - 0.08, x + g + 0.08, bottom - 0.09, bottom - 0.05, 0.14, trim),
    ]
    if rng.random() < 0.7:
        bar = x + rng.choice([-0.3, 0.0, 0.3]) * g
        parts.append(box(bar - 0.02, bar + 0.02, bottom, top, 0.032, trim))
    if rng.random() < 0.5:
        bar = bottom + rng.uniform(0.3, 0.7) * (top - bottom)
        parts.append(box(x - g, x + g, bar - 0.02, bar + 0.02, 0.028, trim))
    parts.append(things(palette, x - 0.9 * g, x + 0.9 * g, bottom - 0.05, 0.3, (0.045, 0.13), dense=0.35))
    if rng.random() < 0.6:
        metal = f'rgba="{palette.colour((0, 0.15), (0.5, 1.0))}"'
        parts.append(box(x - 0.7 * g, x + 0.7 * g, 0.14, bottom - 0.17, 0.07, metal, back=0.03))
        ribs = np.linspace(x - 0.65 * g, x + 0.6 * g, 7)
        parts += [box(left, left + 0.03, 0.11, bottom - 0.14, 0.1, metal, back=0.02) for left in ribs]
    if rng.random() < 0.5:
        cloth, foot = palette.look(textured=0.6), rng.uniform(0.03, bottom - 0.2)
        for side, edge in ((-1, x - g - 0.04), (1, x + g + 0.04)):
            left, right = np.sort([edge - side * rng.uniform(0.1, 0.35) * g, edge + side * 0.1])
            parts.append(box(left, right, foot, top + 0.1, 0.18, cloth, back=0.145))
    return "".join(parts)


def outlook(palette: Palette) -> str:
    """Adds a material that shines as a window does; returns it as an attribute."""
    image = outlook_texture(palette.rng)
    return palette.picture("outlook", image, "2d", f'emission="{palette.rng.uniform(0.4, 0.9):.2f}"')


def outlook_texture(rng: np.random.Generator) -> bytes:
    """PNG of a sky over trees or houses, out of focus."""
    sky = np.linspace(rng.uniform(150, 230, 3), rng.uniform(190, 255, 3), TEXTURE_SIZE)
    image = np.repeat(sky[:, None], TEXTURE_SIZE, axis=1)
    for _ in range(int(rng.integers(2, 7))):
        corner = rng.integers((-20, TEXTURE_SIZE // 3), (TEXTURE_SIZE, TEXTURE_SIZE))
        size = rng.integers(15, 60)
        if rng.random() < 0.5:
            cv2.circle(image, (corner + size).tolist(), int(size), rng.uniform(40, 180, 3).tolist(), -1)
        else:
            foot = (int(corner[0] + size), TEXTURE_SIZE)
            cv2.rectangle(image, corner.tolist(), foot, rng.uniform(60, 210, 3).tolist(), -1)
    return png(cv2.GaussianBlur(image, (0, 0), 1.5))


def picture(palette: Palette, x: float, w: float, _deepest: float) -> str:
    """A framed print, or two above each other."""
    rng, parts, y = palette.rng, [], palette.rng.uniform(0.9, 1.4)
    for _ in range(int(rng.integers(1, 3))):
        h, edge = rng.uniform(0.12, 0.35), rng.uniform(0.01, 0.04)
        parts.append(box(x - w, x + w, y, y + 2 * h, 0.022, quiet(palette)))
        parts.append(box(x - w + edge, x + w - edge, y + edge, y + 2 * h - edge, 0.025, printed(palette)))
        y += 2 * h + 0.08
        if y > 1.7:
            break
    return "".join(parts)


def notice_board(palette: Palette, x: float, w: float, _deepest: float) -> str:
    """A board with papers pinned to it."""
    rng, bottom = palette.rng, palette.rng.uniform(1.0, 1.2)
    top = bottom + rng.uniform(0.5, 0.9)
    parts = [
        box(x - w, x + w, bottom, top, 0.016, palette.look()),
        frame(x - w, x + w, bottom, top, 0.02, 0.03, quiet(palette)),
    ]
    for i in range(int(rng.integers(2, 7))):
        half = rng.uniform(0.06, 0.12, 2)
        u, v = rng.uniform((x - w + half[0], bottom + half[1]), (x + w - half[0], top - half[1]))
        parts.append(
            box(u - half[0], u + half[0], v - half[1], v + half[1], 0.018 + 0.0015 * i, printed(palette), 0.016)
        )
    return "".join(parts)


def cupboard(palette: Palette, x: float, w: float, deepest: float) -> str:
    """With doors or drawers; a low one has things on it and something on the wall above."""
    rng, low = palette.rng, palette.rng.random() < 0.5
    top, depth = rng.uniform(0.45, 0.95) if low else rng.uniform(1.2, 2.2), rng.uniform(0.5, 1) * (deepest - 0.05)
    parts = [box(x - w, x + w, 0, top, depth, quiet(palette))]
    look, knob = quiet(palette), f'rgba="{palette.colour((0, 0.3))}"'
    columns, rows = max(1, round(2 * w / 0.6)), int(rng.integers(1, 4)) if low else int(rng.integers(1, 3))
    us, vs = np.linspace(x - w, x + w, columns + 1), np.linspace(0.06, top, rows + 1)
    for left, right in zip(us, us[1:], strict=False):
        for bottom, head in zip(vs, vs[1:], strict=False):
            parts.append(
                box(left + 0.01, right - 0.01, bottom + 0.01, head - 0.01, depth + 0.012, look, back=depth - 0.01)
            )
            u, v = (left + right) / 2, head - 0.07 if low else (bottom + head) / 2
            parts.append(box(u - 0.06, u + 0.06, v - 0.01, v + 0.01, depth + 0.04, knob, back=depth))
    if low:
        parts.append(things(palette, x - w, x + w, top, 0.45, (0.3 * depth, depth), dense=0.5))
        parts.append(picture(palette, x, 0.7 * w, deepest) if top < 0.8 and rng.random() < 0.6 else "")
    return "".join(parts)


def shelves(palette: Palette, x: float, w: float, deepest: float) -> str:
    """Boards full of things between two sides."""
    rng, look, depth = palette.rng, quiet(palette), min(deepest, palette.rng.uniform(0.2, 0.36))
    top, floor = rng.uniform(1.1, 2.1), rng.choice([0.0, rng.uniform(0.6, 0.9)])
    parts = [box(edge - 0.012, edge + 0.012, floor, top, depth, look) for edge in (x - w, x + w)]
    parts.append(box(x - w + 0.012, x + w - 0.012, floor, top - 0.01, 0.01, quiet(palette)))
    heights = np.linspace(floor + 0.05, top - 0.025, max(2, round((top - floor) / rng.uniform(0.33, 0.5)) + 1))
    for y in heights:
        parts.append(box(x - w + 0.012, x + w - 0.012, y, y + 0.022, depth - 0.01, look, back=0.01))
    for y in heights[:-1]:
        above = heights[1] - heights[0] - 0.05
        parts.append(things(palette, x - w + 0.02, x + w - 0.02, y + 0.022, above, (0.02, depth - 0.02), dense=0.6))
    return "".join(parts)


def sofa(palette: Palette, x: float, w: float, deepest: float) -> str:
    """Seat, back, arms and cushions, and a picture above."""
    rng, cloth = palette.rng, palette.look(textured=0.5)
    seat, depth = rng.uniform(0.36, 0.45), deepest - rng.uniform(0.02, 0.06)
    parts = [
        box(x - w + 0.12, x + w - 0.12, 0.05, seat, depth - 0.02, cloth),
        box(x - w + 0.12, x + w - 0.12, seat, seat + rng.uniform(0.3, 0.45), 0.16, cloth, back=0.02),
    ]
    parts += [box(edge, edge + 0.12, 0.03, seat + 0.18, depth, cloth) for edge in (x - w, x + w - 0.12)]
    for u in rng.choice(np.linspace(x - w + 0.35, x + w - 0.35, 3), int(rng.integers(0, 4)), replace=False):
        half = rng.uniform(0.08, 0.12)
        parts.append(
            box(u - half, u + half, seat, seat + 2.2 * half, rng.uniform(0.22, 0.32), palette.look(), back=0.16)
        )
    return "".join(parts) + picture(palette, x, 0.4 * w, deepest)


def desk(palette: Palette, x: float, w: float, deepest: float) -> str:
    """A board on two sides with a screen, its cable and things on it."""
    rng, look, top, depth = palette.rng, quiet(palette), palette.rng.uniform(0.68, 0.78), deepest - 0.03
    parts = [box(x - w, x + w, top, top + 0.03, depth, look)]
    parts += [box(edge, edge + 0.03, 0, top, depth - 0.04, look) for edge in (x - w + 0.04, x + w - 0.07)]
    u, half = x + rng.uniform(-0.3, 0.3) * w, rng.uniform(0.16, 0.3)
    dark = f'rgba="{palette.colour((0, 0.3), (0.05, 0.3))}"'
    parts.append(box(u - 0.03, u + 0.03, top + 0.03, top + 0.15, 0.16, dark, back=0.14))
    parts.append(box(u - half, u + half, top + 0.12, top + 0.12 + 1.2 * half, 0.19, dark, back=0.165))
    edge = half - 0.012
    parts.append(box(u - edge, u + edge, top + 0.135, top + 0.105 + 1.2 * half, 0.192, printed(palette), back=0.18))
    parts.append(cord(palette, [u, top + 0.02, 0.03], [u + rng.uniform(-0.2, 0.2), 0.25, 0.03]))
    return "".join(parts) + things(palette, x - w, x + w, top + 0.03, 0.22, (0.24, depth), dense=0.5)


def socket(palette: Palette, x: float, w: float, _deepest: float) -> str:
    """A socket with a cable that hangs down to the floor, and a switch above."""
    rng, look, u = palette.rng, f'rgba="{palette.colour((0, 0.2), (0.6, 1.0))}"', x + palette.rng.uniform(-0.5, 0.5) * w
    end = [x + rng.choice([-1, 1]) * w, 0.012, rng.uniform(0.03, 0.2)]
    plates = [box(u - 0.04, u + 0.04, y - 0.04, y + 0.04, 0.014, look) for y in (0.3, rng.uniform(1.0, 1.2))]
    return "".join(plates) + cord(palette, [u, 0.3, 0.02], [u, 0.012, 0.05]) + cord(palette, [u, 0.012, 0.05], end)


def crate(palette: Palette, x: float, w: float, deepest: float) -> str:
    """A box on the floor, at times with another on it."""
    rng, depth, top = palette.rng, palette.rng.uniform(0.6, 0.95) * deepest, palette.rng.uniform(0.2, 0.6)
    parts = [box(x - w, x + w, 0, top, depth, printed(palette) if rng.random() < 0.5 else palette.look())]
    if rng.random() < 0.4:
        half = rng.uniform(0.5, 0.9) * w
        parts.append(box(x - half, x + half, top, top + rng.uniform(0.1, 0.4), 0.85 * depth, palette.look(), back=0.02))
    return "".join(parts)


def pillar(palette: Palette, x: float, w: float, deepest: float) -> str:
    """Half a column, up to any ceiling and beyond."""
    return box(x - w, x + w, 0, 3.5, min(deepest, palette.rng.uniform(0.1, 0.25)), quiet(palette))


def extinguisher(palette: Palette, x: float, _w: float, _deepest: float) -> str:
    """A bottle on the wall under a sign."""
    red = palette.colour((0.7, 1.0), (0.5, 1.0)) if palette.rng.random() < 0.2 else "0.75 0.08 0.06 1"
    bottle = geom("capsule", [0.07, 0.18], [x, 0.9, 0.09], f'rgba="{red}"', 'euler="90 0 0"')
    return bottle + box(x - 0.08, x + 0.08, 1.4, 1.56, 0.012, printed(palette))


def cord(palette: Palette, start: Numbers, end: Numbers) -> str:
    """A straight piece of cable."""
    dark = palette.colour((0, 0.3), (0.05, 0.4))
    return f'<geom type="capsule" fromto="{numbers([*start, *end])}" size="0.006" rgba="{dark}"/>'


def things(
    palette: Palette, left: float, right: float, y: float, above: float, depths: tuple[float, float], dense: float
) -> str:
    """Books, jars and balls in a row on a board at height y, up to `above` tall, between two depths."""
    rng, parts, x = palette.rng, [], left + palette.rng.uniform(0.0, 0.1)
    near, far = depths
    while x < right - 0.06:
        half = min(rng.uniform(0.025, 0.1), (right - x) / 2 - 0.004, 0.49 * (far - near))
        tall = rng.uniform(0.35, 1.0) * above
        z = rng.uniform(near + half, far - half)
        kind = rng.choice(["book", "jar", "ball"], p=[0.65, 0.25, 0.1]) if rng.random() < dense else ""
        look = palette.look(textured=0.12) if kind else ""
        if kind == "book":
            parts.append(box(x, x + 2 * half, y, y + tall, rng.uniform(z + 0.5 * half, far), look, back=near))
        elif kind == "jar":
            parts.append(geom("cylinder", [half, tall / 3], [x + half, y + tall / 3, z], look, 'euler="90 0 0"'))
        elif kind == "ball":
            parts.append(geom("sphere", [half], [x + half, y + half, z], look))
        x += 2 * half + rng.uniform(0.005, 0.12)
    return "".join(parts)


def lamps(palette: Palette, places: np.ndarray, height: float, strength: float, reach: float) -> str:
    """Lamps at places [n, 2] on the ceiling, and what floor and walls throw back; only the first casts shadows.

    strength  of their light, of which MuJoCo's default is 0.7
    reach     metres at which a lamp lights half as brightly
    """
    rng, parts = palette.rng, []
    warmth = rng.uniform(0, 0.3) * np.array([0, 0.35, 1] if rng.random() < 0.75 else [1, 0.4, 0])
    falls = f'specular="0.1 0.1 0.1" attenuation="1 0 {1 / reach**2:.4f}" castshadow'
    for i, (x, y) in enumerate(places):
        shine = numbers(strength * rng.uniform(0.7, 1.2) * (1 - warmth))
        beam = 'cutoff="72" exponent="1.2"' if i == 0 else 'cutoff="180"'
        lamp = f'<light pos="{numbers([x, y, height - 0.15])}" dir="0 0 -1" {beam} diffuse="{shine}"'
        parts.append(f'{lamp} {falls}="{"true" if i == 0 else "false"}"/>')
        thick = 0.02 + 0.003 * i
        parts.append(geom("box", [*rng.uniform(0.08, 0.35, 2), thick], [x, y, height - thick], window(palette)))
    place, shine = [*places.mean(axis=0), 0.3], numbers(strength * rng.uniform(0.3, 0.5) * (1 - warmth))
    parts.append(f'<light pos="{numbers(place)}" cutoff="180" diffuse="{shine}" {falls}="false"/>')
    return "".join(parts)


DOOR = Piece(door, 0.34, (0.38, 0.5))
CASEMENT = Piece(casement, 0.08, (0.4, 0.9))
FLAT = (Piece(picture, 0.12, (0.15, 0.4)), Piece(notice_board, 0.1, (0.3, 0.6)))  # at a corridor's ends too
IN_A_ROOM = (
    Piece(cupboard, 0.24, (0.3, 0.75)),
    Piece(shelves, 0.16, (0.35, 0.6)),
    Piece(picture, 0.14, (0.15, 0.5)),
    Piece(desk, 0.1, (0.45, 0.7)),
    Piece(sofa, 0.08, (0.6, 0.95)),
    Piece(crate, 0.08, (0.12, 0.3)),
    CASEMENT,
    Piece(socket, 0.06, (0.08, 0.2)),
    Piece(door, 0.02, (0.38, 0.48)),
)
IN_A_CORRIDOR = (
    DOOR,
    *FLAT,
    Piece(crate, 0.12, (0.1, 0.35)),
    Piece(socket, 0.08, (0.1, 0.5)),
    Piece(pillar, 0.08, (0.08, 0.15)),
    Piece(extinguisher, 0.06, (0.1, 0.15)),
    Piece(cupboard, 0.06, (0.25, 0.5)),
    Piece(casement, 0.04, (0.4, 0.8)),
)
