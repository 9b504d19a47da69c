"""Rotary positions of the diffusion decoder: three axes, stretched in space, slowed down to the frame rate in time."""

from __future__ import annotations

import torch
from torch import Tensor

THETA = 10000.0
STRETCH = (1.0, 1.5, 1.5)  # NTK extrapolation along (time, height, width), as published
FRAME_RATE = 24.0  # Hz, at which the model was trained, and which the published pipeline always gives


def rotation_table(grid: tuple[int, int, int], head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines float32 [T * H * W, head_dim / 2] of every patch, in raster order.

    grid   patches along (time, height, width)
    dtype  of the network: the published pipeline converts what frequencies are made from with all else, so that in
           bfloat16 its angles are rounded (by up to 0.3 rad on the published grid)
    """
    spatial = head_dim // 6 * 2
    widths = (head_dim - 2 * spatial, spatial, spatial)
    angles = []
    for axis, (length, width, stretch) in enumerate(zip(grid, widths, STRETCH, strict=True)):
        place = torch.arange(length).to(dtype)
        if axis == 0:
            place = place / torch.tensor(FRAME_RATE, dtype=dtype) * FRAME_RATE
        exponents = (torch.arange(0, width, 2).float() / width).to(dtype)
        frequencies = 1.0 / (THETA * stretch ** (width / (width - 2))) ** exponents
        shape = [1, 1, 1, width // 2]
        shape[axis] = length
        angles.append(torch.outer(place, frequencies).view(shape).expand(*grid, -1))
    table = torch.cat(angles, dim=-1).flatten(0, 2).float()
    return table.cos(), table.sin()
