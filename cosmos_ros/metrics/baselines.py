"""What a prediction is held against. All frames are uint8 [n, H, W, 3] RGB."""

from __future__ import annotations

import cv2
import numpy as np

from cosmos_ros.metrics.fidelity import dense_flow, warped


def repeat_last(clip_frames: np.ndarray, n: int) -> np.ndarray:
    """The floor: nothing moves any more."""
    return np.repeat(clip_frames[-1:], n, axis=0)


def constant_flow(clip_frames: np.ndarray, n: int) -> np.ndarray:
    """Everything goes on as between the last two frames: the last frame, warped by k times that motion.

    A single frame shows no motion: then nothing moves.
    """
    if len(clip_frames) < 2:
        return repeat_last(clip_frames, n)
    before, last = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip_frames[-2:])
    back = dense_flow(last, before)  # where each pixel of the last frame came from
    return np.stack([warped(clip_frames[-1], k * back) for k in range(1, n + 1)])
