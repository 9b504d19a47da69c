"""Simulated episodes: every camera's frames, as a real camera would have spoilt them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cosmos_ros.training.robots.models import RobotModel
from cosmos_ros.training.splits import Split

EPISODE_FRAMES = 48
PHYSICS_HZ = 200
PHYSICS_STEPS = (13, 16, 20, 20, 25, 32, 40)  # between two frames: 15.4 to 5 Hz
BLURRED = 0.25  # share of the episodes whose shutter is open for longer than an instant
EXPOSURES = (2, 3, 4)  # physics steps: up to 20 ms, as by the light of lamps


class SimulatedEpisodes(Dataset):
    """Episode i of a split: a film uint8 [EPISODE_FRAMES, *size, 3] of each of its cameras.

    robots  that packages bring; with others, or none, an index means another episode
    """

    def __init__(
        self, split: Split, indices: Sequence[int], size: tuple[int, int], robots: Sequence[RobotModel] = ()
    ) -> None:
        self._split, self._indices, self._size, self._robots = split, indices, size, robots

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> list[Tensor]:
        # Only those who film need MuJoCo.
        from cosmos_ros.training.episodes import draw_scene
        from cosmos_ros.training.simulation import film

        cv2.setNumThreads(1)
        index = self._indices[place]
        # Of the camera, and of its shutter; the scene has a stream of its own.
        rng, shutter = (np.random.default_rng([self._split, index, stream]) for stream in (1, 2))
        frame_rate = PHYSICS_HZ / rng.choice(PHYSICS_STEPS)
        exposure = int(shutter.choice(EXPOSURES)) if shutter.random() < BLURRED else 1
        scene = draw_scene(self._split, index, self._robots)
        views = film(scene, EPISODE_FRAMES, frame_rate, *self._size, exposure)
        return [torch.from_numpy(spoilt(frames, rng)) for frames in views.values()]


def spoilt(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames uint8 [n, H, W, 3] with one camera's exposure, softness, noise and JPEG artefacts."""
    levels = np.clip(255 * np.linspace(0, 1, 256) ** rng.uniform(0.75, 1.35) * rng.uniform(0.8, 1.1), 0, 255)
    is_soft, noise = rng.random() < 0.4, rng.uniform(0, 4) * (rng.random() < 0.6)
    quality = int(rng.integers(45, 96)) if rng.random() < 0.6 else None
    out = np.empty_like(frames)
    for frame, place in zip(frames, out, strict=True):
        picture = levels[cv2.GaussianBlur(frame, (0, 0), 0.7) if is_soft else frame]
        if noise:
            picture = picture + noise * rng.standard_normal(picture.shape, dtype=np.float32)
        picture = np.clip(picture, 0, 255).astype(np.uint8)
        if quality is not None:
            coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        place[:] = picture
    return out
