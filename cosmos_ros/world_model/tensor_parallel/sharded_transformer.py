"""One rank's part of a transformer that is cut over several GPUs (tensor parallelism, Shoeybi et al. 2019,
arXiv:1909.08053).

A rank holds equal shares of the heads, of the feed-forward's hidden channels and of the vocabulary; norms are whole
on every rank. Between the cut layers activations are whole and alike everywhere: what the ranks computed is summed
after `wo`, `w2` and the embedding, and their logits are put side by side. The ranks talk over torch.distributed's
default group.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.device.plan import Need
from cosmos_ros.errors import SettingError
from cosmos_ros.world_model.checkpoints.transformer_weights import Checkpoint, load_weights, open_checkpoint
from cosmos_ros.world_model.config import TransformerConfig
from cosmos_ros.world_model.transformer import Attention, Transformer, embedding_weight

TRANSFORMER_SHARE = "share of the transformer"  # the part's name in a memory plan
# Bytes of a rank's process beside its share: CUDA context and NCCL. Measured with bench/tensor_parallel.py.
RANK_OVERHEAD = 2_300_000_000

# What PyTorch 2.13 calls all_gather_single had a longer name before, of which it now warns.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def require_divisible(config: TransformerConfig, ranks: int) -> None:
    """Raises SettingError for a number of ranks over which the transformer cannot be cut into equal shares."""
    possible = [n for n in range(1, config.n_kv_heads + 1) if _divides(config, n)]
    if ranks not in possible:
        raise SettingError(
            f"gpus must be {' or '.join(map(str, possible))}, a number that divides this model's {config.n_kv_heads} "
            f"key-value heads, its feed-forward and its vocabulary; got {ranks}"
        )


def _divides(config: TransformerConfig, ranks: int) -> bool:
    return not any(size % ranks for size in (config.n_kv_heads, config.ffn_hidden, config.vocab_in, config.vocab_out))


def share_need(whole: Need, ranks: int) -> Need:
    """What the process of one rank keeps on its device, whatever the rest of the plan says.

    whole  of the transformer, as on one device
    """
    share = (whole.weights + whole.kept) // ranks + whole.work
    return Need(TRANSFORMER_SHARE, weights=share + RANK_OVERHEAD, another=whole.another // ranks)


def load_share(
    path: str | Path | Checkpoint,
    config: TransformerConfig,
    rank: int,
    ranks: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Transformer:
    """A rank's part of a checkpoint's transformer, on its device; no other rank's slices are read.

    path    of the checkpoint; or one that was opened
    config  of the whole transformer
    rank    0 .. ranks - 1

    Its `forward` takes part in collectives, so all ranks must take the same passes. Everything that goes in and the
    logits that come out are those of the whole transformer; keys and values are those of the rank's own heads, for
    which `Transformer.config` gives the number. Raises ModelUnavailable as `load_transformer` does.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    weights = load_weights(checkpoint, config, device, dtype, rank, ranks)
    with torch.device("meta"):
        model = _share_of(config, rank, ranks)
    model.load_state_dict(weights, assign=True)
    model.make_position_tables(device, dtype)
    return model.eval().requires_grad_(False)


def _share_of(config: TransformerConfig, rank: int, ranks: int) -> Transformer:
    model = Transformer(
        replace(
            config,
            n_heads=config.n_heads // ranks,
            n_kv_heads=config.n_kv_heads // ranks,
            ffn_hidden=config.ffn_hidden // ranks,
        )
    )
    model.tok_embeddings = VocabularyShare(config.vocab_in // ranks, config.dim, rank)
    model.output = GatheredLinear(config.dim, config.vocab_out // ranks, bias=False)
    for layer in model.layers:
        attentions: list[Attention] = [layer.attention] + ([layer.cross_attention] if config.has_text else [])
        for attention in attentions:
            attention.wo = SummedLinear(attention.wo.in_features, config.dim, bias=False)
        layer.feed_forward.w2 = SummedLinear(layer.feed_forward.w2.in_features, config.dim, bias=False)
    return model


class VocabularyShare(nn.Embedding):
    """Holds the embeddings of `rows` tokens, from the rank's first on, and looks up all: [...] -> [..., dim]."""

    def __init__(self, rows: int, dim: int, rank: int) -> None:
        super().__init__(rows, dim, _weight=embedding_weight(rows, dim))
        self._first = rank * rows

    def forward(self, tokens: Tensor) -> Tensor:
        row = tokens - self._first
        elsewhere = (row < 0) | (row >= self.num_embeddings)
        found = F.embedding(row.masked_fill(elsewhere, 0), self.weight)
        return summed(found.masked_fill(elsewhere[..., None], 0))


class SummedLinear(nn.Linear):
    """Knows some of the input channels; the ranks' results are summed."""

    def forward(self, x: Tensor) -> Tensor:
        return summed(super().forward(x))


class GatheredLinear(nn.Linear):
    """Knows some of the output channels; the ranks' results [..., out_features] are put side by side."""

    def forward(self, x: Tensor) -> Tensor:
        own = super().forward(x).contiguous()
        gathered = own.new_empty(dist.get_world_size() * own.shape[0], *own.shape[1:])
        all_gather(gathered, own)
        return gathered.unflatten(0, (-1, own.shape[0])).movedim(0, -2).flatten(-2)


def summed(x: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    dist.all_reduce(x)
    return x
