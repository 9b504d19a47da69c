"""How many threads one operation takes on the CPU: PyTorch's and OpenCV's, in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_AT_START = torch.get_num_threads()  # OMP_NUM_THREADS where that is set
_asked = 0


def set_cpu_threads(count: int) -> None:
    """Let every operation of this process use `count` threads from now on; 0: at most half of the cores.

    Half is the default because a decoding pass splits each of its small products over the threads and waits for the
    slowest. A thread that shares its core with the robot's other programs holds all of them up: on 2 busy cores,
    2 threads were measured at a tenth of the speed of 1, and on 2 idle ones at 1.4 times. Cameras need a core as well.
    """
    global _asked
    _asked = count
    torch.set_num_threads(count or _half_at_most(_AT_START))
    cv2.setNumThreads(torch.get_num_threads())


@contextmanager
def cpu_threads() -> Iterator[None]:
    """Compute on as many threads as were asked for; by default on half of the cores, or fewer if PyTorch is set to
    fewer. PyTorch keeps the number for each thread of the program, so every thread that computes has to say it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(_asked or _half_at_most(before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _half_at_most(count: int) -> int:
    return min(count, max(1, CORES // 2))
