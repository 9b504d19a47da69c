"""Trains the transformer to predict the next token of tokenized clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_ros.training.average import Average
from cosmos_ros.training.datasets.clips import ClipStore, Views, camera_noise, resampled, vary
from cosmos_ros.training.round_trips import compiled
from cosmos_ros.training.schedule import Journal, Schedule, require_finite
from cosmos_ros.training.tokenizer_network import PixelsToIndices, VideoTokenizer
from cosmos_ros.world_model import Transformer

RATE = 1.5e-3
Z_LOSS = 1e-4
MOST_NOISE = 0.15  # of the tokens that the transformer sees in training, at most, are random: its own will be wrong too
DECAY = 0.998
CORPUS_BATCH = 64


def initialise(transformer: Transformer) -> None:
    """Normal weights of deviation 0.02, those that write into the residual stream smaller by its depth (GPT-2)."""
    for name, parameter in transformer.named_parameters():
        if parameter.ndim == 2:
            deep = name.endswith(("wo.weight", "w2.weight"))
            torch.nn.init.normal_(parameter, std=0.02 / (2 * transformer.config.n_layers) ** (0.5 * deep))


@torch.no_grad()
def tokenize(tokenizer: VideoTokenizer, video: Tensor) -> Tensor:
    """Video [N, 3, 33, H, W] in [-1, 1] -> tokens int64 [N, 5 h w] in raster order."""
    # Half precision with 10 bits of mantissa: with bfloat16 many codes would round to their neighbours.
    with torch.autocast(video.device.type, dtype=torch.float16, enabled=video.device.type == "cuda"):
        return PixelsToIndices(tokenizer)(video)[0].flatten(1)


def token_corpus(
    tokenizer: VideoTokenizer,
    clips: ClipStore,
    frame_size: tuple[int, int],
    shares: dict[str, float],
    n: int,
    seed: int = 0,
) -> Tensor:
    """Tokens int32 [n, 5 h w] of random windows, each cut, mirrored and lit at random: made once, read many times."""
    generator = torch.Generator().manual_seed(seed)
    tokens: list[Tensor] = []
    while (missing := n - sum(len(some) for some in tokens)) > 0:
        batch = min(missing, CORPUS_BATCH)
        windows = clips.random_windows(batch, shares, generator)
        views = Views.random(batch, clips.size, generator)
        video = camera_noise(vary(resampled(clips.take(windows), views, frame_size)))
        tokens.append(tokenize(tokenizer, video).int())
    return torch.cat(tokens)


def train_transformer(
    transformer: Transformer,
    corpus: Tensor,
    held_out: Tensor,
    journal: Journal,
    seconds: float,
    batch: int,
    max_steps: int,
    on_progress: Callable[[Average[Transformer]], None],
    seed: int = 0,
) -> Average[Transformer]:
    """For `seconds` or `max_steps`, whichever is over first; the transformer's average.

    corpus, held_out  tokens [N, 5 h w] to train on, and of clips that training never sees
    on_progress       called every 100 steps

    Raises TrainingDiverged where a loss is no finite number.
    """
    device = corpus.device
    matrices = [p for p in transformer.parameters() if p.ndim == 2]
    others = [p for p in transformer.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=RATE,
        betas=(0.9, 0.95),
        fused=device.type == "cuda",
    )
    average = Average(transformer, DECAY)
    loss_of = compiled(lambda given, tokens: token_loss(transformer, given, tokens), device)
    torch.manual_seed(seed)
    transformer.train()
    for step in Schedule(optimizer, RATE, seconds, max_steps):
        tokens = corpus[torch.randint(len(corpus), (batch,), device=device)].long()
        loss, z_loss = loss_of(noised(tokens, transformer.config.vocab_out), tokens)
        optimizer.zero_grad(set_to_none=True)
        (loss + Z_LOSS * z_loss).backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        if step % 100 == 0:
            require_finite(loss, "world-model", step)
        optimizer.step()
        average.update()
        if step % 100 == 0:
            on_progress(average)
            with torch.no_grad():
                held_out_loss = token_loss(average.network, held_out, held_out)[0].item()
            journal.note(
                stage="world-model", step=step, loss=round(loss.item(), 4), held_out_loss=round(held_out_loss, 4)
            )
    return average


def noised(tokens: Tensor, vocabulary: int) -> Tensor:
    """Tokens [B, N] of which a random share, another in each clip, is replaced at random."""
    share = MOST_NOISE * torch.rand(len(tokens), 1, device=tokens.device)
    wrong = torch.rand(tokens.shape, device=tokens.device) < share
    return torch.where(wrong, torch.randint(vocabulary, tokens.shape, device=tokens.device), tokens)


def token_loss(transformer: Transformer, given: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy in nats, and mean squared log-partition, over all tokens after the first latent frame.

    given  what the transformer sees in place of the tokens, both int64 [B, N]
    """
    positions = torch.arange(tokens.shape[1] - 1, device=tokens.device)
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
        logits = transformer(given[:, :-1], positions)
    first = transformer.config.tokens_per_latent_frame - 1
    logits, targets = logits[:, first:].float().flatten(0, 1), tokens[:, first + 1 :].flatten()
    return F.cross_entropy(logits, targets), logits.logsumexp(-1).square().mean()
