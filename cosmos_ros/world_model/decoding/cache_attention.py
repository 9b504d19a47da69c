"""Attention of a window of new tokens over the KV cache, as Triton kernels: each filled row is read once.

Decoding is bound by memory: PyTorch's fused kernels put few thread blocks on each key-value head, which leaves most of
the GPU idle, and read every row that a mask then discards. Here the rows are split over thread blocks that look at
the positions on the device ("flash-decoding", Dao et al. 2023), so that one captured graph serves the whole video.

Splits and blocks begin at fixed rows of the cache, and a row that a query may not see adds an exact zero: what a query
gets depends neither on its place in the window nor on the other queries.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_QUERY_BLOCK = 128
LOG2_E = 1.4426950408889634
BLOCK_ROWS = 64
LONG = 4096  # rows of a cache that has work enough for eight splits however many the queries


def rows_per_split(rows: int, n_kv_heads: int, query_blocks: int) -> int:
    """Rows of a split: with the published heads, a little under one or two thread blocks on each multiprocessor of
    an H100. That depends on no batch, so that a sample is summed as it is alone.
    """
    at_once = n_kv_heads * query_blocks
    splits = 16 if at_once <= 8 else 8 if at_once <= 16 or rows > LONG else 4
    return triton.cdiv(rows, splits * BLOCK_ROWS) * BLOCK_ROWS


def attend_to_cache(queries: Tensor, keys: Tensor, values: Tensor, filled: Tensor) -> Tensor:
    """Query w of a sample sees the rows up to filled - 1 + w.

    queries       [B, n_heads, W, head_dim], contiguous; head_dim a power of two from 16 on
    keys, values  [B, n_kv_heads, rows, head_dim], rows contiguous
    filled        int64 [B], on the device
    returns       [B, W, n_heads * head_dim], in the queries' type
    """
    batch, n_heads, window, head_dim = queries.shape
    n_kv_heads, rows = keys.shape[1:3]
    group_rows = n_heads // n_kv_heads * window  # queries that share a key-value head, as rows of one matrix
    block = min(max(16, triton.next_power_of_2(group_rows)), LARGEST_QUERY_BLOCK)
    blocks = triton.cdiv(group_rows, block)
    split_rows = rows_per_split(rows, n_kv_heads, blocks)
    splits = triton.cdiv(rows, split_rows)
    partial = torch.empty(splits, batch * n_heads * window, head_dim, device=queries.device, dtype=torch.float32)
    weight = torch.empty(splits, batch * n_heads * window, device=queries.device, dtype=torch.float32)
    result = torch.empty(batch, window, n_heads * head_dim, device=queries.device, dtype=queries.dtype)
    wide = queries.dtype == torch.float32
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
        BLOCK=block,
        BLOCK_ROWS=32 if wide else BLOCK_ROWS,
        SPLIT_ROWS=split_rows,
        PRECISION="ieee" if wide else "tf32",
        num_warps=8 if block == LARGEST_QUERY_BLOCK else 4,
        num_stages=1 if wide else 3,
    )
    _combine_splits[(batch * n_heads * window,)](
        partial,
        weight,
        result,
        splits,
        batch * n_heads * window,
        n_heads,
        window,
        HEAD_DIM=head_dim,
        SPLITS=triton.next_power_of_2(splits),
        num_warps=1,
    )
    return result


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
    SPLIT_ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One split of the rows for queries of one key-value head: their weighted sum of values, and its log2-sum-exp2."""
    split, sample = tl.program_id(0), tl.program_id(2)
    head, block = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    row = block * BLOCK + tl.arange(0, BLOCK)
    real = row < group_rows
    channel = tl.arange(0, HEAD_DIM)
    first = tl.load(filled + sample).to(tl.int32) - 1
    last = first + row % window
    row_of_all = (sample * N_KV_HEADS + head) * group_rows + row
    query = tl.load(queries + row_of_all[:, None] * HEAD_DIM + channel[None, :], mask=real[:, None], other=0.0)

    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    summed = tl.zeros([BLOCK, HEAD_DIM], tl.float32)
    begin = split * SPLIT_ROWS
    end = tl.minimum(begin + SPLIT_ROWS, first + window)
    seen_by_all = tl.minimum(end, begin + tl.maximum(first + 1 - begin, 0) // BLOCK_ROWS * BLOCK_ROWS)
    place = sample.to(tl.int64) * sample_stride + head.to(tl.int64) * head_stride
    keys += place
    values += place
    for at in range(begin, seen_by_all, BLOCK_ROWS):
        highest, total, summed = _absorb(
            query, keys, values, at, end, last, highest, total, summed, scale, HEAD_DIM, BLOCK_ROWS, PRECISION, False
        )
    for at in range(seen_by_all, end, BLOCK_ROWS):
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
    partial, weight, result, splits, all_rows, n_heads, window, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr
):
    """The splits of one query, weighted by their log2-sum-exp2. A split that saw nothing was not written: not read."""
    row = tl.program_id(0)
    split = tl.arange(0, SPLITS)
    channel = tl.arange(0, HEAD_DIM)
    place = split.to(tl.int64) * all_rows + row
    log_weight = tl.load(weight + place, mask=split < splits, other=float("-inf"))
    portion = tl.exp2(log_weight - tl.max(log_weight, 0))
    part = tl.load(
        partial + place[:, None] * HEAD_DIM + channel[None, :], mask=(log_weight > float("-inf"))[:, None], other=0.0
    )
    mean = tl.sum(part * portion[:, None], 0) / tl.sum(portion, 0)
    head, sample = row // window % n_heads, row // (window * n_heads)
    place_in_result = ((sample * window + row % window) * n_heads + head) * HEAD_DIM
    tl.store(result + place_in_result + channel, mean.to(result.dtype.element_ty))
