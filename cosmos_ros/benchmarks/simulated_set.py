"""The simulated clips of a benchmark: made on the spot from seeds, at the model's size and rate, and kept."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosmos_ros import paths
from cosmos_ros.benchmarks.scenes.staged import Stage
from cosmos_ros.benchmarks.simulated_clip import SimulatedClip
from cosmos_ros.errors import ForesightError
from cosmos_ros.files import write_whole
from cosmos_ros.training.splits import Split

VERSION = 1  # of what is filmed: it rises when a scene or the filming changes, so that no old clip is taken


class CannotFilm(ForesightError):
    """The clips cannot be made on this machine; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Filming:
    """How a set is filmed: n_frames at frame_rate Hz, size (height, width) in pixels."""

    n_frames: int
    frame_rate: float
    size: tuple[int, int]


class SimulatedSet:
    """n clips of each kind of scene.

    stages  kind -> draws a scene of it. The stream of clip i of a kind hangs on the kind's name and i alone
    folder  where clips are kept; None: in the cache
    """

    def __init__(
        self, name: str, stages: Mapping[str, Stage], n: int, filming: Filming, folder: Path | None = None
    ) -> None:
        self._stages, self._n, self._filming = stages, n, filming
        height, width = filming.size
        place = f"{name}-{VERSION}-{height}x{width}-{filming.frame_rate:g}Hz-{filming.n_frames}"
        self.folder = (folder or paths.cache_directory() / "benchmarks") / place

    def __len__(self) -> int:
        return len(self._stages) * self._n

    def keys(self) -> list[tuple[str, int]]:
        """(kind, seed) of every clip: the kinds take turns, so that the first few clips show all of them."""
        return [(kind, seed) for seed in range(self._n) for kind in self._stages]

    def clips(self) -> Iterator[SimulatedClip]:
        for kind, seed in self.keys():
            yield self.clip(kind, seed)

    def clip(self, kind: str, seed: int) -> SimulatedClip:
        """From the cache, or filmed. Raises CannotFilm, OSError."""
        file = self.folder / f"{kind}-{seed:03d}.npz"
        try:
            return SimulatedClip.from_bytes(file.read_bytes())
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):  # damaged: it can be made again
            pass
        clip = self._film(kind, seed)
        write_whole(file, clip.to_bytes())
        return clip

    @property
    def bytes(self) -> int:
        """That the clips take on the disk."""
        return sum(file.stat().st_size for file in self.folder.glob("*.npz"))

    def _film(self, kind: str, seed: int) -> SimulatedClip:
        try:
            from cosmos_ros.benchmarks.filming import film_clip
        except ImportError as error:
            raise CannotFilm(
                "the simulated clips need MuJoCo, which is not installed: "
                "python -m pip install -r requirements/benchmark.txt"
            ) from error
        filming = self._filming
        staged = self._stages[kind](stream(kind, seed))
        try:
            return film_clip(staged, kind, seed, filming.n_frames, filming.frame_rate, filming.size)
        except RuntimeError as error:
            raise CannotFilm(f"the simulated clips cannot be filmed here: {error}") from error


def stream(kind: str, seed: int) -> np.random.Generator:
    """The random stream of one scene: no training episode has it, nor another kind or seed."""
    word = int.from_bytes(hashlib.sha256(kind.encode()).digest()[:4], "big")
    return np.random.default_rng([Split.BENCHMARK, word, seed])
