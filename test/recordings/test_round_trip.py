"""The tokenizer's round trip of true frames: no prediction, but guarded like one."""

from __future__ import annotations

import numpy as np
import pytest

from cosmos_ros import Clip, Foresight, GuardedRollout
from cosmos_ros.errors import InvalidGoal, VideoBlocked


@pytest.fixture(scope="module")
def foresight(tiny_checkpoint) -> Foresight:
    return Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})


def film(frames: np.ndarray) -> Clip:
    return Clip(frames, tuple(10**9 + i * 10**8 for i in range(len(frames))), 10.0)


def test_true_frames_come_back_as_the_decoder_shows_them(foresight, moving_scene):
    frames = film(moving_scene(33, 32, 64))
    rollout = foresight.reconstruct(frames)
    assert isinstance(rollout, GuardedRollout) and rollout.model == "tiny (tokenizer round trip)"
    assert rollout.frames.shape == (32, 32, 64, 3) and rollout.stamps_ns == frames.stamps_ns[1:]
    assert [decision.guard for decision in rollout.guardrail.decisions] == ["degenerate_video", "face_blur"]
    # The miniature tokenizer keeps the mean colour of 16x16 pixels over eight frames, in four levels.
    means = frames.frames[1:9].reshape(8, 2, 16, 4, 16, 3).mean(axis=(0, 2, 4))
    shown = rollout.frames[:8].reshape(8, 2, 16, 4, 16, 3)
    assert np.abs(shown - means[None, :, None, :, None]).max() <= 255 / 3 / 2 + 1
    # Nothing is drawn: it is the same each time.
    assert np.array_equal(foresight.reconstruct(frames).frames, rollout.frames)


def test_it_takes_a_whole_chunk(foresight, moving_scene):
    with pytest.raises(InvalidGoal, match="a reconstruction takes 33 true frames; got 9"):
        foresight.reconstruct(film(moving_scene(9, 32, 64)))


def test_it_passes_the_same_guards(foresight):
    with pytest.raises(VideoBlocked, match="degenerate_video"):
        foresight.reconstruct(film(np.full((33, 32, 64, 3), 90, np.uint8)))
