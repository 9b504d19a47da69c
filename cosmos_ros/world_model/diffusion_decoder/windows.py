"""How a video is cut along time into the chunks of 8 latent frames that the decoder works on, and put together again.

The published video of 5 latent frames is one chunk, filled up by reflection in time: 0 1 2 3 4 3 2 1. The published
code reflects once and so fails for 3, 4, 9, 10, 15, 16 or 21 latent frames, has no chunk at all for 1 and 2, and lays
the chunks of longer videos over each other as if a latent frame were a pixel frame. Here reflection goes on to and fro
for as long as it takes, and chunks are put together where their frames belong.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_ros.world_model.diffusion_decoder.config import CHUNK, COMPRESSION

OVERLAP = 2  # latent frames that two chunks share
STEP = COMPRESSION[0]  # pixel frames of a latent frame, but of the first


@dataclass(frozen=True)
class Window:
    """A chunk of a video.

    places  the latent frame of the video that stands at each of the chunk's 8 places
    first   of the video's pixel frames, the one with which the chunk begins
    """

    places: list[int]
    first: int


def windows(latent_frames: int) -> list[Window]:
    """The chunks of a video of so many latent frames, in order."""
    found = [_window(0, latent_frames)]
    while found[-1].places[0] + CHUNK < latent_frames:
        found.append(_window(found[-1].places[0] + CHUNK - OVERLAP, latent_frames))
    return found


def _window(start: int, latent_frames: int) -> Window:
    there = latent_frames - start
    # A chunk's first latent frame is a single pixel frame: of those that it stands for in the video, the last.
    return Window([start + reflected(i, there) for i in range(CHUNK)], STEP * start)


def reflected(place: int, length: int) -> int:
    """The place within the length where one gets to that goes from 0 and turns round at either end."""
    if length == 1:
        return 0
    place %= 2 * (length - 1)
    return min(place, 2 * (length - 1) - place)


def put_together(chunks: list[Tensor], latent_frames: int) -> Tensor:
    """Pixel frames [3, n, H, W] of the video from those of its chunks, [3, 57, H, W] each; linear where two overlap."""
    n_frames = 1 + STEP * (latent_frames - 1)
    video = chunks[0][:, :n_frames]
    for chunk, window in zip(chunks[1:], windows(latent_frames)[1:], strict=True):
        shared = video.shape[1] - window.first
        weight = torch.linspace(0, 1, shared, device=video.device, dtype=video.dtype)[:, None, None]
        blended = torch.lerp(video[:, window.first :], chunk[:, :shared], weight)
        video = torch.cat([video[:, : window.first], blended, chunk[:, shared : n_frames - window.first]], dim=1)
    return video
