"""Trains the video tokenizer and the refiner together, on round trips of true clips.

The refiner's loss reaches the tokenizer: its codes are then spent on what the camera's own frames cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_ros.training.average import Average
from cosmos_ros.training.datasets.clips import ClipStore, Views, camera_noise, resampled, shrunk, vary
from cosmos_ros.training.losses import reconstruction_loss, refined_loss
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.schedule import Journal, Schedule, require_finite
from cosmos_ros.training.sizes import CONDITIONING_FRAMES, TIME_COMPRESSION
from cosmos_ros.training.tokenizer_network import VideoTokenizer

RATE = 8e-4
DECODER_WEIGHT = 0.6
LOG_WEIGHT = 0.006
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
        self, decoded: Tensor, camera: Tensor, model: Tensor, n: int, groups: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Refined groups [len(groups) * B, 3, 8, H, W], and each one's last conditioning frame.

        decoded  [B, 3, 33, h, w]; camera, model  true frames at the camera's and at the model's size
        n        conditioning frames; groups count from 1 after them
        """
        looks = [self.refiner.look(decoded[:, :, : n + TIME_COMPRESSION * g], model[:, :, :n]) for g in groups]
        newest = torch.cat([group_of(decoded, n, g) for g in groups]).float()
        with torch.autocast(camera.device.type, dtype=torch.bfloat16):
            plan = self._plan(torch.cat(looks))
        last, first = (camera[:, :, k].repeat(len(groups), 1, 1, 1) for k in (n - 1, 0))
        return self._compose(plan.float(), newest, last, first), last


def group_of(video: Tensor, n: int, group: int) -> Tensor:
    """Frames [B, 3, 8, H, W] of a group, counted from 1 after n conditioning frames."""
    return video[:, :, n + TIME_COMPRESSION * (group - 1) : n + TIME_COMPRESSION * group]


def draw_groups(n: int, n_frames: int, generator: torch.Generator) -> list[int]:
    """Which of the groups after n conditioning frames are refined in a step."""
    available = (n_frames - n) // TIME_COMPRESSION
    return sorted((torch.randperm(available, generator=generator)[:GROUPS] + 1).tolist())


def train_round_trips(
    tokenizer: VideoTokenizer,
    refiner: Refiner,
    clips: ClipStore,
    frame_size: tuple[int, int],
    shares: dict[str, float],
    journal: Journal,
    seconds: float,
    batch: int,
    max_steps: int,
    on_progress: Callable[[Average[VideoTokenizer], Average[Refiner]], None],
    seed: int = 0,
) -> tuple[Average[VideoTokenizer], Average[Refiner]]:
    """For `seconds` or `max_steps`, whichever is over first; the averages of tokenizer and refiner.

    shares       of the kinds of films in a batch
    on_progress  called every 100 steps

    Both see frames at the model's size: the refiner meets the camera's size when it is trained on rollouts. Raises
    TrainingDiverged where a loss is no finite number; the averages that on_progress saw last stay good.
    """
    device = clips.device
    averages = Average(tokenizer, DECAY), Average(refiner, DECAY)
    parameters = [*tokenizer.parameters(), *refiner.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=device.type == "cuda"
    )
    forward, refine = compiled(tokenizer, device), RefinerPrograms(refiner)
    light, decoder_loss, frame_loss = (compiled(f, device) for f in (vary, reconstruction_loss, refined_loss))
    generator = torch.Generator().manual_seed(seed)
    tokenizer.train()
    refiner.train()

    def loss_of_a_batch() -> Tensor:
        windows = clips.random_windows(batch, shares, generator)
        views = Views.random(batch, clips.size, generator)
        with torch.no_grad():
            clean = light(resampled(clips.take(windows), views, frame_size))
            noisy = camera_noise(clean)
        n = 1 if torch.rand((), generator=generator) < FROM_AN_IMAGE else CONDITIONING_FRAMES
        groups = draw_groups(n, clean.shape[2], generator)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            decoded = forward(noisy)
        decoded = decoded.float()
        camera = noisy if torch.rand((), generator=generator) < NOISY_CAMERA else clean
        refined, last = refine(decoded, camera, shrunk(camera, frame_size), n, groups)
        target = torch.cat([group_of(clean, n, group) for group in groups])
        return DECODER_WEIGHT * decoder_loss(decoded, clean, n) + frame_loss(refined, target, last, LOG_WEIGHT)

    loss_of_a_batch().backward()  # compiles, outside of the schedule's time
    for step in Schedule(optimizer, RATE, seconds, max_steps):
        loss = loss_of_a_batch()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if step % 100 == 0:
            require_finite(loss, "tokenizer", step)
        optimizer.step()
        averages[0].update()
        averages[1].update()
        if step % 100 == 0:
            on_progress(*averages)
            journal.note(stage="tokenizer", step=step, loss=round(loss.item(), 5))
    return averages
