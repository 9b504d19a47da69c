"""Which parts stay on the GPU and which wait in pinned host memory: one ladder, from `fast` down to `low`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cosmos_ros.errors import SettingError
from cosmos_ros.settings import SETTINGS

MODES = SETTINGS["memory"].choices

# Bytes that no part accounts for: cuBLAS workspaces, captured graphs, blocks that the allocator rounds up.
OVERHEAD = 400_000_000


@dataclass(frozen=True)
class Need:
    """What one part takes of the device's memory, in bytes. Each owner of a network states it beside its code.

    name     of the part, as in `DeviceMemory.hold` and in the `Pipeline`; a part that the pipeline does not list stays
             on the device
    weights  parameters and buffers
    work     more while it works: activations
    kept     more from its first work on, for as long as it is on the device: the KV cache
    tables   of the weights: embedding tables, which may be read from host memory without slowing the part
    another  more for each further sample that is predicted together with the first: its KV cache
    piece    of the weights: what is on the device at once where the part waits in host memory and comes in pieces;
             0: all
    """

    name: str
    weights: int
    work: int = 0
    kept: int = 0
    tables: int = 0
    piece: int = 0
    another: int = 0


@dataclass(frozen=True)
class Pipeline:
    """In which order the parts of a prediction work, by their names.

    phases           parts that work at the same time, phase by phase; given the names of those that are parked
    parking_order    from the first part that should leave the GPU to the last
    once_per_prompt  the parts that `balanced` parks
    """

    phases: Callable[[frozenset[str]], tuple[tuple[str, ...], ...]]
    parking_order: tuple[str, ...]
    once_per_prompt: tuple[str, ...]


@dataclass(frozen=True)
class MemoryPlan:
    """Where each part waits, and the peak that follows.

    parked          parts in host memory while they do not work
    exclusive       parked parts take turns: one on the GPU at a time
    tables_on_host  embedding tables are read from host memory
    free            bytes that were free when the plan was made
    """

    mode: str
    needs: tuple[Need, ...]
    pipeline: Pipeline
    parked: frozenset[str] = frozenset()
    exclusive: bool = False
    tables_on_host: bool = False
    free: int = 0

    @property
    def peak(self) -> int:
        """Bytes expected on the GPU at most, without the CUDA context."""
        phases = self.pipeline.phases(self.parked)
        if self.exclusive:
            phases = tuple((name,) for name in self.pipeline.parking_order)
        resident = sum(self._held(need) for need in self.needs if need.name not in self.parked)
        busiest = max(sum(self._comes_for(need) for need in self.needs if need.name in phase) for phase in phases)
        return resident + busiest + OVERHEAD

    def peak_of(self, samples: int) -> int:
        """The peak where so many samples of a clip are predicted together."""
        return self.peak + (samples - 1) * sum(need.another for need in self.needs)

    @property
    def host(self) -> int:
        """Bytes of pinned host memory."""
        parked = sum(need.weights for need in self.needs if need.name in self.parked)
        tables = sum(need.tables for need in self.needs if need.name not in self.parked)
        return parked + (tables if self.tables_on_host else 0)

    @property
    def fits(self) -> bool:
        return self.peak <= self.free

    def _comes_for(self, need: Need) -> int:
        """Bytes that come to the device while the part works."""
        return need.work + ((need.piece or self._held(need)) if need.name in self.parked else 0)

    def _held(self, need: Need) -> int:
        """Bytes on the device while the part is there, at work or not."""
        return need.weights + need.kept - (need.tables if self.tables_on_host else 0)

    def __str__(self) -> str:
        stays = ", ".join(need.name for need in self.needs if need.name not in self.parked) or "nothing"
        goes = ", ".join(need.name for need in self.needs if need.name in self.parked) or "nothing"
        return (
            f"memory {self.mode}: expected peak {self.peak / 1e9:.1f} GB of {self.free / 1e9:.1f} GB free; "
            f"on the GPU stays {stays}; in host memory waits {goes} ({self.host / 1e9:.1f} GB)"
        )


def plan_memory(needs: Iterable[Need], pipeline: Pipeline, free: int, mode: str = "auto") -> MemoryPlan:
    """The plan of a mode; `auto` takes the first rung of the ladder that fits, or the lowest.

    needs  one for each part that there is
    free   bytes free on the device before any part is there

    Raises SettingError for an unknown mode.
    """
    needs = tuple(needs)
    if mode not in MODES:
        raise SettingError(f"memory must be one of {', '.join(MODES)}; got '{mode}'")

    def rung(parked: Iterable[str], lowest: bool = False) -> MemoryPlan:
        present = frozenset(parked) & {need.name for need in needs}
        return MemoryPlan(mode, needs, pipeline, present, exclusive=lowest, tables_on_host=lowest, free=free)

    if mode == "fast":
        return rung(())
    if mode == "balanced":
        return rung(pipeline.once_per_prompt)
    order = pipeline.parking_order
    lowest = rung(order, lowest=True)
    if mode == "low":
        return lowest
    ladder = (rung(order[:n]) for n in range(len(order) + 1))
    return next((plan for plan in ladder if plan.fits), lowest)
