"""Which frame is held against which prediction, by the stamps alone; and the alarm that comes of it. No DDS."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from cosmos_ros.errors import InvalidGoal
from cosmos_ros.frame_buffer import FrameBuffer, StampedFrame
from cosmos_ros.images import BadImage
from cosmos_ros.planning.calibration import Nominal, Scale
from cosmos_ros.planning.monitor import MOST_EXPECTATIONS, Alarm, Expectation, SurpriseMonitor
from cosmos_ros.rollout import Clip, Crop, Decoding, Likelihood

START = 1_700_000_000_000_000_000
PERIOD = 100_000_000
SIZE = (48, 64)
# Every frame whose error is more than half of the motion is surprising.
NOMINAL = Nominal(
    {"whole": Scale(tuple(range(1, 25)), (-1.0,) * 24, (1.0,) * 24)}, ((0.0, 0.0), (1.0, 0.9)), (0.3, 1.0)
)


@pytest.fixture(scope="module")
def film(moving_scene):
    return moving_scene(80, *SIZE)


def stamp(i: float) -> int:
    return START + round(i * PERIOD)


def frame(film, i: float, source: str = "camera", pixels=None) -> StampedFrame:
    """What the camera sees at time i, in periods; the film goes on between its pictures."""
    shown = film[int(i)] if pixels is None else pixels
    return StampedFrame(stamp(i), source, *shown.shape[:2], "rgb8", lambda: shown)


class Rig:
    """A buffer that fills, a monitor on it, and predictions that are right: the film itself, guarded."""

    def __init__(self, film, guardrail, **options) -> None:
        self.film, self.guardrail = film, guardrail
        self.buffer = FrameBuffer(10.0, 0.0, 5.0, conditioning_lengths=(9, 1))
        options = {"alarm": Alarm(2, 1.0), "nominal": NOMINAL, "threshold": 0.3} | options
        self.monitor = SurpriseMonitor(self.buffer, **options)
        self.came = []

    def see(self, *times: float, **fields) -> list:
        """Frames come; what was compared because of them."""
        before = len(self.came)
        for i in times:
            self.buffer.add(frame(self.film, i, **fields))
            self.came += self.monitor.comparisons()
        return self.came[before:]

    def predict(self, last: int, n: int = 24, seed: int = 1, foreseen=None, before: int = 0) -> Expectation:
        """From the frames up to `last`: that the film goes on, or something else.

        before  frames in earlier stretches
        """
        clip = Clip(self.film[last - 8 : last + 1], tuple(stamp(i) for i in range(last - 8, last + 1)), 10.0)
        first = last + 1 + before
        frames = self.film[first : first + n] if foreseen is None else foreseen
        with self.guardrail.screen("", Crop(0, 0, *SIZE[::-1]), before) as screening:
            screening.admit_prompt()
            screening.inspect(frames)
            rollout = screening.release(
                clip, model="film", seed=seed, sample=0, decoding=Decoding("float32"), timing=tuple
            )
        return Expectation(rollout, clip)

    def expect(self, last: int, **how) -> None:
        self.monitor.expect(self.predict(last, **how))
        self.came += self.monitor.comparisons()


@pytest.fixture
def rig(film, guardrail):
    return lambda **options: Rig(film, guardrail, **options)


def steps(surprises) -> list[tuple[int, int, int]]:
    """(predicted from, step, stamp), in periods."""
    return [(round((s.expectation.from_ns - START) / PERIOD), s.step, (s.stamp_ns - START) / PERIOD) for s in surprises]


def test_a_frame_is_held_against_the_prediction_of_its_stamp(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    compared = rig.see(*range(9, 36))
    assert steps(compared) == [(8, k, 8 + k) for k in range(1, 25)]
    assert all(s.measured.psnr == 60 and s.measured.floor_psnr < 30 and not s.surprising for s in compared)
    assert [s.horizon_s for s in compared[:2]] == pytest.approx([0.1, 0.2])


def test_of_a_fast_camera_the_nearest_frame_counts(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    times = np.arange(8.2, 14, 1 / 3)
    compared = steps(rig.see(*times))
    for _, k, at in compared:
        nearest = min(times, key=lambda time: (abs(time - 8 - k), -time))
        assert at == pytest.approx(nearest, abs=1e-6)
    assert [k for _, k, _ in compared] == list(range(1, len(compared) + 1)) and len(compared) >= 3


def test_more_than_half_a_period_off_is_no_match(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    compared = steps(rig.see(9.49, 10.52, 13, 14, 15, 16))
    assert [(k, round(at, 2)) for _, k, at in compared] == [(1, 9.49), (3, 10.52), (5, 13), (6, 14), (7, 15), (8, 16)]
    assert rig.monitor.counts["frames that never came, or are kept no longer"] == 2


def test_the_order_in_which_frames_come_changes_nothing(rig):
    """A frame may be late by up to a period, as in the buffer."""
    times = [9 + k / 3 + random.Random(k).uniform(-0.1, 0.1) for k in range(60)]
    shuffled = sorted(times, key=lambda time: time + random.Random(time).uniform(0, 0.95))
    assert shuffled != times
    found = []
    for order in (times, shuffled):
        each = rig()
        each.see(*range(9))
        each.expect(8)
        found.append([(s.step, s.stamp_ns, s.score, s.measured) for s in each.see(*order)])
    assert len(found[0]) > 10 and found[0] == found[1]


def test_frames_that_are_lost_leave_the_others_as_they_are(rig):
    whole, holes = rig(), rig()
    for each in (whole, holes):
        each.see(*range(9))
        each.expect(8)
    all_of_them = {s.step: (s.stamp_ns, s.score) for s in whole.see(*range(9, 36))}
    kept = {s.step: (s.stamp_ns, s.score) for s in holes.see(*(i for i in range(9, 36) if i % 4))}
    assert 12 < len(kept) < len(all_of_them) and all(all_of_them[step] == found for step, found in kept.items())


def test_the_newest_prediction_that_covers_a_frame_counts(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    rig.see(*range(9, 14))
    rig.expect(13, n=8)
    compared = steps(rig.see(*range(14, 36)))
    assert compared == [*((13, k, 13 + k) for k in range(1, 9)), *((8, k, 8 + k) for k in range(14, 25))]


def test_of_two_predictions_of_one_clip_the_later_counts(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8, seed=1)
    rig.expect(8, seed=2)
    assert {s.expectation.rollout.seed for s in rig.see(*range(9, 20))} == {2}


def test_a_prediction_that_comes_late_is_held_against_frames_that_have_come(rig):
    rig = rig()
    rig.see(*range(25))
    rig.expect(8)
    assert steps(rig.came) == [(8, k, 8 + k) for k in range(1, 17)]
    early = Rig(rig.film, rig.guardrail)
    early.see(*range(9))
    early.expect(8)
    early.see(*range(9, 25))
    assert [(s.score, s.measured) for s in early.came] == [(s.score, s.measured) for s in rig.came]


def test_a_later_stretch_counts_its_steps_from_the_clip(rig):
    rig = rig()
    rig.see(*range(9))
    whole = rig.predict(8)
    assert whole.first_step == 1
    clip = Clip(whole.clip.frames, tuple(s - 24 * PERIOD for s in whole.clip.stamps_ns), 10.0)
    assert replace(whole, clip=clip).first_step == 25


def test_stretches_are_compared_as_the_whole_would_be(rig):
    whole, stretches = rig(), rig()
    for each in (whole, stretches):
        each.see(*range(9))
    whole.expect(8, n=16)
    for before in (0, 8):
        stretches.expect(8, n=8, before=before)
    found = [
        [(s.step, s.stamp_ns, s.score, s.measured) for s in each.see(*range(9, 30))] for each in (whole, stretches)
    ]
    assert len(found[0]) == 16 and found[0] == found[1]
    assert all("still" in measured.signs for _, _, _, measured in found[0])


def test_of_a_very_long_prediction_the_stretches_whose_frames_come_first_are_held(rig):
    rig = rig()
    rig.see(*range(9))
    for before in range(0, 40, 4):
        rig.expect(8, n=4, before=before)
    compared = [s.step for s in rig.see(*range(9, 60))]
    assert compared == list(range(1, 4 * MOST_EXPECTATIONS + 1))
    assert rig.monitor.counts["predictions that were one too many to hold"] == 2


def test_a_bag_that_loops_begins_anew(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    rig.see(*range(9, 12))
    assert rig.see(*range(20)) == []  # what was predicted before the jump is forgotten
    rig.expect(19, n=8)
    assert steps(rig.see(*range(20, 30))) == [(19, k, 19 + k) for k in range(1, 9)]


def lag(rig, *times: float) -> None:
    """Frames come while comparing has no time."""
    for i in times:
        rig.buffer.add(frame(rig.film, i))
        rig.monitor.follow()


def test_what_was_due_before_the_stamps_began_anew_is_still_compared(rig):
    """How fast comparing is changes nothing: a bag may loop before the comparisons of its last frames are made."""
    in_time, behind = rig(likelihood=(asked := Model())), rig(likelihood=(asked_late := Model()))
    for each in (in_time, behind):
        each.see(*range(9))
        each.expect(8)
    in_time.see(*range(9, 21), *range(3))
    lag(behind, *range(9, 21), *range(3))
    behind.came += behind.monitor.comparisons()
    assert steps(behind.came) == [(8, k, 8 + k) for k in range(1, 13)] and asked.asked == asked_late.asked == [8]
    assert [(s.score, s.measured) for s in behind.came] == [(s.score, s.measured) for s in in_time.came]


def test_what_has_waited_for_longer_than_the_buffer_keeps_a_frame_is_not_compared(rig):
    """By the clock on the wall: stamps may jump, and a recording may be played fast."""
    now = [100.0]
    rig = rig(clock=lambda: now[0])
    rig.see(*range(9))
    rig.expect(8)
    lag(rig, *range(9, 13))
    now[0] += 4.9
    lag(rig, *range(13, 17), 79)
    assert rig.monitor.counts["frames that waited too long to be compared"] == 0
    now[0] += 0.2
    lag(rig, 0)
    assert steps(rig.monitor.comparisons()) == [(8, k, 8 + k) for k in range(5, 9)], "the buffer keeps 5 s"
    assert rig.monitor.counts["frames that waited too long to be compared"] == 4


def test_a_prediction_from_before_a_jump_is_not_taken(rig):
    rig = rig()
    rig.see(*range(9))
    epoch, prediction = rig.monitor.epoch, rig.predict(8)
    rig.see(*range(6))
    rig.monitor.expect(prediction, epoch)
    assert rig.see(*range(6, 20)) == []
    assert rig.monitor.counts["predictions from before the stamps began anew"] == 1


def test_a_clock_that_is_set_back_begins_anew_too(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    rig.buffer.clear()  # what the node does then
    assert rig.see(*range(9, 20)) == []


def test_another_camera_begins_anew(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    assert rig.see(*range(9, 20), source="another") == []


def test_a_frame_that_cannot_be_read_is_left_out(rig):
    def unreadable():
        raise BadImage("corrupt", "half a JPEG")

    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    rig.buffer.add(StampedFrame(stamp(9), "camera", *SIZE, "rgb8", unreadable))
    assert [k for _, k, _ in steps(rig.see(10, 11, 12, 13))] == [2, 3, 4, 5]
    assert rig.monitor.counts["frames that could not be read or had another size"] == 1


def test_the_memory_is_bounded(rig):
    rig = rig()
    rig.see(*range(9))
    for seed in range(20):
        rig.expect(8, seed=seed)
    assert len(rig.monitor._live) == MOST_EXPECTATIONS
    rig.see(*range(9, 40))
    assert rig.monitor._live == []


def test_nothing_but_a_guarded_prediction_is_compared(rig):
    prediction = rig().predict(10)
    with pytest.raises(TypeError, match="only guarded frames"):
        Expectation(prediction.clip, prediction.clip)


# -- calibration and alarm --------------------------------------------------------------------------------------------


def dark(film):
    return np.zeros_like(film[0])


def test_lights_out_raise_the_alarm_which_stays_until_all_has_been_nominal_for_its_time(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    rig.see(9, 10)
    assert not rig.monitor.alarm.standing
    (first,) = rig.see(11, pixels=dark(rig.film))
    assert first.surprising and first.score > first.threshold and not rig.monitor.alarm.standing
    rig.see(12, pixels=dark(rig.film))
    assert rig.monitor.alarm.standing and rig.monitor.alarm.began_ns == stamp(12)
    rig.see(*range(13, 22))
    assert rig.monitor.alarm.standing  # nominal for 0.9 s
    rig.see(22)
    alarm = rig.monitor.alarm
    assert not alarm.standing and alarm.ended_ns == stamp(22) and alarm.count == 1 and alarm.greatest == first.score


def test_a_single_surprising_frame_raises_no_alarm(rig):
    rig = rig()
    rig.see(*range(9))
    rig.expect(8)
    for i in (9, 11, 13, 15):
        rig.see(i, pixels=dark(rig.film))
        rig.see(i + 1)
    assert sum(s.surprising for s in rig.came) == 4 and rig.monitor.alarm.count == 0


def test_an_alarm_outlives_a_jump_of_the_stamps_and_its_time_begins_anew(rig):
    rig = rig()
    rig.see(*range(20, 29))
    rig.expect(28)
    rig.see(29, 30, pixels=dark(rig.film))
    assert rig.monitor.alarm.standing
    rig.see(*range(9))
    assert rig.monitor.alarm.standing
    rig.expect(8)
    rig.see(*range(9, 30))
    assert not rig.monitor.alarm.standing


def test_without_a_calibration_nothing_is_surprising(rig):
    rig = rig(nominal=None)
    rig.see(*range(9))
    rig.expect(8)
    compared = rig.see(*range(9, 20), pixels=dark(rig.film))
    assert all((s.calibrated, s.surprising, s.threshold) == (False, False, 1.0) for s in compared)
    assert all(0 < s.score <= 1 for s in compared) and rig.monitor.alarm.count == 0


def test_a_prediction_that_was_made_in_another_way_is_not_called_surprising(rig):
    rig = rig()
    rig.see(*range(9))
    rig.monitor.expect(replace(rig.predict(8), calibrated=False))
    assert [s.calibrated for s in rig.see(9, 10, 11, pixels=dark(rig.film))] == [False] * 3


def test_steps_beyond_the_calibration_are_not_called_surprising(rig):
    short = replace(NOMINAL, scales={"whole": Scale((1, 2), (-1.0, -1.0), (1.0, 1.0))})
    rig = rig(nominal=short)
    rig.see(*range(9))
    rig.expect(8)
    assert [s.calibrated for s in rig.see(*range(9, 13))] == [True, True, False, False]


# -- likelihood -------------------------------------------------------------------------------------------------------


class Model:
    """Says that every token takes as many nats as there are frames; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, clip: Clip, frames: np.ndarray, prompt: str) -> Likelihood:
        self.asked.append(len(frames))
        if len(frames) > 16:
            raise InvalidGoal("that many frames do not fit")
        values = np.full((len(frames) // 8, 3, 4), len(frames), np.float32)
        return Likelihood(values, values, values)


def test_the_model_is_asked_when_the_tokens_of_eight_frames_are_complete(rig):
    model = Model()
    rig = rig(likelihood=model)
    rig.see(*range(9))
    rig.expect(8)
    nats = [s.nats_per_token for s in rig.see(*range(9, 36))]
    assert model.asked == [8, 16, 24]
    assert (nats[7], nats[15]) == (8, 16) and sum(np.isnan(nats)) == 22


def test_where_a_frame_is_missing_the_likelihood_is_not_known(rig):
    model = Model()
    rig = rig(likelihood=model)
    rig.see(*range(9))
    rig.expect(8)
    compared = rig.see(*(i for i in range(9, 30) if i != 12))
    assert model.asked == [] and all(np.isnan(s.nats_per_token) for s in compared)
