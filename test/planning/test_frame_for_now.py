"""Which predicted frame is the one for now: decided by stamps, and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from cosmos_ros.planning.frame_for_now import FrameForNow, NothingToShow
from cosmos_ros.rollout import Clip, Crop

START = 1_700_000_000_000_000_000
MS = 1_000_000


@pytest.fixture
def released(guardrail):
    """released(ms, n=24, first_frame=0): a guarded rollout at 10 Hz of a clip that ends at START + ms."""
    grain = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)

    def make(ms: int, n: int = 24, first_frame: int = 0):
        clip = Clip(grain[None], (START + ms * MS,), 10.0)
        with guardrail.screen("", Crop(0, 0, 64, 48), first_frame) as screening:
            screening.admit_prompt()
            screening.inspect(np.stack([grain] * n))
            return screening.release(clip, model="painted", seed=0, timing=tuple)

    return make


@pytest.fixture
def frames():
    return FrameForNow()


def shown(frames: FrameForNow, ms: float, ahead_s: float = 0.0) -> float:
    """Milliseconds after START that the frame for a time shows."""
    return (frames.at(START + round(ms * MS), ahead_s).stamp_ns - START) / MS


def add(frames: FrameForNow, rollout, ms: int) -> None:
    frames.add(rollout, frames.epoch(START + ms * MS), START + ms * MS)


def why(frames: FrameForNow, ms: float, ahead_s: float = 0.0) -> str:
    with pytest.raises(NothingToShow) as nothing:
        frames.at(START + round(ms * MS), ahead_s)
    return str(nothing.value)


@pytest.mark.parametrize(
    ("ms", "ahead_s", "expected"),
    [(300, 0, 300), (340, 0, 300), (350.001, 0, 400), (51, 0, 100), (300, 0.2, 500), (2449, 0, 2400), (0, 2.4, 2400)],
)
def test_the_nearest_frame_is_shown_with_its_own_stamp(frames, released, ms, ahead_s, expected):
    add(frames, released(0), 0)
    assert shown(frames, ms, ahead_s) == expected


def test_what_no_prediction_covers_is_not_shown_and_the_reason_is_said(frames, released):
    assert why(frames, 0) == "no prediction has been released"
    add(frames, released(0), 0)
    assert "begins 0.060 s after" in why(frames, 40)
    assert "ends 0.060 s before" in why(frames, 2260, 0.2) and "ends 0.060 s before" in why(frames, 2460)


def test_the_newest_clip_wins_and_where_it_does_not_reach_the_one_before(frames, released):
    add(frames, released(0), 0)
    add(frames, released(530, n=8), 600)
    assert shown(frames, 1000) == 1030
    assert shown(frames, 1400) == 1400, "the newer one ends at 1330"
    add(frames, released(230), 1400)
    assert shown(frames, 1400) == 1430, "released later, but from an older clip than that of 530; newer than that of 0"
    assert len(frames._rollouts) == 2, "that of 0 has nothing more to show"


def test_stretches_of_one_prediction_stand_together(frames, released):
    add(frames, released(0), 0)
    add(frames, released(0, n=24, first_frame=24), 10)
    assert [shown(frames, ms) for ms in (100, 2400, 2500)] == [100, 2400, 2500]
    add(frames, released(3000, n=8), 4800)
    assert shown(frames, 4800) == 4800, "the later stretch still reaches furthest"


def test_hours_of_predictions_keep_a_few(frames, released):
    for ms in range(0, 5000, 250):
        add(frames, released(ms), ms)
    assert len(frames._rollouts) == 1


def test_nothing_is_shown_while_an_alarm_stands(released):
    alarms = [False]
    frames = FrameForNow(lambda: alarms[0])
    add(frames, released(0), 0)
    assert shown(frames, 300) == 300
    alarms[0] = True
    assert "a surprise alarm stands" in why(frames, 300)
    alarms[0] = False
    assert shown(frames, 300) == 300


def test_a_clock_that_jumps_back_forgets_everything_and_what_is_still_being_predicted(frames, released):
    add(frames, released(0), 0)
    before = frames.epoch(START + 1000 * MS)
    assert shown(frames, 990) == 1000, "two threads that read the clock are no jump"
    assert "jumped back" in why(frames, 200)
    assert "jumped back" in why(frames, 1100), "though the clock has come there again"
    frames.add(released(100), before, START + 1100 * MS)  # its clip was taken in the other time
    assert "jumped back" in why(frames, 1100)
    add(frames, released(1000), 1100)
    assert shown(frames, 1200) == 1200


def test_where_the_cameras_images_begin_anew_what_was_predicted_before_is_forgotten(released):
    restarts = [0]
    frames = FrameForNow(restarts=lambda: restarts[0])
    before = frames.epoch(START)
    frames.add(released(0), before, START, "left")
    left = frames.at(START + 300 * MS)
    restarts[0] = 1
    assert "the camera's images began anew" in why(frames, 300)
    frames.add(released(100), before, START + 300 * MS, "left")
    assert "the camera's images began anew" in why(frames, 300), "its clip is of the camera before"
    frames.add(released(100), frames.epoch(START), START + 300 * MS, "right")
    assert shown(frames, 400) == 400
    right = frames.at(START + 400 * MS)
    assert (left.frame_id, right.frame_id) == ("left", "right") and left.epoch != right.epoch


def test_a_prediction_that_is_stamped_after_the_clock_is_of_another_time(frames, released):
    add(frames, released(5000), 1000)
    assert "stamped 4.000 s after the clock" in why(frames, 1000)
    assert "stamped 4.000 s after the clock" in why(frames, 5500), "nor later, when the clock comes there"
    add(frames, released(6000), 5950)
    assert shown(frames, 6100) == 6100


def test_after_clearing_there_is_nothing(frames, released):
    add(frames, released(0), 0)
    frames.clear()
    assert why(frames, 300) == "no prediction has been released"
