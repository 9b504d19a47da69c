"""Trains the video tokenizer to reconstruct clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_ros.training.datasets.simulated import EpisodeStore, as_video, camera_noise, vary
from cosmos_ros.training.evaluation import mean_psnr
from cosmos_ros.training.schedule import Journal, Schedule
from cosmos_ros.training.tokenizer_network import VideoTokenizer

RATE = 6e-4
MOTION_WEIGHT = 4.0  # how much more a pixel counts that changes by the whole range from one frame to the next


def train_tokenizer(
    tokenizer: VideoTokenizer,
    forward: Callable[[Tensor], Tensor],
    episodes: EpisodeStore,
    validation: Tensor,
    journal: Journal,
    seconds: float,
    batch: int,
    max_steps: int,
    on_progress: Callable[[], None],
) -> None:
    """Trains in place, for `seconds` or `max_steps`, whichever is over first.

    forward      the tokenizer, perhaps compiled
    validation   uint8 clips [N, 33, H, W, 3] of episodes that training never sees
    on_progress  called every 100 steps
    """
    device = validation.device
    optimizer = torch.optim.AdamW(
        tokenizer.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=device.type == "cuda"
    )
    tokenizer.train()
    for step in Schedule(optimizer, RATE, seconds, max_steps):
        clean = vary(as_video(episodes.random_clips(batch)))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            reconstruction = forward(camera_noise(clean))
        loss = reconstruction_loss(reconstruction.float(), clean)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            on_progress()
            psnr = reconstruction_psnr(tokenizer, validation[:16]) if step % 1000 == 0 else None
            journal.note(stage="tokenizer", step=step, loss=round(loss.item(), 5), psnr=psnr)
    tokenizer.eval()


def reconstruction_loss(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Absolute and squared error, pixels that move weighing more, and the error of the edges."""
    change = (target[:, :, 1:] - target[:, :, :-1]).abs().mean(1, keepdim=True)
    # A pixel counts as moving in both frames between which it changes.
    moving = F.pad(change, (0, 0, 0, 0, 1, 0)) + F.pad(change, (0, 0, 0, 0, 0, 1))
    error = reconstruction - target
    weight = 1 + MOTION_WEIGHT * moving
    pixels = (weight * (0.5 * error.abs() + 4 * error.square())).mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return pixels + 0.25 * edges


@torch.no_grad()
def reconstruction_psnr(tokenizer: VideoTokenizer, clips: Tensor, batch: int = 8) -> float:
    """Mean over all frames of the PSNR in dB; clips uint8 [N, T, H, W, 3]."""
    tokenizer.eval()
    reconstructions = torch.cat([tokenizer(as_video(part)) for part in clips.split(batch)])
    tokenizer.train()
    return round(mean_psnr(reconstructions, as_video(clips)), 2)
