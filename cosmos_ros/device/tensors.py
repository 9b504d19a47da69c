"""Questions about many tensors at once: how large they are, and whether they are finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once, in the module's own order."""
    return [*module.parameters(), *module.buffers()]


def bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(module))


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of the weights that hold a NaN or an infinity. All are floating-point and on one device."""
    # The extremes carry every NaN and infinity, need no second tensor, and are fetched from the device in one go.
    extremes = torch.stack([torch.stack(torch.aminmax(weight)).float() for weight in weights.values()])
    finite = torch.isfinite(extremes).all(dim=1).tolist()
    return [name for name, good in zip(weights, finite, strict=True) if not good]
