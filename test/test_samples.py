"""What several samples say together, against NumPy; and the mean, which passes the guards again or does not leave."""

from __future__ import annotations

import numpy as np
import pytest

from cosmos_ros import Clip, Foresight
from cosmos_ros.errors import GuardrailUnavailable, InvalidGoal
from cosmos_ros.rollout import NANOSECONDS
from cosmos_ros.samples import mean_frames, uncertainty

RATE = 10.0


@pytest.fixture(scope="module")
def foresight(tiny_checkpoint) -> Foresight:
    return Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})


def clip(seed: int = 7) -> Clip:
    frames = np.random.default_rng(seed).integers(0, 256, (9, 48, 64, 3), dtype=np.uint8)
    return Clip(frames, tuple(NANOSECONDS + round(k * NANOSECONDS / RATE) for k in range(9)), RATE, "camera")


@pytest.fixture(scope="module")
def rollouts(foresight):
    return foresight.predict_samples(clip(), 3, seed=1, temperature=1.0, top_p=1.0)


def test_the_uncertainty_is_the_spread_of_the_grey_levels(rollouts):
    grey = np.stack([rollout.frames @ np.array([0.299, 0.587, 0.114]) for rollout in rollouts])
    spread = uncertainty(rollouts)
    assert spread.dtype == np.float32 and spread.shape == rollouts[0].frames.shape[:3]
    assert np.allclose(spread, grey.std(axis=0), atol=1e-3)
    assert 0 < spread.max() <= 127.5


def test_samples_that_agree_leave_nothing_open(rollouts):
    assert np.allclose(uncertainty([rollouts[0], rollouts[0]]), 0, atol=1e-4)


def test_the_mean_of_the_frames_is_rounded(rollouts):
    frames = mean_frames(rollouts)
    assert frames.dtype == np.uint8
    assert np.abs(frames - np.stack([r.frames for r in rollouts]).mean(axis=0)).max() <= 0.5 + 1e-6


def test_one_sample_and_samples_of_two_clips_are_refused(foresight, rollouts):
    other = foresight.predict(clip(seed=8), seed=1).frames
    assert other.shape == rollouts[0].frames.shape
    shorter = foresight.predict(clip(), seed=1, frames=8)
    for together, words in (([], "one sample"), (rollouts[:1], "one sample"), ([rollouts[0], shorter], "not samples")):
        for of in (uncertainty, mean_frames, foresight.mean):
            with pytest.raises(InvalidGoal, match=words):
                of(together)


def test_the_mean_is_a_guarded_rollout_of_its_own(foresight, rollouts):
    mean = foresight.mean(rollouts)
    first = rollouts[0]
    assert mean.model == "tiny (mean of 3 samples)"
    assert (mean.stamps_ns, mean.conditioning_stamps_ns) == (first.stamps_ns, first.conditioning_stamps_ns)
    assert (mean.crop, mean.seed, mean.frames.shape) == (first.crop, first.seed, first.frames.shape)
    assert np.array_equal(mean.frames, mean_frames(rollouts))
    assert mean.guardrail.profile == "embedded" and mean.guardrail.decisions


def test_a_mean_whose_guard_fails_does_not_leave(foresight, rollouts, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("of all things")

    (guard,) = foresight.guardrail.guards.content
    monkeypatch.setattr(guard, "judge", fail)
    with pytest.raises(GuardrailUnavailable, match="of all things"):
        foresight.mean(rollouts)
