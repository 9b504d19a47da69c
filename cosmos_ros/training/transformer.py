"""Trains the transformer to predict the next token of tokenized clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.training.datasets.clips import ClipStore, Views, camera_noise, resampled, vary
from cosmos_ros.training.loop import Recipe, keyed
from cosmos_ros.training.round_trips import compiled
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
    tokenize: Callable[[Tensor], Tensor],
    clips: ClipStore,
    frame_size: tuple[int, int],
    shares: Mapping[str, float],
    n: int,
    seed: int,
    rank: int,
    batch: int = CORPUS_BATCH,
) -> Tensor:
    """Tokens int32 [n, 5 h w] of random windows, each cut, mirrored and lit at random: made once, read many times.

    tokenize  video [N, 3, 33, H, W] in [-1, 1] -> tokens [N, 5 h w]
    batch     windows that are tokenized together
    """
    generator = keyed(seed, "tokens", 0, rank)
    tokens: list[Tensor] = []
    while (missing := n - sum(len(some) for some in tokens)) > 0:
        n_windows = min(missing, batch)
        windows = clips.random_windows(n_windows, shares, generator)
        views = Views.random(n_windows, clips.size, generator)
        video = camera_noise(vary(resampled(clips.take(windows), views, frame_size)))
        tokens.append(tokenize(video).int())
    return torch.cat(tokens)


class NextToken(nn.Module):
    """The published loss: cross-entropy of the next token, and z-loss."""

    def __init__(self, transformer: Transformer, device: torch.device) -> None:
        super().__init__()
        self.transformer = transformer
        self._loss = compiled(lambda given, tokens: token_loss(transformer, given, tokens), device)

    def forward(self, given: Tensor, tokens: Tensor) -> Tensor:
        loss, z_loss = self._loss(given, tokens)
        return loss + Z_LOSS * z_loss


def next_token(transformer: Transformer, corpus: Tensor, held_out: Tensor, steps: int, batch: int) -> Recipe:
    """The stage that trains the transformer, on `batch` clips in a step.

    corpus, held_out  tokens [N, 5 h w] to train on, and of clips that training never sees
    """
    device, vocabulary = corpus.device, transformer.config.vocab_out
    matrices = [p for p in transformer.parameters() if p.ndim == 2]
    others = [p for p in transformer.parameters() if p.ndim != 2]

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        some = torch.randint(len(corpus), (batch,), generator=generator)
        tokens = corpus[some.to(device)].long()
        return noised(tokens, vocabulary), tokens

    @torch.no_grad()
    def measure() -> dict[str, float]:
        losses = [token_loss(transformer, some, some)[0] * len(some) for some in held_out.split(CORPUS_BATCH)]
        return {"held_out_loss": torch.stack(losses).sum().item() / len(held_out)}

    transformer.train()
    return Recipe(
        name="world-model",
        steps=steps,
        parameters=[{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        loss=NextToken(transformer, device),
        draw=draw,
        tokens=batch * transformer.config.n_tokens,
        rate=RATE,
        betas=(0.9, 0.95),
        decay=DECAY,
        measure=measure,
    )


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
