"""The 3D benchmark tells a true future from one that is no rigid scene."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pycolmap", reason="structure from motion needs requirements/benchmark.txt")

from cosmos_ros.benchmarks import consistency
from cosmos_ros.evaluation.measure import Videos
from cosmos_ros.metrics.baselines import repeat_last
from cosmos_ros.rollout import Crop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def numbers(room):
    """Of a model that predicts the truth, and of one whose every frame is warped by itself."""
    _, clip = room
    camera, truth = clip.frames[:1], clip.frames[1:]
    rows = {
        "model": truth,
        "repeat_last_frame": repeat_last(camera, len(truth)),
        "constant_flow": repeat_last(camera, len(truth)),
        "tokenizer_round_trip": np.stack([np.roll(frame[:, ::-1], 9 * k, axis=0) for k, frame in enumerate(truth)]),
    }
    videos = Videos(camera, camera, truth, rows, Crop(0, 0, 320, 192))
    return consistency.measure(videos, clip.truth, None, None)


def test_the_truth_is_consistent(numbers):
    assert numbers["model"]["pose_success"] is True and numbers["model"]["registered"] == 1
    assert numbers["model"]["rotation_error"] < 0.5 and numbers["model"]["place_error"] < 0.02
    assert numbers["model"] == numbers["truth"]
    # At 1024 pixels of width; the frames have 320.
    assert 0 < numbers["model"]["sampson"] < 3 * 1024 / 320


def test_another_world_is_none(numbers):
    other = numbers["tokenizer_round_trip"]
    assert other["rotation_error"] is None or other["rotation_error"] > 5 * numbers["model"]["rotation_error"]


def test_what_stands_still_has_no_row(numbers):
    assert "repeat_last_frame" not in numbers and "constant_flow" not in numbers
