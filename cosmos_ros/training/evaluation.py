"""How good a tokenizer, a transformer and a refiner are on clips they never saw, in dB.

What is decoded here passed no guardrail: numbers are all that comes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.training.datasets.clips import as_seen
from cosmos_ros.training.sizes import CONDITIONING_FRAMES, TIME_COMPRESSION
from cosmos_ros.world_model import Sampling, Transformer
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed

BATCH = 8


def frame_psnr(video: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB of every frame of videos [B, 3, T, H, W] in [-1, 1] after rounding to 8 bits: [B, T]."""
    difference = as_bytes(video).float() - as_bytes(truth).float()
    error = difference.square().mean(dim=(2, 3, 4)).clamp(min=1e-3)
    return 10 * torch.log10(255**2 / error)


def mean_psnr(video: Tensor, truth: Tensor) -> float:
    """Mean of `frame_psnr` over all frames of all clips."""
    return frame_psnr(video, truth).mean().item()


def as_bytes(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] in [-1, 1] -> uint8 [B, T, H, W, 3]."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)


@torch.no_grad()
def evaluate(
    tokenize: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    refine: nn.Module | None,
    transformer: Transformer,
    clips: Tensor,
    frame_size: tuple[int, int],
    sampling: Sampling,
    context: Tensor | None = None,
    batch: int = BATCH,
) -> dict[str, float]:
    """Measures on uint8 clips [N, 33, H, W, 3]: means of the 24 last frames' PSNR in dB, at their size.

    clips        how many there were
    rollout      what was predicted
    repeat_last  the last conditioning frame in its place: the floor
    ceiling      the true frames, encoded and decoded: what a perfect transformer would reach, refined by the hypothesis
                 that trusts its tokens

    tokenize  video [B, 3, 33, h, w] in [-1, 1] -> tokens int64 [B, t, h', w']; decode  the way back
    refine    as cosmos_ros.world_model.refiner states it, or None
    context   text embedding [1, M, context_dim], for a model with text
    batch     clips at a time
    """
    n, sums = CONDITIONING_FRAMES, {"rollout": 0.0, "repeat_last": 0.0, "ceiling": 0.0}
    engine, device = WindowDecoder(transformer), transformer.output.weight.device
    for some in clips.split(batch):
        part = some.to(device)
        camera = as_seen(part, (part.shape[2], part.shape[3]))
        tokens = tokenize(as_seen(part, frame_size))
        predicted = _predicted(engine, tokens, sampling, context)
        truth = camera[:, :, n:]
        still = camera[:, :, n - 1 : n].expand_as(truth)
        for name, video in {
            "rollout": shown(decode(predicted), camera[:, :, :n], refine),
            "repeat_last": still,
            "ceiling": shown(decode(tokens), camera[:, :, :n], refine, getattr(refine, "trusting", 0)),
        }.items():
            sums[name] += mean_psnr(video, truth) * len(part)
    return {"clips": len(clips)} | {name: total / len(clips) for name, total in sums.items()}


@dataclass(frozen=True)
class HeldOutRollouts:
    """Rollouts of clips that training never sees, which a refiner is measured by while it learns.

    clips    uint8 [N, 33, H, W, 3]
    decoded  what was predicted of them, float16 [N, 3, 33, h, w]
    """

    clips: Tensor
    decoded: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        tokenize: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        transformer: Transformer,
        clips: Tensor,
        frame_size: tuple[int, int],
        sampling: Sampling,
    ) -> HeldOutRollouts:
        """With arguments as `evaluate` takes them; tokenize gives [B, t h' w'] or [B, t, h', w']."""
        engine, decoded = WindowDecoder(transformer), []
        device, shape = transformer.output.weight.device, transformer.config.latent_shape
        for some in clips.split(BATCH):
            tokens = tokenize(as_seen(some.to(device), frame_size)).view(-1, *shape)
            decoded.append(decode(_predicted(engine, tokens, sampling)).half().cpu())
        return cls(clips, torch.cat(decoded))

    @torch.no_grad()
    def gains(self, refine: nn.Module, device: torch.device) -> dict[str, float]:
        """PSNR over that of the last conditioning frame repeated, dB: the best guess's, and each clip's best
        hypothesis's. Of a refiner as `evaluate` takes it, on its device."""
        n, gains, numbers = CONDITIONING_FRAMES, [], range(getattr(refine, "hypotheses", 1))
        for clip, decoded in zip(self.clips.split(1), self.decoded.split(1), strict=True):
            camera = as_seen(clip.to(device), (clip.shape[2], clip.shape[3]))
            truth = camera[:, :, n:]
            floor = mean_psnr(camera[:, :, n - 1 : n].expand_as(truth), truth)
            frames = decoded.to(device).float()
            of_each = (shown(frames, camera[:, :, :n], refine, number) for number in numbers)
            gains.append([mean_psnr(each, truth) - floor for each in of_each])
        by_clip = torch.tensor(gains)
        return {
            "held_out_gain": by_clip[:, 0].mean().item(),
            "held_out_best_gain": by_clip.amax(1).mean().item(),
        }


def _predicted(engine: WindowDecoder, tokens: Tensor, sampling: Sampling, context: Tensor | None = None) -> Tensor:
    """What the transformer goes on with after the first two latent frames of tokens int64 [B, t, h', w']."""
    made = completed(engine.passes(tokens[:, :2].flatten(1), sampling, context))
    return made.to(tokens.device).view_as(tokens)


def shown(decoded: Tensor, conditioning: Tensor, refine: nn.Module | None, hypothesis: int = 0) -> Tensor:
    """The frames after the conditioning ones [B, 3, n, H, W], at its size: refined by one hypothesis, or enlarged."""
    n = conditioning.shape[2]
    if refine is None:
        frames = decoded[:, :, n:].transpose(1, 2).flatten(0, 1)
        large = F.interpolate(frames, size=conditioning.shape[3:], mode="bilinear")
        return large.unflatten(0, (len(decoded), -1)).transpose(1, 2)
    ends = range(n + TIME_COMPRESSION, decoded.shape[2] + 1, TIME_COMPRESSION)
    which = (hypothesis,) if getattr(refine, "hypotheses", 1) > 1 else ()
    return torch.cat([refine(decoded[:, :, :end], conditioning, *which) for end in ends], dim=2)
