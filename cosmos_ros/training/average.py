"""The running average of a network's weights, which is what gets exported (Polyak and Juditsky 1992)."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

WARM_UP = 20  # updates over which the average begins to reach back


class Average(Generic[Network]):
    """network is the averaged copy, in eval mode and without gradients."""

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._live: list[Tensor] = list(network.parameters())
        self._shadow: list[Tensor] = list(self.network.parameters())
        self._decay, self._n = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """After every step of the optimizer."""
        self._n += 1
        decay = min(self._decay, self._n / (self._n + WARM_UP))
        torch._foreach_lerp_(self._shadow, self._live, 1 - decay)
