"""What a robot does at a table: reach, push, pick and place, stack, or wait. Each as stations of its hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from cosmos_ros.training.robots.teleoperation import Station
from cosmos_ros.training.scenes.household import Thing

LOWEST = 0.012  # metres above the table that a tip goes at most down to
TASKS = ("pick", "stack", "push", "reach", "rest")


@dataclass
class Lying:
    """A thing and where it is by now: middle of its foot [3] metres, and its turn about the vertical, radians."""

    thing: Thing
    foot: np.ndarray
    yaw: float


@dataclass(frozen=True)
class Bench:
    """Where the work is done.

    things        that the hand may take or push
    reach         nearest and farthest place from the robot's base, metres
    sector        of directions from the base, half its angle, radians
    above         height at which the hand travels, metres
    highest       at which it works, metres
    lean          of the hand outwards, radians
    gripper_span  between the open fingers, metres
    """

    things: list[Lying]
    reach: tuple[float, float]
    sector: float
    above: float
    highest: float
    lean: float
    gripper_span: float

    def copy(self) -> Bench:
        """On which work changes nothing here."""
        return replace(self, things=[replace(lying, foot=lying.foot.copy()) for lying in self.things])

    def spot(self, rng: np.random.Generator) -> np.ndarray:
        """Somewhere on the table, [2]."""
        angle, reach = rng.uniform(-self.sector, self.sector), rng.uniform(*self.reach)
        return reach * np.array([np.cos(angle), np.sin(angle)])

    def free_spot(self, rng: np.random.Generator, but: int, clearance: float) -> np.ndarray:
        """Likewise, away from all things but one, if there is such a place."""
        others = [lying.foot[:2] for i, lying in enumerate(self.things) if i != but]
        for _ in range(30):
            spot = self.spot(rng)
            if all(np.linalg.norm(spot - other) > clearance for other in others):
                break
        return spot

    def opening(self, thing: Thing) -> float:
        """Of fingers that hold it."""
        return float(np.clip(2 * thing.half_width / self.gripper_span, 0.0, 1.0))


def work(bench: Bench, task: str, rng: np.random.Generator) -> Iterator[Station]:
    """Stations without end: mostly of one task, with others between."""
    jobs: dict[str, Callable[[Bench, np.random.Generator], Iterator[Station]]] = {
        "pick": pick, "stack": stack, "push": push, "reach": reach, "rest": rest,
    }  # fmt: skip
    yield at(bench, bench.spot(rng), bench.above * rng.uniform(0.7, 1.5), rng, pause_s=rng.uniform(0, 0.4))
    while True:
        yield from jobs[task if rng.random() < 0.8 else str(rng.choice(TASKS))](bench, rng)


def at(bench: Bench, spot: np.ndarray, height: float, rng: np.random.Generator, pause_s: float = 0) -> Station:
    """A hand in the air, turned and tilted as it happens."""
    grip = rng.choice([0.0, 1.0], p=[0.4, 0.6])
    return Station(
        np.array([*spot, min(height, bench.highest)]),
        bench.lean + rng.uniform(-0.1, 0.4),
        rng.uniform(-0.5, 0.5),
        float(grip),
        pause_s=pause_s,
    )


def reach(bench: Bench, rng: np.random.Generator) -> Iterator[Station]:
    """Over to some place or thing, low or high, a moment there, and on."""
    thing = bench.things[int(rng.integers(len(bench.things)))]
    over = thing.foot[:2] if rng.random() < 0.5 else bench.spot(rng)
    height = thing.foot[2] + thing.thing.height + rng.uniform(0.2, 1.6) * bench.above
    yield at(bench, over, height, rng, pause_s=rng.choice([0.0, rng.uniform(0.1, 0.8)]))


def rest(bench: Bench, rng: np.random.Generator) -> Iterator[Station]:
    """Nothing to speak of, for some seconds, about one place."""
    spot, height = bench.spot(rng), bench.above * rng.uniform(0.6, 1.8)
    first = at(bench, spot, height, rng)
    for _ in range(int(rng.integers(2, 6))):
        tip = first.tip + 0.15 * bench.above * rng.standard_normal(3)
        yield Station(tip, first.tilt, first.yaw, first.opening, pause_s=rng.uniform(0.3, 2.0))


def push(bench: Bench, rng: np.random.Generator) -> Iterator[Station]:
    """Closed fingers down behind a thing, a shove, and up again."""
    lying = bench.things[int(rng.integers(len(bench.things)))]
    angle = rng.uniform(0, 2 * np.pi)
    way = np.array([np.cos(angle), np.sin(angle)])
    # Towards where there is room: not out of reach, not into the base.
    if not bench.reach[0] < np.linalg.norm(lying.foot[:2] + 0.1 * way) < bench.reach[1]:
        way = -way
    behind = lying.thing.half_width * 1.5 + 0.25 * bench.gripper_span + 0.015
    begin, end = lying.foot[:2] - way * behind, lying.foot[:2] + way * bench.reach[1] * rng.uniform(0.05, 0.3)
    low = lying.foot[2] + max(LOWEST, lying.thing.height * rng.uniform(0.25, 0.6))
    tilt, yaw = bench.lean + rng.uniform(0, 0.3), rng.uniform(-0.5, 0.5)

    def there(spot: np.ndarray, height: float, pause_s: float = 0.0) -> Station:
        return Station(np.array([*spot, height]), tilt, yaw, 0.0, pause_s=pause_s)

    yield there(begin, low + bench.above)
    yield there(begin, low, rng.uniform(0, 0.4))
    yield there(end, low, rng.uniform(0, 0.5))
    yield there(end, low + bench.above * rng.uniform(0.5, 1.2))
    lying.foot[:2] = end + way * behind


def pick(bench: Bench, rng: np.random.Generator) -> Iterator[Station]:
    """A thing is lifted and set down elsewhere."""
    i = int(rng.integers(len(bench.things)))
    lying = bench.things[i]
    goal = bench.free_spot(rng, i, 2.5 * lying.thing.half_width + bench.gripper_span)
    yield from transfer(bench, i, np.array([*goal, 0.0]), rng)


def stack(bench: Bench, rng: np.random.Generator) -> Iterator[Station]:
    """A thing is set on another one."""
    if len(bench.things) < 2:
        yield from pick(bench, rng)
        return
    i, under = (int(k) for k in rng.choice(len(bench.things), 2, replace=False))
    below = bench.things[under]
    if below.thing.height > 0.6 * bench.above + 0.05:  # nobody stacks on a bottle
        yield from pick(bench, rng)
        return
    yield from transfer(bench, i, below.foot + [0, 0, below.thing.height + 0.002], rng)


def transfer(bench: Bench, i: int, goal: np.ndarray, rng: np.random.Generator) -> Iterator[Station]:
    """Thing i to where its foot is to stand, with a look, a correction or a failed grasp between."""
    lying = bench.things[i]
    thing, source = lying.thing, lying.foot.copy()
    grip_height = max(LOWEST, thing.height * rng.uniform(0.5, 0.75))
    azimuth = np.arctan2(source[1], source[0])
    yaw = (azimuth - lying.yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4  # the fingers along its faces
    tilt, closed = bench.lean + rng.uniform(0, 0.2), bench.opening(thing)
    ajar = min(1.0, closed + rng.uniform(0.3, 0.6))
    rise = min(bench.above + thing.height, bench.highest - grip_height)

    def there(
        foot: np.ndarray, up: float, opening: float, held: int = -1, pause_s: float = 0.0, stray: float = 0.0
    ) -> Station:
        tip = foot + [0, 0, grip_height + up] + stray * np.array([*rng.standard_normal(2), 0])
        return Station(tip, tilt, yaw, opening, held, pause_s)

    yield there(source, rise * rng.uniform(0.7, 1.2), ajar, stray=0.15 * bench.above)
    if rng.random() < 0.5:  # not quite there yet: a second look from nearer by
        yield there(source, 0.4 * rise, ajar, pause_s=rng.uniform(0, 0.5), stray=0.1 * bench.above)
    yield there(source, 0.25 * rise, ajar)
    yield there(source, 0.0, ajar, pause_s=rng.uniform(0.05, 0.4))
    yield there(source, 0.0, closed, pause_s=rng.uniform(0.1, 0.4))
    yield there(source, rise, closed, i, pause_s=rng.choice([0.0, rng.uniform(0, 0.6)]))
    if rng.random() < 0.3:
        yield there(0.5 * (source + goal), rise * rng.uniform(0.8, 1.3), closed, i, stray=0.2 * bench.above)
    yield there(goal, rise, closed, i, stray=0.08 * bench.above)
    yield there(goal, 0.0, closed, i, pause_s=rng.uniform(0.05, 0.4))
    yield there(goal, 0.0, ajar, pause_s=rng.uniform(0.1, 0.3))
    yield there(goal, rise * rng.uniform(0.6, 1.2), ajar)
    lying.yaw += np.arctan2(goal[1], goal[0]) - azimuth
    lying.foot[:] = goal
