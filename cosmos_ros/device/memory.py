"""Parts of the world model and its guardrail: on the device for good, or only while they work."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.errors import GuardrailUnavailable, ModelUnavailable

logger = logging.getLogger(__name__)

TRANSFORMER = "transformer"
TOKENIZER = "tokenizer"
TEXT_ENCODER = "text encoder"
PROMPT_GUARD = "prompt guard"
VIDEO_GUARD = "video guard"
DIFFUSION_DECODER = "diffusion decoder"

ALIGNMENT = 512  # bytes; what CUDA's allocator gives, so that a tensor in an arena is aligned as if on its own


class Part:
    """A module that stays on its device from its first use on.

    source   the module, or a function that loads it at its first use
    """

    def __init__(self, name: str, source: nn.Module | Callable[[], nn.Module], device: torch.device | str) -> None:
        self.name = name
        self.device = torch.device(device)
        self.source = source
        self._module: nn.Module | None = source if isinstance(source, nn.Module) else None
        self._lock = threading.RLock()

    @contextmanager
    def in_use(self) -> Iterator[nn.Module]:
        """The module, on its device."""
        with self._lock:
            module = self._loaded().to(self.device)
        yield module

    def rest(self) -> None:
        """Be where the part waits for its next use, so that this does not wait for it."""
        with self._lock:
            self._loaded().to(self.device)

    def leave(self) -> None:
        """Give the device's memory back until the next use."""
        with self._lock:
            if self._module is not None:
                self._module.to("cpu")
                empty_cache(self.device)

    def _loaded(self) -> nn.Module:
        if self._module is None:
            self._module = self.source()
        return self._module


class Turn:
    """Lets one part at a time be on the device.

    patience_s  how long a part waits for the one that is there. Only a guard that hangs, and that its screening has
                left behind, stays so long
    """

    def __init__(self, patience_s: float = 60.0) -> None:
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._holder = ""

    @contextmanager
    def taken_by(self, name: str) -> Iterator[None]:
        """Raises GuardrailUnavailable where another part does not leave."""
        if not self._lock.acquire(timeout=self._patience_s):
            raise GuardrailUnavailable(
                f"the {self._holder} has been on the GPU for more than {self._patience_s:g} s, and the {name} cannot "
                "come before it leaves; deactivate and activate the node"
            )
        before, self._holder = self._holder, name
        try:
            yield
        finally:
            self._holder = before
            self._lock.release()


class Parked(Part):
    """A module that is on its device only while somebody uses it, and else in one block of pinned host memory.

    Weights never change, so coming is one copy to the device and leaving is none: the host's block is filled once.

    turn        taken while the part is on the device: parts that share one are never there together
    on_leave    called before the device's memory goes, for whoever holds addresses in it (a captured CUDA graph)
    """

    def __init__(
        self,
        name: str,
        source: nn.Module | Callable[[], nn.Module],
        device: torch.device | str,
        *,
        turn: Turn | None = None,
        on_leave: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name, source, device)
        self._turn = turn
        self._on_leave = on_leave
        self._users = 0
        self._host: Arena | None = None

    @contextmanager
    def in_use(self) -> Iterator[nn.Module]:
        with self._turn.taken_by(self.name) if self._turn else nullcontext():
            with self._lock:
                module = self._loaded()
                if self._users == 0:
                    self._host = self._host or Arena.on_host(module)
                    self._host.copied_to(self.device).carry(module)
                self._users += 1
            try:
                yield module
            finally:
                with self._lock:
                    self._users -= 1
                    if self._users == 0:
                        self.leave()

    def rest(self) -> None:
        with self._lock:
            self._loaded()
            self.leave()

    def leave(self) -> None:
        """Go to host memory now. No effect while the part is in use."""
        with self._lock:
            if self._module is None or self._users > 0:
                return
            self._on_leave()
            self._host = self._host or Arena.on_host(self._module)
            self._host.carry(self._module)
            empty_cache(self.device)


class Arena:
    """All tensors of a module, one after the other, in one block of bytes."""

    def __init__(self, block: Tensor, offsets: list[int]) -> None:
        self.block = block  # uint8 [bytes]
        self.offsets = offsets  # one for each of tensors_of(module)

    @classmethod
    @torch.inference_mode(False)
    def on_host(cls, module: nn.Module) -> Arena:
        """Move the module's tensors into host memory from which the device copies at full speed."""
        offsets, end = [], 0
        for tensor in tensors_of(module):
            offsets.append(end)
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        arena = cls(torch.empty(end, dtype=torch.uint8), offsets)
        for tensor, place in arena._places(module):
            place.copy_(tensor)
            tensor.data = place  # at once, so that the module never stands in host memory twice
        if torch.cuda.is_available():
            arena._pin()
        return arena

    @torch.inference_mode(False)
    def copied_to(self, device: torch.device) -> Arena:
        return Arena(self.block.to(device, non_blocking=True, copy=True), self.offsets)

    @torch.inference_mode(False)
    def carry(self, module: nn.Module) -> None:
        """Let the module's tensors lie in this block; where they lay before is free to go."""
        for tensor, place in self._places(module):
            tensor.data = place

    def _places(self, module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        for tensor, offset in zip(tensors_of(module), self.offsets, strict=True):
            yield tensor, self.block[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)

    def _pin(self) -> None:
        """Page-lock the block where it is.

        PyTorch's own pinned allocator rounds up to a power of two, which would waste up to half of a host's memory.
        A host that refuses leaves the block pageable: slower to copy, and just as right.
        """
        if self.block.nbytes == 0:
            return
        runtime, address = torch.cuda.cudart(), self.block.data_ptr()
        if error := int(runtime.cudaHostRegister(address, self.block.nbytes, 0)):
            logger.warning(
                "%.1f GB of host memory could not be pinned (CUDA error %d): moving them is slower",
                self.block.nbytes / 1e9,
                error,
            )
        else:
            weakref.finalize(self, runtime.cudaHostUnregister, address)


class HostEmbedding(nn.Module):
    """A table of which a pass reads few rows: it stays in host memory, and the GPU reads the rows over the bus.

    table   [rows, width], on the CPU or the device
    device  that reads it
    """

    def __init__(self, table: Tensor, device: torch.device) -> None:
        super().__init__()
        # A plain attribute, no parameter: whoever moves the module's parameters leaves it where it is.
        self._table = mapped(table, device) if device.type == "cuda" else table

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self._table)


def mapped(tensor: Tensor, device: torch.device) -> Tensor:
    """A CUDA tensor whose memory is a pinned copy of the given one on the host (unified virtual addressing)."""
    with torch.cuda.device(device):
        host = tensor.cpu().contiguous().pin_memory()
        return torch.as_tensor(_HostBytes(host), device=device).view(tensor.dtype).view(tensor.shape)


class _HostBytes:
    """Pinned host memory by the address at which the device sees it; lives as long as the tensor made of it."""

    def __init__(self, host: Tensor) -> None:
        self._host = host
        self.__cuda_array_interface__ = {
            "shape": (host.nbytes,),
            "typestr": "|u1",
            "data": (host.data_ptr(), False),
            "strides": None,
            "version": 3,
        }


def resolve_device(device: str) -> torch.device:
    """Raises ModelUnavailable for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    if place is None or place.type not in ("cpu", "cuda"):
        raise ModelUnavailable(f"device must be auto, cpu, cuda or cuda:N; got '{device}'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(f"device {device} is not there: this PyTorch sees {torch.cuda.device_count()} CUDA GPUs")
    return place


def empty_cache(device: torch.device) -> None:
    """What was freed on the device is free for everybody."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of those, of floating point and on one device, that hold a NaN or an infinity."""
    # Extremes carry every NaN and infinity, need no second tensor, and are fetched from the device once for all.
    extremes = torch.stack([torch.stack(torch.aminmax(weight)).float() for weight in weights.values()])
    finite = torch.isfinite(extremes).all(dim=1).tolist()
    return [name for name, good in zip(weights, finite, strict=True) if not good]


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once, in the module's own order."""
    return [*module.parameters(), *module.buffers()]


def bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(module))
