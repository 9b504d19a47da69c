"""Trains the video tokenizer and the refiner together, on round trips of true clips.

The refiner's loss reaches the tokenizer: its codes are then spent on what the camera's own frames cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cosmos_ros.training.datasets.clips import ClipStore, Views, camera_noise, resampled, vary
from cosmos_ros.training.loop import Recipe
from cosmos_ros.training.losses import reconstruction_loss, refined_loss
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.sizes import CLIP_FRAMES, CONDITIONING_FRAMES, TIME_COMPRESSION, Sizes
from cosmos_ros.training.tokenizer_network import VideoTokenizer

RATE = 8e-4
DECODER_WEIGHT = 0.6
LOG_WEIGHT = 0.2
STRUCTURE_WEIGHT = 0.08
FROM_AN_IMAGE = 0.15  # share of steps in which one frame is the condition
NOISY_CAMERA = 0.25  # share of steps in which the refiner sees the noise as well
DECAY = 0.999
GROUPS = 3  # refined of each clip in a step


def compiled(function: Callable, device: torch.device) -> Callable:
    """On CUDA compiled; elsewhere as it is."""
    return torch.compile(function, dynamic=False) if device.type == "cuda" else function


@dataclass
class RefinerPrograms:
    """A refiner as training calls it: several groups of a batch at once."""

    refiner: Refiner

    def __post_init__(self) -> None:
        device = self.refiner.exit.weight.device
        self._plan, self._compose = compiled(self.refiner.plan, device), compiled(self.refiner.compose, device)

    def __call__(
        self, decoded: Tensor, camera: Tensor, model: Tensor, n: int, groups: Sequence[int], hypothesis: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Refined groups [len(groups) * B, 3, 8, H, W], and each one's last conditioning frame.

        decoded  [B, 3, 33, h, w]; camera, model  true frames at the camera's and at the model's size
        n        conditioning frames; groups count from 1 after them
        hypothesis  of each window, int64 [B]
        """
        looks = [self.refiner.look(decoded[:, :, : n + TIME_COMPRESSION * g], model[:, :, :n]) for g in groups]
        newest = torch.cat([group_of(decoded, n, g) for g in groups]).float()
        with torch.autocast(camera.device.type, dtype=torch.bfloat16):
            plan = self._plan(torch.cat(looks), hypothesis.repeat(len(groups)))
        last, first = (camera[:, :, k].repeat(len(groups), 1, 1, 1) for k in (n - 1, 0))
        return self._compose(plan.float(), newest, last, first), last


def group_of(video: Tensor, n: int, group: int) -> Tensor:
    """Frames [B, 3, 8, H, W] of a group, counted from 1 after n conditioning frames."""
    return video[:, :, n + TIME_COMPRESSION * (group - 1) : n + TIME_COMPRESSION * group]


def draw_groups(n: int, n_frames: int, generator: torch.Generator) -> list[int]:
    """Which of the groups after n conditioning frames are refined in a step."""
    available = (n_frames - n) // TIME_COMPRESSION
    return sorted((torch.randperm(available, generator=generator)[:GROUPS] + 1).tolist())


class RoundTrip(nn.Module):
    """The loss of tokenizer and refiner on clips that go through both."""

    def __init__(self, tokenizer: VideoTokenizer, refiner: Refiner, device: torch.device) -> None:
        super().__init__()
        self.tokenizer, self.refiner = tokenizer, refiner
        self._round_trip, self._refine = compiled(tokenizer, device), RefinerPrograms(refiner)
        self._decoder_loss, self._frame_loss = (compiled(f, device) for f in (reconstruction_loss, refined_loss))

    def forward(
        self, clean: Tensor, noisy: Tensor, camera: Tensor, n: int, groups: Sequence[int], hypothesis: Tensor
    ) -> Tensor:
        """Of clips [B, 3, 33, H, W] as they were, as the tokenizer gets them, and as the refiner does.

        n, groups   conditioning frames, and which groups after them are refined
        hypothesis  that learns from each, int64 [B]: none that competes, as what is known leaves nothing open
        """
        with torch.autocast(clean.device.type, dtype=torch.bfloat16):
            decoded = self._round_trip(noisy)
        decoded = decoded.float()
        refined, last = self._refine(decoded, camera, camera, n, groups, hypothesis)
        target = torch.cat([group_of(clean, n, group) for group in groups])
        frame_loss = self._frame_loss(refined, target, last, LOG_WEIGHT, STRUCTURE_WEIGHT)
        return DECODER_WEIGHT * self._decoder_loss(decoded, clean, n) + frame_loss


def round_trips(
    tokenizer: VideoTokenizer,
    refiner: Refiner,
    clips: ClipStore,
    sizes: Sizes,
    shares: Mapping[str, float],
    steps: int,
    batch: int,
) -> Recipe:
    """The stage that trains tokenizer and refiner, `batch` clips in a step.

    shares  of the kinds of films in a batch

    Both see frames at the model's size: the refiner meets the camera's size when it is trained on rollouts.
    """
    device = clips.device
    light = compiled(vary, device)

    @torch.no_grad()
    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, int, list[int], Tensor]:
        windows = clips.random_windows(batch, shares, generator)
        views = Views.random(batch, clips.size, generator)
        clean = light(resampled(clips.take(windows), views, sizes.frame_size))
        noisy = camera_noise(clean)
        n = 1 if torch.rand((), generator=generator) < FROM_AN_IMAGE else CONDITIONING_FRAMES
        groups = draw_groups(n, CLIP_FRAMES, generator)
        camera = noisy if torch.rand((), generator=generator) < NOISY_CAMERA else clean
        return clean, noisy, camera, n, groups, refiner.sure(batch, generator)

    tokenizer.train()
    refiner.train()
    return Recipe(
        name="tokenizer",
        steps=steps,
        parameters=[{"params": [*tokenizer.parameters(), *refiner.parameters()], "weight_decay": 0.01}],
        loss=RoundTrip(tokenizer, refiner, device),
        draw=draw,
        tokens=batch * math.prod(sizes.latent_shape),
        rate=RATE,
        betas=(0.9, 0.98),
        decay=DECAY,
    )
