"""Failed allocations, provoked for real."""

import weakref

import numpy as np
import pytest
import torch

from cosmos_ros.errors import OutOfMemory
from cosmos_ros.world_model.memory import out_of_memory_as_error

TOO_MUCH = 2**50        # bytes


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


@pytest.mark.parametrize("ask", [ask_torch, ask_torchscript, ask_numpy, ask_python])
def test_a_failed_allocation_is_an_answer(ask):
    with pytest.raises(OutOfMemory, match="out of memory while predicting: .+ run a smaller checkpoint"), \
            out_of_memory_as_error("predicting"):
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


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x"), OSError()])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as raised, out_of_memory_as_error("predicting"):
        raise error
    assert raised.value is error


def test_nothing_happens_where_nothing_fails():
    with out_of_memory_as_error("predicting"):
        assert torch.zeros(1) == 0
