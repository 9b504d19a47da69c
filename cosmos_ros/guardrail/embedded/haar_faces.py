"""The embedded profile's face detector: OpenCV's Haar cascades (Viola and Jones, 2001)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.face_blur import MIN_SIZE, FaceDetector
from cosmos_ros.guardrail.guard import sha256_of

# Steps of the search: from one size of face to the next, and how many windows must agree on a face. With a step of
# 1.2 one is enough: it finds more faces than 1.1 and three, in half of the time (bench/embedded_faces.py).
SCALE_STEP = 1.2
MIN_NEIGHBOURS = 1
PROFILE_REDUCTION = 2  # profiles are searched for in a copy reduced by this factor: two searches, for the time of half


class CascadeFaceDetector(FaceDetector):
    """OpenCV's bundled Haar cascades for frontal faces and for profiles, both ways.

    Raises GuardrailUnavailable where they are missing or cannot be read.
    """

    CASCADES = ("haarcascade_frontalface_alt2.xml", "haarcascade_profileface.xml")

    def __init__(self) -> None:
        folder = _cascades_folder()
        files = [folder / name for name in self.CASCADES]
        self.weights = sha256_of(files, folder)
        self._frontal, self._profile = map(_cascade, files)

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        return [self._detect(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in frames]

    def _detect(self, grey: np.ndarray) -> np.ndarray:
        height, width = (max(1, side // PROFILE_REDUCTION) for side in grey.shape)
        small = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        mirrored = _boxes(self._profile, np.ascontiguousarray(small[:, ::-1]))
        mirrored[:, [0, 2]] = width - mirrored[:, [2, 0]]
        profiles = np.concatenate([_boxes(self._profile, small), mirrored])
        scale = np.tile(np.divide(grey.shape[::-1], (width, height)), 2)
        return np.concatenate([_boxes(self._frontal, grey), profiles * scale])


def _cascades_folder() -> Path:
    """Where OpenCV's cascades lie: inside the wheel from PyPI; for Debian's python3-opencv, in its opencv-data."""
    folders = [Path(cv2.data.haarcascades)] if hasattr(cv2, "data") else []
    folders.append(Path("/usr/share/opencv4/haarcascades"))
    for folder in folders:
        if folder.is_dir():
            return folder
    raise GuardrailUnavailable(
        "this OpenCV came without its face cascades: apt install opencv-data, or pip install opencv-python-headless<5"
    )


def _cascade(file: Path) -> cv2.CascadeClassifier:
    try:
        cascade = cv2.CascadeClassifier(str(file))
        if not cascade.empty():
            return cascade
        reason = "it is empty"
    except (cv2.error, SystemError) as error:  # OpenCV's bindings make of the first the second
        reason = str(error.__cause__ or error)
    raise GuardrailUnavailable(f"OpenCV's face cascade {file} cannot be read: {reason}; install OpenCV anew")


def _boxes(cascade: cv2.CascadeClassifier, grey: np.ndarray) -> np.ndarray:
    """Boxes float [n, 4] (x1, y1, x2, y2, pixels) in a picture uint8 [h, w]."""
    least = (MIN_SIZE, MIN_SIZE)
    found = cascade.detectMultiScale(grey, scaleFactor=SCALE_STEP, minNeighbors=MIN_NEIGHBOURS, minSize=least)
    boxes = np.asarray(found, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
