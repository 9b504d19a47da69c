"""The matrix products of a pass. Those of one input are one: a GPU reads one large matrix faster than three smaller."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.world_model.decoding import layer_kernels, products
from cosmos_ros.world_model.decoding.float8 import Float8Linear, Rows, multiply_rows, quantise

Layer: TypeAlias = nn.Linear | Float8Linear


class Projection:
    """Linear layers of one input, whose results stand side by side: [M, in] -> [M, rows of all].

    partial  give sums over parts of the input, [parts, M, rows of all], where that saves a step
    gate     of two layers: give silu(first) * second, [M, rows of one]
    float8   whether it takes rows in float8, with their scales
    """

    def __init__(self, *layers: Layer, partial: bool = False, gate: bool = False) -> None:
        self._layers, self._partial, self._gate = layers, partial, gate
        self.float8 = isinstance(layers[0], Float8Linear)
        # A layer of another kind, as tensor parallelism has, does more than multiply.
        self._plain = self.float8 or type(layers[0]) is nn.Linear

    def __call__(self, x: Rows) -> Tensor:
        if not self._plain and isinstance(x, Tensor):
            return self._layers[0](x)
        weight, scales = side_by_side([layer.weight for layer in self._layers]), None
        if self.float8 or isinstance(x, tuple):
            x, row_scale = x if isinstance(x, tuple) else quantise(x)
            scale = side_by_side([layer.scale for layer in self._layers if isinstance(layer, Float8Linear)])
            scales = row_scale, scale
        if products.serves(len(x), weight):
            return products.multiply(x, weight, scales, partial=self._partial, gate=self._gate)
        result = F.linear(x, weight) if scales is None else multiply_rows(x, scales[0], weight, scales[1])
        return layer_kernels.gate(result) if self._gate else result


@torch.inference_mode(False)
def side_by_side(parts: list[Tensor]) -> Tensor:
    """Tensors [rows, ...] as one of all rows. They are laid so in memory, where they are not yet, and stay good."""
    first, rows = parts[0], sum(len(part) for part in parts)
    if not _adjoin(parts):
        # As bytes, for not everything can be joined in float8. The old memory goes: each stands there once.
        together = torch.cat([part.data.view(torch.uint8) for part in parts]).view(first.dtype)
        for part, new in zip(parts, together.split([len(part) for part in parts]), strict=True):
            part.data = new
    return torch.as_strided(first.data, (rows, *first.shape[1:]), first.stride())


def _adjoin(parts: list[Tensor]) -> bool:
    storages = {part.untyped_storage().data_ptr() for part in parts}
    ends = [part.data_ptr() + part.nbytes for part in parts]
    starts = [part.data_ptr() for part in parts]
    return len(storages) == 1 and ends[:-1] == starts[1:] and all(part.is_contiguous() for part in parts)
