"""Trains a transformer of a published size further: the published loss, on tokens of the published tokenizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cosmos_ros.training.loop import Recipe
from cosmos_ros.training.transformer import Z_LOSS
from cosmos_ros.world_model import Transformer

LOGIT_ROWS = 1024  # tokens whose logits are in float32 at once: 64,000 numbers each


class PublishedLoss(nn.Module):
    """The published loss of a clip's tokens: cross-entropy of the next token, and z-loss, after the first latent frame.

    context  of a model with text, [1, M, context_dim]: the same for all clips
    """

    def __init__(self, transformer: Transformer, context: Tensor | None) -> None:
        super().__init__()
        self.transformer, self._context = transformer, context

    def forward(self, tokens: Tensor, with_z_loss: bool = True) -> Tensor:
        """The mean over int64 [B, N]; without z-loss it is the cross-entropy in nats."""
        transformer, config = self.transformer, self.transformer.config
        given = tokens[:, :-1]
        if config.bov is not None:
            given = torch.cat([given.new_full((len(given), 1), config.bov), given], dim=1)
        positions = torch.arange(given.shape[1], device=tokens.device)
        # Each block projects the context itself: outside of it, its weights are not put together.
        context = None if self._context is None else [self._context] * config.n_layers
        hidden = transformer.hidden(given, positions, context=context)
        n = config.tokens_per_latent_frame
        logits = transformer.output(hidden[:, n - tokens.shape[1] :]).flatten(0, 1)
        pairs = zip(logits.split(LOGIT_ROWS), tokens[:, n:].flatten().split(LOGIT_ROWS), strict=True)
        weight = Z_LOSS if with_z_loss else 0.0
        sums = [checkpoint(_summed_loss, some, wanted, weight, use_reentrant=False) for some, wanted in pairs]
        return torch.stack(sums).sum() / len(logits)


def _summed_loss(logits: Tensor, targets: Tensor, z_weight: float) -> Tensor:
    """Over logits [R, V] of any precision, computed in float32; computed anew for the gradient, and not kept."""
    logits = logits.float()
    return F.cross_entropy(logits, targets, reduction="sum") + z_weight * logits.logsumexp(-1).square().sum()


def fine_tuning(loss: PublishedLoss, corpus: Tensor, held_out: Tensor, steps: int, batch: int, rate: float) -> Recipe:
    """The stage that trains the transformer further, on `batch` clips in a step, one after the other.

    corpus, held_out  tokens [N, 5 h w], on any device, to train on and of clips that training never sees

    No running average is kept: it would take 4 bytes of a weight, and the rate falls to nothing anyway.
    """
    config, device = loss.transformer.config, loss.transformer.rope_cos.device
    parameters = list(loss.parameters())

    def draw(generator: torch.Generator) -> tuple[Tensor]:
        one = torch.randint(len(corpus), (1,), generator=generator)
        return (corpus[one.to(corpus.device)].to(device).long(),)

    @torch.no_grad()
    def measure() -> dict[str, float]:
        losses = [loss(some.to(device).long(), with_z_loss=False).item() for some in held_out.split(1)]
        return {"held_out_loss": sum(losses) / len(losses)}

    return Recipe(
        name="world-model",
        steps=steps,
        parameters=[
            {"params": [p for p in parameters if p.ndim == 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim != 2], "weight_decay": 0.0},
        ],
        loss=loss,
        draw=draw,
        tokens=batch * config.n_tokens,
        rate=rate,
        betas=(0.9, 0.95),
        decay=None,
        warmup_steps=max(1, min(200, steps // 10)),
        parts=batch,
        measure=measure,
    )
