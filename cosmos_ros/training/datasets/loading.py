"""Films from worker processes: PyTorch's DataLoader, whose workers decode recordings and film scenes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from cosmos_ros.child_processes import end_with_parent

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
    loader = DataLoader(dataset, batch_size=None, **options)
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "Caught" in str(error):
            raise
        raise WorkerLost(
            "a worker process that reads recordings and films scenes was killed, for want of memory perhaps (each "
            f"holds some films, also in /dev/shm); try fewer --workers: {str(error).splitlines()[0]}"
        ) from error


def begin(_worker: int) -> None:
    """A worker's first act."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    end_with_parent()
    torch.set_num_threads(1)
