"""The processes of one training run: one by itself, or as many as torchrun started, each on a device of its own.

torchrun says in the environment which process this is (RANK, WORLD_SIZE, LOCAL_RANK). All hold the same weights; each
draws other windows, and their gradients are averaged.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from cosmos_ros.device.devices import resolve_device
from cosmos_ros.errors import SettingError

T = TypeVar("T")
# For which the others wait while one of them measures or reads a recording. When one dies, torchrun ends the others.
PATIENCE = timedelta(hours=4)
# torchrun keeps one store for as long as its processes live. A second group that a process joins must not find the
# addresses of the first there: it would connect to ports that are closed, until its patience ends.
joinings = itertools.count()


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many, and its device."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> Ranks:
        """As the environment says. Waits for the others; every process joins equally often.

        Raises SettingError where there are fewer GPUs than ranks.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(0, 1, resolve_device(device))
        rank, at = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
        mine = resolve_device(device)
        if mine.type == "cuda":
            if at >= torch.cuda.device_count():
                raise SettingError(
                    f"torchrun started more processes on this machine than it has GPUs ({torch.cuda.device_count()}); "
                    "lower --nproc-per-node"
                )
            mine = torch.device("cuda", at)
            torch.cuda.set_device(mine)
        store, *_ = next(rendezvous("env://", timeout=PATIENCE))
        store = dist.PrefixStore(f"joining {next(joinings)}", store)
        dist.init_process_group(_backend(mine), store=store, rank=rank, world_size=size, timeout=PATIENCE)
        return cls(rank, size, mine)

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """What is this process's of a list, every so many; all of it where there is not one for each."""
        return list(items[self.rank :: self.size]) if len(items) >= self.size else list(items)

    def wrap(self, loss: nn.Module) -> nn.Module:
        """A module whose gradients are averaged over all ranks; one that is cut over them averages its own."""
        trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
        if self.size == 1 or not trained or isinstance(trained[0], DTensor):
            return loss
        return nn.parallel.DistributedDataParallel(
            loss, device_ids=[self.device] if self.device.type == "cuda" else None
        )

    def mesh(self) -> DeviceMesh:
        """All ranks in a row, to cut a model over; one process by itself becomes a group of one."""
        if not dist.is_initialized():
            dist.init_process_group(_backend(self.device), store=dist.HashStore(), rank=0, world_size=1)
        return DeviceMesh.from_group(dist.group.WORLD, self.device.type)

    def mean(self, value: float) -> float:
        """Over all ranks."""
        if self.size == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.item() / self.size

    def any(self, mine: bool) -> bool:
        """Whether it is so on any rank."""
        return self.mean(float(mine)) > 0

    def agree(self, mine: bool) -> bool:
        """The first rank's word."""
        if self.size == 1:
            return mine
        word = torch.tensor([mine], dtype=torch.uint8, device=self.device)
        dist.broadcast(word, src=0)
        return bool(word.item())

    def gather(self, mine: int) -> list[int]:
        """Every rank's number, in their order."""
        if self.size == 1:
            return [mine]
        numbers = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        dist.all_gather(numbers, torch.tensor([mine], device=self.device))
        return [int(number.item()) for number in numbers]

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"
