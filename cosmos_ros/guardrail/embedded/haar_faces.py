"""The embedded profile's face detector: OpenCV's Haar cascades (Viola and Jones, 2001)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.face_blur import MIN_SIZE, FaceDetector
from cosmos_ros.guardrail.guard import sha256_of

# Steps of the search: from one size of face to the next, and how many windows must agree on a candidate. With a step of
# 1.2 one is enough: it finds more faces than 1.1 and three, in half of the time (bench/embedded_faces.py).
SCALE_STEP = 1.2
MIN_NEIGHBOURS = 1
PROFILE_REDUCTION = 2  # profiles are searched for in a copy reduced by this factor: two searches, for the time of half

# Such a search takes cupboards and joints of robots for faces. So each candidate is looked at again, scaled to
# SECOND_SIZE pixels, with some surroundings and in finer steps; every window that a cascade takes for a face is a vote.
# Around a face there are many, around clutter few. Fewer votes are asked for on a profile, as we had few pictures to
# measure profiles by (bench/results/embedded_faces.json).
SECOND_SIZE = 40
SURROUNDINGS = 0.25  # of the candidate's side, on each side of it
SECOND_STEP = 1.05
SECOND_SIZES = (26, 56)  # pixels, of the faces that may be voted for
FRONTAL_VOTES = 10  # of three cascades together
PROFILE_VOTES = 4  # of the one there is


class Pose(Enum):
    """How a face is turned. The cascade knows profiles one way only: the others are sought in the mirrored picture."""

    FRONTAL = "frontal"
    PROFILE = "profile"
    MIRRORED_PROFILE = "mirrored profile"


class Cascades(NamedTuple):
    """The first of each propose, all of them vote."""

    frontal: list[cv2.CascadeClassifier]
    profile: list[cv2.CascadeClassifier]


class CascadeFaceDetector(FaceDetector):
    """OpenCV's bundled Haar cascades for frontal faces and for profiles, both ways.

    A coarse search proposes candidates, and a finer look at each, for frontal faces with two cascades more, decides.

    Raises GuardrailUnavailable where they are missing or cannot be read.
    """

    FRONTAL = (
        "haarcascade_frontalface_alt2.xml",
        "haarcascade_frontalface_alt.xml",
        "haarcascade_frontalface_default.xml",
    )
    PROFILE = ("haarcascade_profileface.xml",)
    CASCADES = FRONTAL + PROFILE

    def __init__(self) -> None:
        self._folder = _cascades_folder()
        self.weights = sha256_of([self._folder / name for name in self.CASCADES], self._folder)
        self._idle = [self._load()]

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """Several searches at a time where OpenCV may have several threads: by itself it gains little from them."""
        greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        searches = [partial(self._found, pose, grey) for pose in Pose for grey in greys]  # the longest first
        if (at_once := min(cv2.getNumThreads(), len(searches))) < 2:
            found = [search() for search in searches]
        else:
            with ThreadPoolExecutor(at_once) as pool:
                found = list(pool.map(lambda search: search(), searches))
        return [np.concatenate(found[k :: len(greys)]) for k in range(len(greys))]

    def candidates(self, pose: Pose, grey: np.ndarray) -> np.ndarray:
        """What a picture uint8 [h, w] may hold: boxes [n, 5] of x1, y1, x2, y2 and the votes."""
        if pose is Pose.FRONTAL:
            with self._cascades() as (frontal, _):
                return _voted(frontal, grey, _boxes(frontal[0], grey))
        if pose is Pose.MIRRORED_PROFILE:
            found = self.candidates(Pose.PROFILE, np.ascontiguousarray(grey[:, ::-1]))
            found[:, [0, 2]] = grey.shape[1] - found[:, [2, 0]]
            return found
        height, width = (max(1, side // PROFILE_REDUCTION) for side in grey.shape)
        small = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        scale = np.tile(np.divide(grey.shape[::-1], (width, height)), 2)
        with self._cascades() as (_, profile):
            return _voted(profile, grey, _boxes(profile[0], small) * scale)

    def _found(self, pose: Pose, grey: np.ndarray) -> np.ndarray:
        boxes = self.candidates(pose, grey)
        return boxes[boxes[:, 4] >= (FRONTAL_VOTES if pose is Pose.FRONTAL else PROFILE_VOTES), :4]

    @contextmanager
    def _cascades(self) -> Iterator[Cascades]:
        """Cascades that nobody else uses meanwhile, for they bear one thread at a time. More are loaded on demand."""
        try:
            mine = self._idle.pop()  # asking first whether there is one would leave room for another thread
        except IndexError:
            mine = self._load()
        try:
            yield mine
        finally:
            self._idle.append(mine)

    def _load(self) -> Cascades:
        return Cascades(*([_cascade(self._folder / name) for name in names] for names in (self.FRONTAL, self.PROFILE)))


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


def _voted(cascades: list[cv2.CascadeClassifier], grey: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes float [n, 4] in a picture uint8 [h, w], each with the cascades' votes on it: [n, 5]."""
    looks = [_second_look(grey, box) for box in boxes]
    votes = [sum(_votes(cascade, look) for cascade in cascades) for look in looks]
    return np.column_stack([boxes, np.array(votes, np.float64)])


def _second_look(grey: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The box with its surroundings; the box has SECOND_SIZE pixels a side in it.

    Beyond the picture's edge its last row or column is repeated: else there would be fewer windows to vote for a face
    that lies there, for as many votes that are asked for.
    """
    x1, y1, x2, y2 = box
    margin, factor = SURROUNDINGS * (x2 - x1), SECOND_SIZE / (x2 - x1)

    def pixels(start: float, end: float, n: int) -> np.ndarray:
        return np.clip(np.arange(round(start - margin), round(end + margin)), 0, n - 1)

    part = grey[np.ix_(pixels(y1, y2, grey.shape[0]), pixels(x1, x2, grey.shape[1]))]
    size = round(part.shape[1] * factor), round(part.shape[0] * factor)
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def _votes(cascade: cv2.CascadeClassifier, look: np.ndarray) -> int:
    least, most = ((size, size) for size in SECOND_SIZES)
    return len(cascade.detectMultiScale(look, SECOND_STEP, minNeighbors=0, minSize=least, maxSize=most))
