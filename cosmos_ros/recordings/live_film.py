"""A film of a running loop: the camera, what had been predicted for the same moment, and the surprise under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.files import write_whole
from cosmos_ros.frame_buffer import StampedFrame
from cosmos_ros.recordings import films
from cosmos_ros.recordings.rollout_writer import CAMERA, PREDICTED, PublishedRollout
from cosmos_ros.rollout import NANOSECONDS

AGES_S = (0.5, 1.0)  # how long before the moment a shown prediction was made, at least
PANEL_WIDTH = 420
CURVES_HEIGHT = 150
GAP_FRAMES = 3  # at the rollouts' rate: over a longer time in which nothing was compared no line is drawn
GROUND, GRID, INK = (24, 26, 30), (52, 56, 62), (200, 204, 210)
FLOOR, SCORE, ALARM = (110, 118, 129), (64, 160, 255), (230, 40, 60)  # RGB


@dataclass(frozen=True)
class Compared:
    """One message of ~/surprise: the stamp that it is about, dB of prediction and floor, the score in 0..1."""

    stamp_ns: int
    psnr: float
    floor_psnr: float
    score: float
    surprising: bool


def write_live_film(
    path: Path, camera: Sequence[StampedFrame], rollouts: Sequence[PublishedRollout], compared: Sequence[Compared]
) -> None:
    """An mp4 at the rollouts' frame rate, in the camera's time.

    camera    the recording's frames, in order
    rollouts  in the order in which they were predicted, at least one

    Raises TypeError for any other rollout, OSError where the disk refuses.
    """
    if not all(isinstance(rollout, PublishedRollout) for rollout in rollouts):
        raise TypeError("only rollouts that a node has published may be filmed")
    rate, crop = rollouts[0].frame_rate, rollouts[0].crop
    begin_ns, end_ns = camera[0].stamp_ns, camera[-1].stamp_ns
    curves = Curves(compared, begin_ns, end_ns, rate)
    pictures = []
    for frame in _at_rate(camera, rate):
        seconds = (frame.stamp_ns - begin_ns) / NANOSECONDS
        panels = [_panel(crop.of(frame.load()), f"camera, {seconds:.1f} s", CAMERA)]
        panels += [_prediction(rollouts, frame.stamp_ns, age, panels[0].shape) for age in AGES_S]
        row = np.concatenate(panels, axis=1)
        pictures.append(np.concatenate([row, curves.until(frame.stamp_ns, row.shape[1])]))
    write_whole(path, films.mp4(pictures, rate))


def newest_covering(
    rollouts: Sequence[PublishedRollout], stamp_ns: int, age_s: float
) -> tuple[PublishedRollout, int] | None:
    """The newest rollout that was made at least `age_s` before a moment and shows it, and which of its frames does."""
    for rollout in sorted(rollouts, key=lambda rollout: rollout.conditioning_stamps_ns[-1], reverse=True):
        if rollout.conditioning_stamps_ns[-1] > stamp_ns - round(age_s * NANOSECONDS):
            continue
        distances = [abs(stamp - stamp_ns) for stamp in rollout.stamps_ns]
        nearest = int(np.argmin(distances))
        if distances[nearest] <= NANOSECONDS / rollout.frame_rate / 2:
            return rollout, nearest
    return None


def _at_rate(camera: Sequence[StampedFrame], rate: float) -> list[StampedFrame]:
    """The frames nearest to equally spaced moments."""
    stamps = np.array([frame.stamp_ns for frame in camera])
    moments = np.arange(stamps[0], stamps[-1] + 1, round(NANOSECONDS / rate))
    return [camera[int(np.abs(stamps - moment).argmin())] for moment in moments]


def _prediction(
    rollouts: Sequence[PublishedRollout], stamp_ns: int, age_s: float, shape: tuple[int, ...]
) -> np.ndarray:
    found = newest_covering(rollouts, stamp_ns, age_s)
    if found is None:
        nothing = np.full(shape, 24, np.uint8)
        words = f"no prediction from {age_s:g} s before"
        return cv2.putText(nothing, words, (20, shape[0] // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    rollout, k = found
    age = (stamp_ns - rollout.conditioning_stamps_ns[-1]) / NANOSECONDS
    return _panel(rollout.frames[k], f"predicted {age:.1f} s before", PREDICTED)


def _panel(frame: np.ndarray, words: str, colour: tuple[int, int, int]) -> np.ndarray:
    height = round(frame.shape[0] * PANEL_WIDTH / frame.shape[1] / 2) * 2
    return films.labelled(cv2.resize(frame, (PANEL_WIDTH, height), interpolation=cv2.INTER_AREA), words, colour)


class Curves:
    """PSNR of prediction and floor at the left, the score at the right, drawn up to a moment.

    rate  Hz, at which frames are compared while a prediction covers them
    """

    def __init__(self, compared: Sequence[Compared], begin_ns: int, end_ns: int, rate: float) -> None:
        self._gap_ns = GAP_FRAMES * NANOSECONDS / rate
        self._compared = sorted(compared, key=lambda each: each.stamp_ns)
        self._begin_ns, self._span_ns = begin_ns, max(end_ns - begin_ns, 1)
        decibels = [value for each in compared for value in (each.psnr, each.floor_psnr) if np.isfinite(value)]
        self._range_db = (min(decibels, default=10.0) - 1, max(decibels, default=40.0) + 1)

    def until(self, stamp_ns: int, width: int) -> np.ndarray:
        """uint8 [CURVES_HEIGHT, width, 3]."""
        half = width // 2
        left, right = np.empty((CURVES_HEIGHT, half, 3), np.uint8), np.empty((CURVES_HEIGHT, width - half, 3), np.uint8)
        past = [each for each in self._compared if each.stamp_ns <= stamp_ns]
        low, high = self._range_db
        self._ground(left, "PSNR, dB: predicted (orange), last frame repeated (grey)", (f"{high:.0f}", f"{low:.0f}"))
        self._line(left, past, [(each.floor_psnr - low) / (high - low) for each in past], FLOOR)
        self._line(left, past, [(each.psnr - low) / (high - low) for each in past], PREDICTED)
        self._ground(right, "surprise, 0 to 1 (red: beyond the threshold)", ("1", "0"))
        self._line(right, past, [each.score for each in past], SCORE)
        for each in past:
            if each.surprising:
                cv2.circle(right, self._point(right, each.stamp_ns, each.score), 3, ALARM, -1, cv2.LINE_AA)
        return np.concatenate([left, right], axis=1)

    def _ground(self, picture: np.ndarray, title: str, ends: tuple[str, str]) -> None:
        picture[:] = GROUND
        top, bottom = self._rows(picture)
        for row, end in zip((top, bottom), ends, strict=True):
            cv2.line(picture, (0, row), (picture.shape[1], row), GRID, 1)
            cv2.putText(picture, end, (4, row - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.35, INK, 1, cv2.LINE_AA)
        cv2.putText(picture, title, (40, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)

    def _line(
        self, picture: np.ndarray, past: Sequence[Compared], heights: Sequence[float], colour: tuple[int, int, int]
    ) -> None:
        lines: list[list[tuple[int, int]]] = []
        last_ns = -math.inf
        for each, height in zip(past, heights, strict=True):
            if not np.isfinite(height):
                continue
            if each.stamp_ns - last_ns > self._gap_ns:
                lines.append([])
            lines[-1].append(self._point(picture, each.stamp_ns, height))
            last_ns = each.stamp_ns
        cv2.polylines(picture, [np.array(line, np.int32) for line in lines], False, colour, 2, cv2.LINE_AA)

    def _point(self, picture: np.ndarray, stamp_ns: int, height: float) -> tuple[int, int]:
        top, bottom = self._rows(picture)
        x = round((picture.shape[1] - 1) * (stamp_ns - self._begin_ns) / self._span_ns)
        return x, round(bottom - (bottom - top) * min(max(height, 0.0), 1.0))

    @staticmethod
    def _rows(picture: np.ndarray) -> tuple[int, int]:
        return 26, picture.shape[0] - 8
