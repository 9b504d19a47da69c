"""How far the world went another way than foreseen: one camera frame held against one predicted frame.

What is measured are signs, numbers that are higher the less the frame goes with the prediction, each relative to what
may be expected of the scene. What they mean only a calibration knows: it has what they were on nominal recordings at
the same step of the horizon.

    place   something is where neither the prediction nor the last camera frame has it, and where nothing was to move:
            the worst place counts, by its error over the motion around it. A thing that drops, somebody who steps in
    whole   the error of the whole frame over the motion in it: a knocked camera, lights that go out
    still   the frames that come change by less than a camera's noise: a frozen camera
    tokens  the worst place among the tokens, by how many nats more they take than the model itself expects, in standard
            deviations. Once for every eight frames, when their tokens are complete

The first three are logarithms: what is twice as much is as much more surprising anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from cosmos_ros.metrics import fidelity
from cosmos_ros.rollout import Likelihood

PLACE, WHOLE, STILL, TOKENS = "place", "whole", "still", "tokens"

WIDTH = 320  # pixels to which wider frames are reduced: time, and things are no smaller than that
PLACE_SHARE = 0.1  # of the frame's height: the side of a place
PLACE_TOKENS = 5  # the side of a place among tokens
NOISE = 6.0  # levels of 255: an error, or a motion, that is none
WHOLE_NOISE = 3.0  # the same of a whole frame's root mean square
LEAST = 0.05  # of an error over the motion: what is less is no less surprising
STILL_LEVELS = 0.25  # levels of 255, below any camera's noise: a change below it counts as none
TOKEN_VARIANCE = 0.3  # nats squared, added to that of a token: no token is ever certain
FULL = 255.0


@dataclass(frozen=True)
class Measured:
    """One camera frame against one predicted frame, both at most WIDTH pixels wide.

    psnr, ssim              of the prediction against the camera
    floor_psnr, floor_ssim  of the last conditioning frame
    error                   of the prediction, root mean square over RGB in the worst place, levels of 255
    signs                   by name; those that could not be had are missing
    """

    psnr: float
    ssim: float
    floor_psnr: float
    floor_ssim: float
    error: float
    signs: dict[str, float]


@dataclass(frozen=True)
class Past:
    """What the clip says of the scene, at most WIDTH pixels wide.

    floor  uint8 [h, w, 3], its last frame
    moved  float32 [h, w], squared difference of that to the frames before, the greatest of them
    """

    floor: np.ndarray
    moved: np.ndarray

    @classmethod
    def of(cls, frames: Sequence[np.ndarray]) -> Past:
        """Of the clip's frames, uint8 [H, W, 3] each, as far as the model saw them."""
        small = [reduced(frame) for frame in frames]
        floor, before = small[-1], small[-3::-2]
        moved = np.max([_squares(floor, frame) for frame in before] or [np.zeros(floor.shape[:2], np.float32)], axis=0)
        return cls(floor, moved)


@dataclass(frozen=True)
class Pair:
    """What was predicted and what the camera saw at one step: uint8 [h, w, 3] RGB, at most WIDTH pixels wide.

    seen_before  the camera's frame of the step before, at step 1 the last of the clip; None where it did not come
    """

    predicted: np.ndarray
    seen: np.ndarray
    seen_before: np.ndarray | None

    def of_floor(self, past: Past) -> Pair:
        """The same with the floor for a prediction."""
        return Pair(past.floor, self.seen, self.seen_before)


def measure(past: Past, pair: Pair, likelihood: Likelihood | None = None) -> Measured:
    """Hold the camera's frame against the predicted one.

    likelihood  of the camera's frames up to this one, where their tokens are complete with it
    """
    both, seen = np.stack([pair.predicted, past.floor]), np.stack([pair.seen, pair.seen])
    psnr, floor_psnr = fidelity.psnr(both, seen)
    ssim, floor_ssim = fidelity.ssim(both, seen)
    error = float(np.sqrt(_by_place(_squares(pair.predicted, pair.seen)).max()))
    return Measured(psnr, ssim, floor_psnr, floor_ssim, error, signs_of(past, pair, likelihood))


def signs_of(past: Past, pair: Pair, likelihood: Likelihood | None = None) -> dict[str, float]:
    error, change = _squares(pair.predicted, pair.seen), _squares(past.floor, pair.seen)
    motion = np.maximum(past.moved, _squares(pair.predicted, past.floor))
    unexplained = np.sqrt(_by_place(np.minimum(error, change)))
    side = _side(motion)
    around = cv2.dilate(np.sqrt(_by_place(motion)), np.ones((side, side), np.uint8))
    signs = {
        PLACE: float(np.log(LEAST + (unexplained / (NOISE + around)).max())),
        WHOLE: float(np.log(LEAST + np.sqrt(error.mean()) / (WHOLE_NOISE + np.sqrt(motion.mean())))),
    }
    if pair.seen_before is not None:
        signs[STILL] = float(-np.log(STILL_LEVELS + cv2.absdiff(pair.seen_before, pair.seen).mean()))
    if likelihood is not None and np.isfinite(likelihood.nats[-1]).all():
        signs[TOKENS] = _worst_tokens(likelihood)
    return signs


def error_map(predicted: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Root mean square over RGB of each pixel's error, levels of 255: float32 [H, W]. It shows no pixel of either."""
    return np.sqrt(_squares(predicted, seen))


def reduced(frame: np.ndarray) -> np.ndarray:
    """At most WIDTH pixels wide."""
    height, width = frame.shape[:2]
    if width <= WIDTH:
        return frame
    return cv2.resize(frame, (WIDTH, max(1, round(height * WIDTH / width))), interpolation=cv2.INTER_AREA)


def _worst_tokens(likelihood: Likelihood) -> float:
    """Of the last latent frame."""

    def total(values: np.ndarray) -> np.ndarray:
        size = (PLACE_TOKENS, PLACE_TOKENS)
        return cv2.boxFilter(values, -1, size, normalize=False, borderType=cv2.BORDER_CONSTANT)

    excess = total(likelihood.nats[-1] - likelihood.expected[-1])
    return float((excess / np.sqrt(total(likelihood.variance[-1] + np.float32(TOKEN_VARIANCE)))).max())


def _side(image: np.ndarray) -> int:
    return max(1, round(PLACE_SHARE * image.shape[0]))


def _by_place(squares: np.ndarray) -> np.ndarray:
    """The mean around each pixel."""
    side = _side(squares)
    return cv2.boxFilter(squares, -1, (side, side), borderType=cv2.BORDER_REFLECT)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 [h, w]: mean over RGB of the squared difference."""
    return np.square(cv2.absdiff(a, b).astype(np.float32)).mean(axis=-1)
