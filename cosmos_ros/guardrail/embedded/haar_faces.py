"""The embedded profile's face detector: OpenCV's Haar cascades (Viola and Jones, 2001)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.face_blur import MIN_SIZE, FaceDetector
from cosmos_ros.guardrail.guard import sha256_of


class CascadeFaceDetector(FaceDetector):
    """OpenCV's bundled Haar cascades for frontal faces and for profiles, both ways (Viola and Jones, 2001).

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
        mirrored = _boxes(self._profile, np.ascontiguousarray(grey[:, ::-1]))
        mirrored[:, [0, 2]] = grey.shape[1] - mirrored[:, [2, 0]]
        return np.concatenate([_boxes(self._frontal, grey), _boxes(self._profile, grey), mirrored])


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
    found = cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=3, minSize=(MIN_SIZE, MIN_SIZE))
    boxes = np.asarray(found, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
