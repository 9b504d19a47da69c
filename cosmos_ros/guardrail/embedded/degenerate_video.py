"""The embedded profile's content guard: it refuses what a world model shows when it has failed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.guardrail.guard import PASSED, ContentGuard, Judgement, sha256_of
from cosmos_ros.guardrail_report import Verdict

SOLID_LEVELS = 2.0  # a frame whose pixels all lie this close together, in levels of 255, shows nothing


class DegenerateVideoGuard(ContentGuard):
    """Refuses a frame of one solid colour, which a world model shows when it has failed.

    A rollout that stands still passes: it is the right future of a robot that stands before a still scene.
    """

    name = "degenerate_video"

    def __init__(self) -> None:
        self.weights = sha256_of([Path(__file__)], Path(__file__).parent)

    def judge(self, frames: np.ndarray) -> Judgement:
        for index, frame in enumerate(frames):
            _, spread = cv2.meanStdDev(frame)  # a tenth of the time that NumPy takes
            if not spread.max() > SOLID_LEVELS:
                return Judgement(Verdict.REFUSED, "Solid_Colour", frame=index)
        return PASSED
