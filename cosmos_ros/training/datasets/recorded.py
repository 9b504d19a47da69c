"""Bags and videos -> films for training: frames as the live node would pick them, of what the model sees of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.recordings.recording import BadRecording
from cosmos_ros.recordings.windows import Plan, Skipped, WindowMaker
from cosmos_ros.training.sizes import CLIP_FRAMES, CONDITIONING_FRAMES
from cosmos_ros.world_model.preprocessing import camera_view

EVERY = 8  # frames from one film's beginning to the next's
HELD_OUT_OF = 8  # one recording in so many is for validation; of a single one, its end


class BadFootage(Exception):
    """A recording from which nothing can be trained; the message says which, and why."""


def split(recordings: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Recordings to train on and to validate on; never the same, but where there is only one.

    By place in the sorted list, so that the same recordings are always split in the same way.
    """
    in_order = sorted(recordings)
    held_out = in_order[HELD_OUT_OF - 1 :: HELD_OUT_OF] or in_order[-1:]
    if len(in_order) == 1:
        return in_order, in_order
    return [each for each in in_order if each not in held_out], held_out


def films(recording: Path, size: tuple[int, int], frame_rate: float, image_topic: str = "") -> Iterator[np.ndarray]:
    """Windows of 33 frames uint8 [33, *size, 3], each picked by the node's own buffer at the model's frame rate.

    size  (height, width) at which they are kept, of the model's shape

    Raises BadFootage where it cannot be read, has no such topic, or holds no window: it then says what was missing.
    """
    try:
        yield from _films(recording, size, frame_rate, image_topic)
    except BadRecording as error:
        raise BadFootage(str(error)) from error


def _films(recording: Path, size: tuple[int, int], frame_rate: float, image_topic: str) -> Iterator[np.ndarray]:
    source = open_recording(recording)
    plan = Plan(
        frame_rate=frame_rate,
        n_conditioning=CONDITIONING_FRAMES,
        n_future=CLIP_FRAMES - CONDITIONING_FRAMES,
        every_s=EVERY / frame_rate,
        max_age_s=0.0,
    )
    maker, n, why = WindowMaker(str(recording), 0, plan), 0, ""
    for window in maker.windows(source.frames(source.image_topic(image_topic))):
        if isinstance(window, Skipped):
            why = window.message
            continue
        n += 1
        yield _kept(np.concatenate([window.clip.frames, window.truth.frames]), size)
    if not n:
        reason = why or f"it is shorter than {plan.span_s:.1f} s, what {CLIP_FRAMES} frames at {frame_rate:g} Hz take"
        raise BadRecording(f"{recording} gives nothing to train on: {reason}")


def _kept(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the model sees of camera frames, resized."""
    seen = camera_view(frames.shape[1:3], size).of(frames)
    how = cv2.INTER_AREA if seen.shape[1] > size[0] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(np.ascontiguousarray(frame), size[::-1], interpolation=how) for frame in seen])
