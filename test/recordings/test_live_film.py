"""The film of a running loop: which prediction stands beside which camera frame, and that nothing else is filmed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import av
import numpy as np
import pytest

from cosmos_ros.recordings.live_film import AGES_S, GROUND, Compared, Curves, newest_covering, write_live_film
from cosmos_ros.recordings.rollout_writer import CAMERA, PREDICTED, PublishedRollout
from cosmos_ros.rollout import Crop

pytestmark = pytest.mark.slow  # as a whole

STEP = 100_000_000


def made_at(k: int, n: int = 16):
    """A rollout of frames k + 1, k + 2, ... tenths of a second."""
    return SimpleNamespace(
        conditioning_stamps_ns=tuple((k - 8 + i) * STEP for i in range(9)),
        stamps_ns=tuple((k + 1 + i) * STEP for i in range(n)),
        frame_rate=10.0,
    )


def test_the_newest_prediction_that_is_old_enough_is_shown():
    rollouts = [made_at(10), made_at(20), made_at(14)]

    def shown(tenths: float, age_s: float):
        found = newest_covering(rollouts, round(tenths * STEP), age_s)
        return found and (rollouts.index(found[0]), found[1])

    assert shown(25, 0.5) == (1, 4)  # made exactly half a second before
    assert shown(24, 0.5) == (2, 9)
    assert shown(24, 1.0) == (2, 9)
    assert shown(23, 1.0) == (0, 12)
    assert shown(25.4, 0.5) == (1, 4) and shown(25.6, 0.5) == (1, 5)
    assert shown(14, 0.5) is None  # the first was made only 0.4 s before
    assert shown(37, 0.5) is None  # beyond all horizons


@pytest.fixture
def published(tmp_path):
    """A rollout in bright red of the frames 9..24, as a client left it in a folder."""
    rollout = made_at(8)
    times = {name: getattr(rollout, name) for name in ("conditioning_stamps_ns", "stamps_ns", "frame_rate")}
    np.save(tmp_path / "frames.npy", np.full((16, 48, 80, 3), (200, 20, 20), np.uint8))
    (tmp_path / "rollout.json").write_text(json.dumps(times))
    return PublishedRollout(tmp_path, Crop(0, 8, 80, 48))


def test_camera_and_predictions_run_side_by_side_with_the_surprise_under_them(tmp_path, published):
    camera = [
        SimpleNamespace(stamp_ns=round(i * STEP / 3), load=lambda: np.full((64, 80, 3), (20, 20, 200), np.uint8))
        for i in range(91)  # 30 Hz for three seconds
    ]
    compared = [Compared(k * STEP, 30.0 + k % 3, 28.0, 0.5, k == 20) for k in range(9, 25)]
    write_live_film(tmp_path / "live.mp4", camera, [published], compared)
    with av.open(str(tmp_path / "live.mp4")) as video:
        assert video.streams.video[0].average_rate == 10
        film = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]
    assert len(film) == 31
    panel, row = film[0].shape[1] // 3, 60
    middles = [film[k][row, [panel // 2, panel * 3 // 2, panel * 5 // 2]] for k in range(31)]
    for k, (seen, *predicted) in enumerate(middles):
        assert np.abs(seen - (20, 20, 200)).max() < 25
        for age, pixel in zip(AGES_S, predicted, strict=True):
            covered = 8 + round(age * 10) <= k <= 24
            assert (np.abs(pixel - (200, 20, 20)).max() < 25) == covered, (k, age)
    assert np.abs(film[20][20, 1] - CAMERA).max() < 25 and np.abs(film[20][20, panel + 2] - PREDICTED).max() < 25
    assert np.abs(film[5][-60:] - film[30][-60:]).max() > 50, "the curves have grown"


def test_no_line_is_drawn_over_a_time_in_which_nothing_was_compared():
    compared = [Compared(k * STEP, 30.0, 28.0, 0.5, False) for k in (*range(10, 15), 16, *range(40, 45))]
    drawn = Curves(compared, 0, 50 * STEP, 10.0).until(50 * STEP, 1000)[30:-12]
    columns = {k: (drawn[:, round(499 * k / 50)] != GROUND).any() for k in (9, 12, 15, 17, 20, 30, 38, 42, 45)}
    assert [k for k, there in columns.items() if there] == [12, 15, 42]


def test_nothing_but_what_a_node_published_is_filmed(tmp_path):
    with pytest.raises(TypeError, match="published"):
        write_live_film(tmp_path / "live.mp4", [], [made_at(8)], [])
    assert not (tmp_path / "live.mp4").exists()
