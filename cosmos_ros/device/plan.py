"""Which parts stay on the GPU and which wait in pinned host memory: one ladder, from `fast` down to `low`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from cosmos_ros.device.memory import (
    DIFFUSION_DECODER,
    PROMPT_GUARD,
    TEXT_ENCODER,
    TOKENIZER,
    TRANSFORMER,
    VIDEO_GUARD,
    Parked,
    Part,
    Turn,
)

logger = logging.getLogger(__name__)

MODES = ("auto", "fast", "balanced", "low")

# From the first to leave the GPU to the last: what works once per new prompt, then what works once per rollout and
# is small next to its work, then the transformer.
PARKING_ORDER = (TEXT_ENCODER, PROMPT_GUARD, DIFFUSION_DECODER, VIDEO_GUARD, TOKENIZER, TRANSFORMER)
BALANCED = PARKING_ORDER[:3]
# Parts that work at the same time: the prompt is judged while frames are tokenized, frames while others are decoded.
PHASES = (
    (PROMPT_GUARD, TOKENIZER),
    (TEXT_ENCODER,),
    (TRANSFORMER,),
    (DIFFUSION_DECODER,),
    (TOKENIZER, VIDEO_GUARD),
)
# What no part accounts for: cuBLAS workspaces, captured graphs, blocks that the allocator rounds up.
OVERHEAD = 400_000_000


@dataclass(frozen=True)
class Need:
    """What one part takes, in bytes.

    weights     parameters and buffers
    kept        more from its first work on, for as long as it is on the device: the KV cache
    work        more while it works: activations
    on_host     of the weights: what may be read from host memory without slowing the part (an embedding table)
    """

    name: str
    weights: int
    work: int = 0
    on_host: int = 0
    kept: int = 0


@dataclass(frozen=True)
class MemoryPlan:
    """Where each part waits, and the peak that follows.

    parked      parts in host memory while they do not work
    exclusive   parked parts take turns: one on the GPU at a time
    lean        the transformer's embedding table is read from host memory
    peak        bytes expected on the GPU at most, the CUDA context not counted
    free        bytes that were free when the plan was made
    """

    mode: str
    needs: tuple[Need, ...]
    parked: frozenset[str] = frozenset()
    exclusive: bool = False
    lean: bool = False
    free: int = 0

    @property
    def peak(self) -> int:
        phases = ((name,) for name in PARKING_ORDER) if self.exclusive else PHASES
        resident = sum(self._held(need) for need in self.needs if need.name not in self.parked)
        busiest = max(
            sum(
                need.work + (self._held(need) if need.name in self.parked else 0)
                for need in self.needs
                if need.name in phase
            )
            for phase in phases
        )
        return resident + busiest + OVERHEAD

    @property
    def host(self) -> int:
        """Bytes of pinned host memory."""
        parked = sum(need.weights for need in self.needs if need.name in self.parked)
        mapped = sum(need.on_host for need in self.needs if need.name not in self.parked) if self.lean else 0
        return parked + mapped

    @property
    def fits(self) -> bool:
        return self.peak <= self.free

    def _held(self, need: Need) -> int:
        """Bytes on the device while the part is there, at work or not."""
        return need.weights + need.kept - (need.on_host if self.lean else 0)

    def __str__(self) -> str:
        stays = ", ".join(need.name for need in self.needs if need.name not in self.parked) or "nothing"
        goes = ", ".join(need.name for need in self.needs if need.name in self.parked) or "nothing"
        return (
            f"memory {self.mode}: expected peak {self.peak / 1e9:.1f} GB of {self.free / 1e9:.1f} GB free; "
            f"on the GPU stays {stays}; in host memory waits {goes} ({self.host / 1e9:.1f} GB)"
        )


def plan_memory(needs: Iterable[Need], free: int, mode: str = "auto") -> MemoryPlan:
    """The plan of a mode; `auto` takes the first rung of the ladder that fits, or the lowest.

    needs   one for each part that there is
    free    bytes free on the device before any part is there

    Raises ValueError for a mode that is none.
    """
    needs = tuple(needs)
    if mode not in MODES:
        raise ValueError(f"memory must be one of {', '.join(MODES)}; got '{mode}'")

    def rung(parked: Iterable[str], lowest: bool = False) -> MemoryPlan:
        present = frozenset(parked) & {need.name for need in needs}
        return MemoryPlan(mode, needs, present, exclusive=lowest, lean=lowest, free=free)

    if mode == "fast":
        return rung(())
    if mode == "balanced":
        return rung(BALANCED)
    lowest = rung(PARKING_ORDER, lowest=True)
    if mode == "low":
        return lowest
    ladder = (rung(PARKING_ORDER[:n]) for n in range(len(PARKING_ORDER) + 1))
    return next((plan for plan in ladder if plan.fits), lowest)


class DeviceMemory:
    """Holds parts on a device as a plan says. Without a plan every part stays where it works."""

    def __init__(self, device: torch.device | str, plan: MemoryPlan | None = None) -> None:
        self.device = torch.device(device)
        self.plan = plan
        self._turn = Turn() if plan is not None and plan.exclusive else None
        if plan is not None:
            logger.log(logging.INFO if plan.fits else logging.WARNING, "%s", plan)

    @property
    def lean(self) -> bool:
        return self.plan is not None and self.plan.lean

    def parks(self, name: str) -> bool:
        return self.plan is not None and name in self.plan.parked

    def hold(
        self, name: str, source: nn.Module | Callable[[], nn.Module], on_leave: Callable[[], None] = lambda: None
    ) -> Part:
        """The part of that name; `with part.in_use() as module` has the module on the device."""
        if self.parks(name):
            return Parked(name, source, self.device, turn=self._turn, on_leave=on_leave)
        return Part(name, source, self.device)


def free_memory(device: torch.device) -> int:
    """Bytes free on the device for this process, what PyTorch has reserved and does not use included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
