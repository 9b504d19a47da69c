"""Products of few rows with large matrices, as Triton kernels: what they cost is reading the matrix, once.

For up to 64 rows, and up to 128 in float8 and of long or wide matrices, these read faster than cuBLAS on an H100
(measured in bench/results).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_ROWS, MOST_ROWS_FAR = 64, 128  # the latter in float8, and for matrices far from square
LARGE = 16384  # output channels from which on there is work enough for wide blocks
FEW_BLOCKS = 96  # thread blocks below which the input channels are split in two, for more of them


def serves(rows: int, weight: Tensor) -> bool:
    """Whether `multiply` knows products of so many rows with a weight [out, in]."""
    narrow, (outer, inner) = weight.element_size() == 1, weight.shape
    most = MOST_ROWS_FAR if narrow or outer >= LARGE or inner > 2 * outer else MOST_ROWS
    return (
        weight.is_cuda
        and (narrow or weight.dtype == torch.bfloat16)
        and rows <= most
        and outer % 128 == 0
        and inner % 512 == 0
    )


def multiply(x: Tensor, weight: Tensor, scales: tuple[Tensor, Tensor] | None = None, partial: bool = False) -> Tensor:
    """x [M, in] times the transposed weight [out, in]: bfloat16 [M, out].

    scales   of float8 operands: float32 [M, 1] and [out]
    partial  give sums over parts of the input channels, float32 [parts, M, out], where there is more than one part
    """
    (rows, inner), outer = x.shape, weight.shape[0]
    narrow = scales is not None
    block_out, block_in, stages, warps = (128, 128, 5 if narrow else 3, 8) if outer >= LARGE else (64, 128, 4, 4)
    parts = 2 if outer // block_out < FEW_BLOCKS else 1
    if narrow and outer < LARGE:
        block_in, stages = (256, 4) if parts == 2 else (128, 6)
    kind = torch.float32 if parts > 1 else torch.bfloat16
    result = torch.empty(parts, rows, outer, device=x.device, dtype=kind)
    _multiply[(outer // block_out, parts)](
        x,
        weight,
        *(scales or (x, x)),
        result,
        rows,
        outer,
        inner,
        inner // parts,
        BLOCK=max(16, triton.next_power_of_2(rows)),
        BLOCK_OUT=block_out,
        BLOCK_IN=block_in,
        SCALED=narrow,
        num_warps=warps,
        num_stages=stages,
    )
    if parts == 1:
        return result[0]
    return result if partial else result.sum(0).bfloat16()


@triton.jit
def _multiply(
    x,
    weight,
    row_scale,
    weight_scale,
    result,
    rows,
    outer,
    inner,
    inner_of_part,
    BLOCK: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    SCALED: tl.constexpr,
):
    part = tl.program_id(1)
    row = tl.arange(0, BLOCK)
    real = row < rows
    out = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    column = part * inner_of_part + tl.arange(0, BLOCK_IN)
    x += row[:, None] * inner + column[None, :]
    weight += out[:, None].to(tl.int64) * inner + column[None, :]
    summed = tl.zeros([BLOCK, BLOCK_OUT], tl.float32)
    for _ in range(0, inner_of_part, BLOCK_IN):
        given = tl.load(x, mask=real[:, None], other=0.0)
        read = tl.load(weight, eviction_policy="evict_first")
        summed = tl.dot(given, tl.trans(read), summed)
        x += BLOCK_IN
        weight += BLOCK_IN
    if SCALED:
        summed *= tl.load(row_scale + row, mask=real, other=0.0)[:, None]
        summed *= tl.load(weight_scale + out)[None, :]
    place = (part.to(tl.int64) * rows + row[:, None]) * outer + out[None, :]
    tl.store(result + place, summed.to(result.dtype.element_ty), mask=real[:, None])
