"""What futures cost against a goal image, and which of several goals' futures is best, and how surely.

The samples of one goal are chance, not choice: what a planner compares are goals that differ in what it can choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cosmos_ros.errors import InvalidGoal
from cosmos_ros.metrics.fidelity import ssim
from cosmos_ros.rollout import Crop, GuardedRollout

QUANTILES = (0.1, 0.5, 0.9)


UNITS = {
    "pixel": "root mean square error over RGB, levels of 255",
    "structural": "1 - SSIM of the luma",
    "latent": "root mean square difference of the tokenizer's codes, which lie in -1..1",
}
METRICS = tuple(UNITS)
Codes = Callable[[np.ndarray], np.ndarray]
SMALLEST_SIDE = 11  # pixels, of a region: the window of SSIM


@dataclass(frozen=True)
class Cost:
    """What the samples of one goal cost, frame by frame: float64 [samples, frames]; lower is better."""

    costs: np.ndarray
    metric: str
    quantiles_asked: tuple[float, ...] = QUANTILES

    @property
    def total(self) -> float:
        """Mean over horizon and samples."""
        return float(self.costs.mean())

    @property
    def mean(self) -> np.ndarray:
        """[frames], over the samples."""
        return self.costs.mean(axis=0)

    @property
    def quantiles(self) -> np.ndarray:
        """[quantiles, frames], over the samples."""
        return np.quantile(self.costs, self.quantiles_asked, axis=0)

    @property
    def of_samples(self) -> np.ndarray:
        """[samples], over the horizon."""
        return self.costs.mean(axis=1)


@dataclass(frozen=True)
class Comparison:
    """best: index of the lowest total. confidence: see `compare`."""

    best: int
    confidence: float


def score(
    rollouts: Sequence[GuardedRollout],
    goal_image: np.ndarray,
    *,
    region: Crop | None = None,
    metric: str = "pixel",
    quantiles: Sequence[float] = QUANTILES,
    codes: Codes | None = None,
) -> Cost:
    """What the samples of one goal cost against an image that the camera should see.

    goal_image  uint8 [H, W, 3] RGB, of the size of the rollouts' frames
    region      of goal_image, the part that counts; None: all of it
    metric      a name of METRICS
    codes       `Foresight.codes`, for the metric "latent"

    Raises InvalidGoal for what does not fit together, and what `codes` raises.
    """
    if metric not in METRICS:
        raise InvalidGoal(f"metric must be one of {', '.join(METRICS)}; got '{metric}'")
    if not rollouts:
        raise InvalidGoal("there is no rollout to score")
    if not len(quantiles) or not all(0 <= quantile <= 1 for quantile in quantiles):
        raise InvalidGoal(f"quantiles must lie in 0..1; got {list(quantiles)}")
    shape = rollouts[0].frames.shape
    if any(rollout.frames.shape != shape for rollout in rollouts) or goal_image.dtype != np.uint8:
        raise InvalidGoal("the rollouts must have the same number and size of frames, and the image must be uint8")
    if goal_image.shape != shape[1:]:
        theirs = "x".join(map(str, goal_image.shape[1::-1])) if goal_image.ndim == 3 else list(goal_image.shape)
        raise InvalidGoal(f"the goal image is {theirs}, the predicted frames are {shape[2]}x{shape[1]}")
    part = region or Crop(0, 0, shape[2], shape[1])
    _check_region(part, shape[1], shape[2])
    if metric != "latent":
        each = partial(_PIXEL_METRICS[metric], part.of(goal_image), part)
    elif codes is None:
        raise InvalidGoal("the metric latent needs the model: give `codes`, a Foresight's method")
    else:
        each = partial(_latent, goal_image, part, codes)
    costs = np.array([each(rollout.frames) for rollout in rollouts])
    return Cost(costs, metric, tuple(quantiles))


def compare(costs: Sequence[Cost]) -> Comparison:
    """Which goal is best, and how surely: the least share, over the others, of pairings of samples that it wins.

    A pairing sets one sample of the best goal against one of another goal by their cost over the horizon; a tie counts
    half. One goal alone is best for sure.

    Raises InvalidGoal for no cost at all, and for several metrics or lengths of horizons, whose means say nothing of
    each other.
    """
    if len({cost.metric for cost in costs}) != 1:
        raise InvalidGoal("costs to compare must be there, and all in the same metric")
    if len(lengths := {cost.costs.shape[1] for cost in costs}) > 1:
        raise InvalidGoal(
            f"goals of {' and '.join(map(str, sorted(lengths)))} frames cannot be compared: ask for goals of one "
            "length, or score each by itself"
        )
    best = min(range(len(costs)), key=lambda i: costs[i].total)
    ours = costs[best].of_samples[:, None]
    wins = [
        float(np.mean((ours < other.of_samples) + 0.5 * (ours == other.of_samples)))
        for i, other in enumerate(costs)
        if i != best
    ]
    return Comparison(best, min(wins, default=1.0))


def _pixel(goal: np.ndarray, region: Crop, frames: np.ndarray) -> list[float]:
    errors = region.of(frames).astype(np.float32) - goal
    return [float(np.sqrt(np.mean(error**2))) for error in errors]


def _structural(goal: np.ndarray, region: Crop, frames: np.ndarray) -> list[float]:
    seen = region.of(frames)
    return [1 - value for value in ssim(seen, np.broadcast_to(goal, seen.shape))]


_PIXEL_METRICS = {"pixel": _pixel, "structural": _structural}


def _latent(goal: np.ndarray, region: Crop, codes: Codes, frames: np.ndarray) -> list[float]:
    """The whole images are encoded, since a code also sees what surrounds it; those that touch the region count."""
    here, there = codes(frames), codes(goal[None])
    cells = _cells(region, goal.shape[:2], here.shape[2:])
    return [float(each) for each in np.sqrt(((here - there)[(..., *cells)] ** 2).mean(axis=(1, 2, 3)))]


def _cells(region: Crop, image: tuple[int, ...], grid: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and columns of a grid over an image, (height, width) each, that a region touches."""
    ends = (region.y, region.y + region.height), (region.x, region.x + region.width)
    rows, columns = (
        slice(first * cells // pixels, -(-last * cells // pixels))
        for (first, last), cells, pixels in zip(ends, grid, image, strict=True)
    )
    return rows, columns


def _check_region(region: Crop, height: int, width: int) -> None:
    inside = region.x >= 0 and region.y >= 0 and region.x + region.width <= width and region.y + region.height <= height
    if not inside or min(region.width, region.height) < SMALLEST_SIDE:
        raise InvalidGoal(
            f"the region {region.width}x{region.height} at ({region.x}, {region.y}) must lie in the {width}x{height} "
            f"pixels that the model sees, and be at least {SMALLEST_SIDE} pixels wide and high"
        )
