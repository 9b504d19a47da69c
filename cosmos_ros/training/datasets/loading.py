"""Films from worker processes: PyTorch's DataLoader, whose workers decode recordings and film scenes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from cosmos_ros.child_processes import Failure, end_with_parent

START = "spawn"  # neither CUDA nor OpenGL survives a fork


class WorkerLost(Exception):
    """A worker process that loads films is gone."""


def loaded(dataset: Dataset, n_workers: int) -> Iterator[Any]:
    """The dataset's items in their order, made by `n_workers` processes; by this one where one is enough.

    Raises WorkerLost where a worker was killed, and whatever the dataset raises.
    """
    if not (n_items := len(dataset)):
        return
    n_workers = min(n_workers, n_items)
    options: dict[str, Any] = {}
    if n_workers > 1:
        options = {"num_workers": n_workers, "multiprocessing_context": START, "worker_init_fn": begin}
    loader = DataLoader(_WithFailures(dataset), batch_size=None, **options)
    try:
        for item in loader:
            if isinstance(item, Failure):
                item.raised()
            yield item
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerLost(
            "a worker process that reads recordings and films scenes was killed, for want of memory perhaps (each "
            f"holds some films, also in /dev/shm); try fewer --workers: {str(error).splitlines()[0]}"
        ) from error


class _WithFailures(Dataset):
    """What goes wrong is an item: the DataLoader would make another error of it, with a traceback in its words."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, place: int) -> Any:
        try:
            return self._dataset[place]
        except Exception as error:
            return Failure.of(error)


def begin(_worker: int) -> None:
    """A worker's first act."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    end_with_parent()
    torch.set_num_threads(1)
