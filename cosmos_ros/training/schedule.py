"""How fast a network learns in each step."""

from __future__ import annotations

import math

LAST_RATE = 0.01  # of the highest


def learning_rate(highest: float, step: int, steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then half a cosine from `highest` down to a hundredth of it."""
    warm = (step + 1) / min(warmup_steps, steps)
    return highest * min(warm, LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2)
