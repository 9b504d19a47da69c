"""What stands between the matrix products of the diffusion decoder's network, in plain PyTorch."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6  # of every norm in this network
Rows: TypeAlias = Tensor | tuple[Tensor, Tensor]  # [M, N], or in float8 with scales [M, 1]


class Branch(NamedTuple):
    """What a part of a block adds to the first rows of its input: gate * rows."""

    rows: Tensor  # [at most M, dim]
    gate: Tensor  # [dim]


class Steering(NamedTuple):
    """How the noise level steers what goes into a part of a block: norm(x) * (1 + scale) + shift. [dim] each."""

    shift: Tensor
    scale: Tensor


class Between(Protocol):
    """What stands between the matrix products: this module in plain PyTorch, `kernels` in fewer launches on a GPU."""

    def add_and_normalise(self, x: Tensor, branch: Branch | None, steering: Steering, float8: bool) -> Rows:
        """Add the branch to x [M, dim] in place; its LayerNorm, shifted and scaled."""
        ...

    def normalise_heads(self, x: Tensor, weight: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """RMSNorm of every head of x [M, heads * head_dim], then rotated by the row's place in the video."""
        ...

    def gelu(self, x: Tensor, float8: bool) -> Rows: ...


def add_and_normalise(x: Tensor, branch: Branch | None, steering: Steering, float8: bool) -> Rows:
    if branch is not None:
        x[: len(branch.rows)] += branch.gate * branch.rows
    return _rows(F.layer_norm(x, x.shape[1:], eps=EPS) * (1 + steering.scale) + steering.shift, float8)


def normalise_heads(x: Tensor, weight: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
    heads = F.rms_norm(x.unflatten(-1, (-1, len(weight))), weight.shape, weight, EPS)
    if rotation is not None:
        first, second = heads.float().unflatten(0, (-1, len(rotation[0]))).chunk(2, dim=-1)
        cosines, sines = (table[None, :, None] for table in rotation)  # the same for all videos and heads
        turned = [first * cosines - second * sines, second * cosines + first * sines]
        heads = torch.cat(turned, dim=-1).flatten(0, 1).to(x.dtype)
    return heads.flatten(1)


def gelu(x: Tensor, float8: bool) -> Rows:
    return _rows(F.gelu(x), float8)


def _rows(x: Tensor, float8: bool) -> Rows:
    if not float8:
        return x
    from cosmos_ros.world_model.decoding.float8 import quantise  # needs Triton, as float8 itself does

    return quantise(x)
