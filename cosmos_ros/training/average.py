"""The running average of weights, which is what gets exported (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WARM_UP = 20  # updates over which the average begins to reach back


class Average:
    """The average of these parameters; of sharded ones, each rank keeps that of its own shard.

    decay  None: nothing is kept, and the weights themselves stand for their average
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float | None) -> None:
        self._live = [] if decay is None else [local(parameter) for parameter in parameters]
        self._shadow = [parameter.clone() for parameter in self._live]
        self._decay, self._n = decay or 0.0, 0

    @torch.no_grad()
    def update(self) -> None:
        """After every step of the optimizer."""
        self._n += 1
        if not self._live:
            return
        decay = min(self._decay, self._n / (self._n + WARM_UP))
        torch._foreach_lerp_(self._shadow, self._live, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The networks hold their averages inside, and their own weights again afterwards."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Average and weights take each other's place: one tensor after the other, so that little memory is needed."""
        for live, shadow in zip(self._live, self._shadow, strict=True):
            kept = live.clone()
            live.copy_(shadow)
            shadow.copy_(kept)

    def state(self) -> dict:
        return {"n": self._n, "shadow": [shadow.cpu() for shadow in self._shadow]}

    @torch.no_grad()
    def load_state(self, state: dict) -> None:
        self._n = state["n"]
        for shadow, kept in zip(self._shadow, state["shadow"], strict=True):
            shadow.copy_(kept)


def local(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter."""
    data = parameter.detach()
    return data.to_local() if hasattr(data, "to_local") else data
