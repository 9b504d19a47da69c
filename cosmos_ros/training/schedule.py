"""Training by the clock: a stage ends when its time is up, and its learning rate follows the time that has passed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch


class Schedule:
    """Iterates over training steps until `seconds` have passed or `max_steps` are done; sets the learning rate.

    Linear warm-up over `warmup_steps`, then half a cosine from `rate` down to a hundredth of it.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, rate: float, seconds: float, max_steps: int, warmup_steps: int = 200
    ) -> None:
        self.optimizer, self.rate, self.seconds = optimizer, rate, seconds
        self.max_steps, self.warmup_steps = max_steps, warmup_steps

    def __iter__(self) -> Iterator[int]:
        start = time.monotonic()
        for step in range(self.max_steps):
            done = max((time.monotonic() - start) / self.seconds, step / self.max_steps)
            if done >= 1:
                return
            rate = self.rate * min((step + 1) / self.warmup_steps, 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            yield step


class Journal:
    """Appends one JSON object per line to a file, and prints it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = time.monotonic()

    def note(self, **values: object) -> None:
        line = json.dumps({"seconds": round(time.monotonic() - self._start, 1)} | values)
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def require_finite(loss: torch.Tensor, stage: str, step: int) -> None:
    """Raises TrainingDiverged where the loss is no finite number."""
    if not math.isfinite(value := loss.item()):
        raise TrainingDiverged(
            f"{stage}: the loss is {value} at step {step}; what was exported before stays. Check the recordings for "
            "broken frames, or go on from the last export with --init"
        )


class TrainingDiverged(Exception):
    """A loss is no finite number any more: nothing sound can come of further steps."""
