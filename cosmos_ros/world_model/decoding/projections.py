"""Matrix products that take the same input, as one: a GPU reads one large matrix faster than two or three smaller."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.world_model.decoding.float8 import Float8Linear, multiply, quantise

Rows = Tensor | tuple[Tensor, Tensor]  # [M, N], or in float8 with scales [M, 1]


class Projection:
    """Linear layers of one input, whose results stand side by side: [M, in] -> [M, rows of all]."""

    def __init__(self, *layers: nn.Linear | Float8Linear) -> None:
        self._layers = layers
        self.float8 = isinstance(layers[0], Float8Linear)

    def __call__(self, x: Rows) -> Tensor:
        weight = side_by_side([layer.weight for layer in self._layers])
        if not self.float8:
            return F.linear(x, weight)
        rows, scale = x if isinstance(x, tuple) else quantise(x)
        return multiply(rows, scale, weight, side_by_side([layer.scale for layer in self._layers]))


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
