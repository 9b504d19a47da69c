"""Trains the refiner on rollouts of the transformer, so that it knows the mistakes it will have to deal with.

Of every window several rollouts are made, and the one that came nearest to what happened is shown to the refiner more
often than the others. Trained on all of them equally it learns to blend the camera's last frame with whatever was
predicted, so that all futures look the same; trained more on the best it dares to move things. That is how a refiner's
first hypothesis is trained; how the others compete, and that one of them sees round trips alone, `hypotheses` says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cosmos_ros.training.checkpoint import Unfinished
from cosmos_ros.training.datasets.clips import ClipStore, Views, camera_noise, resampled, shrunk, vary
from cosmos_ros.training.hypotheses import Competition
from cosmos_ros.training.loop import Recipe
from cosmos_ros.training.losses import refined_loss
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.round_trips import (
    FROM_AN_IMAGE,
    NOISY_CAMERA,
    RefinerPrograms,
    compiled,
    draw_groups,
    group_of,
)
from cosmos_ros.training.sizes import CLIP_FRAMES, CONDITIONING_FRAMES
from cosmos_ros.training.tokenizer_network import VideoTokenizer
from cosmos_ros.world_model import Sampling, Transformer
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed

logger = logging.getLogger(__name__)
RATE = 4e-4
CHUNK = 16  # windows that are drawn, and drawn again, by one seed
SAMPLES = 2  # rollouts of each window: other windows teach more than further futures of the same
TRIPS = 4  # as many windows for round trips as are rolled out
CAMERA_TIMES_THE_MODEL = 1.5
TRIP_SHARE = 0.4  # of the chunks that steps draw, that are for round trips
# Rolled-out windows are learnt by heart where steps show each of them too often: three to eight times harmed nothing
# that could be seen, thirty cost real arms half a decibel (bench/results/training.md).
MOST_SHOWN = 10
BEST_SHARE = 0.35  # of rolled-out windows, whose best rollout is shown; of the others it is any
# More at random than what ships: the transformer goes on better from clips that it was trained on than from a robot's,
# and a refiner that learns from such rollouts trusts them too much.
TEMPERATURE, TOP_P = 1.0, 0.9
LOG_WEIGHT = 0.2
STRUCTURE_WEIGHT = 0.25
DECAY = 0.998
Tokenize = Callable[[Tensor], Tensor]  # video [B, 3, 33, H, W] in [-1, 1] -> tokens int64 [B, 5 h w]
Decode = Callable[[Tensor], Tensor]  # tokens int64 [B, t, h, w] -> video [B, 3, 33, H, W] in [-1, 1]


@dataclass(frozen=True)
class Chunk:
    """Windows that a seed draws, without their pixels: those come again from the seed.

    true             tokens int32 [chunk, t, h, w] of the clips
    predicted        of some rollouts of each, or of none, where it is for round trips; int32 [samples, chunk, t, h, w]
    best             which of them came nearest to the truth, int64 [chunk]
    n_conditioning   frames that the rollouts go on from
    """

    seed: int
    true: Tensor
    predicted: Tensor
    best: Tensor
    n_conditioning: int

    @property
    def is_rolled_out(self) -> bool:
        """Whether there are rollouts of it."""
        return len(self.predicted) > 0

    def rollouts(self, generator: torch.Generator) -> Tensor:
        """Tokens of the best rollout of each, or of any; int64 [chunk, t, h, w]."""
        n, device = len(self.true), self.true.device
        is_best = (torch.rand(n, generator=generator) < BEST_SHARE).to(device)
        any_of_them = torch.randint(len(self.predicted), (n,), generator=generator).to(device)
        which = torch.where(is_best, self.best, any_of_them)
        return self.predicted[which, torch.arange(n, device=device)].long()


@dataclass(frozen=True)
class Windows:
    """Random windows at the size that stands for the camera's, the same ones for the same seed.

    chunk         that one seed draws
    camera_times  the model's height and width
    """

    clips: ClipStore
    frame_size: tuple[int, int]
    shares: Mapping[str, float]
    chunk: int = CHUNK
    camera_times: float = CAMERA_TIMES_THE_MODEL

    def draw(self, seed: int) -> tuple[Tensor, Tensor]:
        """Clean and noisy video [chunk, 3, 33, H, W]."""
        generator = torch.Generator().manual_seed(seed)
        windows = self.clips.random_windows(self.chunk, self.shares, generator)
        views = Views.random(self.chunk, self.clips.size, generator)
        height, width = (round(side * self.camera_times) for side in self.frame_size)
        devices = [self.clips.device] if self.clips.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            clean = vary(resampled(self.clips.take(windows), views, (height, width)))
            return clean, camera_noise(clean)


@torch.no_grad()
def roll_out(
    tokenize: Tokenize,
    decode: Decode,
    transformer: Transformer,
    windows: Windows,
    seeds: Sequence[int],
    sampling: Sampling,
    samples: int = SAMPLES,
    context: Tensor | None = None,
) -> list[Chunk]:
    """Rollouts of every seed's windows.

    samples  of each window
    context  text embedding [1, M, context_dim], for a model with text
    """
    decoder, chunks = WindowDecoder(transformer), []
    shape = transformer.config.latent_shape
    for seed in seeds:
        clean, noisy = windows.draw(seed)
        true = tokenize(shrunk(noisy, windows.frame_size)).view(-1, *shape)
        n = n_conditioning_of(seed)
        given = true[:, : 1 if n == 1 else 2].flatten(1).repeat(samples, 1)
        of_seed = Sampling(sampling.seed + seed * len(given), sampling.temperature, sampling.top_p)
        made = completed(decoder.passes(given, of_seed, context))
        predicted = made.to(true.device).view(samples, -1, *shape)
        best = nearest(decode, predicted, shrunk(clean, windows.frame_size), n)
        chunks.append(Chunk(seed, true.int(), predicted.int(), best, n))
    return chunks


@torch.no_grad()
def round_trips_of(tokenize: Tokenize, windows: Windows, seeds: Sequence[int], shape: Sequence[int]) -> list[Chunk]:
    """Of every seed's windows the true tokens [*shape] alone, which takes far less time than a rollout."""
    chunks = []
    for seed in seeds:
        _clean, noisy = windows.draw(seed)
        true = tokenize(shrunk(noisy, windows.frame_size)).view(-1, *shape).int()
        none, best = true.new_empty(0, *true.shape), torch.zeros(len(true), dtype=torch.int64, device=true.device)
        chunks.append(Chunk(seed, true, none, best, n_conditioning_of(seed)))
    return chunks


def times_shown(chunks: Sequence[Chunk], steps: int) -> float:
    """How often so many steps of a chunk each show a rolled-out window, on average; 0 where there is none.

    Warns where that is more often than it can be without being learnt by heart.
    """
    rolled_out = sum(chunk.is_rolled_out for chunk in chunks)
    if not rolled_out:
        return 0.0
    share = 1 - TRIP_SHARE if rolled_out < len(chunks) else 1.0
    shown = share * steps / rolled_out
    if shown > MOST_SHOWN:
        logger.warning(
            "the refiner's steps will show every rolled-out window %.0f times, and what is shown more than %d times is "
            "learnt by heart: futures of other windows get worse; give more --rollouts, or fewer --refiner-steps",
            shown,
            MOST_SHOWN,
        )
    return round(shown, 1)


def n_conditioning_of(seed: int) -> int:
    """Frames that a seed's rollouts go on from: now and then a single image."""
    from_an_image = torch.rand((), generator=torch.Generator().manual_seed(seed)) < FROM_AN_IMAGE
    return 1 if from_an_image else CONDITIONING_FRAMES


def kept_chunks(unfinished: Unfinished, ranks: Ranks, make: Callable[[], list[Chunk]]) -> list[Chunk]:
    """This rank's, on its device: as `make` gives them, or as a run that is gone on with had them."""

    def on_host() -> list[tuple]:
        return [(c.seed, c.true.cpu(), c.predicted.cpu(), c.best.cpu(), c.n_conditioning) for c in make()]

    device = ranks.device
    return [
        Chunk(seed, true.to(device), predicted.to(device), best.to(device), n)
        for seed, true, predicted, best, n in unfinished.cached(f"rollouts-{ranks.rank}", on_host)
    ]


def nearest(decode: Decode, predicted: Tensor, truth: Tensor, n: int) -> Tensor:
    """Which rollout of each window has the smallest squared error after the first n frames, as decoded: int64 [B].

    predicted  tokens [S, B, t, h, w]
    truth      [B, 3, 33, h, w]
    """
    errors = []
    for tokens in predicted:
        decoded = decode(tokens)
        errors.append((decoded - truth)[:, :, n:].square().mean((1, 2, 3, 4)))
    return torch.stack(errors).argmin(0)


def decode(tokenizer: VideoTokenizer, tokens: Tensor) -> Tensor:
    """Tokens [B, t, h, w] -> [B, 3, 33, H, W] in [-1, 1]."""
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
        return tokenizer.decoder(tokenizer.quantiser.codes(tokens)).float().clamp(-1, 1)


class RefinedRollout(nn.Module):
    """The refiner's loss on decoded frames."""

    def __init__(self, refiner: Refiner, frame_size: tuple[int, int], device: torch.device) -> None:
        super().__init__()
        self.refiner, self._frame_size = refiner, frame_size
        self._refine, self._loss = RefinerPrograms(refiner), compiled(refined_loss, device)

    def forward(
        self, decoded: Tensor, clean: Tensor, camera: Tensor, n: int, groups: Sequence[int], hypothesis: Tensor
    ) -> Tensor:
        """decoded [B, 3, 33, h, w]; true frames as they were and as the refiner sees them, [B, 3, 33, H, W].

        n, groups   conditioning frames, and which groups after them are refined
        hypothesis  that learns from each, int64 [B]
        """
        refined, last = self._refine(decoded, camera, shrunk(camera, self._frame_size), n, groups, hypothesis)
        target = torch.cat([group_of(clean, n, group) for group in groups])
        return self._loss(refined, target, last, LOG_WEIGHT, STRUCTURE_WEIGHT)


def refined_rollouts(
    refiner: Refiner, decode: Decode, chunks: Sequence[Chunk], windows: Windows, steps: int, seed: int, parts: int = 1
) -> Recipe:
    """The stage that trains the refiner, `parts` chunks in a step, one after the other.

    chunks  of which those without rollouts are for round trips
    seed    of what hypotheses begin with that have not competed yet

    From round trips the trusting hypothesis learns, from rollouts all others do. Where few windows are rolled out, or
    none, number 0 learns from round trips too; where there are no round trips, the trusting one learns nothing.
    """
    device = windows.clips.device
    rolled_out = [chunk for chunk in chunks if chunk.is_rolled_out]
    trips = [chunk for chunk in chunks if not chunk.is_rolled_out]
    if rolled_out:
        refiner.set_apart(seed)
    # Number 0 would learn by heart the few windows of a model whose rollouts take long.
    are_few = len(trips) > TRIPS * len(rolled_out)
    competition = Competition(refiner, decode, windows.frame_size)

    @torch.no_grad()
    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, int, list[int], Tensor]:
        is_trip = bool(trips) and (not rolled_out or torch.rand((), generator=generator).item() < TRIP_SHARE)
        some = trips if is_trip else rolled_out
        chunk = some[int(torch.randint(len(some), (), generator=generator))]
        clean, noisy = windows.draw(chunk.seed)
        n = chunk.n_conditioning
        camera = noisy if torch.rand((), generator=generator) < NOISY_CAMERA else clean
        groups = draw_groups(n, CLIP_FRAMES, generator)
        if is_trip:
            decoded, n_windows = decode(chunk.true.long()), len(clean)
            trusting = torch.full((n_windows,), refiner.trusting, device=device)
            hypothesis = refiner.sure(n_windows, generator) if are_few else trusting
        else:
            tokens = chunk.rollouts(generator)
            decoded, hypothesis = competition(tokens, chunk.predicted, clean, camera, n, groups, generator)
        return decoded, clean, camera, n, groups, hypothesis

    refiner.requires_grad_(True).train()
    return Recipe(
        name="refiner",
        steps=steps,
        parameters=[{"params": list(refiner.parameters()), "weight_decay": 0.01}],
        loss=RefinedRollout(refiner, windows.frame_size, device),
        draw=draw,
        tokens=parts * chunks[0].true.numel(),
        rate=RATE,
        betas=(0.9, 0.98),
        decay=DECAY,
        warmup_steps=100,
        parts=parts,
    )
