"""Drawing the next token: temperature and top-p, in the published order of operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    seed         same seed, model, device and dtype: same tokens
    temperature  divides the logits; 0: always the likeliest token
    top_p        in (0, 1]: draw from the likeliest tokens that together reach this probability (Holtzman et al. 2020)
    """

    seed: int
    temperature: float
    top_p: float

    def generator(self, device: torch.device | str) -> torch.Generator:
        """A fresh source of noise for one generation."""
        return torch.Generator(device).manual_seed(self.seed)


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Draw one token per row: logits [..., vocabulary] -> int64 [...].

    The draw is a race of exponential clocks, argmax(p / e), over the tokens sorted by probability, in the logits'
    own precision: with the same noise the published sampler draws the same tokens.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities, order = truncated_probabilities(logits, sampling.temperature, sampling.top_p)
    noise = torch.empty_like(probabilities).exponential_(1.0, generator=generator)
    winner = (probabilities / noise).argmax(dim=-1, keepdim=True)
    return order.gather(-1, winner).squeeze(-1)


def truncated_probabilities(logits: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities that are drawn from, in falling order, and the tokens [..., vocabulary] they belong to.

    The token that crosses top_p is kept, so at least one always is.
    """
    probabilities, order = torch.sort(torch.softmax(logits / temperature, dim=-1), dim=-1, descending=True)
    before = torch.cumsum(probabilities, dim=-1) - probabilities
    probabilities = probabilities.masked_fill(before > top_p, 0.0)
    return probabilities / probabilities.sum(dim=-1, keepdim=True), order
