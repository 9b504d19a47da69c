"""Matrix products that take the same input, as one: a GPU reads one large matrix faster than two or three smaller."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.world_model.transformer import Block


class Projections:
    """A layer's products before attention and before the gate, over weights that lie one after the other."""

    def __init__(self, layer: Block) -> None:
        attention, feed_forward = layer.attention, layer.feed_forward
        self._attention = [attention.wq, attention.wk, attention.wv]
        self._feed_forward = [feed_forward.w1, feed_forward.w3]

    def queries_keys_values(self, x: Tensor) -> Tensor:
        """[M, dim] -> [M, (n_heads + 2 * n_kv_heads) * head_dim]."""
        return F.linear(x, side_by_side(self._attention))

    def gate_and_value(self, x: Tensor) -> Tensor:
        """[M, dim] -> [M, 2 * ffn_hidden]."""
        return F.linear(x, side_by_side(self._feed_forward))


@torch.no_grad()
def side_by_side(layers: list[nn.Linear]) -> Tensor:
    """The layers' weights as one matrix [rows of all, in]. They are laid so in memory, where they are not yet."""
    weights = [layer.weight for layer in layers]
    rows, first = sum(len(weight) for weight in weights), weights[0]
    if not _adjoin(weights):
        together = torch.cat([weight.data for weight in weights])
        for weight, part in zip(weights, together.split([len(weight) for weight in weights]), strict=True):
            weight.data = part  # the old one goes: the weights stand in memory once
    return torch.as_strided(first.data, (rows, first.shape[1]), (first.shape[1], 1))


def _adjoin(weights: list[Tensor]) -> bool:
    storage = weights[0].untyped_storage().data_ptr()
    ends = [weight.data_ptr() + weight.nbytes for weight in weights]
    return all(weight.is_contiguous() and weight.untyped_storage().data_ptr() == storage for weight in weights) and all(
        end == weight.data_ptr() for end, weight in zip(ends, weights[1:], strict=False)
    )
