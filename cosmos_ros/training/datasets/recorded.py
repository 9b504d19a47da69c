"""Bags and videos -> films for training: frames as the live node would pick them, of what the model sees of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.recordings.recording import BadRecording
from cosmos_ros.recordings.windows import Plan, Skipped, Window, WindowMaker
from cosmos_ros.training.sizes import CLIP_FRAMES, CONDITIONING_FRAMES
from cosmos_ros.world_model.preprocessing import camera_view

logger = logging.getLogger(__name__)
EVERY = 8  # frames from one window's beginning to the next's
HELD_OUT_OF = 8  # one recording in so many is for validation; of a single one, its end


class BadFootage(Exception):
    """Recordings from which nothing can be trained; the message says which, and why."""


class Recordings(Dataset):
    """Of each recording its films, or BadFootage in their place: the others are read all the same, so that a user is
    told of all such recordings at once."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], frame_rate: float, image_topic: str = "") -> None:
        self._paths, self._size = paths, size
        self._frame_rate, self._image_topic = frame_rate, image_topic

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, place: int) -> list[Tensor] | BadFootage:
        cv2.setNumThreads(1)
        try:
            some = films(self._paths[place], self._size, self._frame_rate, self._image_topic)
        except BadFootage as error:
            return error
        return [torch.from_numpy(film) for film in some]


def split(recordings: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Recordings to train on and to validate on; never the same, but where there is only one.

    By place in the sorted list, so that the same recordings are always split in the same way.
    """
    in_order = sorted(recordings)
    held_out = in_order[HELD_OUT_OF - 1 :: HELD_OUT_OF] or in_order[-1:]
    if len(in_order) == 1:
        return in_order, in_order
    return [each for each in in_order if each not in held_out], held_out


def split_single(films: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Films of a single recording to train on and to validate on: the future that its end shows is never trained on.

    Raises BadFootage where it is too short for both.
    """
    *others, last = films
    n_future = CLIP_FRAMES - CONDITIONING_FRAMES
    length = max(CLIP_FRAMES, len(last) // HELD_OUT_OF)
    # A film may begin with what the one before ended with, and each film begins later than the one before.
    shared = [CLIP_FRAMES - EVERY * (i + 1) - (len(last) - length) for i in range(len(others))]
    cut = [film[: len(film) - max(0, n)] for film, n in zip(others, reversed(shared), strict=True)]
    others = [film for film in cut if len(film) >= CLIP_FRAMES]
    before = last[: len(last) - length + CONDITIONING_FRAMES]
    if not others and len(before) < CLIP_FRAMES:
        raise BadFootage(
            f"a single recording of {len(last)} frames at the model's rate is too short to keep its end for "
            f"validation: that takes {CLIP_FRAMES + n_future}; give a longer one, or several"
        )
    return [*others, before], [last[-length:]]


def films(recording: Path, size: tuple[int, int], frame_rate: float, image_topic: str = "") -> list[np.ndarray]:
    """Stretches without a gap, uint8 [33 or more, *size, 3], each frame picked by the node's own buffer.

    size  (height, width) at which they are kept, of the model's shape

    What could not be read of it is logged. Raises BadFootage where nothing can be read, there is no such topic, or no
    clip: it then says what was missing.
    """
    try:
        return [np.concatenate(parts) for parts in _films(recording, size, frame_rate, image_topic)]
    except BadRecording as error:
        raise BadFootage(str(error)) from error


def _films(recording: Path, size: tuple[int, int], frame_rate: float, image_topic: str) -> list[list[np.ndarray]]:
    source = open_recording(recording)
    plan = Plan(
        frame_rate=frame_rate,
        n_conditioning=CONDITIONING_FRAMES,
        n_future=CLIP_FRAMES - CONDITIONING_FRAMES,
        every_s=EVERY / frame_rate,
        max_age_s=0.0,
    )
    maker, why = WindowMaker(str(recording), 0, plan), ""
    found: list[list[np.ndarray]] = []
    stamps: tuple[int, ...] = ()
    for window in maker.windows(source.frames(source.image_topic(image_topic))):
        if isinstance(window, Skipped):
            why = window.message
            continue
        before, stamps = stamps, window.clip.stamps_ns + window.truth.stamps_ns
        # A window that begins with the frames by which the last one ended carries its film on.
        if before and before[EVERY:] == stamps[:-EVERY]:
            found[-1].append(_kept(_frames(window, EVERY), size))
        else:
            found.append([_kept(_frames(window, CLIP_FRAMES), size)])
    for loss in source.losses:
        logger.warning("%s: %s", recording, loss)
    if not found:
        too_short = f"shorter than {plan.span_s:.1f} s, what {CLIP_FRAMES} frames at {frame_rate:g} Hz take"
        reason = why or (_in_pieces(too_short, maker.notes) if maker.notes else f"it is {too_short}")
        raise BadRecording(f"{recording} gives nothing to train on: {reason}")
    return found


def _in_pieces(too_short: str, cuts: Sequence[str]) -> str:
    more = f", and {len(cuts) - 1} more" if len(cuts) > 1 else ""
    return f"each stretch of it is {too_short}: {cuts[0]}{more}"


def _frames(window: Window, newest: int) -> np.ndarray:
    """The newest frames of a window."""
    future = window.truth.frames[-newest:]
    return future if len(future) == newest else np.concatenate([window.clip.frames, future])[-newest:]


def _kept(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the model sees of camera frames, resized."""
    seen = camera_view(frames.shape[1:3], size).of(frames)
    how = cv2.INTER_AREA if seen.shape[1] > size[0] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(np.ascontiguousarray(frame), size[::-1], interpolation=how) for frame in seen])
