"""All that a run trains on and what it is measured on: recordings, simulated episodes, or both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from cosmos_ros.listing import listed
from cosmos_ros.recordings.recording import NAMED
from cosmos_ros.training.datasets.clips import STORED_TIMES_THE_MODEL, ClipStore
from cosmos_ros.training.datasets.loading import loaded
from cosmos_ros.training.datasets.recorded import BadFootage, Recordings, split, split_single
from cosmos_ros.training.datasets.simulated import SimulatedEpisodes
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.robots.models import RobotModel
from cosmos_ros.training.splits import Split

SIMULATED_SHARE = 0.4  # of a batch, where both are given
VALIDATION_EPISODES = 24
VALIDATION_WINDOWS_PER_FILM = 1
VALIDATION_WINDOWS = 96  # at most


class Framing(Protocol):
    """What a model sees: frames of (height, width) pixels, at a rate in Hz."""

    @property
    def frame_size(self) -> tuple[int, int]: ...
    @property
    def frame_rate(self) -> float: ...


@dataclass(frozen=True)
class Storage:
    """How films are kept.

    times     the model's height and width
    on_host   in host memory, and not on the device
    held_out  clips, at most
    """

    times: float = STORED_TIMES_THE_MODEL
    on_host: bool = False
    held_out: int = VALIDATION_WINDOWS


class Corpus:
    """Films on the device, or in host memory.

    store     to train on
    shares    of each kind in a batch
    held_out  clips uint8 [N, 33, H, W, 3] beside them that training never sees
    episodes  that were simulated, on this rank
    """

    def __init__(
        self,
        bags: Sequence[Path],
        held_out: Sequence[Path],
        image_topic: str,
        episodes: int,
        film_seconds: float,
        framing: Framing,
        ranks: Ranks,
        n_workers: int,
        before: Sequence[int] = (),
        storage: Storage = Storage(),
        robots: Sequence[RobotModel] = (),
    ) -> None:
        """Decode and film.

        held_out      recordings to measure on; none: some of the bags
        film_seconds  what is not simulated by then is left out, except for the first episode
        before        of a run that goes on: how many each rank had simulated
        robots        that packages bring, to be seen in half of the simulated episodes

        Raises BadFootage where recordings give nothing to train on, all of them in one; NoOpenGL, RobotUnavailable,
        WorkerLost.
        """
        self._image_topic, self._framing, self._n_workers = image_topic, framing, n_workers
        self._robots = robots
        height, width = framing.frame_size
        self.size = round(storage.times * height), round(storage.times * width)
        simulated = SIMULATED_SHARE if bags and episodes else float(not bags)
        self.shares = {"recorded": 1 - simulated, "simulated": simulated}
        home = torch.device("cpu") if storage.on_host else ranks.device
        self.store = ClipStore(self.size, ranks.device, storage.on_host)
        unseen = ClipStore(self.size, home)
        self.episodes = 0
        to_train, to_hold_out = (sorted(bags), sorted(held_out)) if held_out or not bags else split(bags)
        self._take_recordings(ranks.share(to_train), to_hold_out, unseen)
        if episodes:
            for films in loaded(
                self._simulated(Split.VALIDATION, range(min(episodes, VALIDATION_EPISODES))), n_workers
            ):
                _add(unseen, films, "simulated")
            indices = ranks.share(range(episodes))
            if before:
                indices, film_seconds = indices[: before[ranks.rank]], float("inf")
            self._film(indices, time.monotonic() + film_seconds)
        windows = unseen.spread_windows(VALIDATION_WINDOWS_PER_FILM)
        some = torch.linspace(0, len(windows) - 1, min(len(windows), storage.held_out)).round().long()
        self.held_out: Tensor = unseen.take(windows[some])
        self.names = {
            "trained": [bag.name for bag in to_train],
            "held_out": ["the end of it" if to_train == to_hold_out else bag.name for bag in to_hold_out],
            "robots": [model.robot.credit for model in robots],
        }

    @property
    def counts(self) -> dict[str, int]:
        return {
            "films": len(self.store),
            "frames": self.store.n_frames,
            "simulated": self.store.count("simulated"),
            "held_out": len(self.held_out),
        }

    def _take_recordings(self, to_train: Sequence[Path], to_hold_out: Sequence[Path], held_out: ClipStore) -> None:
        bad: list[str] = []
        if to_train == to_hold_out and to_train:
            for films in self._recorded(to_train, bad):  # of the only one
                kept, end = split_single(films)
                _add(self.store, kept, "recorded")
                _add(held_out, end, "recorded")
        else:
            for bags, store in ((to_train, self.store), (to_hold_out, held_out)):
                for films in self._recorded(bags, bad):
                    _add(store, films, "recorded")
        if bad:
            raise BadFootage(listed(bad, NAMED))

    def _recorded(self, bags: Sequence[Path], bad: list[str]) -> Iterator[list[Tensor]]:
        """The films of each recording that has some; of each other one, `bad` gets why."""
        dataset = Recordings(bags, self.size, self._framing.frame_rate, self._image_topic)
        for films in loaded(dataset, self._n_workers):
            if isinstance(films, BadFootage):
                bad.append(str(films))
            else:
                yield films

    def _film(self, indices: Sequence[int], until: float) -> None:
        for films in loaded(self._simulated(Split.TRAINING, indices), self._n_workers):
            _add(self.store, films, "simulated")
            self.episodes += 1
            if time.monotonic() >= until:
                return

    def _simulated(self, of: Split, indices: Sequence[int]) -> SimulatedEpisodes:
        return SimulatedEpisodes(of, indices, self.size, self._robots)


def _add(store: ClipStore, films: Sequence[Tensor], kind: str) -> None:
    for film in films:
        store.add(film, kind)
