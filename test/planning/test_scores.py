"""Costs against a goal image, by NumPy's and scikit-image's own words; which goal is best, and how surely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from cosmos_ros.errors import InvalidGoal
from cosmos_ros.planning import Cost, compare, score
from cosmos_ros.rollout import Crop

RNG = np.random.default_rng(3)


@dataclass
class Frames:
    """As much of a rollout as a score looks at."""

    frames: np.ndarray


def noisy(goal: np.ndarray, level: float, n: int = 4) -> Frames:
    frames = goal + RNG.normal(0, level, (n, *goal.shape))
    return Frames(np.clip(frames, 0, 255).astype(np.uint8))


@pytest.fixture
def goal() -> np.ndarray:
    return RNG.integers(0, 256, (32, 48, 3), dtype=np.uint8)


def test_the_pixel_cost_is_the_root_mean_square_error(goal):
    rollouts = [noisy(goal, 20), noisy(goal, 40)]
    cost = score(rollouts, goal, quantiles=(0.0, 0.5, 1.0))
    expected = [[np.sqrt(np.mean((f.astype(float) - goal) ** 2)) for f in r.frames] for r in rollouts]
    assert np.allclose(cost.costs, expected, rtol=1e-5)
    assert np.allclose(cost.mean, np.mean(expected, axis=0), rtol=1e-5)
    assert np.allclose(cost.quantiles, [np.min(expected, 0), np.mean(expected, 0), np.max(expected, 0)], rtol=1e-5)
    assert cost.total == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_structural_cost_falls_with_similarity(goal):
    cost = score([Frames(np.stack([goal, noisy(goal, 60, 1).frames[0]]))], goal, metric="structural")
    assert cost.costs[0, 0] == pytest.approx(0, abs=1e-9) and 0.1 < cost.costs[0, 1] < 1
    grey = structural_similarity(goal[..., 1], goal[..., 1], data_range=255)
    assert grey == pytest.approx(1)


def test_a_region_counts_alone(goal):
    frames = np.stack([goal, goal])
    frames[1, :16] = 255 - frames[1, :16]
    rollouts = [Frames(frames)]
    assert score(rollouts, goal, region=Crop(0, 16, 48, 16)).costs.tolist() == [[0.0, 0.0]]
    assert score(rollouts, goal, region=Crop(0, 0, 48, 16)).costs[0, 1] > 50


def cell_means(frames: np.ndarray) -> np.ndarray:
    """Codes as a tokenizer might give them: [n, 3, 4, 6] mean colours of 8x8 pixels."""
    n, height, width, _ = frames.shape
    cells = frames.reshape(n, height // 8, 8, width // 8, 8, 3).mean(axis=(2, 4))
    return np.moveaxis(cells / 127.5 - 1, -1, 1).astype(np.float32)


def test_the_latent_cost_is_the_distance_of_codes_in_the_cells_that_the_region_touches(goal):
    frames = np.stack([goal, goal])
    frames[1, :16] = 255 - frames[1, :16]
    rollouts = [Frames(frames)]

    def latent(region=None):
        return score(rollouts, goal, metric="latent", codes=cell_means, region=region).costs[0]

    here, there = cell_means(frames)[1], cell_means(goal[None])[0]
    assert latent().tolist() == [0.0, pytest.approx(np.sqrt(np.mean((here - there) ** 2)))]
    assert latent(Crop(0, 16, 48, 16)).tolist() == [0.0, 0.0]
    touched = np.sqrt(np.mean((here - there)[:, 1:3, 2:4] ** 2))  # rows 15..27 and columns 17..30 of pixels
    assert latent(Crop(17, 15, 13, 12))[1] == pytest.approx(np.sqrt(np.mean((here - there)[:, 1:4, 2:4] ** 2)))
    assert latent(Crop(17, 12, 13, 12))[1] == pytest.approx(touched)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "beauty"}, "metric must be one of pixel, structural, latent; got 'beauty'"),
        ({"metric": "latent"}, "the metric latent needs the model"),
        ({"quantiles": (0.5, 1.5)}, "quantiles must lie in 0..1"),
        ({"quantiles": (float("nan"),)}, "quantiles must lie in 0..1"),
        ({"region": Crop(40, 0, 20, 20)}, "must lie in the 48x32 pixels"),
        ({"region": Crop(-1, 0, 20, 20)}, "must lie in"),
        ({"region": Crop(0, 0, 5, 20)}, "at least 11 pixels"),
    ],
)
def test_what_does_not_fit_is_said(goal, changes, words):
    with pytest.raises(InvalidGoal, match=words):
        score([noisy(goal, 1)], goal, **changes)


def test_images_of_another_size_and_no_rollouts_are_refused(goal):
    with pytest.raises(InvalidGoal, match="the goal image is 48x31, the predicted frames are 48x32"):
        score([noisy(goal, 1)], goal[1:])
    with pytest.raises(InvalidGoal, match=r"the goal image is \[32, 48\], the predicted frames are 48x32"):
        score([noisy(goal, 1)], goal[..., 0])
    with pytest.raises(InvalidGoal, match="no rollout"):
        score([], goal)
    with pytest.raises(InvalidGoal, match="same number"):
        score([noisy(goal, 1), noisy(goal, 1, n=5)], goal)


def test_goals_of_different_lengths_cannot_be_compared(goal):
    short, long = score([noisy(goal, 1, n=8)], goal), score([noisy(goal, 1, n=24)], goal)
    with pytest.raises(InvalidGoal, match="goals of 8 and 24 frames cannot be compared"):
        compare([long, short])
    for others in ([], [long, score([noisy(goal, 1, n=24)], goal, metric="structural")]):
        with pytest.raises(InvalidGoal, match="all in the same metric"):
            compare(others)


def costs(*of_samples: float) -> Cost:
    return Cost(np.array(of_samples)[:, None], "pixel")


def test_the_best_goal_and_how_surely():
    assert compare([costs(5.0, 6.0)]) == compare([costs(1.0)]) and compare([costs(1.0)]).confidence == 1.0
    surely = compare([costs(9.0, 8.0), costs(1.0, 2.0), costs(5.0)])
    assert (surely.best, surely.confidence) == (1, 1.0)
    hardly = compare([costs(1.0, 4.0), costs(2.0, 5.0)])
    assert (hardly.best, hardly.confidence) == (0, 0.75)
    tie = compare([costs(3.0), costs(3.0)])
    assert (tie.best, tie.confidence) == (0, 0.5)
