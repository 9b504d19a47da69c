"""Simulated episodes, filmed by worker processes: every camera's frames, as a real camera would have spoilt them."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.child_processes import end_with_parent
from cosmos_ros.training.splits import Split

EPISODE_FRAMES = 48
CAMERAS_PER_EPISODE = 2
PHYSICS_HZ = 200
PHYSICS_STEPS = (13, 16, 20, 20, 25, 32, 40)  # between two frames: 15.4 to 5 Hz
MOST_FILES_WAITING = 1000  # before the workers pause


class FilmCrew:
    """Worker processes that film episodes of one split into `folder`, a file of raw pixels per camera.

    Used as a context manager; `films` yields what they have finished.
    """

    def __init__(self, split: Split, indices: range, size: tuple[int, int], folder: Path, n_workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._size = folder, size
        # Spawned, not forked: neither CUDA nor OpenGL survives a fork.
        context = multiprocessing.get_context("spawn")
        self._workers = [
            context.Process(target=film_episodes, args=(split, indices[i::n_workers], size, folder), daemon=True)
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

    def films(self, until: float = float("inf")) -> Iterator[np.ndarray]:
        """Each film uint8 [EPISODE_FRAMES, *size, 3], until all are there or the monotonic clock says `until`.

        At least one comes. Raises RuntimeError where a worker failed.
        """
        n = 0
        while True:
            working = any(worker.is_alive() for worker in self._workers)  # before the look, or the last film is missed
            finished = sorted(self._folder.glob("*.rgb"))
            for path in finished:
                yield np.fromfile(path, np.uint8).reshape(EPISODE_FRAMES, *self._size, 3)
                path.unlink()
                n += 1
            if failed := [worker.exitcode for worker in self._workers if worker.exitcode]:
                raise RuntimeError(f"a film worker ended with exit code {failed[0]}; its traceback stands above")
            if not (working or finished) or (n and time.monotonic() >= until):
                return
            if not finished:
                time.sleep(0.05)


def film_episodes(split: Split, indices: range, size: tuple[int, int], folder: Path) -> None:
    """Film the episodes with these indices."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    end_with_parent()
    cv2.setNumThreads(1)
    # Only those who film need MuJoCo.
    from cosmos_ros.training.episodes import draw_scene
    from cosmos_ros.training.simulation import film

    for index in indices:
        while sum(1 for _ in folder.iterdir()) > MOST_FILES_WAITING:
            time.sleep(0.2)
        rng = np.random.default_rng([split, index, 1])  # of the camera; the scene has a stream of its own
        frame_rate = PHYSICS_HZ / rng.choice(PHYSICS_STEPS)
        views = film(draw_scene(split, index), EPISODE_FRAMES, frame_rate, *size)
        for camera, frames in views.items():
            unfinished = folder / f"{index:07d}-{camera}.part"
            spoilt(frames, rng).tofile(unfinished)
            unfinished.rename(unfinished.with_suffix(".rgb"))


def spoilt(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames uint8 [n, H, W, 3] with one camera's exposure, softness, noise and JPEG artefacts."""
    levels = np.clip(255 * np.linspace(0, 1, 256) ** rng.uniform(0.75, 1.35) * rng.uniform(0.8, 1.1), 0, 255)
    is_soft, noise = rng.random() < 0.4, rng.uniform(0, 4) * (rng.random() < 0.6)
    quality = int(rng.integers(45, 96)) if rng.random() < 0.6 else None
    out = np.empty_like(frames)
    for frame, place in zip(frames, out, strict=True):
        picture = levels[cv2.GaussianBlur(frame, (0, 0), 0.7) if is_soft else frame]
        if noise:
            picture = picture + noise * rng.standard_normal(picture.shape, dtype=np.float32)
        picture = np.clip(picture, 0, 255).astype(np.uint8)
        if quality is not None:
            coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        place[:] = picture
    return out
