"""The diffusion decoder's network: a diffusion transformer over patches of a noisy latent video and its tokens.

Blocks of self-attention, cross-attention to a text and a feed-forward, each of which is shifted, scaled and gated by
the noise level (adaLN with a low-rank part of its own and a shared one), with normalised queries and keys and rotary
positions in three dimensions (NVIDIA, arXiv:2501.03575, section 5). Written for the sizes of the published decoder:
what is read most is computed in few launches, and the half of a guided batch that has no text skips cross-attention.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cosmos_ros.world_model.diffusion_decoder import between_products
from cosmos_ros.world_model.diffusion_decoder.between_products import EPS, Between, Branch, Rows, Steering
from cosmos_ros.world_model.diffusion_decoder.config import LARGEST_GRID, PATCH, DiffusionDecoderConfig
from cosmos_ros.world_model.diffusion_decoder.positions import rotation_table
from cosmos_ros.world_model.transformer import embedding_weight

TIME_BASE = 10000.0
# From the fastest on an H100 to what works everywhere.
BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
# PyTorch's choice is the process's: of two threads that change it at once, the later would leave it changed.
CHOICE = threading.Lock()


@dataclass(frozen=True)
class Given:
    """What a forward gives to all its blocks.

    rotation  cosines and sines [L, head_dim / 2] of every patch of one video
    time      [1, dim], sines and cosines of the noise level, normalised
    shared    [1, 3 * dim], the part of shift, scale and gate that all blocks share
    context   [K, M, context_dim], of the first K of the videos
    videos    how many there are; their patches are the rows, one video after the other
    """

    rotation: tuple[Tensor, Tensor]
    time: Tensor
    shared: Tensor
    context: Tensor
    videos: int


class DiffusionTransformer(nn.Module):
    """Noisy latents and tokens in, the network's output F of the EDM parametrisation out (Karras et al. 2022).

    Made with random weights; see `load_diffusion_transformer`.
    """

    def __init__(self, config: DiffusionDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = _linear(config.patch_in, config.dim)
        weight = embedding_weight(config.vocabulary, config.token_channels)
        self.token_embedding = nn.Embedding.from_pretrained(weight, freeze=False)
        self.time = Time(config.dim)
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(config) for _ in range(config.n_blocks)))
        self.out_modulation = Modulation(config.dim, config.modulation_dim, config.double)
        self.out = _linear(config.dim, config.patch_out)
        self.between: Between = between_products

    def forward(self, latents: Tensor, c_noise: float, tokens: Tensor, context: Tensor) -> Tensor:
        """F [B, channels, T, h, w] of latents that were scaled to unit variance.

        latents  float [B, channels, T, h, w]
        c_noise  a quarter of the noise level's natural logarithm
        tokens   int64 [B, T, h / 2, w / 2]
        context  text embedding [K, M, context_dim] of the first K videos. The others have none, which is the same as
                 one of zeros: keys and values are projected without a bias, so that what is read from it is zero
        """
        grid = (latents.shape[2], latents.shape[3] // PATCH, latents.shape[4] // PATCH)
        if latents.shape[3] % PATCH or latents.shape[4] % PATCH or max(grid[1:]) > LARGEST_GRID:
            raise ValueError(
                f"latents must be an even number of pixels high and wide, at most {PATCH * LARGEST_GRID}; got "
                f"{list(latents.shape)}"
            )
        kind, device = self.patches.weight.dtype, latents.device
        x = self.patches(to_patches(self._conditioned(latents.to(kind), tokens))).flatten(0, 1)
        time, shared = self.time(torch.tensor([c_noise], device=device, dtype=kind))
        given = Given(self._rotation(grid, device, kind), time, shared, context.to(device, kind), len(latents))
        branch: Branch | None = None
        for block in self.blocks:
            branch = block(x, branch, given, self.between)
        shift, scale = self.out_modulation(time, shared[:, : self.config.double]).chunk(2)
        normal = self.between.add_and_normalise(x, branch, Steering(shift, scale), False)
        return from_patches(self.out(normal).unflatten(0, (len(latents), -1)), grid)

    def _conditioned(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Latents, embedded tokens enlarged to their size, and a padding mask that masks nothing, as channels."""
        batch, _, _, height, width = latents.shape
        embedded = self.token_embedding(tokens).flatten(0, 1).movedim(-1, 1).float()
        enlarged = F.interpolate(embedded, size=(height, width), mode="bilinear").to(latents.dtype)
        enlarged = enlarged.unflatten(0, (batch, -1)).transpose(1, 2)
        return torch.cat([latents, enlarged, torch.zeros_like(latents[:, :1])], dim=1)

    def _rotation(self, grid: tuple[int, int, int], device: torch.device, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        cosines, sines = rotation_table(grid, self.config.head_dim, kind)
        return cosines.to(device), sines.to(device)


class Block(nn.Module):
    def __init__(self, config: DiffusionDecoderConfig) -> None:
        super().__init__()
        self.attention = Attention(config, source_dim=config.dim)
        self.cross_attention = Attention(config, source_dim=config.context_dim)
        self.feed_forward = FeedForward(config.dim, config.hidden)
        self.attention_modulation = Modulation(config.dim, config.modulation_dim, config.triple)
        self.cross_attention_modulation = Modulation(config.dim, config.modulation_dim, config.triple)
        self.feed_forward_modulation = Modulation(config.dim, config.modulation_dim, config.triple)

    def forward(self, x: Tensor, branch: Branch | None, given: Given, between: Between) -> Branch:
        """The block's last branch, to be added by whoever comes next; the others are added to x [B * L, dim] here.

        branch  the last one of the block before
        """
        shift, scale, gate = self.attention_modulation(given.time, given.shared).chunk(3)
        normal = between.add_and_normalise(x, branch, Steering(shift, scale), self.attention.float8)
        branch = Branch(self.attention.over_itself(normal, given, between), gate)

        shift, scale, gate = self.cross_attention_modulation(given.time, given.shared).chunk(3)
        normal = between.add_and_normalise(x, branch, Steering(shift, scale), self.cross_attention.float8)
        branch = None
        if len(given.context):
            branch = Branch(self.cross_attention.over_text(normal, given, between), gate)

        shift, scale, gate = self.feed_forward_modulation(given.time, given.shared).chunk(3)
        normal = between.add_and_normalise(x, branch, Steering(shift, scale), self.feed_forward.float8)
        return Branch(self.feed_forward(normal, between), gate)


class Attention(nn.Module):
    def __init__(self, config: DiffusionDecoderConfig, source_dim: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.wq, self.wk = _linear(config.dim, config.inner), _linear(source_dim, config.inner)
        self.wv, self.wo = _linear(source_dim, config.inner), _linear(config.inner, config.dim)
        self.q_norm, self.k_norm = Weight(config.head_dim), Weight(config.head_dim)

    @property
    def float8(self) -> bool:
        """Whether it takes rows in 8 bits."""
        return takes_float8(self.wq)

    def over_itself(self, x: Rows, given: Given, between: Between) -> Tensor:
        """[B * L, dim] of as many rows: every patch sees all patches of its video."""
        queries = between.normalise_heads(product(self.wq, x), self.q_norm.weight, given.rotation)
        keys = between.normalise_heads(product(self.wk, x), self.k_norm.weight, given.rotation)
        return self._attend(queries, keys, product(self.wv, x), given.videos)

    def over_text(self, x: Rows, given: Given, between: Between) -> Tensor:
        """[K * L, dim] of the rows of the first K videos: every patch sees the whole text, padding included."""
        videos = len(given.context)
        rows = len(x[0] if isinstance(x, tuple) else x) // given.videos * videos
        x = (x[0][:rows], x[1][:rows]) if isinstance(x, tuple) else x[:rows]
        text = given.context.flatten(0, 1)
        queries = between.normalise_heads(product(self.wq, x), self.q_norm.weight, None)
        keys = between.normalise_heads(self.wk(text), self.k_norm.weight, None)
        return self._attend(queries, keys, self.wv(text), videos)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, videos: int) -> Tensor:
        heads = [
            rows.unflatten(0, (videos, -1)).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for rows in (queries, keys, values)
        ]
        if not queries.is_cuda:
            seen = F.scaled_dot_product_attention(*heads)
        else:
            with CHOICE, sdpa_kernel(BACKENDS, set_priority=True):
                seen = F.scaled_dot_product_attention(*heads)
        return product(self.wo, seen.transpose(1, 2).reshape(len(queries), -1))


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2 = _linear(dim, hidden), _linear(hidden, dim)

    @property
    def float8(self) -> bool:
        return takes_float8(self.w1)

    def forward(self, x: Rows, between: Between) -> Tensor:
        return product(self.w2, between.gelu(product(self.w1, x), takes_float8(self.w2)))


class Modulation(nn.Module):
    """The noise level's own shift, scale and gate, from a low-rank projection, on top of what all blocks share."""

    def __init__(self, dim: int, rank: int, rows: int) -> None:
        super().__init__()
        self.down, self.up = _linear(dim, rank), _linear(rank, rows)

    def forward(self, time: Tensor, shared: Tensor) -> Tensor:
        """[rows] of time [1, dim] and shared [1, rows]."""
        return (self.up(self.down(F.silu(time))) + shared)[0]


class Time(nn.Module):
    """The noise level as the network sees it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = _linear(dim, dim), _linear(dim, 3 * dim)
        self.norm = Weight(dim)

    def forward(self, c_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised cosines and sines [1, dim] of c_noise [1], and what all blocks share of their modulation."""
        half = self.first.in_features // 2
        turns = c_noise.float() * TIME_BASE ** (-torch.arange(half, device=c_noise.device).float() / half)
        waves = torch.cat([turns.cos(), turns.sin()])[None].to(c_noise.dtype)
        return F.rms_norm(waves, waves.shape[1:], self.norm.weight, EPS), self.second(F.silu(self.first(waves)))


class Weight(nn.Module):
    """Of a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


def _linear(inner: int, outer: int) -> nn.Linear:
    return nn.Linear(inner, outer, bias=False)


def takes_float8(layer: nn.Module) -> bool:
    """Whether it multiplies in 8 bits: `decoding.float8.Float8Linear` has a scale for each of its rows."""
    return hasattr(layer, "scale")


def product(layer: nn.Module, x: Rows) -> Tensor:
    """What a linear layer makes of rows, which are in float8 where it takes them so."""
    if not isinstance(x, tuple):
        return layer(x)
    from cosmos_ros.world_model.decoding.float8 import multiply_rows  # needs Triton, as whoever made the rows did

    rows, scales = x
    return multiply_rows(rows, scales, cast("Tensor", layer.weight), cast("Tensor", layer.scale))


def to_patches(video: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, T * H/2 * W/2, C * 2 * 2]."""
    batch, channels, length, height, width = video.shape
    split = video.view(batch, channels, length, height // PATCH, PATCH, width // PATCH, PATCH)
    return split.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, length * height * width // PATCH**2, channels * PATCH**2)


def from_patches(patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """[B, T * h * w, 2 * 2 * C] -> [B, C, T, 2h, 2w]: the channels are last here, and first in what goes in."""
    length, height, width = grid
    split = patches.view(len(patches), length, height, width, PATCH, PATCH, -1)
    return split.permute(0, 6, 1, 2, 4, 3, 5).reshape(len(patches), -1, length, height * PATCH, width * PATCH)
