"""What futures cost against a goal image, and which of several goals' futures is best, and how surely.

The samples of one goal are chance, not choice: what a planner compares are goals that differ in what it can choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cosmos_ros.errors import InvalidGoal
from cosmos_ros.metrics.fidelity import ssim
from cosmos_ros.rollout import Crop, GuardedRollout

QUANTILES = (0.1, 0.5, 0.9)


def _pixel(frames: np.ndarray, goal: np.ndarray) -> list[float]:
    errors = frames.astype(np.float32) - goal
    return [float(np.sqrt(np.mean(error**2))) for error in errors]


def _structural(frames: np.ndarray, goal: np.ndarray) -> list[float]:
    return [1 - value for value in ssim(frames, np.broadcast_to(goal, frames.shape))]


METRICS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], list[float]]]] = {
    "pixel": ("root mean square error over RGB, levels of 255", _pixel),
    "structural": ("1 - SSIM of the luma", _structural),
}
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
) -> Cost:
    """What the samples of one goal cost against an image that the camera should see.

    goal_image  uint8 [H, W, 3] RGB, of the size of the rollouts' frames
    region      of goal_image, the part that counts; None: all of it
    metric      a name of METRICS

    Raises InvalidGoal for what does not fit together.
    """
    if metric not in METRICS:
        raise InvalidGoal(f"metric must be one of {', '.join(METRICS)}; got '{metric}'")
    if not rollouts:
        raise InvalidGoal("there is no rollout to score")
    if not quantiles or not all(0 <= quantile <= 1 for quantile in quantiles):
        raise InvalidGoal(f"quantiles must lie in 0..1; got {list(quantiles)}")
    shape = rollouts[0].frames.shape
    if any(rollout.frames.shape != shape for rollout in rollouts) or goal_image.dtype != np.uint8:
        raise InvalidGoal("the rollouts must have the same number and size of frames, and the image must be uint8")
    if goal_image.shape != shape[1:]:
        raise InvalidGoal(
            f"the goal image is {goal_image.shape[1]}x{goal_image.shape[0]}, the predicted frames are "
            f"{shape[2]}x{shape[1]}"
        )
    part = region or Crop(0, 0, shape[2], shape[1])
    _check_region(part, shape[1], shape[2])
    measure = METRICS[metric][1]
    costs = np.array([measure(part.of(rollout.frames), part.of(goal_image)) for rollout in rollouts])
    return Cost(costs, metric, tuple(quantiles))


def compare(costs: Sequence[Cost]) -> Comparison:
    """Which goal is best, and how surely: the least share, over the others, of pairings of samples that it wins.

    A pairing sets one sample of the best goal against one of another goal by their cost over the horizon; a tie counts
    half. One goal alone is best for sure.
    """
    best = min(range(len(costs)), key=lambda i: costs[i].total)
    ours = costs[best].of_samples[:, None]
    wins = [
        float(np.mean((ours < other.of_samples) + 0.5 * (ours == other.of_samples)))
        for i, other in enumerate(costs)
        if i != best
    ]
    return Comparison(best, min(wins, default=1.0))


def _check_region(region: Crop, height: int, width: int) -> None:
    inside = region.x >= 0 and region.y >= 0 and region.x + region.width <= width and region.y + region.height <= height
    if not inside or min(region.width, region.height) < SMALLEST_SIDE:
        raise InvalidGoal(
            f"the region {region.width}x{region.height} at ({region.x}, {region.y}) must lie in the {width}x{height} "
            f"pixels that the model sees, and be at least {SMALLEST_SIDE} pixels wide and high"
        )
