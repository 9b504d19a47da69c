"""Pictures of what a trained model predicts, to look at: they show what left through the guardrail, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from cosmos_ros.errors import NotFinite, VideoBlocked
from cosmos_ros.files import write_whole
from cosmos_ros.foresight import Foresight, ForesightConfig
from cosmos_ros.rollout import NANOSECONDS, Clip, GuardedRollout

EVERY = 4  # frames from column to column
PICTURES = 6  # at most
SEED = 0
Refused = VideoBlocked | NotFinite


def true_clips(clips: Tensor, frame_rate: float) -> list[Clip]:
    """Clips uint8 [N, n, H, W, 3] of a film, as a camera's at this rate in Hz."""
    stamps_ns = tuple(round(k * NANOSECONDS / frame_rate) for k in range(clips.shape[1]))
    return [Clip(frames, stamps_ns, frame_rate) for frames in clips.cpu().numpy()]


def write_pictures(checkpoint: Path, clips: Sequence[Clip], folder: Path, device: str) -> None:
    """A PNG per clip, of the first few: the truth, its way through the tokenizer and back, and the rollout.

    clips  of a whole chunk each, the conditioning frames first

    A row that the guardrail refused is black, and says why. Raises GuardrailUnavailable, ModelUnavailable, OutOfMemory,
    OSError where the disk refuses.
    """
    foresight = Foresight(ForesightConfig(checkpoint=str(checkpoint), device=device, dtype="float32"))
    n = max(foresight.spec.conditioning_lengths)
    for i, clip in enumerate(clips[:PICTURES]):
        seen = Clip(clip.frames[:n], clip.stamps_ns[:n], clip.frame_rate)
        round_trip = _unless_refused(partial(foresight.reconstruct, clip))
        rollout = _unless_refused(partial(foresight.predict, seen, seed=SEED))
        write_picture(folder / f"clip{i:02d}.png", clip, n, [round_trip, rollout])


def write_picture(path: Path, truth: Clip, n_seen: int, below: Sequence[GuardedRollout | Refused]) -> None:
    """The true frames after the first n, and below them what was made of these; each row ends with the same frame."""
    top = _row(truth.frames[n_seen:])
    rows = [
        _refusal(row, top) if isinstance(row, Refused) else _row(_guarded(row)[n_seen - len(truth.frames) :])
        for row in below
    ]
    picture = cv2.cvtColor(np.concatenate([top, *rows]), cv2.COLOR_RGB2BGR)
    write_whole(path, cv2.imencode(".png", picture)[1].tobytes())


def _unless_refused(make: Callable[[], GuardedRollout]) -> GuardedRollout | Refused:
    try:
        return make()
    except (VideoBlocked, NotFinite) as refusal:
        return refusal


def _guarded(rollout: GuardedRollout) -> np.ndarray:
    if not isinstance(rollout, GuardedRollout):
        raise TypeError(f"only a GuardedRollout may be shown, from Foresight; got {type(rollout).__name__}")
    return rollout.frames


def _row(frames: np.ndarray) -> np.ndarray:
    """Every few of the frames uint8 [n, H, W, 3], to the last, side by side."""
    return np.concatenate(list(frames[EVERY - 1 :: EVERY]), axis=1)


def _refusal(refusal: Refused, like: np.ndarray) -> np.ndarray:
    """A black row of the same size, with the reason."""
    row = np.zeros_like(like)
    height = row.shape[0]
    cv2.putText(row, str(refusal), (8, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return row
