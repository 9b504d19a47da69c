"""A transformer's layers as a CPU computes them fastest: weights that lie as its kernels read them, in few products.

A pass has few rows: of a product over them, plain PyTorch spends a third on laying out the weights, in every pass anew.
oneDNN takes weights that were laid out once. Each row of its result is the same, bit for bit, whatever the other rows
are and however many, as a window needs it. And a pass has many steps, each with its own start: so what has the same
input is one product, and what becomes of queries and keys happens to both at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.world_model.transformer import Attend, FeedForward, Rotation, SelfAttention, Transformer, rotate

OPERATORS = ("_reorder_linear_weight", "_linear_pointwise")


class PackedLinear(nn.Module):
    """Linear layers of one input without bias, float32: their results stand side by side.

    weight  [out of all, in], in a layout that only oneDNN reads
    """

    weight: Tensor

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        together = layers[0].weight.data if len(layers) == 1 else torch.cat([layer.weight.data for layer in layers])
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(together), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")


class PackedSelfAttention(nn.Module):
    """A SelfAttention in two products."""

    norm_weight: Tensor

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.head_dim, self.eps = attention.head_dim, attention.q_norm.eps
        self.n_heads, self.n_kv_heads = (
            layer.out_features // attention.head_dim for layer in (attention.wq, attention.wk)
        )
        weights = [attention.q_norm.weight.data] * self.n_heads + [attention.k_norm.weight.data] * self.n_kv_heads
        self.register_buffer("norm_weight", torch.stack(weights)[:, None], persistent=False)
        self.project_in = PackedLinear(attention.wq, attention.wk, attention.wv)
        self.project_out = PackedLinear(attention.wo)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        heads = self.project_in(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        turning, values = heads[:, : -self.n_kv_heads], heads[:, -self.n_kv_heads :]
        turning = F.rms_norm(turning, (self.head_dim,), eps=self.eps) * self.norm_weight
        queries, keys = rotate(turning, rotation).split([self.n_heads, self.n_kv_heads], dim=1)
        return self.project_out(attend(queries, keys, values).transpose(1, 2).flatten(2))


class PackedFeedForward(nn.Module):
    """A FeedForward in two products."""

    def __init__(self, feed_forward: FeedForward) -> None:
        super().__init__()
        self.opening = PackedLinear(feed_forward.w1, feed_forward.w3)
        self.closing = PackedLinear(feed_forward.w2)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.opening(x).chunk(2, dim=-1)
        return self.closing(F.silu(gate) * value)


@torch.inference_mode(False)
@torch.no_grad()
def pack(transformer: Transformer) -> None:
    """Exchange the parts with large weights, one after the other: the model never stands in memory twice.

    A transformer elsewhere than on the CPU, or in another precision, stays as it is, and so does one where PyTorch has
    no oneDNN, or none with these operators, which are its own and may change.
    """
    weight = transformer.output.weight
    there = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not there:
        return
    _pack_parts(transformer)


def _pack_parts(owner: nn.Module) -> None:
    """From the outside in: what has been exchanged is gone, and nothing in it is packed by itself once more."""
    packed = {nn.Linear: PackedLinear, SelfAttention: PackedSelfAttention, FeedForward: PackedFeedForward}
    for name, part in owner.named_children():
        if type(part) in packed:
            setattr(owner, name, packed[type(part)](part))
        else:
            _pack_parts(part)
