"""How many cores of the CPU the model takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def half_the_cores() -> Iterator[None]:
    """Work on at most half of the cores, fewer where PyTorch was told fewer.

    A decoding pass splits each of its small products over the threads and waits for the slowest. One that shares its
    core with the robot's other programs holds all up: on 2 busy cores 2 threads were measured at a tenth of the speed
    of 1, and on 2 idle ones at 1.4 times. The camera's images need a core as well.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, max(1, CORES // 2)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
