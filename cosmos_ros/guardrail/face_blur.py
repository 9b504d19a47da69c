"""Faces made unrecognisable: the region shrunk to 5x5 and enlarged again, as Cosmos-1.0-Guardrail does."""

from __future__ import annotations

from abc import ABC, abstractmethod

import cv2
import numpy as np

from cosmos_ros.guardrail.guard import PASSED, FrameFilter, Hold, Judgement
from cosmos_ros.guardrail_report import Verdict

BLOCKS = 5
MIN_SIZE = 20  # pixels; smaller boxes are left, as published
FAR = 2.0**31  # pixels; beyond any frame, and within what a cast to int64 bears


class FaceDetector(ABC):
    """Finds faces. `weights` is the SHA-256 over its files."""

    weights: str

    @abstractmethod
    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """Boxes for frames uint8 [k, h, w, 3] RGB: k arrays float [n, 4] of x1, y1, x2, y2 in pixels."""

    def hold(self, hold: Hold) -> None:  # noqa: B027 (a cascade has nothing to hold)
        """As Guard.hold."""

    def load(self) -> None:  # noqa: B027
        """As Guard.load."""

    def unload(self) -> None:  # noqa: B027
        """As Guard.unload."""


class FaceBlur(FrameFilter):
    """Pixelates what a detector finds, on a copy of the frames."""

    name = "face_blur"

    def __init__(self, detector: FaceDetector) -> None:
        self.weights = detector.weights
        self._detector = detector

    def hold(self, hold: Hold) -> None:
        self._detector.hold(hold)

    def load(self) -> None:
        self._detector.load()

    def unload(self) -> None:
        self._detector.unload()

    def filter(self, frames: np.ndarray) -> tuple[np.ndarray, Judgement]:
        boxes = self._detector.detect(frames)
        if len(boxes) != len(frames):
            raise ValueError(f"the face detector answered for {len(boxes)} of {len(frames)} frames")
        if not any(map(len, boxes)):
            return frames, PASSED
        blurred = frames.copy()
        faces = sum(map(pixelate, blurred, boxes))
        return blurred, Judgement(Verdict.MODIFIED, "faces pixelated", changes=faces) if faces else PASSED


def pixelate(frame: np.ndarray, boxes: np.ndarray) -> int:
    """Pixelate boxes [n, 4] (x1, y1, x2, y2, pixels) in place in frame uint8 [h, w, 3]; how many it were.

    A box counts with its whole size, also where it reaches over the frame's edge. It is cut to the frame first:
    the published code lets a negative end reach around, and fails on an empty region.

    Raises ValueError where a box is not finite.
    """
    if not np.isfinite(boxes).all():
        raise ValueError("the face detector gave a box that is not finite")
    height, width = frame.shape[:2]
    count = 0
    for x1, y1, x2, y2 in np.clip(boxes, -FAR, FAR).astype(np.int64):
        if x2 - x1 < MIN_SIZE or y2 - y1 < MIN_SIZE:
            continue
        x1, x2 = np.clip((x1, x2), 0, width)
        y1, y2 = np.clip((y1, y2), 0, height)
        if x2 <= x1 or y2 <= y1:
            continue
        mosaic = cv2.resize(frame[y1:y2, x1:x2], (BLOCKS, BLOCKS), interpolation=cv2.INTER_LINEAR)
        size = int(x2 - x1), int(y2 - y1)
        frame[y1:y2, x1:x2] = cv2.resize(mosaic, size, interpolation=cv2.INTER_NEAREST)
        count += 1
    return count
