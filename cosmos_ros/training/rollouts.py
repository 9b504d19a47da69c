"""Trains the refiner on rollouts of the transformer, so that it knows the mistakes it will have to deal with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_ros.training.average import Average
from cosmos_ros.training.datasets.clips import ClipStore, Views, camera_noise, resampled, shrunk, vary
from cosmos_ros.training.losses import refined_loss
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.round_trips import (
    FROM_AN_IMAGE,
    NOISY_CAMERA,
    RefinerPrograms,
    compiled,
    draw_groups,
    group_of,
)
from cosmos_ros.training.schedule import Journal, Schedule, require_finite
from cosmos_ros.training.sizes import CLIP_FRAMES, CONDITIONING_FRAMES, Sizes
from cosmos_ros.training.tokenizer_network import VideoTokenizer
from cosmos_ros.training.transformer import tokenize
from cosmos_ros.world_model import Sampling, Transformer
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed

RATE = 4e-4
CHUNK = 16  # windows that are drawn, and drawn again, by one seed
CAMERA_TIMES_THE_MODEL = 1.75
TRUE_SHARE = 0.3  # of steps on round trips
LOG_WEIGHT = 0.02
DECAY = 0.998


@dataclass(frozen=True)
class Chunk:
    """Windows that a seed draws, without their pixels: those come again from the seed.

    predicted, true  tokens int64 [CHUNK, t, h, w] of the rollouts and of the clips
    n_conditioning   frames that the rollouts go on from
    """

    seed: int
    predicted: Tensor
    true: Tensor
    n_conditioning: int


@dataclass(frozen=True)
class Windows:
    """Random windows at the size that stands for the camera's, the same ones for the same seed."""

    clips: ClipStore
    sizes: Sizes
    shares: dict[str, float]

    def draw(self, seed: int) -> tuple[Tensor, Tensor]:
        """Clean and noisy video [CHUNK, 3, 33, H, W]."""
        generator = torch.Generator().manual_seed(seed)
        windows = self.clips.random_windows(CHUNK, self.shares, generator)
        views = Views.random(CHUNK, self.clips.size, generator)
        height, width = (round(side * CAMERA_TIMES_THE_MODEL) for side in self.sizes.frame_size)
        devices = [self.clips.device] if self.clips.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            clean = vary(resampled(self.clips.take(windows), views, (height, width)))
            return clean, camera_noise(clean)


@torch.no_grad()
def roll_out(
    tokenizer: VideoTokenizer, transformer: Transformer, windows: Windows, seeds: Sequence[int], sampling: Sampling
) -> list[Chunk]:
    """Rollouts of every seed's windows, with the sampling that ships."""
    decoder, chunks = WindowDecoder(transformer), []
    shape = transformer.config.latent_shape
    for seed in seeds:
        frames = shrunk(windows.draw(seed)[1], windows.sizes.frame_size)
        true = tokenize(tokenizer, frames)
        from_an_image = torch.rand((), generator=torch.Generator().manual_seed(seed)) < FROM_AN_IMAGE
        given = true[:, : (1 if from_an_image else 2) * transformer.config.tokens_per_latent_frame]
        of_seed = Sampling(sampling.seed + seed * CHUNK, sampling.temperature, sampling.top_p)
        predicted = completed(decoder.passes(given, of_seed)).to(true.device)
        n = 1 if from_an_image else CONDITIONING_FRAMES
        chunks.append(Chunk(seed, predicted.view(-1, *shape), true.view(-1, *shape), n))
    return chunks


def train_on_rollouts(
    refiner: Refiner,
    tokenizer: VideoTokenizer,
    chunks: Sequence[Chunk],
    windows: Windows,
    journal: Journal,
    seconds: float,
    max_steps: int,
    on_progress: Callable[[Average[Refiner]], None],
    seed: int = 0,
) -> Average[Refiner]:
    """For `seconds` or `max_steps`, whichever is over first; the refiner's average.

    on_progress  called every 100 steps

    Raises TrainingDiverged where a loss is no finite number.
    """
    device = windows.clips.device
    average = Average(refiner, DECAY)
    optimizer = torch.optim.AdamW(
        refiner.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=device.type == "cuda"
    )
    decode, refine, loss_of = (
        compiled(tokenizer.decoder, device),
        RefinerPrograms(refiner),
        compiled(refined_loss, device),
    )
    generator = torch.Generator().manual_seed(seed)
    refiner.requires_grad_(True).train()
    for step in Schedule(optimizer, RATE, seconds, max_steps, warmup_steps=100):
        chunk = chunks[int(torch.randint(len(chunks), (), generator=generator))]
        clean, noisy = windows.draw(chunk.seed)
        tokens = chunk.true if torch.rand((), generator=generator) < TRUE_SHARE else chunk.predicted
        camera = noisy if torch.rand((), generator=generator) < NOISY_CAMERA else clean
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
            decoded = decode(tokenizer.quantiser.codes(tokens)).float().clamp(-1, 1)
        groups = draw_groups(chunk.n_conditioning, CLIP_FRAMES, generator)
        small = shrunk(camera, windows.sizes.frame_size)
        refined, last = refine(decoded, camera, small, chunk.n_conditioning, groups)
        target = torch.cat([group_of(clean, chunk.n_conditioning, group) for group in groups])
        loss = loss_of(refined, target, last, LOG_WEIGHT)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(refiner.parameters(), 1.0)
        if step % 100 == 0:
            require_finite(loss, "refiner", step)
        optimizer.step()
        average.update()
        if step % 100 == 0:
            on_progress(average)
            journal.note(stage="refiner", step=step, loss=round(loss.item(), 5))
    return average
