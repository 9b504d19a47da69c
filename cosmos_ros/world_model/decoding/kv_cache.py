"""The KV cache: keys and values of what earlier passes computed, for every layer."""

from __future__ import annotations

from copy import copy

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
        self._group = config.n_heads // config.n_kv_heads
        self._masked: tuple[Tensor, int, Tensor] | None = None

    def sample(self, index: int) -> KVCache:
        """The part of one sample of the batch, as a cache over the same memory."""
        part = copy(self)
        part.keys, part.values = self.keys[:, index : index + 1], self.values[:, index : index + 1]
        return part

    def duplicate(self, source: int, target: int, rows: int) -> None:
        """Give one sample the leading rows of another."""
        for tensor in (self.keys, self.values):
            tensor[:, target, :, :rows] = tensor[:, source, :, :rows]

    def attention(self, layer: int, positions: Tensor) -> Attend:
        """Puts the keys and values of a pass into the layer, and lets its queries see the rows up to their own.

        positions  int64, [N] of every sample or [batch, N] of each
        """
        if positions.ndim == 1 and positions.shape[0] == self.reach:
            return lambda queries, keys, values: attend_causally(queries, *self.write(layer, positions, keys, values))
        mask = self._mask(positions)
        return lambda queries, keys, values: attend_grouped(
            queries, *self.write(layer, positions, keys, values), mask=mask
        )

    def _mask(self, positions: Tensor) -> Tensor:
        """What is added to the scores: 0 where a query sees a row, else -inf. Made once for all layers of a pass."""
        if self._masked is None or self._masked[0] is not positions or self._masked[1] != self.reach:
            unseen = self.rows[: self.reach] > positions[..., None]
            unseen = unseen[None, None] if unseen.ndim == 2 else unseen[:, None]
            mask = torch.zeros(unseen.shape, device=unseen.device, dtype=self.keys.dtype)
            mask = mask.masked_fill_(unseen, -torch.inf).repeat(1, 1, self._group, 1)
            self._masked = (positions, self.reach, mask)
        return self._masked[2]

    def write(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor) -> KeysValues:
        """Put [batch, n_kv_heads, N, head_dim] at the positions; the rows within reach."""
        for cached, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if positions.ndim == 1:
                cached.index_copy_(2, positions, new)
            else:
                cached.scatter_(2, positions[:, None, :, None].expand(new.shape), new)
        return self.keys[layer, :, :, : self.reach], self.values[layer, :, :, : self.reach]
