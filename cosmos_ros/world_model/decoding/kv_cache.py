"""The KV cache: keys and values of what earlier passes computed, for every layer."""

from __future__ import annotations

import torch
from torch import Tensor

from cosmos_ros.world_model.config import TransformerConfig
from cosmos_ros.world_model.transformer import Attend, KeysValues, attend_causally, attend_grouped


class KVCache:
    """Keys and values of every layer, static in shape, so that a pass can be captured into a CUDA graph.

    keys, values  [n_layers, batch, n_kv_heads, rows, head_dim]
    reach         how many leading rows a pass reads. A pass sees the rows up to its own position within the reach;
                  a pass whose tokens fill the whole reach is a prefill from position 0. Setting it to the rows that
                  are filled saves reading the rest; left alone, every row is read and masked.

    Rows need no clearing between videos: a row is always written before a position that may see it is computed.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: int = 1,
        rows: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, rows or config.position_rows, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.rows = torch.arange(shape[3], device=device)
        self.reach = shape[3]

    def sample(self, index: int) -> KVCache:
        """The part of one sample of the batch, as a cache over the same memory."""
        part = object.__new__(KVCache)
        part.keys, part.values = self.keys[:, index : index + 1], self.values[:, index : index + 1]
        part.rows, part.reach = self.rows, self.reach
        return part

    def copy(self, source: int, target: int, rows: int) -> None:
        """Give one sample the leading rows of another."""
        for tensor in (self.keys, self.values):
            tensor[:, target, :, :rows] = tensor[:, source, :, :rows]

    def attention(self, layer: int, positions: Tensor) -> Attend:
        """Puts the keys and values of a pass into the layer, and lets its queries see the rows up to their own.

        positions  int64, [N] of every sample or [batch, N] of each
        """
        if positions.ndim == 1 and positions.shape[0] == self.reach:
            return lambda queries, keys, values: attend_causally(queries, *self.write(layer, positions, keys, values))
        mask = self.rows[: self.reach] <= positions[..., None]
        mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
        return lambda queries, keys, values: attend_grouped(
            queries, *self.write(layer, positions, keys, values), mask=mask
        )

    def write(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor) -> KeysValues:
        """Put [batch, n_kv_heads, N, head_dim] at the positions; the rows within reach."""
        for cached, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if positions.ndim == 1:
                cached.index_copy_(2, positions, new)
            else:
                cached.scatter_(2, positions[:, None, :, None].expand(new.shape), new)
        return self.keys[layer, :, :, : self.reach], self.values[layer, :, :, : self.reach]
