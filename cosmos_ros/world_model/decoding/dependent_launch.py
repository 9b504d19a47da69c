"""Kernels that begin while the one before them ends ("programmatic dependent launch", Hopper and later).

A pass is nearly two hundred kernels in a row. Each begins when the last thread block of its predecessor has ended, and
then needs microseconds until memory is busy again. With this a kernel's blocks come as soon as there is room, and wait
there for the predecessor's results.

Every kernel of a pass that is launched so has to call `take_turn` before it reads or writes anything that another
kernel writes or reads: only then has all that came before ended too.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

MANY_ROWS = 33  # of a pass, from which on only one thread block of a product fits on a multiprocessor


def overlap(x: Tensor, rows: int) -> dict:
    """Keyword arguments of a launch on the device of x, in a pass of so many rows.

    The next kernel's blocks come when all of this one's have begun, or, where several of them would crowd on the
    multiprocessors that end first, when this one's predecessor has ended.
    """
    if not _can_overlap(x.device):
        return {"TURN": 0}
    return {"TURN": 2 if rows >= MANY_ROWS else 1, "launch_pdl": True}


@cache
def _can_overlap(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:  # AMD's GPUs are named "cuda" too
        return False
    on_hopper = torch.cuda.get_device_capability(device) >= (9, 0)
    return on_hopper and hasattr(tl.extra.cuda, "gdc_wait")  # Triton from 3.4 on


@triton.jit
def take_turn(TURN: tl.constexpr):
    """Let the next kernel come, and wait until the one before has ended."""
    if TURN == 2:
        tl.extra.cuda.gdc_launch_dependents()
    if TURN > 0:
        tl.extra.cuda.gdc_wait()
    if TURN == 1:
        tl.extra.cuda.gdc_launch_dependents()
