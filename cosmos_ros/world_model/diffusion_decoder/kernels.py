"""What stands between the matrix products of the diffusion decoder's network, as Triton kernels: one launch where
PyTorch takes several, and so a fraction of what is read and written.

They compute what `between_products` computes, and round once where that rounds several times.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from cosmos_ros.world_model.decoding.float8 import FLOAT8, Float8Linear, store_float8
from cosmos_ros.world_model.diffusion_decoder.between_products import EPS, Branch, Rows, Steering
from cosmos_ros.world_model.diffusion_decoder.network import Block


def add_and_normalise(x: Tensor, branch: Branch | None, steering: Steering, float8: bool) -> Rows:
    rows, dim = x.shape
    result, scale = _empty(rows, dim, x, float8)
    _add_and_normalise[(rows,)](
        x,
        x if branch is None else branch.rows,
        x if branch is None else branch.gate,
        steering.shift,
        steering.scale,
        result,
        scale,
        0 if branch is None else len(branch.rows),
        EPS,
        DIM=dim,
        BLOCK=triton.next_power_of_2(dim),
        TO_FLOAT8=float8,
        num_warps=8 if dim >= 2048 else 4,
    )
    return (result, scale) if float8 else result


def normalise_heads(x: Tensor, weight: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
    rows, head_dim = len(x), len(weight)
    heads = x.shape[1] // head_dim
    _normalise_heads[(rows,)](
        x,
        weight,
        *(rotation or (x, x)),
        1 if rotation is None else len(rotation[0]),
        heads,
        EPS,
        HALF=head_dim // 2,
        BLOCK=triton.next_power_of_2(head_dim // 2),
        HEADS=triton.next_power_of_2(heads),
        ROTATE=rotation is not None,
        num_warps=4,
    )
    return x


def gelu(x: Tensor, float8: bool) -> Rows:
    rows, hidden = x.shape
    if not float8:
        _gelu[(triton.cdiv(x.numel(), 4096),)](x, x.numel(), BLOCK=4096, num_warps=8)
        return x
    result, scale = _empty(rows, hidden, x, float8)
    _gelu_row[(rows,)](x, result, scale, hidden, BLOCK=triton.next_power_of_2(hidden), num_warps=16)
    return result, scale


@torch.inference_mode(False)
@torch.no_grad()
def to_float8(block: Block, device: torch.device) -> None:
    """Exchange a block's large weights for such in 8 bits. They stay where they are; the device rounds them."""
    home = block.feed_forward.w1.weight.device
    block.to(device)
    owners: list[tuple[nn.Module, tuple[str, ...]]] = [
        (block.attention, ("wq", "wk", "wv", "wo")),
        (block.cross_attention, ("wq", "wo")),  # keys and values are those of a short text
        (block.feed_forward, ("w1", "w2")),
    ]
    for owner, names in owners:
        for name in names:
            setattr(owner, name, Float8Linear(getattr(owner, name)))
    block.to(home)


def _empty(rows: int, columns: int, like: Tensor, float8: bool) -> tuple[Tensor, Tensor]:
    result = torch.empty(rows, columns, device=like.device, dtype=FLOAT8 if float8 else like.dtype)
    return result, torch.empty(rows, 1, device=like.device, dtype=torch.float32)


@triton.jit
def _add_and_normalise(
    x,
    branch,
    gate,
    shift,
    steering_scale,
    result,
    scale,
    branch_rows,
    eps,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    TO_FLOAT8: tl.constexpr,
):
    row = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    real = channel < DIM
    kind = x.dtype.element_ty
    place = row.to(tl.int64) * DIM + channel
    value = tl.load(x + place, mask=real, other=0.0).to(tl.float32)
    if row < branch_rows:
        opened = tl.load(gate + channel, mask=real, other=0.0).to(tl.float32)
        added = value + opened * tl.load(branch + place, mask=real, other=0.0).to(tl.float32)
        tl.store(x + place, added.to(kind), mask=real)
        value = added.to(kind).to(tl.float32)
    centred = tl.where(real, value - tl.sum(value, 0) / DIM, 0.0)
    normal = centred * tl.rsqrt(tl.sum(centred * centred, 0) / DIM + eps)
    stretch = 1.0 + tl.load(steering_scale + channel, mask=real, other=0.0).to(tl.float32)
    steered = (normal * stretch + tl.load(shift + channel, mask=real, other=0.0).to(tl.float32)).to(kind)
    if TO_FLOAT8:
        store_float8(steered.to(tl.float32), result, scale, row, DIM, channel, real)
    else:
        tl.store(result + place, steered, mask=real)


@triton.jit
def _normalise_heads(
    x,
    weight,
    cosines,
    sines,
    length,
    heads,
    eps,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """All heads of one row, in place. Channels i and i + head_dim / 2 of a head pair up."""
    row = tl.program_id(0)
    head, channel = tl.arange(0, HEADS), tl.arange(0, BLOCK)
    inside = channel < HALF
    real = (head < heads)[:, None] & inside[None, :]
    kind = x.dtype.element_ty
    place = row.to(tl.int64) * heads * (2 * HALF) + head[:, None] * (2 * HALF) + channel[None, :]
    first = tl.load(x + place, mask=real, other=0.0).to(tl.float32)
    second = tl.load(x + place + HALF, mask=real, other=0.0).to(tl.float32)
    size = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * HALF) + eps)[:, None]
    first *= size * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    second *= size * tl.load(weight + HALF + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    if ROTATE:
        at = (row % length) * HALF + channel
        cosine = tl.load(cosines + at, mask=inside, other=0.0)[None, :]
        sine = tl.load(sines + at, mask=inside, other=0.0)[None, :]
        first, second = first * cosine - second * sine, second * cosine + first * sine
    tl.store(x + place, first.to(kind), mask=real)
    tl.store(x + place + HALF, second.to(kind), mask=real)


@triton.jit
def _gelu_of(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _gelu(x, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = place < count
    value = tl.load(x + place, mask=real, other=0.0)
    tl.store(x + place, _gelu_of(value.to(tl.float32)).to(value.dtype), mask=real)


@triton.jit
def _gelu_row(x, result, scale, hidden, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    real = channel < hidden
    value = tl.load(x + row.to(tl.int64) * hidden + channel, mask=real, other=0.0).to(tl.float32)
    store_float8(tl.where(real, _gelu_of(value), 0.0), result, scale, row, hidden, channel, real)
