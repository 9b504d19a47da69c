"""The Cosmos autoregressive transformer: a Llama-style decoder over video tokens, in plain PyTorch.

Pre-norm blocks with RMSNorm, grouped-query attention with normalised queries and keys, rotary positions in three
dimensions and a SwiGLU feed-forward; models with text add absolute positions before every block and cross-attention
in every block (NVIDIA, "Cosmos World Foundation Model Platform for Physical AI", arXiv:2501.03575). Parameter names
are those of the published checkpoints without their `model.` prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.device.plan import Need
from cosmos_ros.world_model.config import TransformerConfig, transformer_shapes
from cosmos_ros.world_model.positions import absolute_table, rope_table

TRANSFORMER = "transformer"  # the part's name in a memory plan

KeysValues = tuple[Tensor, Tensor]
Rotation = tuple[Tensor, Tensor]  # cosines and sines [N, head_dim] or [B, 1, N, head_dim]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # a pass's queries, keys and values to what its heads saw


class Cache(Protocol):
    """Keys and values of earlier passes; `decoding.kv_cache.KVCache` is one."""

    def attention(self, layer: int, positions: Tensor) -> Attend:
        """Takes up the keys and values of a pass at the positions, and lets its queries see what they may."""
        ...


def embedding_weight(n: int, width: int) -> Tensor:
    """For nn.Embedding: drawn as PyTorch draws it, unless it is on the meta device, where weights come from a file.

    PyTorch would draw there too, and import its compiler for that: seconds, and a cache folder in the temporary files.
    """
    weight = torch.empty(n, width)
    return weight if weight.is_meta else nn.init.normal_(weight)


class Transformer(nn.Module):
    """Video tokens in, logits over the next token out. Made with random weights; see `load_transformer`."""

    tok_embeddings: nn.Module  # nn.Embedding, or what looks tokens up elsewhere
    rope_cos: Tensor
    rope_sin: Tensor
    absolute_positions: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding.from_pretrained(embedding_weight(config.vocab_in, config.dim), freeze=False)
        self.layers = cast("Sequence[Block]", nn.ModuleList(Block(config) for _ in range(config.n_layers)))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_out, bias=False)
        self.make_position_tables(self.output.weight.device, self.output.weight.dtype)

    def make_position_tables(self, device: torch.device, dtype: torch.dtype) -> None:
        """(Re)compute the position tables, which no checkpoint holds."""
        cos, sin = rope_table(self.config)
        self.register_buffer("rope_cos", cos.to(device, dtype), persistent=False)
        self.register_buffer("rope_sin", sin.to(device, dtype), persistent=False)
        absolute = absolute_table(self.config).to(device) if self.config.has_text else None
        self.register_buffer("absolute_positions", absolute, persistent=False)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: Cache | None = None,
        context: Tensor | list[KeysValues] | None = None,
    ) -> Tensor:
        """Logits [B, N, vocab_out] over the token that follows each of the given ones.

        tokens     int64 [B, N]; a model with text expects BOV at position 0
        positions  int64 [N] or, where they differ between samples, [B, N]; 0-based, BOV counted
        cache      keys and values of earlier passes; the pass adds its own. None: the tokens see each other only
        context    text embedding [B, M, context_dim], or what `project_context` made of it; B is 1 where all samples
                   share it
        """
        return self.output(self.hidden(tokens, positions, cache, context))

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: Cache | None = None,
        context: Tensor | list[KeysValues] | list[Tensor] | None = None,
    ) -> Tensor:
        """What `output` makes logits from, [B, N, dim]: for callers that need the logits of few of the tokens.

        context  as forward takes it; or the text embedding once for each layer, which then projects it itself
        """
        if (context is None) == self.config.has_text:
            raise ValueError("this model needs a text context" if self.config.has_text else "this model takes no text")
        if isinstance(context, Tensor):
            context = self.project_context(context)
        rotation, absolute = self.position_rows(positions)
        x = self.tok_embeddings(tokens)
        for i, layer in enumerate(self.layers):
            # The published models add the absolute positions before every block, not once at the input.
            x = x if absolute is None else x + absolute
            attend = attend_causally if cache is None else cache.attention(i, positions)
            x = layer(x, rotation, attend, None if context is None else context[i])
        return self.norm(x)

    def position_rows(self, positions: Tensor) -> tuple[Rotation, Tensor | None]:
        """Rows of the position tables. A position beyond them, of a token that nobody will see, has the last row."""
        rows = positions.clamp(max=len(self.rope_cos) - 1)
        cos, sin = self.rope_cos[rows], self.rope_sin[rows]
        if positions.ndim == 2:
            cos, sin = cos[:, None], sin[:, None]  # the same for all heads
        return (cos, sin), None if self.absolute_positions is None else self.absolute_positions[rows]

    def project_context(self, context: Tensor) -> list[KeysValues]:
        """Keys and values of a text embedding [B, M, context_dim] for every layer: once per prompt, not per pass."""
        context = context.to(self.output.weight.dtype)
        return [layer.cross_attention.keys_values(context) for layer in self.layers]


class Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = SelfAttention(config, source_dim=config.dim)
        if config.context_dim is not None:
            self.cross_attention_norm = RMSNorm(config.dim, config.norm_eps)
            self.cross_attention = CrossAttention(config, source_dim=config.context_dim)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config.dim, config.ffn_hidden)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend, context: KeysValues | Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation, attend)
        if context is not None:
            x = x + self.cross_attention(self.cross_attention_norm(x), context)
        return x + self.feed_forward(self.ffn_norm(x))


class Attention(nn.Module):
    """Grouped queries: query head i reads key-value head i // (n_heads / n_kv_heads)."""

    def __init__(self, config: TransformerConfig, source_dim: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(source_dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(source_dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def queries(self, x: Tensor) -> Tensor:
        """[B, n_heads, N, head_dim]."""
        return self.q_norm(self.wq(x).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)

    def keys_values(self, source: Tensor) -> KeysValues:
        """[B, n_kv_heads, M, head_dim] each."""
        keys = self.k_norm(self.wk(source).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        return keys, self.wv(source).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def project_out(self, heads: Tensor) -> Tensor:
        return self.wo(heads.transpose(1, 2).flatten(2))


class SelfAttention(Attention):
    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        queries = rotate(self.queries(x), rotation)
        keys, values = self.keys_values(x)
        return self.project_out(attend(queries, rotate(keys, rotation), values))


class CrossAttention(Attention):
    def forward(self, x: Tensor, context: KeysValues | Tensor) -> Tensor:
        projected = self.keys_values(context) if isinstance(context, Tensor) else context
        keys, values = (tensor.expand(len(x), -1, -1, -1) for tensor in projected)
        return self.project_out(attend_grouped(self.queries(x), keys, values, mask=None))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class RMSNorm(nn.Module):
    """Normalised in float32, rounded to the model's precision, then weighted in it: the published rounding order."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, eps=self.eps) * self.weight


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary positions, rotate-half convention: channels i and i + head_dim/2 of x [B, heads, N, head_dim] pair up."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attend_causally(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention [B, n_heads, N, head_dim] of every query over the keys [B, n_kv_heads, N, head_dim] up to its own."""
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)


def attend_grouped(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention [B, n_heads, N, head_dim] of queries over fewer key-value heads, without repeating these.

    The queries that share a key-value head are laid one after the other as if they were further tokens.

    mask  [B or 1, 1, N or group * N, M], for every token or for every query that shares a key-value head: bool, True
          where it sees a key, or what is added to the scores; None: all see all
    """
    batch, n_heads, n, head_dim = queries.shape
    group = n_heads // keys.shape[1]
    folded = queries.reshape(batch, keys.shape[1], group * n, head_dim)
    if mask is not None and mask.shape[-2] not in (1, group * n):
        mask = mask.repeat(1, 1, group, 1)
    return F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask).reshape(queries.shape)


def transformer_need(
    config: TransformerConfig, bytes_per_weight: int, *, tokens_per_pass: int, context_length: int, window: int
) -> Need:
    """Beside the weights and position tables: the KV cache, and the activations of the largest pass.

    bytes_per_weight  2 in bfloat16, 4 in float32
    tokens_per_pass   of the largest pass
    context_length    positions of a prompt, whose keys and values are kept for every layer
    window            positions that a decoding pass looks at, of each sample
    """
    parameters = sum(math.prod(shape) for shape in transformer_shapes(config).values())
    row = config.n_layers * 2 * config.n_kv_heads * config.head_dim
    of_token = 4 * config.ffn_hidden + 16 * config.dim  # activations
    tables = config.position_rows * (2 * config.head_dim + (config.dim if config.has_text else 0))
    context = context_length * row if config.has_text else 0
    return Need(
        TRANSFORMER,
        weights=(parameters + tables) * bytes_per_weight,
        work=tokens_per_pass * of_token * bytes_per_weight,
        kept=(config.position_rows * row + context) * bytes_per_weight,
        tables=config.vocab_in * config.dim * bytes_per_weight,
        another=(config.position_rows * row + window * (of_token + config.vocab_out)) * bytes_per_weight,
    )
