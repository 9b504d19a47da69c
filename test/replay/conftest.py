"""Clips and rollouts to write, measure and report, small and made on the spot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cosmos_ros.guardrail import Guardrail
from cosmos_ros.rollout import Clip, Crop, GuardedRollout

START = 1_700_000_000_000_000_000


def moving_scene(n: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 [n, height, width, 3]: a textured ground and a disc that moves 2 pixels to the right per frame."""
    rng = np.random.default_rng(5)
    ground = np.kron(rng.integers(60, 180, (height // 4, width // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    frames = []
    for i in range(n):
        disc = (x - 8 - 2 * i) ** 2 + (y - height // 2) ** 2 < 49
        frames.append(np.where(disc[..., None], np.uint8([220, 60, 30]), ground))
    return np.stack(frames)


@pytest.fixture(scope="session")
def guardrail() -> Guardrail:
    spec = SimpleNamespace(directory=Path("none"), name="painted", published=False, takes_prompt=False)
    return Guardrail.for_model(spec)


@pytest.fixture
def guarded(guardrail):
    """(clip, rollout): 9 frames of a scene, and 24 more of them that went through the embedded guardrail."""

    def make(height: int = 48, width: int = 64, crop: Crop | None = None) -> tuple[Clip, GuardedRollout]:
        frames = moving_scene(33, height, width)
        clip = Clip(frames[:9], tuple(START + i * 100_000_000 for i in range(9)), 10.0)
        with guardrail.screen("") as screening:
            screening.admit_prompt()
            screening.inspect(frames[9:])
            crop = crop or Crop(0, 0, width, height)
            return clip, screening.release(clip, crop, model="painted", seed=7, timing=tuple)

    return make
