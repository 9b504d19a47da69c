"""The embedded profile's guards, for our own models: nothing to download, and no claim beyond the model card's."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.embedded import lists as embedded_lists
from cosmos_ros.guardrail.face_blur import MIN_SIZE, FaceDetector
from cosmos_ros.guardrail.guard import PASSED, ContentGuard, Judgement, PromptGuard, sha256_of
from cosmos_ros.rollout import Verdict

# What may stand for a letter. A prompt is folded to plain ASCII first, so accents and full-width letters are gone.
LOOK_ALIKES = {
    "a": "a@4*",
    "b": "b8",
    "e": "e3*",
    "g": "g9",
    "i": "i1l!|*",
    "l": "l1i|",
    "o": "o0*",
    "s": "s5$",
    "t": "t7+",
    "u": "uv*",
    "v": "vu",
    "z": "z2",
}
HOMOGLYPHS = str.maketrans("аеорсухіѕјԁɡαεορυι", "aeopcyxisjdgaeopui")  # Cyrillic and Greek letters that look Latin
SOLID_LEVELS = 2.0  # a frame whose pixels all lie this close together, in levels of 255, shows nothing


class EmbeddedBlocklist(PromptGuard):
    """Refuses prompts that hold an entry of our own lists, as whole words, in any case, with look-alike letters."""

    name = "blocklist"

    def __init__(self, lists: Mapping[str, tuple[str, ...]] = embedded_lists.BLOCKED) -> None:
        self._patterns = {category: _pattern(entries) for category, entries in lists.items() if entries}
        if not self._patterns:
            raise GuardrailUnavailable("the embedded blocklist is empty")
        self.weights = hashlib.sha256(json.dumps(dict(lists)).encode()).hexdigest()

    def judge(self, prompt: str) -> Judgement:
        text = _fold(prompt)
        if not text.strip():
            return Judgement(Verdict.REFUSED, "a prompt without a word that can be read")
        for category, pattern in self._patterns.items():
            if hit := pattern.search(text):
                return Judgement(Verdict.REFUSED, f"{category}: {hit.group()!r}")
        return PASSED


class DegenerateVideoGuard(ContentGuard):
    """Refuses what a world model shows when it has failed: a frame of one solid colour, or a rollout that stands still.

    A rollout stands still where all of its frames are the same bit for bit, which no camera's frames are.
    """

    name = "degenerate_video"

    def __init__(self) -> None:
        self.weights = sha256_of([Path(__file__)], Path(__file__).parent)

    def judge(self, frames: np.ndarray) -> Judgement:
        spread = frames.reshape(len(frames), -1, 3).astype(np.float32).std(axis=1).max(axis=1)
        for index, value in enumerate(spread):
            if not value > SOLID_LEVELS:
                return Judgement(Verdict.REFUSED, "Solid_Colour", frame=index)
        return PASSED

    def judge_rollout(self, frames: np.ndarray) -> Judgement:
        if len(frames) > 1 and (frames == frames[0]).all():
            return Judgement(Verdict.REFUSED, "Constant_Output", frame=1)
        return PASSED


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


def _fold(prompt: str) -> str:
    """Plain lower-case ASCII as far as the letters allow."""
    plain = unicodedata.normalize("NFKD", prompt.casefold().translate(HOMOGLYPHS))
    return plain.encode("ascii", "ignore").decode()


def _pattern(entries: tuple[str, ...]) -> re.Pattern[str]:
    words = (r"[\W_]+".join(map(_word_pattern, re.split(r"[\s-]+", entry))) for entry in entries)
    return re.compile(r"(?<![a-z0-9])(?:" + "|".join(words) + r")(?![a-z0-9])")


def _word_pattern(word: str) -> str:
    return "".join(f"[{re.escape(LOOK_ALIKES.get(letter, letter))}]" for letter in word)
