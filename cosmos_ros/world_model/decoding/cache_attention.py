"""Attention of a few new tokens over the KV cache, for CUDA: reads each filled row once and no other.

Decoding is bound by memory: PyTorch's fused kernels put one thread block on each key-value head, which leaves most of
the GPU idle, and read every row that a mask then discards. Here the rows are split over thread blocks that look at
the positions on the device ("flash-decoding", Dao et al. 2023), so one captured graph serves the whole video.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS_PER_SPLIT = 256
BLOCK_BYTES = 128  # of one channel of a block of rows: 64 rows in bfloat16, 32 in float32, for the shared memory
LARGEST_QUERY_BLOCK = 64
MOST_TOKENS = 128  # of one pass: beyond it the partial sums outgrow the cache, and PyTorch's kernels fill the GPU


def serves(keys: Tensor, n: int) -> bool:
    """Whether a pass of n tokens over a cache of keys [..., batch, n_kv_heads, rows, head_dim] may come here."""
    batch, head_dim = keys.shape[-4], keys.shape[-1]
    return keys.is_cuda and batch == 1 and n <= MOST_TOKENS and head_dim >= 16 and head_dim & (head_dim - 1) == 0


def attend_to_cache(queries: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """Every query sees the rows up to its own position.

    queries       [1, n_heads, N, head_dim]
    keys, values  [1, n_kv_heads, rows, head_dim], rows contiguous
    positions     int64 [N], on the device
    returns       [1, n_heads, N, head_dim], in the queries' type
    """
    _, n_heads, n, head_dim = queries.shape
    n_kv_heads, rows = keys.shape[1:3]
    queries = queries.contiguous()
    group_rows = n_heads // n_kv_heads * n  # queries that share a key-value head, as rows of one matrix
    block = min(max(16, triton.next_power_of_2(group_rows)), LARGEST_QUERY_BLOCK)
    splits = triton.cdiv(rows, ROWS_PER_SPLIT)
    partial = torch.empty(splits, n_heads * n, head_dim, device=queries.device, dtype=torch.float32)
    weight = torch.empty(splits, n_heads * n, device=queries.device, dtype=torch.float32)
    result = torch.empty_like(queries)
    _attend_split[(splits, n_kv_heads, triton.cdiv(group_rows, block))](
        queries,
        keys,
        values,
        positions,
        partial,
        weight,
        n,
        group_rows,
        n_heads * n,
        rows,
        keys.stride(1),
        head_dim**-0.5,
        HEAD_DIM=head_dim,
        BLOCK=block,
        BLOCK_ROWS=BLOCK_BYTES // keys.element_size(),
        ROWS_PER_SPLIT=ROWS_PER_SPLIT,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_stages=2,
    )
    _combine_splits[(n_heads * n,)](
        partial, weight, result, splits, n_heads * n, HEAD_DIM=head_dim, SPLITS=triton.next_power_of_2(splits)
    )
    return result


@triton.jit
def _attend_split(
    queries,
    keys,
    values,
    positions,
    partial,
    weight,
    n,
    group_rows,
    all_rows,
    cache_rows,
    head_stride,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    ROWS_PER_SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One split of the rows for one key-value head: the softmax-weighted sum of values and its log-sum-exp."""
    split, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = block * BLOCK + tl.arange(0, BLOCK)
    real = row < group_rows
    channel = tl.arange(0, HEAD_DIM)
    last = tl.load(positions + row % n, mask=real, other=-1).to(tl.int32)
    row_of_all = head * group_rows + row
    query = tl.load(queries + row_of_all[:, None] * HEAD_DIM + channel[None, :], mask=real[:, None], other=0.0)

    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    summed = tl.zeros([BLOCK, HEAD_DIM], tl.float32)
    begin = split * ROWS_PER_SPLIT
    end = tl.minimum(begin + ROWS_PER_SPLIT, tl.minimum(cache_rows, tl.max(last, 0) + 1))
    for at in range(begin, end, BLOCK_ROWS):
        cached = at + tl.arange(0, BLOCK_ROWS)
        place = head * head_stride + cached[:, None] * HEAD_DIM + channel[None, :]
        filled = cached < end
        key = tl.load(keys + place, mask=filled[:, None], other=0.0)
        value = tl.load(values + place, mask=filled[:, None], other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        score = tl.where(cached[None, :] <= last[:, None], score, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(score, 1))
        # A row that has seen nothing yet keeps -inf as its maximum: subtract zero there, not infinity.
        reference = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        shrink = tl.exp(highest - reference)
        portion = tl.exp(score - reference[:, None])
        total = total * shrink + tl.sum(portion, 1)
        summed = summed * shrink[:, None] + tl.dot(portion.to(value.dtype), value, input_precision=PRECISION)
        highest = new_highest

    seen = total > 0
    place = split * all_rows + row_of_all
    tl.store(weight + place, tl.where(seen, highest + tl.log(tl.where(seen, total, 1.0)), float("-inf")), mask=real)
    tl.store(
        partial + place[:, None] * HEAD_DIM + channel[None, :],
        summed / tl.where(seen, total, 1.0)[:, None],
        mask=(real & seen)[:, None],
    )


@triton.jit
def _combine_splits(partial, weight, result, splits, all_rows, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr):
    """The splits of one query, weighted by their log-sum-exp. A split that saw nothing was not written: not read."""
    row = tl.program_id(0)
    split = tl.arange(0, SPLITS)
    channel = tl.arange(0, HEAD_DIM)
    place = split * all_rows + row
    log_weight = tl.load(weight + place, mask=split < splits, other=float("-inf"))
    portion = tl.exp(log_weight - tl.max(log_weight, 0))
    part = tl.load(
        partial + place[:, None] * HEAD_DIM + channel[None, :], mask=(log_weight > float("-inf"))[:, None], other=0.0
    )
    mean = tl.sum(part * portion[:, None], 0) / tl.sum(portion, 0)
    tl.store(result + row * HEAD_DIM + channel, mean.to(result.dtype.element_ty))
