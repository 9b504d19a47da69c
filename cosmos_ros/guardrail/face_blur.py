"""Faces made unrecognisable: the region shrunk to 5x5 and enlarged again, as Cosmos-1.0-Guardrail does."""

from __future__ import annotations

from abc import ABC, abstractmethod

import cv2
import numpy as np

from cosmos_ros.device.placement import Part
from cosmos_ros.guardrail.guard import PASSED, FrameFilter, Judgement
from cosmos_ros.guardrail_report import Verdict

BLOCKS = 5
MIN_SIZE = 20  # pixels; smaller boxes are left, as published
FAR = 2.0**31  # pixels; beyond any frame, and within what a cast to int64 bears


class FaceDetector(ABC):
    """Finds faces.

    weights  SHA-256 over its files
    parts    its networks, see Guard
    """

    weights: str
    parts: tuple[Part, ...] = ()

    @abstractmethod
    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """Boxes for frames uint8 [k, h, w, 3] RGB: k arrays float [n, 4] of x1, y1, x2, y2 in pixels."""


class FaceBlur(FrameFilter):
    """Pixelates what a detector finds, on a copy of the frames.

    searched_pixels  frames with more pixels, at a camera's size, are searched in a copy reduced to as many: the time
                     that this takes must not grow with the camera
    """

    name = "face_blur"

    def __init__(self, detector: FaceDetector, searched_pixels: int) -> None:
        self.weights = detector.weights
        self.parts = detector.parts
        self._detector = detector
        self._searched_pixels = searched_pixels

    def filter(self, frames: np.ndarray) -> tuple[np.ndarray, Judgement]:
        boxes = self._detector.detect(searched := reduced(frames, self._searched_pixels))
        if len(boxes) != len(frames):
            raise ValueError(f"the face detector answered for {len(boxes)} of {len(frames)} frames")
        if not any(map(len, boxes)):
            return frames, PASSED
        scale = np.tile(np.divide(frames.shape[2:0:-1], searched.shape[2:0:-1]), 2)  # of x, y, x, y
        blurred = frames.copy()
        faces = sum(pixelate(frame, found * scale) for frame, found in zip(blurred, boxes, strict=True))
        return blurred, Judgement(Verdict.MODIFIED, "faces pixelated", changes=faces) if faces else PASSED


def reduced(frames: np.ndarray, pixels: int) -> np.ndarray:
    """Frames [k, h, w, 3], reduced where they have more than this many pixels each."""
    height, width = frames.shape[1:3]
    factor = (pixels / (height * width)) ** 0.5
    if factor >= 1:
        return frames
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def pixelate(frame: np.ndarray, boxes: np.ndarray) -> int:
    """Pixelate boxes [n, 4] (x1, y1, x2, y2, pixels) in place in frame uint8 [h, w, 3]; returns how many.

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
