"""The published ways in which a rollout fails for all to see (Cosmos paper, arXiv:2501.03575, section 5.3), detected.

Both detectors judge predicted frames against what the camera saw last, so that a robot before a blank wall is no
failure. How often they raise a false alarm is measured: the report runs them over the true future as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from cosmos_ros.metrics.fidelity import dense_flow, warped

SOLID_SPREAD = 8.0  # standard deviation over a frame, grey levels, below which it is of one colour
WIDTH = 160  # pixels to which frames are reduced to look for objects
BLUR = 1.5  # of what is compared, pixels
NEW_LEVEL = 25.0  # grey levels by which a pixel differs from all that motion explains
NEW_SHARE = 0.05  # of the image, in one piece: a large object
FASTEST = 0.08  # of the width per frame: faster flow would explain an object by one far away
# Optical flow loses plain things that move far in a frame, as they do before a camera on a robot's hand. So one motion
# of a whole piece is tried as well: farther, and held to a closer likeness.
PIECE_FASTEST = 0.125
PIECE_LEVEL = 10.0


@dataclass(frozen=True)
class Failure:
    """kind is "solid_colour" or "sudden_object"; frame counts predicted frames from 1."""

    kind: str
    frame: int
    detail: str


def failures(before: np.ndarray, frames: np.ndarray) -> list[Failure]:
    """The first failure of each kind in frames uint8 [n, H, W, 3] that follow `before` uint8 [H, W, 3]."""
    found = (solid_colour(before, frames), sudden_object(before, frames))
    return [failure for failure in found if failure is not None]


def solid_colour(before: np.ndarray, frames: np.ndarray) -> Failure | None:
    """The video degrades to one solid colour: a frame's spread is tiny, and half of the camera's last at most."""
    limit = min(SOLID_SPREAD, _spread(before) / 2)
    for k, frame in enumerate(frames, start=1):
        if (spread := _spread(frame)) < limit:
            colour = frame.reshape(-1, 3).mean(axis=0).round().astype(int)
            return Failure("solid_colour", k, f"spread {spread:.1f} of 255 levels around RGB {tuple(colour.tolist())}")
    return None


def sudden_object(before: np.ndarray, frames: np.ndarray) -> Failure | None:
    """A large object is there from one frame to the next that no motion of the earlier frame explains."""
    small = [_reduced(frame) for frame in (before, *frames)]
    for k, (earlier, frame) in enumerate(zip(small, small[1:], strict=False), start=1):
        if (share := _new_share(earlier, frame)) >= NEW_SHARE:
            return Failure("sudden_object", k, f"{share:.0%} of the image is new in one piece")
    return None


def _spread(frame: np.ndarray) -> float:
    return float(frame.reshape(-1, 3).std(axis=0).max())


def _reduced(frame: np.ndarray) -> np.ndarray:
    height = max(1, round(frame.shape[0] * WIDTH / frame.shape[1]))
    return cv2.resize(frame, (WIDTH, height), interpolation=cv2.INTER_AREA)


def _new_share(earlier: np.ndarray, frame: np.ndarray) -> float:
    """Share of the image that the largest connected piece takes which the earlier frame, moved, does not explain."""
    flow = dense_flow(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.cvtColor(earlier, cv2.COLOR_RGB2GRAY))
    speed = np.linalg.norm(flow, axis=-1, keepdims=True)
    flow = flow * np.minimum(1, FASTEST * WIDTH / np.maximum(speed, 1e-6))
    difference = cv2.GaussianBlur(frame.astype(np.float32) - warped(earlier, flow), (0, 0), BLUR)
    # A change of light or exposure changes the whole image equally.
    light = np.median(difference, axis=(0, 1))
    difference -= light
    new = (np.abs(difference).max(axis=-1) > NEW_LEVEL) & ~_entering(flow)
    if _largest_piece(new) >= NEW_SHARE:
        new &= ~_moved(earlier + light, frame, new)
    return _largest_piece(new)


def _largest_piece(new: np.ndarray) -> float:
    """Share of the image."""
    pieces = cv2.connectedComponentsWithStats(new.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    return float(pieces.max(initial=0) / new.size)


def _moved(earlier: np.ndarray, frame: np.ndarray, new: np.ndarray) -> np.ndarray:
    """bool [H, W]: what the earlier frame explains by the one motion that explains most of the new pixels."""
    height, width = new.shape
    reach = round(PIECE_FASTEST * width)
    # Beyond its edges the earlier frame is like nothing.
    wide = cv2.copyMakeBorder(
        earlier.astype(np.float32), reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=(np.inf,) * 3
    )
    best, most = np.zeros_like(new), 0
    for top in range(0, 2 * reach + 1, 2):
        for left in range(0, 2 * reach + 1, 2):
            difference = cv2.GaussianBlur(frame - wide[top : top + height, left : left + width], (0, 0), BLUR)
            explained = np.abs(difference).max(axis=-1) <= PIECE_LEVEL
            if (count := int(np.count_nonzero(explained & new))) > most:
                best, most = explained, count
    return best


def _entering(flow: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels whose content came in over the image's edge, as it does when the camera turns."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    x, y = x + flow[..., 0], y + flow[..., 1]
    return (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
