"""Stretches of one prediction, each of which has left through a screening of its own, as one rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from cosmos_ros.errors import InvalidGoal
from cosmos_ros.guardrail.screening import joined_frames
from cosmos_ros.guardrail_report import merged
from cosmos_ros.progress import summed
from cosmos_ros.rollout import _GUARDRAIL_SEAL, GuardedRollout


def joined(stretches: Sequence[GuardedRollout]) -> GuardedRollout:
    """The stretches of one sample, in order, as one rollout: no pixel is made or changed.

    Raises TypeError for anything but guarded rollouts, InvalidGoal for those that do not follow each other.
    """
    if not all(isinstance(stretch, GuardedRollout) for stretch in stretches):
        raise TypeError("only guarded rollouts can be joined")
    if len(stretches) == 1:
        return stretches[0]
    first = stretches[0]
    lengths = [len(stretch.frames) for stretch in stretches]
    begins = [first.first_frame + before for before in accumulate(lengths[:-1], initial=0)]
    if [stretch.first_frame for stretch in stretches] != begins or len({_origin(each) for each in stretches}) > 1:
        raise InvalidGoal("these rollouts are not the stretches of one prediction, in order")
    return GuardedRollout(
        frames=joined_frames([stretch.frames for stretch in stretches]),
        stamps_ns=tuple(stamp for stretch in stretches for stamp in stretch.stamps_ns),
        conditioning_stamps_ns=first.conditioning_stamps_ns,
        frame_rate=first.frame_rate,
        crop=first.crop,
        model=first.model,
        prompt=first.prompt,
        seed=first.seed,
        sample=first.sample,
        decoding=replace(first.decoding, passes=sum(stretch.decoding.passes for stretch in stretches)),
        first_frame=first.first_frame,
        seams=tuple(
            begin - begins[0] + seam for begin, each in zip(begins, stretches, strict=True) for seam in each.seams
        ),
        guardrail=merged([stretch.guardrail for stretch in stretches]),
        timing=summed([time for stretch in stretches for time in stretch.timing]),
        seal=_GUARDRAIL_SEAL,
    )


def _origin(rollout: GuardedRollout) -> tuple:
    """What the stretches of one prediction have in common."""
    return (
        rollout.model,
        rollout.prompt,
        rollout.seed,
        rollout.sample,
        rollout.conditioning_stamps_ns,
        rollout.frame_rate,
        rollout.crop,
        rollout.frames.shape[1:],
    )
