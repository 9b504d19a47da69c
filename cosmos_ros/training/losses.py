"""What training holds pictures against: errors of pixels, of edges and of structure, moving pixels counting more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
STILL, MOVING = 0.06, 0.18  # differences, on a scale of 2, that count as none and as whole motion
LEAST_ERROR = 2e-5  # squared, that the logarithm tells from none: 53 dB
MOVED = 10 / 127.5  # by which a pixel has to change to count as moving in the logarithmic term


def moving_weight(target: Tensor, last: Tensor, gain: float) -> Tensor:
    """1, and up to 1 + gain where the target [B, 3, T, H, W] is unlike the last true frame [B, 3, 1, H, W]."""
    change = (target - last).abs().amax(1, keepdim=True)
    return 1 + gain * ((change - STILL) / (MOVING - STILL)).clamp(0, 1)


def reconstruction_loss(decoded: Tensor, target: Tensor, n_conditioning: int) -> Tensor:
    """Of a whole decoded clip [B, 3, 33, H, W], before any refiner."""
    weight = moving_weight(target, target[:, :, n_conditioning - 1 : n_conditioning], gain=4.0)
    error = decoded - target
    return (weight * (0.5 * error.abs() + 3 * error.square())).mean() + 0.25 * _edges(error)


def refined_loss(refined: Tensor, target: Tensor, last: Tensor, log_weight: float, structure_weight: float) -> Tensor:
    """Of refined groups [N, 3, 8, H, W]; last [N, 3, H, W] is each one's last conditioning frame.

    log_weight  of the logarithm of each frame's squared error, which is PSNR: there a still scene's last decibel counts
                as much as a moving one's
    structure_weight  of what the structure lacks to be the same
    """
    last = last[:, :, None]
    error = refined - target
    pixels = (moving_weight(target, last, gain=2.0) * (0.7 * error.abs() + 2 * error.square())).mean()
    # Structure is compared in every third frame: neighbours tell the same, and it costs much.
    some = slice(1, None, 3)
    structure = 1 - mean_ssim(_frames(refined[:, :, some]), _frames(target[:, :, some]))
    return (
        pixels
        + 0.25 * _edges(error)
        + structure_weight * structure
        + log_weight * log_errors(error, target, last).mean()
    )


def mean_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of lumas over boxes of 7 x 7 (Wang et al. 2004), of frames [N, 3, H, W] in [-1, 1]."""
    weights = torch.tensor(LUMA, device=a.device).view(1, 3, 1, 1) / 2
    a, b = ((x * weights).sum(1, keepdim=True) for x in (a, b))

    def local(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 7, 1)

    mean_a, mean_b = local(a), local(b)
    variance_a, variance_b = local(a * a) - mean_a * mean_a, local(b * b) - mean_b * mean_b
    covariance = local(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    return (likeness / ((mean_a.square() + mean_b.square() + 1e-4) * (variance_a + variance_b + 9e-4))).mean()


def _edges(error: Tensor) -> Tensor:
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def log_errors(error: Tensor, target: Tensor, last: Tensor) -> Tensor:
    """Logarithm of each frame's squared error, and half as much of its moving pixels': [N, T].

    error, target  [N, 3, T, H, W]
    last           the last true frame before them, [N, 3, 1, H, W]
    """
    squared = error.square().mean(1, keepdim=True)
    moving = ((target - last).abs().amax(1, keepdim=True) > MOVED).float()
    share = moving.mean((1, 3, 4))
    of_moving = (squared * moving).mean((1, 3, 4)) / share.clamp(min=1e-3)
    return frame_log_errors(error) + 0.5 * (of_moving + 2e-3).log() * (share > 0.005)


def frame_log_errors(error: Tensor) -> Tensor:
    """Logarithm of each frame's squared error [N, 3, T, H, W]: [N, T], which is PSNR but for scale and sign."""
    return (error.square().mean((1, 3, 4)) + LEAST_ERROR).log()


def _frames(video: Tensor) -> Tensor:
    return video.transpose(1, 2).flatten(0, 1)
