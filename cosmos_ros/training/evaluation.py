"""How good a tokenizer and a transformer are on clips they never saw, in dB.

What is decoded here passed no guardrail: numbers are all that comes of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cosmos_ros.training.datasets.simulated import as_video
from cosmos_ros.world_model import Sampling, Transformer
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed

CONDITIONING_FRAMES = 9


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
    encode: torch.nn.Module, decode: torch.nn.Module, transformer: Transformer, clips: Tensor, sampling: Sampling
) -> dict[str, float]:
    """Measures on uint8 clips [N, 33, H, W, 3]; every figure a mean of single frames' PSNR in dB.

    tokenizer        all 33 frames, encoded and decoded
    rollout          the 24 predicted frames
    repeat_last      the last conditioning frame in their place
    ceiling          the 24 true frames, encoded and decoded: what a perfect transformer would reach
    """
    t, h, w = transformer.config.latent_shape
    first = CONDITIONING_FRAMES
    truth = as_video(clips)
    indices = torch.cat([encode(part) for part in truth.split(8)])
    reconstruction = torch.cat([decode(part) for part in indices.split(8)])
    prompt = indices[:, :2].flatten(1)
    engine = WindowDecoder(transformer)
    tokens = torch.cat([completed(engine.passes(part, sampling)) for part in prompt.split(64)]).to(indices.device)
    rollout = torch.cat([decode(part) for part in tokens.unflatten(1, (t, h, w)).split(8)])
    still = truth[:, :, first - 1 : first].expand(-1, -1, truth.shape[2] - first, -1, -1)
    return {
        "tokenizer": mean_psnr(reconstruction, truth),
        "rollout": mean_psnr(rollout[:, :, first:], truth[:, :, first:]),
        "repeat_last": mean_psnr(still, truth[:, :, first:]),
        "ceiling": mean_psnr(reconstruction[:, :, first:], truth[:, :, first:]),
    }
