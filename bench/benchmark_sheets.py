"""One contact sheet of a benchmark's best, median and worst clip, or of the rollouts that failed."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

COLUMNS = 6
QUALITY = 82  # JPEG
MOST_FAILED = 3
LABEL = 16  # pixels of height


def write_sheet(windows: Sequence[dict], folder: Path, file: Path) -> None:
    """As a JPEG: the first rollouts that failed, where a benchmark says which; else of the clips that show the model
    most frames the best, the median and the worst by PSNR over the floor.

    windows  of benchmark.json
    folder   the benchmark's
    """
    longest = max(window["n_conditioning"] for window in windows)
    measured = [window for window in windows if "samples" in window and window["n_conditioning"] == longest]
    ranked = sorted(measured, key=gain, reverse=True)
    shown = list(zip(("best", "median", "worst"), (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True))
    if failed := [window for window in windows if "samples" in window and window["benchmark"]["model"].get("failed")]:
        shown = [("failed", window) for window in failed[:MOST_FAILED]]
    sheets = []
    for word, window in shown:
        sheets.append(sheet(json.loads((folder / "windows" / f"{window['key']}.pictures.json").read_text())))
        print(f"{word}: {window['key']}, {gain(window):+.2f} dB against the floor")
    cv2.imwrite(str(file), np.vstack(sheets), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    print(f"{file}, {file.stat().st_size / 1e3:.0f} kB")


def gain(window: dict) -> float:
    """Over the floor, dB PSNR."""
    return float(np.mean(window["samples"][0]["psnr"]) - np.mean(window["repeat_last_frame"]["psnr"]))


def sheet(shown: dict) -> np.ndarray:
    """True frames above predicted ones, evenly over the horizon, BGR."""
    n = len(shown["truth"])
    steps = np.linspace(0, n - 1, COLUMNS).round().astype(int)
    rows = [np.hstack([decoded(shown[name][k]) for k in steps]) for name in ("truth", "predicted")]
    width = rows[0].shape[1]
    labels = np.full((LABEL, width, 3), 255, np.uint8)
    for column, k in enumerate(steps):
        words = f"+{(k + 1) / shown['frame_rate']:.1f} s"
        place = (column * width // COLUMNS + 4, LABEL - 4)
        cv2.putText(labels, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (60, 60, 60), 1, cv2.LINE_AA)
    return np.vstack([labels, *rows])


def decoded(jpeg: str) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(jpeg), np.uint8), cv2.IMREAD_COLOR)
    scale = min(1.0, 200 / picture.shape[1])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
