"""Frames of many clips on the training device, and random windows of them, cropped, mirrored and lit at random.

The same window can be had at two sizes, the model's and a larger one that stands for the camera's: both are resampled
in one go from what is stored, by a matrix per axis.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_ros.training.sizes import CLIP_FRAMES

STORED_TIMES_THE_MODEL = 2  # height and width of stored frames
SKIPPING = 0.15  # share of recorded windows that take every second frame: as if the rate were half
LEAST_VIEW = 0.6  # of the height, of what a window shows
WHOLE_VIEW = 0.6  # share of windows that show all


class ClipStore:
    """Films of any length, of one size, uint8 RGB on the device.

    Used as: add, then random windows. kind names what a film is ("recorded", "simulated").

    on_host  the films wait in host memory: for frames so large that few would fit the device
    """

    def __init__(self, size: tuple[int, int], device: torch.device, on_host: bool = False) -> None:
        self.size, self.device = size, device
        self._home = torch.device("cpu") if on_host else device
        self._films: list[Tensor] = []
        self._kinds: list[str] = []
        self._first: list[int] = []  # each film's first frame, as all are counted
        self.n_frames = 0

    def __len__(self) -> int:
        """Number of films."""
        return len(self._films)

    def count(self, kind: str) -> int:
        """Number of films of this kind."""
        return self._kinds.count(kind)

    def add(self, frames: Tensor, kind: str) -> None:
        """Take in a film uint8 [n, H, W, 3]; one that is shorter than a clip is left out."""
        if len(frames) < CLIP_FRAMES:
            return
        self._films.append(frames.to(self._home))
        self._kinds.append(kind)
        self._first.append(self.n_frames)
        self.n_frames += len(frames)

    def take(self, windows: Tensor) -> Tensor:
        """Windows as random_windows gives them, frame numbers int64 [B, 33] -> uint8 [B, 33, H, W, 3] on the device."""
        taken = torch.stack([self._window(first, second - first) for first, second in windows[:, :2].tolist()])
        return taken.to(self.device)

    def _window(self, frame: int, step: int) -> Tensor:
        film = bisect_right(self._first, frame) - 1
        first = frame - self._first[film]
        return self._films[film][first : first + step * (CLIP_FRAMES - 1) + 1 : step]

    def random_windows(self, batch: int, shares: Mapping[str, float], generator: torch.Generator) -> Tensor:
        """Frame numbers int64 [batch, 33]. Kinds are drawn by their shares, films by their length."""
        lengths = torch.tensor([len(film) for film in self._films])
        weight = torch.zeros(len(lengths), dtype=torch.float64)
        for name, share in shares.items():
            of_kind = torch.tensor([each == name for each in self._kinds])
            if of_kind.any():
                long = (lengths - CLIP_FRAMES + 1).double() * of_kind
                weight += share * long / long.sum()
        film = torch.multinomial(weight, batch, replacement=True, generator=generator)
        may_skip = torch.tensor([self._kinds[i] == "recorded" for i in film.tolist()]) & (
            lengths[film] >= 2 * CLIP_FRAMES
        )
        step = torch.where(may_skip & (torch.rand(batch, generator=generator) < SKIPPING), 2, 1)
        room = lengths[film] - step * (CLIP_FRAMES - 1)
        start = torch.tensor(self._first)[film] + (torch.rand(batch, generator=generator) * room).long()
        return start[:, None] + step[:, None] * torch.arange(CLIP_FRAMES)

    def spread_windows(self, per_film: int) -> Tensor:
        """Frame numbers int64 [N, 33] of windows that do not overlap, at most so many of each film: for validation."""
        starts = []
        for first, film in zip(self._first, self._films, strict=True):
            n = min(per_film, len(film) // CLIP_FRAMES)
            starts += [first + round(k * (len(film) - CLIP_FRAMES) / max(1, n - 1)) for k in range(n)]
        return torch.tensor(starts)[:, None] + torch.arange(CLIP_FRAMES)


@dataclass(frozen=True)
class Views:
    """What windows show of the stored frames: boxes [B] in stored pixels; left lies right of right where mirrored."""

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def random(cls, batch: int, size: tuple[int, int], generator: torch.Generator) -> Views:
        height, width = size

        def uniform() -> Tensor:
            return torch.rand(batch, generator=generator)

        zoom = LEAST_VIEW + (1 - LEAST_VIEW) * uniform().sqrt()
        zoom[uniform() < WHOLE_VIEW] = 1.0
        h = height * zoom
        w = (width * zoom * (1 + 0.12 * (2 * uniform() - 1))).clamp(max=width)
        top, left, mirrored = uniform() * (height - h), uniform() * (width - w), uniform() < 0.5
        near, far = torch.where(mirrored, left + w, left), torch.where(mirrored, left, left + w)
        return cls(top, top + h, near, far)

    @classmethod
    def whole(cls, batch: int, size: tuple[int, int]) -> Views:
        zeros = torch.zeros(batch)
        return cls(zeros, zeros + size[0], zeros, zeros + size[1])


def resampled(frames: Tensor, views: Views, size: tuple[int, int]) -> Tensor:
    """What the views show, at this size: uint8 [B, T, H, W, 3] -> float32 [B, 3, T, h, w] in [-1, 1].

    Bilinear with antialiasing, as the node resizes camera frames.
    """
    batch, time, height, width, _ = frames.shape
    # Half precision holds 0..255 without error, and is twice as fast.
    dtype = torch.float16 if frames.is_cuda else torch.float32
    pixels = frames.permute(0, 4, 1, 2, 3).reshape(batch, 3 * time, height, width).to(dtype) / 127.5 - 1
    down = _resampling(views.top, views.bottom, size[0], height, frames.device).to(dtype)
    across = _resampling(views.left, views.right, size[1], width, frames.device).to(dtype)
    rows = torch.bmm(pixels.reshape(batch, -1, width), across.transpose(1, 2)).view(batch, 3 * time, height, size[1])
    return torch.matmul(down[:, None], rows).view(batch, 3, time, *size).float()


def as_seen(clips: Tensor, size: tuple[int, int]) -> Tensor:
    """All that clips show, at this size: uint8 [B, T, H, W, 3] -> float32 [B, 3, T, h, w] in [-1, 1]."""
    return resampled(clips, Views.whole(len(clips), (clips.shape[2], clips.shape[3])), size)


def shrunk(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Video [B, 3, T, H, W] at a smaller size, resampled as `resampled` does it."""
    batch, _, time, height, width = video.shape
    if (height, width) == tuple(size):
        return video
    whole = Views.whole(1, (height, width))
    down = _resampling(whole.top, whole.bottom, size[0], height, video.device)[0].to(video.dtype)
    across = _resampling(whole.left, whole.right, size[1], width, video.device)[0].to(video.dtype)
    return (down @ (video.flatten(1, 2) @ across.t())).view(batch, 3, time, *size)


def _resampling(low: Tensor, high: Tensor, n_out: int, n_in: int, device: torch.device) -> Tensor:
    """Matrices [B, n_out, n_in] that resample the interval low..high of an axis with a triangular filter."""
    low, high = low.to(device), high.to(device)
    step = (high - low) / n_out
    centre = low[:, None] + (torch.arange(n_out, device=device) + 0.5) * step[:, None]
    distance = (torch.arange(n_in, device=device) + 0.5 - centre[:, :, None]).abs()
    weight = (1 - distance / step.abs().clamp(min=1)[:, None, None]).clamp(min=0)
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-8)


def vary(video: Tensor) -> Tensor:
    """Change colours, exposure and contrast of each clip [B, 3, T, H, W] as a whole; at times swap channels."""
    batch, device = video.shape[0], video.device

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(batch, channels, 1, 1, 1, device=device).uniform_(low, high)

    grey = video.mean(1, keepdim=True)
    video = grey + (video - grey) * uniform(0.6, 1.3)
    video = (video + 1) * uniform(0.88, 1.12, channels=3) * uniform(0.7, 1.2) - 1
    video = video * uniform(0.8, 1.15) + uniform(-0.12, 0.12)
    return torch.where(uniform(0, 1) < 0.15, video.flip(1), video).clamp(-1, 1)


def camera_noise(video: Tensor) -> Tensor:
    """What a real sensor adds: white noise of up to 2 % of the range, in most clips much less."""
    sigma = 0.04 * torch.rand(video.shape[0], 1, 1, 1, 1, device=video.device).square()
    return (video + sigma * torch.randn_like(video)).clamp(-1, 1)
