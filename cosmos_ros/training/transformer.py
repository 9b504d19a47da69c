"""Trains the transformer to predict the tokens of clips, as the published models were: next token, raster order.

Loss and schedule after the published post-training recipe (nvidia-cosmos/cosmos-predict1): cross-entropy plus 1e-4
times the squared log-partition, the first latent frame's tokens not counted, AdamW, cosine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_ros.training.datasets.simulated import EpisodeStore, as_video, camera_noise, vary
from cosmos_ros.training.schedule import Journal, Schedule
from cosmos_ros.training.tokenizer_network import PixelsToIndices, VideoTokenizer
from cosmos_ros.world_model import Transformer

RATE = 1.5e-3
Z_LOSS = 1e-4
VARIANTS = 12  # clips per filmed episode to train on, each cut, mirrored and lit at random


def initialise(transformer: Transformer) -> None:
    """Normal weights of deviation 0.02, those that write into the residual stream smaller by its depth (GPT-2)."""
    for name, parameter in transformer.named_parameters():
        if parameter.ndim == 2:
            deep = name.endswith(("wo.weight", "w2.weight"))
            torch.nn.init.normal_(parameter, std=0.02 / (2 * transformer.config.n_layers) ** (0.5 * deep))


def train_transformer(
    transformer: Transformer,
    forward: Callable[[Tensor, Tensor], Tensor],
    tokenizer: VideoTokenizer,
    episodes: EpisodeStore,
    validation: Tensor,
    journal: Journal,
    seconds: float,
    batch: int,
    max_steps: int,
    on_progress: Callable[[], None],
) -> None:
    """Trains in place, for `seconds` or `max_steps`; see train_tokenizer for the arguments."""
    device = validation.device
    matrices = [p for p in transformer.parameters() if p.ndim == 2]
    others = [p for p in transformer.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=RATE,
        betas=(0.9, 0.95),
        fused=device.type == "cuda",
    )
    encode = PixelsToIndices(tokenizer).eval()
    corpus = tokenize_variants(encode, episodes)
    held_out = tokenize(encode, as_video(validation[:64]))
    journal.note(stage="tokenized", clips=len(corpus))
    transformer.train()
    for step in Schedule(optimizer, RATE, seconds, max_steps):
        tokens = corpus[torch.randint(len(corpus), (batch,), device=device)]
        loss, z_loss = token_loss(forward, transformer, tokens)
        optimizer.zero_grad(set_to_none=True)
        (loss + Z_LOSS * z_loss).backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            on_progress()
            with torch.no_grad():
                validation_loss = token_loss(transformer, transformer, held_out)[0].item()
            journal.note(
                stage="transformer", step=step, loss=round(loss.item(), 4), validation_loss=round(validation_loss, 4)
            )
    transformer.eval()


def tokenize_variants(encode: Callable[[Tensor], Tensor], episodes: EpisodeStore) -> Tensor:
    """Tokens int64 [VARIANTS per episode, 5 h w] of random clips."""
    left, tokens = len(episodes) * VARIANTS, []
    while left:
        batch = min(left, 32)
        tokens.append(tokenize(encode, camera_noise(vary(as_video(episodes.random_clips(batch))))))
        left -= batch
    return torch.cat(tokens)


@torch.no_grad()
def tokenize(encode: Callable[[Tensor], Tensor], video: Tensor) -> Tensor:
    """Video [N, 3, 33, H, W] in [-1, 1] -> tokens int64 [N, 5 h w] in raster order."""
    # Half precision with 10 bits of mantissa: with bfloat16 many codes would round to their neighbours.
    with torch.autocast(video.device.type, dtype=torch.float16, enabled=video.device.type == "cuda"):
        return encode(video).flatten(1)


def token_loss(forward: Callable[[Tensor, Tensor], Tensor], transformer: Transformer, tokens: Tensor) -> tuple:
    """Mean cross-entropy in nats, and mean squared log-partition, over all tokens after the first latent frame."""
    positions = torch.arange(tokens.shape[1] - 1, device=tokens.device)
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
        logits = forward(tokens[:, :-1], positions)
    first = transformer.config.tokens_per_latent_frame - 1
    logits, targets = logits[:, first:].float().flatten(0, 1), tokens[:, first + 1 :].flatten()
    return F.cross_entropy(logits, targets), logits.logsumexp(-1).square().mean()
