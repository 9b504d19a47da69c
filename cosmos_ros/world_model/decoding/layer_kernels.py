"""What stands between the matrix products of a pass, as Triton kernels: one launch where PyTorch takes several.

They round where the plain transformer rounds, so that both compute the same up to the order of sums.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosmos_ros.world_model.decoding.dependent_launch import overlap, take_turn
from cosmos_ros.world_model.decoding.float8 import FLOAT8, Rows, store_float8

HEADS = 8  # of a row, that one thread block rotates


def add_and_normalise(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    eps: float,
    absolute: Tensor | None,
    filled: Tensor,
    window: int,
    float8: bool,
) -> Rows:
    """x += branch, += the absolute position's row, in place; returns RMSNorm(x).

    x          [B * W, dim]
    branch     likewise, or sums over parts [parts, B * W, dim]
    absolute   [rows, dim], of the positions; None: nothing is added
    float8     return it in float8, with its rows' scales
    """
    rows, dim = x.shape
    result = torch.empty_like(x, dtype=FLOAT8 if float8 else x.dtype)
    scale = torch.empty(rows, 1, device=x.device, dtype=torch.float32)
    _add_and_normalise[(rows,)](
        x,
        x if branch is None else branch,
        weight,
        x if absolute is None else absolute,
        filled,
        result,
        scale,
        window,
        0 if absolute is None else len(absolute) - 1,
        eps,
        DIM=dim,
        BLOCK=triton.next_power_of_2(dim),
        PARTS=0 if branch is None else branch.numel() // x.numel(),
        ADD_POSITION=absolute is not None,
        TO_FLOAT8=float8,
        num_warps=8 if dim >= 2048 else 4,
        **overlap(x, rows),
    )
    return (result, scale) if float8 else result


def rotate_and_store(
    projected: Tensor,
    norms: tuple[Tensor, Tensor],
    eps: float,
    tables: tuple[Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
    filled: Tensor,
    window: int,
) -> Tensor:
    """Normalise and rotate queries and keys, put keys and values into the cache; returns queries [B, heads, W, dim].

    projected     [B * W, (n_heads + 2 * n_kv_heads) * head_dim]: queries, keys, values
    norms         weights [head_dim] of the queries' and the keys' RMSNorm
    tables        cosines and sines [rows, head_dim]
    keys, values  of the layer, [B, n_kv_heads, rows, head_dim]
    """
    batch, n_kv_heads, _, head_dim = keys.shape
    n_heads = projected.shape[1] // head_dim - 2 * n_kv_heads
    queries = torch.empty(batch, n_heads, window, head_dim, device=projected.device, dtype=projected.dtype)
    heads = math.gcd(n_heads, n_kv_heads, HEADS)
    _rotate_and_store[(batch * window, (n_heads + 2 * n_kv_heads) // heads)](
        projected,
        *norms,
        *tables,
        queries,
        keys,
        values,
        filled,
        window,
        n_heads,
        n_kv_heads,
        len(tables[0]) - 1,
        keys.stride(0),
        keys.stride(1),
        eps,
        HEAD_DIM=head_dim,
        HEADS=heads,
        num_warps=4 if heads > 1 else 1,
        **overlap(projected, batch * window),
    )
    return queries


def gate(projected: Tensor) -> Tensor:
    """silu(first half) * second half: [M, 2 * hidden] -> [M, hidden]."""
    rows, hidden = projected.shape[0], projected.shape[1] // 2
    result = torch.empty(rows, hidden, device=projected.device, dtype=projected.dtype)
    block = min(1024, triton.next_power_of_2(hidden))
    _gate[(rows, triton.cdiv(hidden, block))](projected, result, hidden, BLOCK=block, **overlap(projected, rows))
    return result


@triton.jit
def _add_and_normalise(
    x,
    branch,
    weight,
    absolute,
    filled,
    result,
    scale,
    window,
    last_row,
    eps,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    ADD_POSITION: tl.constexpr,
    TO_FLOAT8: tl.constexpr,
    TURN: tl.constexpr,
):
    take_turn(TURN)
    row = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    real = channel < DIM
    kind = x.dtype.element_ty
    value = tl.load(x + row * DIM + channel, mask=real, other=0.0)
    if PARTS > 0:
        added = tl.load(branch + row * DIM + channel, mask=real, other=0.0).to(tl.float32)
        for part in tl.static_range(1, PARTS):
            at = (part * tl.num_programs(0) + row) * DIM
            added += tl.load(branch + at + channel, mask=real, other=0.0)
        value = (value.to(tl.float32) + added.to(kind).to(tl.float32)).to(kind)
    if ADD_POSITION:
        position = tl.minimum(tl.load(filled + row // window) - 1 + row % window, last_row)
        place = tl.load(absolute + position * DIM + channel, mask=real, other=0.0).to(tl.float32)
        value = (value.to(tl.float32) + place).to(kind)
    if PARTS > 0 or ADD_POSITION:
        tl.store(x + row * DIM + channel, value, mask=real)
    wide = value.to(tl.float32)
    normal = (wide * tl.rsqrt(tl.sum(wide * wide, 0) / DIM + eps)).to(kind)
    scaled = normal.to(tl.float32) * tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    if TO_FLOAT8:
        store_float8(scaled.to(kind).to(tl.float32), result, scale, row, DIM, channel, real)
    else:
        tl.store(result + row * DIM + channel, scaled.to(kind), mask=real)


@triton.jit
def _rotate_and_store(
    projected,
    query_norm,
    key_norm,
    cosines,
    sines,
    queries,
    keys,
    values,
    filled,
    window,
    n_heads,
    n_kv_heads,
    last_row,
    sample_stride,
    head_stride,
    eps,
    HEAD_DIM: tl.constexpr,
    HEADS: tl.constexpr,
    TURN: tl.constexpr,
):
    """A few heads of one row: all queries, all keys or all values."""
    take_turn(TURN)
    row, first_head = tl.program_id(0), tl.program_id(1) * HEADS
    sample, place = row // window, row % window
    position = tl.load(filled + sample) - 1 + place
    head = (first_head + tl.arange(0, HEADS))[:, None]
    channel = tl.arange(0, HEAD_DIM)[None, :]
    kind = queries.dtype.element_ty
    source = projected + (row * (n_heads + 2 * n_kv_heads) + head) * HEAD_DIM
    value = tl.load(source + channel)
    cached = sample.to(tl.int64) * sample_stride + position * HEAD_DIM + channel
    if first_head >= n_heads + n_kv_heads:
        tl.store(values + cached + (head - n_heads - n_kv_heads) * head_stride, value)
    else:
        half: tl.constexpr = HEAD_DIM // 2
        other_channel = (channel + half) % HEAD_DIM
        norm = query_norm
        if first_head >= n_heads:
            norm = key_norm
        wide = value.to(tl.float32)
        size = tl.rsqrt(tl.sum(wide * wide, 1) / HEAD_DIM + eps)[:, None]
        normal = ((wide * size).to(kind).to(tl.float32) * tl.load(norm + channel).to(tl.float32)).to(kind)
        other = tl.load(source + other_channel).to(tl.float32)
        other = ((other * size).to(kind).to(tl.float32) * tl.load(norm + other_channel).to(tl.float32)).to(kind)
        other = tl.where(channel < half, -other.to(tl.float32), other.to(tl.float32))
        table = tl.minimum(position, last_row) * HEAD_DIM + channel
        along = (normal.to(tl.float32) * tl.load(cosines + table).to(tl.float32)).to(kind).to(tl.float32)
        across = (other * tl.load(sines + table).to(tl.float32)).to(kind).to(tl.float32)
        rotated = (along + across).to(kind)
        if first_head >= n_heads:
            tl.store(keys + cached + (head - n_heads) * head_stride, rotated)
        else:
            tl.store(queries + ((sample * n_heads + head) * window + place) * HEAD_DIM + channel, rotated)


@triton.jit
def gated(opening, value, kind: tl.constexpr):
    """silu(opening) * value, float32, rounded where the plain transformer rounds."""
    opening = opening.to(kind).to(tl.float32)
    opened = (opening / (1.0 + tl.exp(-opening))).to(kind).to(tl.float32)
    return (opened * value.to(kind).to(tl.float32)).to(kind)


@triton.jit
def _gate(projected, result, hidden, BLOCK: tl.constexpr, TURN: tl.constexpr):
    take_turn(TURN)
    row = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = channel < hidden
    first = projected + row * 2 * hidden + channel
    opening = tl.load(first, mask=real, other=0.0).to(tl.float32)
    value = tl.load(first + hidden, mask=real, other=0.0).to(tl.float32)
    tl.store(result + row * hidden + channel, gated(opening, value, result.dtype.element_ty), mask=real)
