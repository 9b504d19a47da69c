"""Failed allocations, provoked for real."""

import mmap
import weakref

import numpy as np
import pytest
import torch

from cosmos_ros.device.out_of_memory import is_out_of_memory, out_of_memory_as_error
from cosmos_ros.errors import GuardrailUnavailable, OutOfMemory

pytestmark = pytest.mark.slow  # as a whole

TOO_MUCH = 2**50  # bytes


def ask_torch():
    return torch.empty(TOO_MUCH, dtype=torch.uint8)


def ask_torchscript():
    @torch.jit.script
    def program(n: int):
        return torch.empty([n], dtype=torch.uint8)

    return program(TOO_MUCH)


def ask_numpy():
    return np.empty(TOO_MUCH, np.uint8)


def ask_python():
    return bytearray(TOO_MUCH)


def ask_the_kernel():
    return mmap.mmap(-1, TOO_MUCH)


@pytest.mark.parametrize("ask", [ask_torch, ask_torchscript, ask_numpy, ask_python, ask_the_kernel])
def test_a_failed_allocation_is_an_answer(ask):
    with (
        pytest.raises(OutOfMemory, match="out of memory while predicting: .+ run a smaller checkpoint"),
        out_of_memory_as_error("predicting"),
    ):
        ask()


def test_what_was_held_is_returned():
    held = []

    def work():
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        return tensor + ask_torch()

    with pytest.raises(OutOfMemory) as raised, out_of_memory_as_error("predicting"):
        work()
    assert held[0]() is None
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL error: unhandled cuda error\nLast error:\nFailed to CUDA calloc async 6291456 bytes",
        "unable to mmap 200001506 bytes from file <model.pt>: Cannot allocate memory (12)",
    ],
)
def test_what_libraries_say_of_missing_memory_is_understood(text):
    """Of GPUs and NCCL, which cannot be asked here."""
    assert is_out_of_memory(RuntimeError(text))
    with pytest.raises(OutOfMemory) as raised, out_of_memory_as_error("predicting"):
        raise RuntimeError(f"a line of the traceback\n{text}")
    assert text.splitlines()[-1] in str(raised.value) and "traceback" not in str(raised.value)


def test_a_guard_that_ran_out_of_memory_stays_a_guard_that_failed():
    with pytest.raises(GuardrailUnavailable), out_of_memory_as_error("predicting"):
        raise GuardrailUnavailable("the guard aegis failed: CUDA out of memory")


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x"), OSError()])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as raised, out_of_memory_as_error("predicting"):
        raise error
    assert raised.value is error


def test_nothing_happens_where_nothing_fails():
    with out_of_memory_as_error("predicting"):
        assert torch.zeros(1) == 0
