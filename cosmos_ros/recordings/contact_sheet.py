"""Many frames as one picture: a grid, in reading order."""

from __future__ import annotations

import math

import cv2
import numpy as np


def contact_sheet(frames: np.ndarray, max_width: int = 320) -> np.ndarray:
    """A grid of the frames uint8 [n, H, W, 3], each scaled down to at most `max_width` pixels.

    About one and a half times as many columns as rows, so that 24 frames make 6 columns by 4 rows. Cells that are
    left over stay black. Returns uint8 [rows * h, columns * w, 3].
    """
    n, height, width, _ = frames.shape
    columns = max(1, round(math.sqrt(1.5 * n)))
    rows = math.ceil(n / columns)
    scale = min(1.0, max_width / width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    sheet = np.zeros((rows * h, columns * w, 3), np.uint8)
    for i, frame in enumerate(frames):
        y, x = h * (i // columns), w * (i % columns)
        sheet[y : y + h, x : x + w] = cv2.resize(frame, (w, h), interpolation=cv2.INTER_AREA)
    return sheet
