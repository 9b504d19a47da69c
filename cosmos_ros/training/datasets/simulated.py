"""Simulated episodes, filmed by worker processes while training runs, and clips drawn from them on the device."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from cosmos_ros.child_processes import end_with_parent
from cosmos_ros.training.splits import Split

HEIGHT, WIDTH = 160, 256
CLIP_FRAMES = 33
FRAME_RATE = 10.0  # Hz
EPISODE_FRAMES = 48  # a clip starts at any of the first 16
MOST_FILES_WAITING = 1000  # of 6 MB each, before the film crew pauses


class FilmCrew:
    """Worker processes that film episodes of one split into `folder`, a file of raw pixels per camera.

    Used as a context manager.
    """

    def __init__(self, split: Split, indices: range, folder: Path, n_workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Spawned, not forked: neither CUDA nor OpenGL survives a fork.
        context = multiprocessing.get_context("spawn")
        self._workers = [
            context.Process(target=film_episodes, args=(split, indices[i::n_workers], folder), daemon=True)
            for i in range(n_workers)
        ]

    def __enter__(self) -> FilmCrew:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.terminate()
            worker.join()

    def check(self) -> None:
        """Raises RuntimeError where a worker failed."""
        if failed := [worker.exitcode for worker in self._workers if worker.exitcode]:
            raise RuntimeError(f"a film worker ended with exit code {failed[0]}; its traceback stands above")


def film_episodes(split: Split, indices: range, folder: Path) -> None:
    """Film the episodes with these indices: uint8 [EPISODE_FRAMES, HEIGHT, WIDTH, 3] per camera."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    end_with_parent()
    # Only those who film need MuJoCo.
    from cosmos_ros.training.episodes import draw_scene
    from cosmos_ros.training.simulation import film

    for index in indices:
        while sum(1 for _ in folder.iterdir()) > MOST_FILES_WAITING:
            time.sleep(0.2)
        views = film(draw_scene(split, index), EPISODE_FRAMES, FRAME_RATE, HEIGHT, WIDTH)
        for camera, frames in views.items():
            unfinished = folder / f"{index:07d}-{camera}.part"
            frames.tofile(unfinished)
            unfinished.rename(unfinished.with_suffix(".rgb"))


class EpisodeStore:
    """Filmed episodes on the training device, uint8 [capacity, EPISODE_FRAMES, HEIGHT, WIDTH, 3].

    Used as a context manager it takes in what the film crew has finished, in the background, until it is full.
    """

    def __init__(self, folder: Path, capacity: int, device: torch.device) -> None:
        self.folder, self.capacity, self.device = folder, capacity, device
        self._frames = torch.empty((capacity, EPISODE_FRAMES, HEIGHT, WIDTH, 3), dtype=torch.uint8, device=device)
        self._n = 0
        self._closed = threading.Event()
        self._collector = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self) -> EpisodeStore:
        self._collector.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._collector.join()

    def __len__(self) -> int:
        return self._n

    @property
    def full(self) -> bool:
        return self._n == self.capacity

    def _collect(self) -> None:
        on_cuda = self.device.type == "cuda"
        landing = torch.empty(self._frames.shape[1:], dtype=torch.uint8, pin_memory=on_cuda)
        # A stream of its own, or every copy would queue up behind the training step.
        stream = torch.cuda.Stream(self.device) if on_cuda else None
        while not self.full and not self._closed.wait(0.02):
            for path in sorted(self.folder.glob("*.rgb"))[: self.capacity - self._n]:
                with path.open("rb", buffering=0) as file:
                    file.readinto(landing.numpy().data)
                with torch.cuda.stream(stream):
                    self._frames[self._n].copy_(landing, non_blocking=True)
                if stream:
                    stream.synchronize()
                self._n += 1
                path.unlink()

    def clips(self, episodes: Tensor, starts: Tensor) -> Tensor:
        """The clips that begin at frame starts[i] of episodes[i]: uint8 [B, CLIP_FRAMES, HEIGHT, WIDTH, 3]."""
        times = starts[:, None] + torch.arange(CLIP_FRAMES, device=self.device)
        return self._frames[episodes[:, None], times]

    def random_clips(self, batch: int) -> Tensor:
        """As `clips`, drawn evenly."""
        episodes = torch.randint(self._n, (batch,), device=self.device)
        starts = torch.randint(EPISODE_FRAMES - CLIP_FRAMES + 1, (batch,), device=self.device)
        return self.clips(episodes, starts)

    def first_clips(self) -> Tensor:
        """One clip per episode, from its ninth frame on: what validation looks at."""
        episodes = torch.arange(self._n, device=self.device)
        return self.clips(episodes, torch.full_like(episodes, 8))


def as_video(clips: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] in [-1, 1]."""
    return clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def vary(video: Tensor) -> Tensor:
    """Mirror, and change brightness and contrast, each clip as a whole."""
    batch, device = video.shape[0], video.device
    mirrored = torch.rand(batch, 1, 1, 1, 1, device=device) < 0.5
    video = torch.where(mirrored, video.flip(-1), video)
    contrast = torch.empty(batch, 1, 1, 1, 1, device=device).uniform_(0.75, 1.15)
    brightness = torch.empty(batch, 1, 1, 1, 1, device=device).uniform_(-0.15, 0.15)
    return (video * contrast + brightness).clamp(-1, 1)


def camera_noise(video: Tensor) -> Tensor:
    """What a real sensor adds: white noise of up to 2 % of the range, in most clips much less."""
    sigma = 0.04 * torch.rand(video.shape[0], 1, 1, 1, 1, device=video.device).square()
    return (video + sigma * torch.randn_like(video)).clamp(-1, 1)
