"""A transformer of a published size, cut over the GPUs of a run, so that training it fits.

Weights in float32, their gradients and AdamW's two moments are cut in equal parts (FSDP2, `fully_shard`); a block's
weights are put together in bfloat16 while it computes, and of a block's activations only what goes in is kept. One
process takes the same way, its part being the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from cosmos_ros.device.devices import free_memory
from cosmos_ros.device.plan import OVERHEAD
from cosmos_ros.device.tensors import not_finite
from cosmos_ros.errors import ModelUnavailable, OutOfMemory
from cosmos_ros.training.average import local
from cosmos_ros.training.fine_tuning import LOGIT_ROWS, PublishedLoss
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.round_trips import compiled
from cosmos_ros.world_model import Transformer, TransformerConfig
from cosmos_ros.world_model.checkpoints.transformer_weights import Checkpoint
from cosmos_ros.world_model.checkpoints.weight_files import drop_pages
from cosmos_ros.world_model.config import transformer_shapes

POLICY = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
STATE_BYTES = 16  # of a weight in training: itself, its gradient and two moments, all float32
MOST_GPUS = 64


def sharded(
    config: TransformerConfig, ranks: Ranks, context: Tensor | None = None, compiling: bool = True
) -> PublishedLoss:
    """The loss of a transformer that is cut over the ranks; its weights are not filled yet.

    context    as PublishedLoss takes it
    compiling  the blocks, where the device is a GPU
    """
    with torch.device("meta"):
        transformer = Transformer(config)
    loss, mesh = PublishedLoss(transformer, context), ranks.mesh()
    for block in transformer.layers:
        forward = compiled(block.forward, ranks.device) if compiling else block.forward
        block.forward = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)  # type: ignore[method-assign]
        fully_shard(block, mesh=mesh, mp_policy=POLICY)
    # By default the outermost weights stay together, in bfloat16, after a pass: whoever keeps them would lose bits.
    fully_shard(loss, mesh=mesh, mp_policy=POLICY, reshard_after_forward=True)
    loss.to_empty(device=ranks.device)
    transformer.make_position_tables(ranks.device, torch.bfloat16)
    return loss.train()


def fill(transformer: Transformer, source: Checkpoint, ranks: Ranks) -> None:
    """Read this rank's part of every weight, straight from the mapped files: no rank ever holds the whole model.

    Raises ModelUnavailable on every rank where a weight is not finite.
    """
    mapped = source.mapped()
    for name, parameter in transformer.named_parameters():
        parts = mapped[name]
        whole = source.merged(name, parts, torch.device("cpu"), parts[0].dtype)
        local(parameter).copy_(rows_of(whole, ranks))
        for part in parts:
            drop_pages(part)
    weights = {name: local(p) for name, p in transformer.named_parameters() if local(p).numel()}
    if ranks.any(bool(bad := not_finite(weights))):
        raise ModelUnavailable(f"{source.path} holds weights that are not finite: {', '.join(bad[:8]) or 'elsewhere'}")


def rows_of(whole: Tensor, ranks: Ranks) -> Tensor:
    """What FSDP gives this rank of a tensor: one piece of its first axis."""
    pieces = whole.chunk(ranks.size)
    return pieces[ranks.rank] if ranks.rank < len(pieces) else whole[:0]


def gathered(transformer: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every weight put together, one after the other, by its name in a checkpoint: on every rank, on its device."""
    for name, parameter in transformer.named_parameters():
        weight = parameter.detach()
        yield name, weight.full_tensor() if isinstance(weight, DTensor) else weight


def need_per_rank(config: TransformerConfig, n_ranks: int) -> int:
    """Bytes that training takes of each of so many GPUs, one clip at a time."""
    sizes = {name: math.prod(shape) for name, shape in transformer_shapes(config).items()}
    whole, in_blocks = sum(sizes.values()), sum(n for name, n in sizes.items() if name.startswith("layers."))
    block, root = in_blocks // config.n_layers, whole - in_blocks
    n, predicted = config.sequence_length, config.n_tokens - config.tokens_per_latent_frame
    states = STATE_BYTES * whole // n_ranks
    # Two blocks and what is outside of blocks in bfloat16; their gradients, which are reduced in float32.
    together = 2 * (2 * block + root) + (2 + 4) * (2 * block + root)
    kept = 2 * n * config.dim * config.n_layers
    of_block = 2 * 2 * n * (4 * config.ffn_hidden + 16 * config.dim)
    logits = 2 * 2 * predicted * config.vocab_out + 3 * 4 * min(LOGIT_ROWS, predicted) * config.vocab_out
    return states + together + kept + max(of_block, logits) + OVERHEAD


def require_fit(config: TransformerConfig, ranks: Ranks, name: str) -> None:
    """Raise OutOfMemory, on every rank, where training would not fit one of the GPUs: before anything is loaded."""
    if ranks.device.type != "cuda":
        return
    need, free = need_per_rank(config, ranks.size), min(ranks.gather(free_memory(ranks.device)))
    if need <= free:
        return
    enough = next((n for n in range(ranks.size + 1, MOST_GPUS + 1) if need_per_rank(config, n) <= free), None)
    remedy = f"{enough} such GPUs would do" if enough else f"not even {MOST_GPUS} such GPUs would do"
    raise OutOfMemory(
        f"training {name} takes {need / 1e9:.1f} GB of each of {ranks.size} GPUs, and {free / 1e9:.1f} GB are free on "
        f"the fullest; {remedy} (torchrun --nproc-per-node), or a smaller frame_size in --config"
    )
