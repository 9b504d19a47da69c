"""Drawing tokens: temperature and top-p, with noise that is keyed by seed, position and token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

STRETCH_STEP = 0x9E3779B97F4A7C15  # from one stretch's seed to the next: the step of SplitMix64, see noise.py
SMALLEST_TEMPERATURE = 2.0**-126  # the smallest normal float32; at it, all but the likeliest tokens are out of reach


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    seed         same seed, prompt, model, device, dtype and window: same tokens. Of the first sample of a batch; the
                 second's is one more, and so on
    temperature  divides the logits; 0: always the likeliest token
    top_p        in (0, 1]: draw from the likeliest tokens that together reach this probability (Holtzman et al. 2020)
    stretch      of a long rollout, 0 being the first
    """

    seed: int
    temperature: float
    top_p: float
    stretch: int = 0

    def of_stretch(self, number: int) -> Sampling:
        """How the tokens of one of a rollout's stretches are drawn."""
        return replace(self, stretch=number)

    def noise_seed(self, sample: int) -> int:
        """What a sample's noise is keyed by, in 0..2**64 - 1: each stretch has its own.

        The sample's seed and the stretch decide, so that a sample of a batch is what its seed gives alone.
        """
        return (self.seed + sample + self.stretch * STRETCH_STEP) % 2**64

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def divisor(self) -> float:
        """What logits are divided by: the temperature, kept from vanishing in float32; 1 where it is greedy."""
        return 1.0 if self.greedy else max(self.temperature, SMALLEST_TEMPERATURE)


NOT_FINITE = -1  # in the place of a token where the logits are no finite numbers


def draw(logits: Tensor, sampling: Sampling, noise: Tensor | None) -> Tensor:
    """One token for each row of logits: [..., vocabulary] -> int64 [...].

    noise  Gumbel noise of the logits' shape; not read where the sampling is greedy

    A token is kept for the draw where those that are strictly likelier have at most top_p of the probability together.
    So the token that crosses top_p is kept, as published; tokens of equal probability are kept or left out together.
    Among equal scores the smallest token wins. A row with a number that is not finite gives NOT_FINITE.
    """
    logits = logits.float()
    top = logits.amax(dim=-1, keepdim=True)
    finite = (top - logits.amin(dim=-1, keepdim=True)).isfinite().squeeze(-1)
    if sampling.greedy:
        token = logits.argmax(dim=-1)
    elif noise is None:
        raise ValueError("only greedy decoding draws without noise")
    else:
        # The highest is taken off first: a tiny temperature then makes the others -inf, and none of them NaN.
        scaled = (logits - top) / sampling.divisor
        token = _best_kept(scaled, scaled + noise, sampling.top_p)
    return token.masked_fill(~finite, NOT_FINITE)


def _best_kept(scaled: Tensor, scores: Tensor, top_p: float) -> Tensor:
    """The token of the best score among those that top_p keeps.

    Without a sort: the best of all tokens is taken, and where it is not kept, the best of those that are likelier than
    it, for none of the others is kept either. Rows need two rounds or so.
    """
    best = scores.argmax(dim=-1)
    if top_p >= 1:
        return best
    scaled, scores, result = scaled.flatten(0, -2), scores.flatten(0, -2), best.flatten()
    probabilities = torch.softmax(scaled, dim=-1)
    rows = torch.arange(len(result), device=result.device)
    while len(rows):
        level = scaled.gather(-1, result[rows, None])
        likelier = scaled > level
        refused = (probabilities * likelier).sum(dim=-1) > top_p
        rows, scaled, probabilities = rows[refused], scaled[refused], probabilities[refused]
        scores = scores[refused].masked_fill(~likelier[refused], -torch.inf)
        result[rows] = scores.argmax(dim=-1)
    return result.view(best.shape)
