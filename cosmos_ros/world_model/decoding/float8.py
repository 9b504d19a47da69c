"""Matrix products in 8-bit floating point: half the bytes of bfloat16, and what rounding costs.

Each row of weights and each row of activations has a scale of its own. The embedding, the norms, the head and what a
prompt is projected by stay in bfloat16. Needs a GPU with such units (compute capability 8.9 on: Ada, Hopper, later).
"""

from __future__ import annotations

import logging
from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from cosmos_ros.world_model.decoding.dependent_launch import overlap, take_turn
from cosmos_ros.world_model.transformer import Transformer

FLOAT8 = torch.float8_e4m3fn
Rows: TypeAlias = Tensor | tuple[Tensor, Tensor]  # [M, N], or in float8 with scales [M, 1]
LARGEST = 448.0  # of float8_e4m3fn

logger = logging.getLogger(__name__)


class Float8Linear(nn.Module):
    """A linear layer without bias.

    weight  float8 [out, in]
    scale   float32 [out], of each row
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantise(linear.weight.data)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale[:, 0].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = quantise(x.reshape(-1, x.shape[-1]))
        return multiply_rows(rows, scale, self.weight, self.scale).view(*x.shape[:-1], -1)


@torch.inference_mode(False)
@torch.no_grad()
def to_float8(transformer: Transformer) -> None:
    """Exchange every layer's large weights, one after the other: the model never stands in memory twice."""
    for layer in transformer.layers:
        owners = [(layer.attention, ("wq", "wk", "wv", "wo")), (layer.feed_forward, ("w1", "w2", "w3"))]
        if transformer.config.has_text:
            owners.append((layer.cross_attention, ("wq", "wo")))
        for owner, names in owners:
            for name in names:
                setattr(owner, name, Float8Linear(getattr(owner, name)))


def multiply_rows(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """bfloat16 [M, out] of float8 [M, in] with scales [M, 1], and float8 [out, in] with scales [out]."""
    return torch._scaled_mm(
        x, weight.t(), scale_a=x_scale, scale_b=weight_scale[None], out_dtype=torch.bfloat16, use_fast_accum=True
    )


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [M, N] in float8, and their scales float32 [M, 1]."""
    rows, columns = x.shape
    result = torch.empty(rows, columns, device=x.device, dtype=FLOAT8)
    scale = torch.empty(rows, 1, device=x.device, dtype=torch.float32)
    block = triton.next_power_of_2(columns)
    warps = 16 if block > 8192 else 8 if block > 2048 else 4
    _quantise[(rows,)](x, result, scale, columns, x.stride(0), BLOCK=block, num_warps=warps, **overlap(x, rows))
    return result, scale


@triton.jit
def store_float8(value, result, scale, row, columns, column, real):
    """Write a row, float32, as float8 with its scale."""
    size = tl.maximum(tl.max(tl.abs(value), 0), 1e-12) / 448.0
    tl.store(scale + row, size)
    rounded = tl.minimum(tl.maximum(value / size, -448.0), 448.0).to(tl.float8e4nv)
    tl.store(result + row.to(tl.int64) * columns + column, rounded, mask=real)


@triton.jit
def _quantise(x, result, scale, columns, stride, BLOCK: tl.constexpr, TURN: tl.constexpr):
    take_turn(TURN)
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    real = column < columns
    value = tl.load(x + row.to(tl.int64) * stride + column, mask=real, other=0.0).to(tl.float32)
    store_float8(value, result, scale, row, columns, column, real)
