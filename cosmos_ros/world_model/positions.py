"""Position tables of the published models: rotary in three dimensions (with YaRN), and absolute sine-cosine.

Neither is stored in a checkpoint. Rows are in raster order (t, then h, then w), with a neutral row in front where
the model has BOV, and neutral rows behind up to a multiple of 64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cosmos_ros.world_model.config import TransformerConfig, Yarn

ABSOLUTE_BASE = 10000.0


def rope_table(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [position_rows, head_dim] each.

    The angles of a row are [time | height | width], given twice, for the rotate-half convention.
    Source: RoFormer (arXiv:2104.09864) along three axes, as in the published Cosmos autoregressive models.
    """
    # The width is stretched by the height's original length: the published models were trained so.
    original = config.yarn.original_latent_shape if config.yarn else (0, 0, 0)
    dim_t, dim_hw = _split(config.head_dim)
    frequencies_t = _frequencies(dim_t, config.rope_theta, config.yarn, original[0])
    frequencies_hw = _frequencies(dim_hw, config.rope_theta, config.yarn, original[1])
    t, h, w = _raster(config.latent_shape)
    angles = torch.cat(
        [torch.outer(t, frequencies_t), torch.outer(h, frequencies_hw), torch.outer(w, frequencies_hw)], dim=1
    )
    angles = _with_neutral_rows(angles.repeat(1, 2), config)
    return angles.cos(), angles.sin()


def absolute_table(config: TransformerConfig) -> Tensor:
    """Sine-cosine position embedding, bfloat16 [position_rows, dim]: [time | height | width], each [sine | cosine].

    Computed in float64 and rounded to bfloat16 whatever the model's precision, as published.
    """
    dim_t, dim_hw = _split(config.dim)
    t, h, w = config.latent_shape
    grid = torch.empty(t, h, w, config.dim, dtype=torch.bfloat16, device="cpu")
    grid[..., :dim_t] = _sine_cosine(t, dim_t)[:, None, None]
    grid[..., dim_t:-dim_hw] = _sine_cosine(h, dim_hw)[:, None]
    grid[..., -dim_hw:] = _sine_cosine(w, dim_hw)
    return _with_neutral_rows(grid.flatten(0, 2), config)


def _split(dim: int) -> tuple[int, int]:
    """How many of `dim` channels belong to time, and how many to height and to width each."""
    dim_hw = dim // 6 * 2
    return dim - 2 * dim_hw, dim_hw


def _frequencies(dim: int, theta: float, yarn: Yarn | None, original_length: int) -> Tensor:
    """Inverse frequencies, float32 [dim // 2]; with YaRN the slow ones are divided by its scale."""
    frequencies = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    if yarn is None:
        return frequencies
    high = 2 * math.pi * yarn.beta_fast / original_length
    low = 2 * math.pi * yarn.beta_slow / original_length
    keep = ((frequencies - low) / (high - low)).clamp(0, 1)
    return frequencies * ((1 - keep) / yarn.scale + keep)


def _raster(latent_shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates t, h, w of every token in raster order, float32 [t*h*w] each."""
    axes = [torch.arange(size, dtype=torch.float32, device="cpu") for size in latent_shape]
    t, h, w = torch.meshgrid(*axes, indexing="ij")
    return t.flatten(), h.flatten(), w.flatten()


def _sine_cosine(length: int, dim: int) -> Tensor:
    """float64 [length, dim]."""
    frequencies = ABSOLUTE_BASE ** -(np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = np.outer(np.arange(length, dtype=np.float64), frequencies)
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1))


def _with_neutral_rows(rows: Tensor, config: TransformerConfig) -> Tensor:
    """Zero rows in front for BOV, and behind up to `position_rows`."""
    table = rows.new_zeros(config.position_rows, rows.shape[1])
    table[config.sequence_length - len(rows) : config.sequence_length] = rows
    return table
