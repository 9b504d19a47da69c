"""Attention of a window of new tokens over the KV cache, as Triton kernels: each filled row is read once.

Decoding is bound by memory: PyTorch's fused kernels put few thread blocks on each key-value head, which leaves most of
the GPU idle, and read every row that a mask then discards. Here the rows are split over thread blocks that look at
the positions on the device ("flash-decoding", Dao et al. 2023), so that one captured graph serves the whole video.

Blocks begin at fixed rows of the cache and are dealt to the splits in turn, so that all have work however far the cache
is filled. A row that a query may not see adds an exact zero: what a query gets depends neither on its place in the
window nor on the other queries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosmos_ros.world_model.decoding.dependent_launch import overlap, take_turn
from cosmos_ros.world_model.decoding.float8 import FLOAT8, Rows, store_float8

LOG2_E = 1.4426950408889634
MOST_SPLITS = 8
COMBINED_HEADS = 2  # whose splits a thread block combines, unless it has to see the whole row


class Tiling(NamedTuple):
    """How much a thread block takes up at once: queries of one key-value head, and rows of the cache."""

    queries: int
    rows: int
    stages: int
    warps: int


def tiling(queries: int, wide: bool) -> Tiling:
    """For so many queries that share a key-value head; `wide` numbers have 32 bits."""
    block = min(max(16, triton.next_power_of_2(queries)), 128)
    if wide:
        return Tiling(block, 32, 1, 8 if block == 128 else 4)
    return Tiling(block, 128, 3, 4) if block == 16 else Tiling(block, 64, 3, 8 if block == 128 else 4)


def splits_of(n_kv_heads: int, query_blocks: int) -> int:
    """Over how many thread blocks the rows are split: with the published heads, one on nearly each multiprocessor of an
    H100. That depends on no batch, so that a sample is summed as it is alone.
    """
    most = max(128 // (n_kv_heads * query_blocks), 1)
    return min(1 << (most.bit_length() - 1), MOST_SPLITS)


def attend_to_cache(queries: Tensor, keys: Tensor, values: Tensor, filled: Tensor, float8: bool = False) -> Rows:
    """Query w of a sample sees the rows up to filled - 1 + w.

    queries       [B, n_heads, W, head_dim], contiguous; head_dim a power of two from 16 on
    keys, values  [B, n_kv_heads, rows, head_dim], rows contiguous
    filled        int64 [B], on the device
    returns       [B * W, n_heads * head_dim], in the queries' type or in float8 with its rows' scales
    """
    batch, n_heads, window, head_dim = queries.shape
    n_kv_heads = keys.shape[1]
    group_rows = n_heads // n_kv_heads * window  # queries that share a key-value head, as rows of one matrix
    wide, early = queries.dtype == torch.float32, overlap(queries, batch * window)
    cut = tiling(group_rows, wide)
    blocks = triton.cdiv(group_rows, cut.queries)
    splits = splits_of(n_kv_heads, blocks)
    partial = torch.empty(splits, batch * n_heads * window, head_dim, device=queries.device, dtype=torch.float32)
    weight = torch.empty(splits, batch * n_heads * window, device=queries.device, dtype=torch.float32)
    _attend_split[(splits, n_kv_heads * blocks, batch)](
        queries,
        keys,
        values,
        filled,
        partial,
        weight,
        window,
        group_rows,
        blocks,
        batch * n_heads * window,
        keys.stride(0),
        keys.stride(1),
        head_dim**-0.5 * LOG2_E,
        N_KV_HEADS=n_kv_heads,
        HEAD_DIM=head_dim,
        BLOCK=cut.queries,
        BLOCK_ROWS=cut.rows,
        SPLITS=splits,
        PRECISION="ieee" if wide else "tf32",
        num_warps=cut.warps,
        num_stages=cut.stages,
        **early,
    )
    result = torch.empty(
        batch * window, n_heads * head_dim, device=queries.device, dtype=FLOAT8 if float8 else queries.dtype
    )
    scale = torch.empty(batch * window, 1, device=queries.device, dtype=torch.float32)
    heads = triton.next_power_of_2(n_heads if float8 else min(n_heads, COMBINED_HEADS))
    _combine_splits[(batch * window, triton.cdiv(n_heads, heads))](
        partial,
        weight,
        result,
        scale,
        batch * n_heads * window,
        n_heads,
        window,
        HEAD_DIM=head_dim,
        HEADS=heads,
        SPLITS=splits,
        TO_FLOAT8=float8,
        num_warps=8 if float8 else 1,
        **early,
    )
    return (result, scale) if float8 else result


@triton.jit
def _absorb(
    query,
    keys,
    values,
    at,
    end,
    last,
    highest,
    total,
    summed,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Take a block of rows into the running softmax, with the same rounding whether it is masked or not."""
    cached = at + tl.arange(0, BLOCK_ROWS)
    offsets = cached[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    if MASKED:
        key = tl.load(keys + offsets, mask=(cached < end)[:, None], other=0.0)
        value = tl.load(values + offsets, mask=(cached < end)[:, None], other=0.0)
    else:
        key, value = tl.load(keys + offsets), tl.load(values + offsets)
    score = tl.dot(query, tl.trans(key), input_precision=PRECISION)
    if MASKED:
        score = tl.where(cached[None, :] <= last[:, None], score, float("-inf"))
    new_highest = tl.maximum(highest, tl.max(score, 1) * scale)
    # A row that has seen nothing yet keeps -inf as its maximum: subtract zero there, not infinity.
    reference = tl.where(new_highest == float("-inf"), 0.0, new_highest)
    shrink = tl.exp2(highest - reference)
    # Fused by name: left to the compiler, one kind of block would be rounded once here and the other twice.
    portion = tl.exp2(tl.fma(score, tl.full(score.shape, 1.0, tl.float32) * scale, -reference[:, None]))
    total = tl.fma(total, shrink, tl.sum(portion, 1))
    summed = tl.dot(portion.to(value.dtype), value, summed * shrink[:, None], input_precision=PRECISION)
    return new_highest, total, summed


@triton.jit
def _attend_split(
    queries,
    keys,
    values,
    filled,
    partial,
    weight,
    window,
    group_rows,
    blocks,
    all_rows,
    sample_stride,
    head_stride,
    scale,
    N_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    TURN: tl.constexpr,
):
    """One split of the rows for queries of one key-value head: their weighted sum of values, and its log2-sum-exp2."""
    take_turn(TURN)
    split, sample = tl.program_id(0), tl.program_id(2)
    head, block = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    row = block * BLOCK + tl.arange(0, BLOCK)
    real = row < group_rows
    channel = tl.arange(0, HEAD_DIM)
    place = sample.to(tl.int64) * sample_stride + head.to(tl.int64) * head_stride
    keys += place
    values += place
    first = tl.load(filled + sample).to(tl.int32) - 1
    last = first + row % window
    row_of_all = (sample * N_KV_HEADS + head) * group_rows + row
    query = tl.load(queries + row_of_all[:, None] * HEAD_DIM + channel[None, :], mask=real[:, None], other=0.0)

    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    summed = tl.zeros([BLOCK, HEAD_DIM], tl.float32)
    step: tl.constexpr = SPLITS * BLOCK_ROWS
    begin, end = split * BLOCK_ROWS, first + window
    seen_by_all = (first + 1) // BLOCK_ROWS * BLOCK_ROWS
    for at in range(begin, seen_by_all, step):
        highest, total, summed = _absorb(
            query, keys, values, at, end, last, highest, total, summed, scale, HEAD_DIM, BLOCK_ROWS, PRECISION, False
        )
    begin += tl.cdiv(tl.maximum(seen_by_all - begin, 0), step) * step
    for at in range(begin, end, step):
        highest, total, summed = _absorb(
            query, keys, values, at, end, last, highest, total, summed, scale, HEAD_DIM, BLOCK_ROWS, PRECISION, True
        )

    seen = total > 0
    place_of_row = split.to(tl.int64) * all_rows + row_of_all
    sum_of_all = highest + tl.log2(tl.where(seen, total, 1.0))
    tl.store(weight + place_of_row, tl.where(seen, sum_of_all, float("-inf")), mask=real)
    tl.store(
        partial + place_of_row[:, None] * HEAD_DIM + channel[None, :],
        summed / tl.where(seen, total, 1.0)[:, None],
        mask=(real & seen)[:, None],
    )


@triton.jit
def _combine_splits(
    partial,
    weight,
    result,
    scale,
    all_rows,
    n_heads,
    window,
    HEAD_DIM: tl.constexpr,
    HEADS: tl.constexpr,
    SPLITS: tl.constexpr,
    TO_FLOAT8: tl.constexpr,
    TURN: tl.constexpr,
):
    """Heads of one token: the splits weighted by their log2-sum-exp2. What saw nothing was not written: not read."""
    take_turn(TURN)
    token = tl.program_id(0)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    real = head < n_heads
    channel = tl.arange(0, HEAD_DIM)[None, :]
    row = (token // window * n_heads + head) * window + token % window
    place = tl.arange(0, SPLITS)[:, None].to(tl.int64) * all_rows + row[None, :]
    log_weight = tl.load(weight + place, mask=real[None, :], other=0.0)
    highest = tl.max(log_weight, 0)
    total = tl.sum(tl.exp2(log_weight - highest[None, :]), 0)
    mean = tl.zeros([HEADS, HEAD_DIM], tl.float32)
    for split in tl.static_range(SPLITS):
        place = row.to(tl.int64) + split * all_rows
        log_weight = tl.load(weight + place, mask=real, other=float("-inf"))
        seen = (log_weight > float("-inf"))[:, None]
        part = tl.load(partial + place[:, None] * HEAD_DIM + channel, mask=seen, other=0.0)
        mean += part * tl.exp2(log_weight - highest)[:, None]
    mean = mean / total[:, None]
    column = head[:, None] * HEAD_DIM + channel
    if TO_FLOAT8:
        rounded = tl.reshape(mean.to(tl.bfloat16).to(tl.float32), [HEADS * HEAD_DIM])
        column = tl.arange(0, HEADS * HEAD_DIM)
        store_float8(rounded, result, scale, token, n_heads * HEAD_DIM, column, column < n_heads * HEAD_DIM)
    else:
        tl.store(result + token * n_heads * HEAD_DIM + column, mean.to(result.dtype.element_ty), mask=real[:, None])
