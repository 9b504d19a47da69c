"""The Cosmos autoregressive transformer: a Llama-style decoder over video tokens, in plain PyTorch.

Pre-norm blocks with RMSNorm, grouped-query attention with normalised queries and keys, rotary positions in three
dimensions and a SwiGLU feed-forward; models with text add absolute positions before every block and cross-attention
in every block (NVIDIA, "Cosmos World Foundation Model Platform for Physical AI", arXiv:2501.03575). Parameter names
are those of the published checkpoints without their `model.` prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.device.plan import Need
from cosmos_ros.world_model.config import TransformerConfig, transformer_shapes
from cosmos_ros.world_model.positions import absolute_table, rope_table

try:
    from cosmos_ros.world_model.decoding import cache_attention
except ImportError:  # Triton comes with PyTorch's CUDA builds, and not with all of them
    cache_attention = None

TRANSFORMER = "transformer"  # the part's name in a memory plan

KeysValues = tuple[Tensor, Tensor]
Rotation = tuple[Tensor, Tensor]  # cosines and sines [N, head_dim]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # a pass's queries, keys and values to what its heads saw


class KVCache:
    """Keys and values of every layer, static in shape, so that a pass can be captured into a CUDA graph.

    keys, values  [n_layers, batch, n_kv_heads, position_rows, head_dim]
    reach         how many leading rows a pass reads. A pass sees the rows up to its own position within the reach;
                  a pass whose tokens fill the whole reach is a prefill from position 0. Setting it to the rows that
                  are filled saves reading the rest; left alone, every row is read and masked.

    Rows need no clearing between videos: a row is always written before a position that may see it is computed.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, config.position_rows, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.rows = torch.arange(config.position_rows, device=device)
        self.reach = config.position_rows

    def attention(self, layer: int, positions: Tensor) -> Attend:
        """Puts the keys and values of a pass at positions [N] into the layer, and lets its queries see the rows."""
        n = positions.shape[0]
        if n == self.reach:
            see = attend_causally
        elif cache_attention is not None and cache_attention.serves(self.keys, n):
            see = partial(cache_attention.attend_to_cache, positions=positions)
        else:
            see = partial(attend_grouped, mask=self.rows[: self.reach] <= positions[:, None])
        return lambda queries, keys, values: see(queries, *self.write(layer, positions, keys, values))

    def write(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor) -> KeysValues:
        """Put [batch, n_kv_heads, N, head_dim] at the positions; the rows within reach."""
        self.keys[layer].index_copy_(2, positions, keys)
        self.values[layer].index_copy_(2, positions, values)
        return self.keys[layer, :, :, : self.reach], self.values[layer, :, :, : self.reach]


class Transformer(nn.Module):
    """Video tokens in, logits over the next token out. Made with random weights; see `load_transformer`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_in, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
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
        cache: KVCache | None = None,
        context: Tensor | list[KeysValues] | None = None,
    ) -> Tensor:
        """Logits [B, N, vocab_out] over the token that follows each of the given ones.

        tokens     int64 [B, N]; a model with text expects BOV at position 0
        positions  int64 [N], 0-based, BOV counted
        cache      keys and values of earlier passes; the pass adds its own. None: the tokens see each other only
        context    text embedding [B, M, context_dim], or what `project_context` made of it
        """
        return self.output(self.hidden(tokens, positions, cache, context))

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: KVCache | None = None,
        context: Tensor | list[KeysValues] | None = None,
    ) -> Tensor:
        """What `output` makes logits from, [B, N, dim]: for callers that need the logits of few of the tokens."""
        if (context is None) == self.config.has_text:
            raise ValueError("this model needs a text context" if self.config.has_text else "this model takes no text")
        if isinstance(context, Tensor):
            context = self.project_context(context)
        rotation = (self.rope_cos[positions], self.rope_sin[positions])
        absolute = self.absolute_positions[positions] if self.config.has_text else None
        x = self.tok_embeddings(tokens)
        for i, layer in enumerate(self.layers):
            # The published models add the absolute positions before every block, not once at the input.
            x = x if absolute is None else x + absolute
            attend = attend_causally if cache is None else cache.attention(i, positions)
            x = layer(x, rotation, attend, None if context is None else context[i])
        return self.norm(x)

    def project_context(self, context: Tensor) -> list[KeysValues]:
        """Keys and values of a text embedding [B, M, context_dim] for every layer: once per prompt, not per pass."""
        context = context.to(self.output.weight.dtype)
        return [layer.cross_attention.keys_values(context) for layer in self.layers]


class Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = SelfAttention(config, source_dim=config.dim)
        if config.has_text:
            self.cross_attention_norm = RMSNorm(config.dim, config.norm_eps)
            self.cross_attention = CrossAttention(config, source_dim=config.context_dim)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config.dim, config.ffn_hidden)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend, context: KeysValues | None) -> Tensor:
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
    def forward(self, x: Tensor, context: KeysValues) -> Tensor:
        return self.project_out(attend_grouped(self.queries(x), *context, mask=None))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

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
    """
    batch, n_heads, n, head_dim = queries.shape
    group = n_heads // keys.shape[1]
    folded = queries.reshape(batch, keys.shape[1], group * n, head_dim)
    if mask is not None and n > 1:
        mask = mask.repeat(group, 1)
    return F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask).reshape(queries.shape)


def transformer_need(
    config: TransformerConfig, bytes_per_weight: int, *, tokens_per_pass: int, context_length: int
) -> Need:
    """Beside the weights and position tables: the KV cache, and the activations of the largest pass.

    bytes_per_weight  2 in bfloat16, 4 in float32
    tokens_per_pass   of the largest pass
    context_length    positions of a prompt, whose keys and values are kept for every layer
    """
    parameters = sum(math.prod(shape) for shape in transformer_shapes(config).values())
    row = config.n_layers * 2 * config.n_kv_heads * config.head_dim
    activations = tokens_per_pass * (4 * config.ffn_hidden + 16 * config.dim)
    tables = config.position_rows * (2 * config.head_dim + (config.dim if config.has_text else 0))
    context = context_length * row if config.has_text else 0
    return Need(
        TRANSFORMER,
        weights=(parameters + tables) * bytes_per_weight,
        work=activations * bytes_per_weight,
        kept=(config.position_rows * row + context) * bytes_per_weight,
        tables=config.vocab_in * config.dim * bytes_per_weight,
    )
