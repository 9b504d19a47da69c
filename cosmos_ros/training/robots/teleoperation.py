"""How somebody moves a robot's hand from afar: from place to place, with pauses, corrections and a slight tremor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

KNOTS_HZ = 50.0
SHORTEST_S = 0.35


@dataclass(frozen=True)
class Station:
    """Where the hand goes next.

    tip      of the fingers, metres [3], from the robot's base
    tilt     of the hand from straight down, outwards, radians
    yaw      about the way that the fingers point, radians; at 0 they open across the arm
    opening  of the fingers when it is there, 1 open, 0 closed
    held     which thing it carries on the way there, or -1
    pause_s  how long it stays
    """

    tip: np.ndarray
    tilt: float
    yaw: float
    opening: float
    held: int = -1
    pause_s: float = 0.0


@dataclass(frozen=True)
class Course:
    """The hand at knots, KNOTS_HZ of them a second: tips [n, 3], tool axes [n, 3, 3], openings and held things [n]."""

    tips: np.ndarray
    axes: np.ndarray
    openings: np.ndarray
    held: np.ndarray


def tool_axes(tip: np.ndarray, tilt: float, yaw: float) -> np.ndarray:
    """[3, 3] axes as columns of a tool that points down, tilted outwards: z where it points, y along which it opens."""
    out = np.array([*tip[:2], 0.0]) / max(np.hypot(tip[0], tip[1]), 1e-6)
    along = np.sin(tilt) * out - np.cos(tilt) * np.array([0, 0, 1.0])
    across = np.cross([0, 0, 1.0], out)
    opening = np.cos(yaw) * across + np.sin(yaw) * np.cross(along, across)
    return np.stack([np.cross(opening, along), opening, along], axis=1)


def drive(stations: Iterable[Station], seconds: float, speed: float, rng: np.random.Generator, tremor: float) -> Course:
    """The course through the stations, which begins at the first of them; it ends after `seconds`, at rest if need be.

    speed   of the tip, m/s
    tremor  how far the hand strays, metres
    """
    places, grips, holds = [], [], []
    n_wanted, before = round(seconds * KNOTS_HZ), None
    for station in stations:
        place = np.array([*station.tip, station.tilt, station.yaw])
        if before is not None:
            start, opening = before
            way = place - start
            took = max(
                SHORTEST_S, np.linalg.norm(way[:3]) / (speed * rng.uniform(0.7, 1.3)), np.abs(way[3:]).max() / 1.2
            )
            done = eased(np.linspace(0, 1, max(2, round(took * KNOTS_HZ)))[1:, None])
            places.append(start + done * way)
            grips.append(opening + done[:, 0] * (station.opening - opening))
            holds.append(np.full(len(done), station.held))
        rest = round(station.pause_s * KNOTS_HZ) + 1
        places.append(np.repeat(place[None], rest, 0))
        grips.append(np.full(rest, station.opening))
        holds.append(np.full(rest, station.held))
        before = place, station.opening
        if sum(map(len, places)) >= n_wanted:
            break
    way, grip, held = np.concatenate(places), np.concatenate(grips), np.concatenate(holds)
    if (missing := n_wanted - len(way)) > 0:
        way, grip, held = (np.concatenate([a, np.repeat(a[-1:], missing, 0)]) for a in (way, grip, held))
    way, grip, held = way[:n_wanted], grip[:n_wanted], held[:n_wanted]
    # No hand turns a corner sharply.
    way = gaussian_filter1d(way, rng.uniform(0.03, 0.1) * KNOTS_HZ, axis=0, mode="nearest")
    way[:, :3] += tremor * swaying(len(way), rng)
    axes = np.array([tool_axes(place[:3], place[3], place[4]) for place in way])
    return Course(way[:, :3], axes, grip, held)


def eased(done: np.ndarray) -> np.ndarray:
    """Shares of a way, so that it begins and ends at rest and jerks least."""
    return done**3 * (done * (6 * done - 15) + 10)


def swaying(n: int, rng: np.random.Generator) -> np.ndarray:
    """[n, 3] slow noise of about unit size."""
    noise = gaussian_filter1d(rng.standard_normal((n, 3)), 0.25 * KNOTS_HZ, axis=0, mode="nearest")
    return noise / max(noise.std(), 1e-9)
