"""How far apart two videos are to the model's own tokenizer."""

from __future__ import annotations

import numpy as np

# Quantisation levels per dimension of a token's code, by the vocabulary (finite scalar quantisation, Mentzer et al.,
# ICLR 2024): Cosmos' discrete tokenizers', and the shipped model's.
LEVELS = {64000: (8, 8, 8, 5, 5, 5), 4375: (7, 5, 5, 5, 5)}


def token_distance(tokens: np.ndarray, others: np.ndarray, vocabulary: int) -> float:
    """0 for the same tokens, 1 for codes at opposite ends in every dimension: the mean over tokens and dimensions.

    tokens, others  whole numbers [...], in 0 .. vocabulary - 1

    Of a vocabulary that is not among LEVELS the codes are unknown: then it is the share of tokens that differ.
    """
    levels = LEVELS.get(vocabulary)
    if levels is None:
        return float((tokens != others).mean())
    return float(np.abs(_code(tokens, levels) - _code(others, levels)).mean())


def _code(tokens: np.ndarray, levels: tuple[int, ...]) -> np.ndarray:
    """[..., dimensions] in 0..1; the first dimension is the lowest digit."""
    basis = np.cumprod((1, *levels[:-1]))
    return tokens[..., None] // basis % levels / (np.array(levels) - 1)
