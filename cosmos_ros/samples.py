"""What several rollouts of one clip say together: where they agree, and what they show on average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cosmos_ros.errors import InvalidGoal
from cosmos_ros.rollout import GuardedRollout

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB, by BT.601


def uncertainty(rollouts: Sequence[GuardedRollout]) -> np.ndarray:
    """Standard deviation over the samples of each pixel's grey level: float32 [n, height, width], 0..127.5.

    The population's (divided by their number, not by one less). It is what the model leaves open, not what it gets
    wrong. Raises InvalidGoal for rollouts that are not samples of one clip, or fewer than two.
    """
    _check(rollouts)
    count = len(rollouts)
    mean = np.zeros(rollouts[0].frames.shape[:3], np.float32)
    for rollout in rollouts:
        mean += _grey(rollout) / count
    variance = np.zeros_like(mean)
    for rollout in rollouts:
        variance += (_grey(rollout) - mean) ** 2 / count
    return np.sqrt(variance)


def mean_frames(rollouts: Sequence[GuardedRollout]) -> np.ndarray:
    """The mean over the samples: uint8 [n, height, width, 3] RGB, rounded. Not guarded: Foresight.mean has it judged.

    Raises InvalidGoal as `uncertainty` does.
    """
    _check(rollouts)
    total = np.zeros(rollouts[0].frames.shape, np.uint32)
    for rollout in rollouts:
        total += rollout.frames
    return ((total + len(rollouts) // 2) // len(rollouts)).astype(np.uint8)


def _grey(rollout: GuardedRollout) -> np.ndarray:
    return rollout.frames.astype(np.float32) @ GREY


def _check(rollouts: Sequence[GuardedRollout]) -> None:
    if len(rollouts) < 2:
        raise InvalidGoal(f"one sample says nothing about what is uncertain; got {len(rollouts)}, two are the least")
    kinds = {(r.model, r.prompt, r.conditioning_stamps_ns, r.first_frame, r.crop, r.frames.shape) for r in rollouts}
    if len(kinds) > 1:
        raise InvalidGoal("these rollouts are not samples of one clip: model, prompt, stamps, crop or length differ")
