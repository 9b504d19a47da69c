"""The one way for a network to reach its device: a `Part`, held by the `DeviceMemory` of a prediction.

Whoever owns a network asks `DeviceMemory.hold` for a part, and works inside `with part.in_use() as network`. Where the
network is between two uses is the plan's decision, which may come after the parts were made.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from cosmos_ros.device.devices import empty_cache
from cosmos_ros.device.pinned_arena import Arena
from cosmos_ros.device.plan import MemoryPlan
from cosmos_ros.errors import ModelUnavailable

logger = logging.getLogger(__name__)


class DeviceMemory:
    """A device's memory, and which parts stay there between their uses.

    Without a plan every part stays on the device from its first use on.

    patience_s  how long a part waits for another one to leave where they take turns, seconds. Only a guard that hangs
                stays that long: its screening has failed by then, and does not wait for it
    """

    def __init__(self, device: torch.device | str, plan: MemoryPlan | None = None, *, patience_s: float = 60.0) -> None:
        self.device = torch.device(device)
        self._patience_s = patience_s
        self.plan: MemoryPlan | None = None
        self._turn: Turn | None = None
        if plan is not None:
            self.follow(plan)

    def follow(self, plan: MemoryPlan | None) -> None:
        """Place every part by this plan, from its next use on; None: by no plan."""
        self.plan = plan
        self._turn = Turn(self._patience_s) if plan is not None and plan.exclusive else None
        if plan is not None:
            logger.log(logging.INFO if plan.fits else logging.WARNING, "%s", plan)

    @property
    def tables_on_host(self) -> bool:
        """Whether embedding tables are to be read from host memory."""
        return self.plan is not None and self.plan.tables_on_host

    def parks(self, name: str) -> bool:
        """Whether the part of this name waits in host memory between its uses."""
        return self.plan is not None and name in self.plan.parked

    def turn_for(self, name: str) -> AbstractContextManager[None]:
        """Taken by a part while it works, where parts must not be on the device together."""
        return self._turn.taken_by(name) if self._turn and self.parks(name) else nullcontext()

    def hold(
        self, name: str, source: nn.Module | Callable[[], nn.Module], on_leave: Callable[[], None] = lambda: None
    ) -> Part:
        """A part of this memory.

        name      of the `Need` that counts it; several parts may share one
        source    the network, or a function that loads it at the part's first use
        on_leave  called before the network leaves the device, for whoever keeps addresses of its weights (a captured
                  CUDA graph)
        """
        return Part(name, source, self, on_leave)


class Part:
    """A network that comes to the device when it is used. Made by `DeviceMemory.hold`.

    A part that the plan parks leaves the device after each use, for one block of pinned host memory. Weights never
    change, so coming is one copy to the device and leaving is none: the block on the host is filled once.
    """

    def __init__(
        self,
        name: str,
        source: nn.Module | Callable[[], nn.Module],
        memory: DeviceMemory,
        on_leave: Callable[[], None],
    ) -> None:
        self.name = name
        self._source = source
        self._memory = memory
        self._on_leave = on_leave
        self._network: nn.Module | None = source if isinstance(source, nn.Module) else None
        self._on_host: Arena | None = None
        self._on_device = False
        self._users = 0
        self._lock = threading.RLock()

    @contextmanager
    def in_use(self) -> Iterator[Any]:
        """The network, of the class that its owner gave, on the device until the context ends."""
        with self._memory.turn_for(self.name):
            with self._lock:
                network = self._brought()
                self._users += 1
            try:
                yield network
            finally:
                with self._lock:
                    self._users -= 1
                    if self._memory.parks(self.name):
                        self.leave()

    def rest(self) -> None:
        """Load the network and bring it to where it waits, so that its first use takes no longer than the next."""
        with self._lock:
            if self._memory.parks(self.name):
                self._loaded()
                self.leave()
            else:
                self._brought()

    def leave(self) -> None:
        """Give the device's memory back until the next use. No effect while the part is in use."""
        with self._lock:
            if self._network is None or self._users > 0:
                return
            self._on_leave()
            if self._memory.parks(self.name) and self._on_host is None:
                self._on_host = Arena.on_host(self._network)
            if self._on_host is not None:
                self._on_host.carry(self._network)
            else:
                self._network.to("cpu")
            self._on_device = False
            empty_cache(self._memory.device)

    def _brought(self) -> nn.Module:
        network = self._loaded()
        if not self._on_device:
            if self._memory.parks(self.name) and self._on_host is None:
                self._on_host = Arena.on_host(network)
            if self._on_host is not None:
                self._on_host.copied_to(self._memory.device).carry(network)
            else:
                network.to(self._memory.device)
            self._on_device = True
        return network

    @property
    def network(self) -> nn.Module:
        """The network, wherever its weights lie now."""
        with self._lock:
            return self._loaded()

    def _loaded(self) -> nn.Module:
        if self._network is None:
            self._network = self._source()
        return self._network


class Turn:
    """Lets one part at a time be on the device, and others wait for it for `patience_s` seconds at most."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._holder = ""

    @contextmanager
    def taken_by(self, name: str) -> Iterator[None]:
        """Raises ModelUnavailable where another part does not leave; in a guard that refuses the rollout."""
        if not self._lock.acquire(timeout=self._patience_s):
            raise ModelUnavailable(
                f"the {self._holder} has been on the GPU for more than {self._patience_s:g} s, and the {name} cannot "
                "come before it leaves; deactivate and activate the node"
            )
        before, self._holder = self._holder, name
        try:
            yield
        finally:
            self._holder = before
            self._lock.release()
