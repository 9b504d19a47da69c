"""The plain data between the rooms: a clip is checked where it is made, a guarded rollout cannot be forged."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosmos_ros import rollout as rollout_module
from cosmos_ros.errors import InvalidGoal
from cosmos_ros.guardrail_report import GuardrailReport
from cosmos_ros.rollout import Clip, Crop, GuardedRollout

SECOND = 1_000_000_000


def clip(n: int = 9, frame_rate: float = 10.0) -> Clip:
    frames = np.zeros((n, 4, 6, 3), np.uint8)
    return Clip(frames, tuple(SECOND + k * SECOND // 10 for k in range(n)), frame_rate)


def rollout_fields() -> dict:
    return {
        "frames": np.zeros((24, 4, 6, 3), np.uint8),
        "stamps_ns": clip().future_stamps_ns(24),
        "conditioning_stamps_ns": clip().stamps_ns,
        "frame_rate": 10.0,
        "crop": Crop(0, 0, 6, 4),
        "model": "a model",
        "prompt": "",
        "seed": 0,
        "guardrail": GuardrailReport("embedded", ()),
        "timing": (),
    }


@pytest.mark.parametrize(
    "frames, stamps, rate",
    [
        (np.zeros((9, 4, 6), np.uint8), range(9), 10.0),
        (np.zeros((9, 4, 6, 4), np.uint8), range(9), 10.0),
        (np.zeros((9, 4, 6, 3), np.float32), range(9), 10.0),
        (np.zeros((0, 4, 6, 3), np.uint8), (), 10.0),
        (np.zeros((9, 0, 6, 3), np.uint8), range(9), 10.0),
        (np.zeros((9, 4, 6, 3), np.uint8), range(8), 10.0),
        (np.zeros((3, 4, 6, 3), np.uint8), (1, 3, 2), 10.0),
        (np.zeros((3, 4, 6, 3), np.uint8), (1, 2, 2), 10.0),
        (np.zeros((1, 4, 6, 3), np.uint8), (1,), 0.0),
        (np.zeros((1, 4, 6, 3), np.uint8), (1,), float("nan")),
    ],
)
def test_a_clip_that_does_not_fit_together_is_refused(frames, stamps, rate):
    with pytest.raises(InvalidGoal):
        Clip(frames, tuple(stamps), rate)


@given(rate=st.floats(0.5, 120), n=st.integers(1, 64), start=st.integers(0, 2**62))
def test_future_stamps_do_not_drift(rate, n, start):
    stamps = Clip(np.zeros((1, 1, 1, 3), np.uint8), (start,), rate).future_stamps_ns(n)
    assert len(stamps) == n
    for k, stamp in enumerate(stamps, start=1):
        assert abs((stamp - start) - k * SECOND / rate) <= 1


def test_a_crop_is_a_view_of_its_rectangle():
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    view = Crop(x=2, y=1, width=3, height=2).of(frames)
    assert view.shape == (2, 2, 3, 3)
    assert np.shares_memory(view, frames)
    assert np.array_equal(view[1, 0, 0], frames[1, 1, 2])


def test_nobody_but_the_guardrail_makes_a_guarded_rollout():
    with pytest.raises(TypeError, match="guardrail"):
        GuardedRollout(**rollout_fields())
    with pytest.raises(TypeError, match="guardrail"):
        GuardedRollout(**rollout_fields(), seal=object())


@pytest.fixture
def sealed() -> GuardedRollout:
    return GuardedRollout(**rollout_fields(), seal=rollout_module._GUARDRAIL_SEAL)


def test_a_guarded_rollout_cannot_be_refilled(sealed):
    with pytest.raises(ValueError, match="read-only"):
        sealed.frames[:] = 255
    with pytest.raises(dataclasses.FrozenInstanceError):
        sealed.frames = np.ones_like(sealed.frames)
    with pytest.raises(TypeError, match="guardrail"):
        dataclasses.replace(sealed, frames=np.ones_like(sealed.frames))
    with pytest.raises(TypeError, match="guardrail"):
        dataclasses.replace(sealed, seed=1)
    assert sealed.seal is None


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda rollout: copy.deepcopy([rollout])[0]])
def test_a_copy_has_no_pixels_of_its_own(sealed, copied):
    same = copied(sealed)
    assert same is sealed and not same.frames.flags.writeable


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_guarded_rollout_is_not_pickled(sealed, protocol):
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(sealed, protocol)


def test_nothing_inherits_the_right_to_be_written():
    with pytest.raises(TypeError, match="no subclasses"):
        type("Forged", (GuardedRollout,), {"__post_init__": lambda self: None})
