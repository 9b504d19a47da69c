"""All tensors of a module in one block of pinned host memory, from which one copy brings them to the device."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cosmos_ros.device.tensors import tensors_of

logger = logging.getLogger(__name__)

ALIGNMENT = 512  # bytes, as CUDA's allocator gives: a tensor in the block is aligned as if it had its own allocation


class Arena:
    """The tensors of a module one after the other in a block of bytes, on the host or on a device.

    block    uint8 [bytes]
    offsets  where in the block each of tensors_of(module) begins, bytes
    """

    def __init__(self, block: Tensor, offsets: list[int]) -> None:
        self.block = block
        self.offsets = offsets

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
            tensor.data = place  # at once: host memory never holds the module twice
        if torch.cuda.is_available():
            arena._pin()
        return arena

    @torch.inference_mode(False)
    def copied_to(self, device: torch.device) -> Arena:
        return Arena(self.block.to(device, non_blocking=True, copy=True), self.offsets)

    @torch.inference_mode(False)
    def carry(self, module: nn.Module) -> None:
        """Let the module's tensors lie in this block. Nothing holds the memory in which they lay before."""
        for tensor, place in self._places(module):
            tensor.data = place

    def _places(self, module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        for tensor, offset in zip(tensors_of(module), self.offsets, strict=True):
            yield tensor, self.block[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)

    def _pin(self) -> None:
        """Page-lock the block where it is.

        PyTorch's own pinned allocator rounds up to a power of two, which would waste up to half of a host's memory.
        Where the host refuses, the block stays pageable: copies are slower and just as right.
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
