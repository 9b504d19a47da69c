"""The simulated clips of a benchmark: made on the spot from seeds, at the model's size and rate, and kept."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cosmos_ros import paths
from cosmos_ros.benchmarks.scenes.staged import Stage
from cosmos_ros.benchmarks.simulated_clip import SimulatedClip, clip_key
from cosmos_ros.errors import ForesightError
from cosmos_ros.files import write_whole
from cosmos_ros.training.splits import Split

VERSION = 1  # of what is filmed: it rises when a scene or the filming changes, so that no old clip is taken
SHORTEST_S, LONGEST_S = 0.5, 8.0  # that a clip may last: the scenes are laid out for it


class CannotFilm(ForesightError):
    """The clips cannot be made, or not be kept; the message says why and what to do."""


@dataclass(frozen=True)
class Filming:
    """How a set is filmed: n_frames at frame_rate Hz, size (height, width) in pixels.

    Raises CannotFilm for a clip that is much shorter or longer than what happens in the scenes.
    """

    n_frames: int
    frame_rate: float
    size: tuple[int, int]

    def __post_init__(self) -> None:
        seconds = self.n_frames / self.frame_rate
        if not SHORTEST_S <= seconds <= LONGEST_S:
            raise CannotFilm(
                f"{self.n_frames} frames at {self.frame_rate:g} Hz last {seconds:.3g} s, and the simulated scenes are "
                f"made for clips of {SHORTEST_S:g} to {LONGEST_S:g} s: choose another --frame-rate, "
                f"{self.n_frames / LONGEST_S:.1f} to {self.n_frames / SHORTEST_S:.0f} Hz"
            )


class SimulatedSet:
    """n clips; the kinds of scene take turns.

    stages  kind -> draws a scene of it. The stream of clip i of a kind hangs on the kind's name and i alone
    folder  where clips are kept; None: in the cache
    """

    def __init__(
        self, name: str, stages: Mapping[str, Stage], n: int, filming: Filming, folder: Path | None = None
    ) -> None:
        self._name, self._stages, self._n, self._filming = name, stages, n, filming
        height, width = filming.size
        place = f"{name}-{VERSION}-{height}x{width}-{filming.frame_rate:g}Hz-{filming.n_frames}"
        self.folder = (folder or paths.cache_directory() / "benchmarks") / place

    def __len__(self) -> int:
        return self._n

    def describe(self) -> dict:
        """Everything that a clip hangs on; how many there are is no part of it."""
        return {"set": self._name, "version": VERSION, "kinds": list(self._stages)} | asdict(self._filming)

    def scenes(self) -> list[tuple[str, int]]:
        """(kind, seed) of every clip; fewer clips are the first of more."""
        kinds = list(self._stages)
        return [(kinds[i % len(kinds)], i // len(kinds)) for i in range(self._n)]

    def clip(self, kind: str, seed: int) -> SimulatedClip:
        """From the cache, or filmed. Raises CannotFilm, NoOpenGL."""
        file = self.folder / f"{clip_key(kind, seed)}.npz"
        # What cannot be read, or is not what was asked for, can be made again.
        with contextlib.suppress(OSError, ValueError):
            clip = SimulatedClip.from_bytes(file.read_bytes())
            if self._is(clip, kind, seed):
                return clip
        clip = self._film(kind, seed)
        try:
            write_whole(file, clip.to_bytes())
        except OSError as error:
            raise CannotFilm(f"{error}; XDG_CACHE_HOME names another folder for simulated clips") from error
        return clip

    def _is(self, clip: SimulatedClip, kind: str, seed: int) -> bool:
        filming = self._filming
        shape = (filming.n_frames, *filming.size)
        return (clip.truth.kind, clip.truth.seed, clip.frame_rate) == (kind, seed, filming.frame_rate) and (
            clip.frames.shape == (*shape, 3) and clip.truth.labels.shape == shape
        )

    @property
    def bytes(self) -> int:
        """That the clips take on the disk."""
        return sum(file.stat().st_size for file in self.folder.glob("*.npz"))

    def _film(self, kind: str, seed: int) -> SimulatedClip:
        from cosmos_ros.benchmarks.filming import film_clip  # which brings MuJoCo along

        filming = self._filming
        staged = self._stages[kind](stream(kind, seed))
        return film_clip(staged, kind, seed, filming.n_frames, filming.frame_rate, filming.size)


def stream(kind: str, seed: int) -> np.random.Generator:
    """The random stream of one scene: no training episode has it, nor another kind or seed."""
    word = int.from_bytes(hashlib.sha256(kind.encode()).digest()[:4], "big")
    return np.random.default_rng([Split.BENCHMARK, word, seed])
