"""Noise that is keyed by what it is drawn for: the same (seed, position, token) has the same noise, always.

A counter-based hash in whole numbers of 32 bits, the same bit for bit on every device; no generator is advanced, so
that it does not matter in which order, how often or in how many passes tokens are drawn. Two rounds of the mixer
`lowbias32` (C. Wellons, "hash prospector"), each with a key of 32 bits from seed and position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: spreads consecutive numbers
MIX_1, MIX_2 = 0x7FEB352D, 0x846CA68B
MASK = 0xFFFFFFFF
BELOW_ONE = 1 - 2**-24  # the largest float32 below 1: beyond it a clock would never strike
POSITIONS_PER_BLOCK = 32


def seed_words(seed: int) -> tuple[int, int]:
    """Two numbers of 32 bits from a seed of 64 (SplitMix64, Steele et al. 2014): near seeds give far words."""
    z = (seed + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    z ^= z >> 31
    return z & MASK, z >> 32


def words_of(seeds: Sequence[int]) -> Tensor:
    """The words of several seeds, int32 [B, 2]."""
    return torch.tensor([[_signed(word) for word in seed_words(seed)] for seed in seeds], dtype=torch.int32)


def bits(words: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """32 random bits for every token at every position: int32 [B, N, vocabulary].

    words      int32 [B, 2], as `words_of` gives them
    positions  int64 [B, N]
    """
    first, second = words[:, None, :1], words[:, None, 1:]
    place = positions.to(torch.int32)[..., None]
    key = mix(mix(place ^ first) + second)
    other = mix(mix(place + second) ^ (first + _signed(GOLDEN)))
    token = torch.arange(vocabulary, dtype=torch.int32, device=words.device) * _signed(GOLDEN)
    return mix(mix(token + key) ^ other)


def gumbel(words: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise for every token at every position: float32 [B, N, vocabulary].

    The logarithm of an exponential clock's rate: the argmax of log-probabilities plus this is a draw from them, and
    the very one that the race of clocks, argmax(probability / exponential), gives.
    """
    # 31 bits as a fraction in (0, 1). Near 0, where the clocks that win strike, float32 keeps it to full precision.
    fraction = ((bits(words, positions, vocabulary) >> 1) & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31)
    return fraction.clamp_(max=BELOW_ONE).neg_().log1p_().neg_().log_().neg_()


def mix(x: Tensor) -> Tensor:
    """A bijection of int32 in which every bit of the result depends on every bit of x."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * _signed(MIX_1)
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * _signed(MIX_2)
    return x ^ ((x >> 16) & 0xFFFF)


def _signed(word: int) -> int:
    """The int32 of the same bits."""
    return word - (1 << 32) if word >> 31 else word


class NoiseRows:
    """Noise for windows that slide over the positions, on the CPU: each position's row is made once.

    Rows are made in blocks that begin at multiples of their length. PyTorch's logarithm may differ in the last bit
    between the ends of a tensor and its middle; so made, a row has the same bits in every window.
    """

    def __init__(self, batch: int, window: int, vocabulary: int) -> None:
        slots = math.ceil(window / POSITIONS_PER_BLOCK) + 1  # blocks that a window can touch
        self._rows = torch.empty(batch, slots, POSITIONS_PER_BLOCK, vocabulary)
        self._held = torch.empty(batch, slots, dtype=torch.long)
        self._words = torch.empty(batch, 2, dtype=torch.int32)
        self._sample = torch.arange(batch)[:, None]

    def begin(self, words: Tensor) -> None:
        """Start with new seeds' words, int32 [B, 2]."""
        self._words.copy_(words)
        self._held.fill_(-1)

    def of(self, positions: Tensor) -> Tensor:
        """float32 [B, N, vocabulary] for windows of positions, int64 [B, N]."""
        slots, vocabulary = self._rows.shape[1], self._rows.shape[-1]
        blocks = positions // POSITIONS_PER_BLOCK
        for sample, ends in enumerate(blocks[:, [0, -1]].tolist()):
            for block in range(ends[0], ends[1] + 1):
                if self._held[sample, block % slots] != block:
                    inside = torch.arange(POSITIONS_PER_BLOCK) + block * POSITIONS_PER_BLOCK
                    rows = gumbel(self._words[sample : sample + 1], inside[None], vocabulary)
                    self._rows[sample, block % slots] = rows[0]
                    self._held[sample, block % slots] = block
        return self._rows[self._sample, blocks % slots, positions % POSITIONS_PER_BLOCK]
