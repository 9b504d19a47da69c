"""What tests of the world model share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def published_sampler():
    """NVIDIA's way to draw a token, from the published sampling code: the noise goes by rank in the sorted list."""

    def truncated_probabilities(logits: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
        """Probabilities that are drawn from, in falling order, and the tokens they belong to."""
        probabilities, order = torch.sort(torch.softmax(logits / temperature, dim=-1), dim=-1, descending=True)
        before = torch.cumsum(probabilities, dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before > top_p, 0.0)
        return probabilities / probabilities.sum(dim=-1, keepdim=True), order

    def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
        if temperature == 0:
            return logits.argmax(dim=-1)
        probabilities, order = truncated_probabilities(logits, temperature, top_p)
        noise = torch.empty_like(probabilities).exponential_(1.0, generator=generator)
        return order.gather(-1, (probabilities / noise).argmax(dim=-1, keepdim=True)).squeeze(-1)

    return SimpleNamespace(sample=sample, truncated_probabilities=truncated_probabilities)
