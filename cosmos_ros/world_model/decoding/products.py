"""Products of few rows with large matrices, as Triton kernels: what they cost is reading the matrix, once.

For up to 128 rows these read as fast as cuBLAS on an H100 or faster (measured in bench/results), and begin while the
kernel before them ends.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosmos_ros.world_model.decoding.dependent_launch import overlap, take_turn
from cosmos_ros.world_model.decoding.float8 import FLOAT8
from cosmos_ros.world_model.decoding.layer_kernels import gated

MOST_ROWS = 128
LARGE = 16384  # output channels from which on there is work enough for wide blocks
FEW = 6144  # below this the output channels are cut finer, or the input channels in two, for enough thread blocks


class Tiling(NamedTuple):
    """How a product is cut over thread blocks: output channels of each, bytes of a row of each step, and parts."""

    out: int
    step: int
    parts: int
    stages: int
    warps: int


def tiling(rows: int, outer: int, whole: bool) -> Tiling:
    """For so many rows times weights [outer, in]; `whole` ones are not cut in parts."""
    few_rows = rows <= 64
    if rows <= 16 and outer >= FEW:
        return Tiling(128, 512, 1, 3, 4) if outer >= LARGE else Tiling(32, 512, 1, 4, 4)
    if outer >= LARGE:
        return Tiling(128, 256, 1, 4, 4) if few_rows else Tiling(128, 128, 1, 5, 8)
    if outer >= FEW or (whole and not few_rows):
        return Tiling(64, 256, 1, 4, 4) if few_rows else Tiling(64, 128, 1, 8, 4)
    return Tiling(32, 256, 1, 8, 4) if few_rows else Tiling(64, 128, 2, 8, 4)


def serves(rows: int, weight: Tensor) -> bool:
    """Whether `multiply` knows products of so many rows with a weight [out, in]."""
    outer, inner = weight.shape
    return (
        weight.is_cuda
        and weight.dtype in (torch.bfloat16, FLOAT8)
        and rows <= MOST_ROWS
        and outer % 128 == 0
        and inner % 512 == 0
    )


def multiply(
    x: Tensor,
    weight: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
    *,
    partial: bool = False,
    gate: bool = False,
) -> Tensor:
    """x [M, in] times the transposed weight [out, in]: bfloat16 [M, out].

    scales   of float8 operands: float32 [M, 1] and [out]
    partial  give sums over parts of the input channels, float32 [parts, M, out], where there is more than one part
    gate     give silu(first half) * second half, [M, out / 2]
    """
    (rows, inner), outer = x.shape, weight.shape[0]
    cut = tiling(rows, outer, whole=gate)
    columns, block_out = (outer // 2, cut.out // 2) if gate else (outer, cut.out)
    kind = torch.float32 if cut.parts > 1 else torch.bfloat16
    result = torch.empty(cut.parts, rows, columns, device=x.device, dtype=kind)
    _multiply[(columns // block_out, cut.parts)](
        x,
        weight,
        *(scales or (x, x)),
        result,
        rows,
        columns,
        inner,
        inner // cut.parts,
        BLOCK=max(16, triton.next_power_of_2(rows)),
        BLOCK_OUT=block_out,
        BLOCK_IN=cut.step // weight.element_size(),
        SCALED=scales is not None,
        GATED=gate,
        num_warps=cut.warps,
        num_stages=cut.stages,
        **overlap(x, rows),
    )
    if cut.parts == 1:
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
    columns,
    inner,
    inner_of_part,
    BLOCK: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    SCALED: tl.constexpr,
    GATED: tl.constexpr,
    TURN: tl.constexpr,
):
    take_turn(TURN)
    part = tl.program_id(1)
    row = tl.arange(0, BLOCK)
    real = row < rows
    out = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    column = part * inner_of_part + tl.arange(0, BLOCK_IN)
    x += row[:, None] * inner + column[None, :]
    weight += out[:, None].to(tl.int64) * inner + column[None, :]
    second = weight + columns.to(tl.int64) * inner
    summed = tl.zeros([BLOCK, BLOCK_OUT], tl.float32)
    other = summed
    for _ in range(0, inner_of_part, BLOCK_IN):
        given = tl.load(x, mask=real[:, None], other=0.0)
        summed = tl.dot(given, tl.trans(tl.load(weight, eviction_policy="evict_first")), summed)
        if GATED:
            other = tl.dot(given, tl.trans(tl.load(second, eviction_policy="evict_first")), other)
            second += BLOCK_IN
        x += BLOCK_IN
        weight += BLOCK_IN
    if SCALED:
        scale = tl.load(row_scale + row, mask=real, other=0.0)[:, None]
        summed *= scale
        summed *= tl.load(weight_scale + out)[None, :]
        if GATED:
            other *= scale
            other *= tl.load(weight_scale + columns + out)[None, :]
    kind = result.dtype.element_ty
    place = (part.to(tl.int64) * rows + row[:, None]) * columns + out[None, :]
    if GATED:
        tl.store(result + place, gated(summed, other, kind), mask=real[:, None])
    else:
        tl.store(result + place, summed.to(kind), mask=real[:, None])
