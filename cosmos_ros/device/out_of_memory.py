"""Running out of memory is an answer, not a crash."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from cosmos_ros.errors import ForesightError, OutOfMemory

# What an error of another type says, in whatever case, when the real cause is missing memory.
SIGNS = (
    "out of memory",  # CUDA, also through TorchScript and Triton
    "can't allocate memory",  # PyTorch's allocator on the host
    "cannot allocate memory",  # the kernel's ENOMEM: mmap, fork
    "not enough memory",
    "_status_alloc_failed",  # cuBLAS, cuDNN 8
    "device_allocation_failed",  # cuDNN 9
    "failed to cuda calloc",  # NCCL
)


@contextmanager
def out_of_memory_as_error(what: str) -> Iterator[None]:
    """Turn a failed allocation, on the device or the host, into OutOfMemory, after returning the memory.

    what  the work that failed, for the message: "predicting"
    """
    try:
        yield
    except ForesightError:
        raise  # already an answer, whatever its message quotes
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # TorchScript puts the cause below its own traceback.
        signs = [line.strip() for line in str(error).splitlines() if _has_sign(line)]
        reason = signs[-1] if signs else "an allocation on the host failed"
        # The traceback's frames hold the tensors that filled the memory.
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        return_memory()
        raise OutOfMemory(
            f"out of memory while {what}: {reason}. What was held has been returned; close what else uses "
            "the memory, or run a smaller checkpoint"
        ) from None


def return_memory() -> None:
    """Give memory that nothing refers to any more back to the device and the host."""
    gc.collect()
    torch = sys.modules.get("torch")  # not imported here: readers of recordings need no PyTorch, but ask about errors
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or _has_sign(str(error))


def _has_sign(text: str) -> bool:
    return any(sign in text.lower() for sign in SIGNS)
