"""The buffer's contract: which frames make a clip, and what is said where none can be made."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from cosmos_ros.errors import InvalidGoal, NoFrames, StaleFrames, UnevenFrames
from cosmos_ros.frame_buffer import Added, FrameBuffer, StampedFrame, frame_of
from cosmos_ros.images import BadImage

MS = 1_000_000
START = 1_700_000_000_000_000_000
RATE = 10.0
PERIOD = 100 * MS
LENGTHS = (9, 1)  # as the published models have them


def frame(stamp: int, width: int = 4, encoding: str = "rgb8", frame_id: str = "camera") -> StampedFrame:
    pixels = np.full((2, width, 3), (stamp // MS) % 251, np.uint8)
    return StampedFrame(stamp, frame_id, 2, width, encoding, lambda: pixels)


def unreadable(stamp: int) -> StampedFrame:
    def load() -> np.ndarray:
        raise BadImage("corrupt", "cannot be decoded")

    return StampedFrame(stamp, "camera", 2, 4, "rgb8", load)


def filled(stamps: list[int], max_age_s: float = 0.5, history_s: float = 10.0) -> FrameBuffer:
    buffer = FrameBuffer(RATE, max_age_s, history_s, conditioning_lengths=LENGTHS)
    for stamp in stamps:
        buffer.add(frame(stamp))
    return buffer


def steady(n: int, period: int = PERIOD) -> list[int]:
    return [START + i * period for i in range(n)]


def test_a_clip_is_the_newest_nine_frames_at_the_models_rate():
    clip = filled(steady(20)).clip()
    assert clip.stamps_ns == tuple(steady(20)[-9:])
    assert clip.frame_rate == RATE
    assert clip.frames.shape == (9, 2, 4, 3) and clip.frames.dtype == np.uint8
    assert [int(pixels[0, 0, 0]) for pixels in clip.frames] == [(s // MS) % 251 for s in clip.stamps_ns]


def test_a_faster_camera_is_thinned_to_the_models_rate():
    stamps = steady(60, 33_333_333)
    clip = filled(stamps).clip()
    assert clip.stamps_ns == tuple(stamps[-25::3])


def test_the_image_condition_needs_one_frame():
    assert filled(steady(1)).clip(n=1).stamps_ns == (START,)


def test_until_names_the_newest_frame_that_may_be_used():
    stamps = steady(30)
    buffer = filled(stamps)
    assert buffer.clip(until_ns=stamps[19]).stamps_ns == tuple(stamps[11:20])
    assert buffer.clip(until_ns=stamps[19] + 99 * MS).stamps_ns == tuple(stamps[11:20])
    assert buffer.clip(until_ns=stamps[19] - 1).stamps_ns == tuple(stamps[10:19])
    assert buffer.clip(until_ns=0).stamps_ns == tuple(stamps[-9:])


def test_no_frames():
    with pytest.raises(NoFrames, match="no image has arrived"):
        filled([]).clip()
    with pytest.raises(NoFrames, match=rf"{START - 250 * MS} ns.* 0\.250 s before the oldest .*{START} ns"):
        filled(steady(12)).clip(until_ns=START - 250 * MS)


def test_until_ahead_of_the_clock_is_a_clock_mismatch():
    stamps = steady(12)
    buffer, now = filled(stamps), stamps[-1]
    assert buffer.clip(until_ns=now + 500 * MS, now_ns=now).stamps_ns[-1] == stamps[-1]
    with pytest.raises(InvalidGoal, match=rf"0\.501 s ahead .*now {now} ns, max_age 0\.500 s.*clocks differ"):
        buffer.clip(until_ns=now + 501 * MS, now_ns=now)


def test_age_is_measured_against_now_or_until():
    stamps = steady(12)
    buffer, newest = filled(stamps), stamps[-1]
    assert buffer.clip(now_ns=newest + 500 * MS).stamps_ns[-1] == newest
    with pytest.raises(StaleFrames, match=r"0\.501 s older than now .*max_age is 0\.500 s"):
        buffer.clip(now_ns=newest + 501 * MS)
    # A goal about the past is judged by the time it names, however long ago that is.
    assert buffer.clip(until_ns=newest, now_ns=newest + 3600_000 * MS).stamps_ns[-1] == newest
    with pytest.raises(StaleFrames, match=r"0\.501 s older than `until`"):
        buffer.clip(until_ns=newest + 501 * MS)


def test_frames_from_the_future_are_a_clock_mismatch():
    buffer = filled(steady(12))
    with pytest.raises(StaleFrames, match="nobody publishes /clock"):
        buffer.clip(now_ns=0)


def test_max_age_zero_is_no_limit():
    stamps = steady(12)
    buffer = filled(stamps, max_age_s=0.0)
    for until, now in [(None, stamps[-1] + 10**15), (None, 0), (stamps[-1] + 10**15, stamps[-1])]:
        assert buffer.clip(until_ns=until, now_ns=now).stamps_ns[-1] == stamps[-1]


def test_a_missing_frame_is_named_with_its_distance():
    stamps = steady(20)
    missing = stamps.pop(14)
    with pytest.raises(UnevenFrames, match=rf"frame 4 of 9 is missing at 10 Hz: .*0\.100 s from its time {missing} ns"):
        filled(stamps).clip()


def test_a_buffer_that_is_still_too_short_says_how_long_to_wait():
    with pytest.raises(UnevenFrames, match=r"frame 1 of 9 .*holds 8 frames, which begin 0\.100 s after .*run for 0\.8"):
        filled(steady(8)).clip()


def test_a_camera_slower_than_the_model_is_told_its_rate():
    with pytest.raises(UnevenFrames, match=r"frame 8 of 9.*camera gives 4\.0 Hz"):
        filled(steady(20, 250 * MS)).clip()


def test_half_a_period_off_serves_and_a_nanosecond_more_does_not():
    stamps = steady(9)
    stamps[4] += PERIOD // 2
    assert filled(stamps).clip().stamps_ns[4] == stamps[4]
    stamps[4] += 1
    with pytest.raises(UnevenFrames, match="frame 5 of 9"):
        filled(stamps).clip()


def test_no_frame_serves_twice():
    # One frame lies half a period from two ideal times: it serves the later one, the earlier one has none.
    stamps = steady(9)
    stamps[4:6] = [START + 450 * MS]
    with pytest.raises(UnevenFrames, match="frame 5 of 9"):
        filled(stamps).clip()


def test_a_frame_without_a_stamp_is_refused():
    buffer = filled(steady(9))
    assert buffer.add(frame(0)) is Added.UNSTAMPED
    assert buffer.clip().stamps_ns == tuple(steady(9))


def test_a_repeated_stamp_is_dropped():
    buffer = filled(steady(9))
    assert buffer.add(frame(START + 8 * PERIOD)) is Added.DUPLICATE
    assert buffer.add(frame(START + 7 * PERIOD)) is Added.DUPLICATE
    assert buffer.state().frames == 9


def test_late_frames_within_one_period_are_sorted_in():
    stamps = steady(12)
    swapped = stamps.copy()
    swapped[6], swapped[7] = swapped[7], swapped[6]
    buffer = FrameBuffer(RATE, 0.5, 10.0, conditioning_lengths=LENGTHS)
    happened = [buffer.add(frame(stamp)) for stamp in swapped]
    assert happened[7] is Added.LATE and happened.count(Added.ADDED) == 11
    assert buffer.clip().stamps_ns == tuple(stamps[-9:])


def test_a_jump_back_empties_the_buffer():
    buffer = filled(steady(20))
    assert buffer.add(frame(START)) is Added.JUMPED_BACK
    assert buffer.state() == (1, START, START, 0.0)
    for stamp in steady(9)[1:]:
        assert buffer.add(frame(stamp)) is Added.ADDED
    assert buffer.clip().stamps_ns == tuple(steady(9))


@pytest.mark.parametrize("change", [{"width": 6}, {"encoding": "bgr8"}, {"frame_id": "other_camera"}])
def test_a_changed_camera_starts_afresh(change):
    buffer = filled(steady(20))
    stamps = [START + (20 + i) * PERIOD for i in range(9)]
    assert buffer.add(frame(stamps[0], **change)) is Added.CHANGED
    assert buffer.state().frames == 1
    for stamp in stamps[1:]:
        assert buffer.add(frame(stamp, **change)) is Added.ADDED
    assert buffer.clip().stamps_ns == tuple(stamps)


def test_history_is_bounded_by_time():
    stamps = steady(100)
    buffer = filled(stamps, history_s=2.0)
    assert buffer.state() == (21, stamps[-21], stamps[-1], RATE)


@pytest.mark.parametrize("rate", [7.0, 10.0, 24.0, 25.0, 29.97, 30.0, 60.0])
@pytest.mark.parametrize("newest", range(START, START + 2000, 117))
def test_one_period_before_the_newest_is_late_and_no_jump_back(rate, newest):
    """Stamps of today are too large for float64 to tell one nanosecond from the next."""
    for early in (round(1e9 / rate), int(1e9 / rate)):
        buffer = FrameBuffer(rate, 0.5, 10.0, conditioning_lengths=LENGTHS)
        buffer.add(frame(newest))
        assert buffer.judge(frame(newest - early)) is Added.LATE
        assert buffer.judge(frame(newest - early - 2)) is Added.JUMPED_BACK


def test_stamps_that_creep_fill_no_more_memory_than_the_fastest_camera():
    """33 µs from frame to frame, as of a driver that takes milliseconds for microseconds."""
    stamps = steady(3000, 33_333)
    buffer = filled(stamps, history_s=2.0)
    assert buffer.state()[:3] == (480, stamps[-480], stamps[-1])
    assert "480 frames" in buffer.full
    with pytest.raises(UnevenFrames, match=r"full, with 480 frames.*gives 30000 Hz"):
        buffer.clip()
    buffer.clear()
    assert buffer.full == ""


def test_large_frames_are_bounded_by_their_bytes():
    def large(stamp: int) -> StampedFrame:
        return dataclasses.replace(frame(stamp), n_bytes=2**20)

    buffer = FrameBuffer(RATE, 0.5, 10.0, conditioning_lengths=LENGTHS, max_bytes=12 * 2**20)
    stamps = steady(30)
    for stamp in stamps:
        buffer.add(large(stamp))
    assert buffer.state()[:3] == (12, stamps[-12], stamps[-1]) and "12 MiB" in buffer.full
    assert buffer.clip().stamps_ns == tuple(stamps[-9:])
    huge = dataclasses.replace(frame(stamps[-1] + PERIOD), n_bytes=2**30)
    assert buffer.add(huge) is Added.ADDED
    assert buffer.state().frames == 1, "the newest stays"
    for stamp in steady(9):
        buffer.add(large(stamp))  # a jump back: it starts afresh, its bytes too
    assert buffer.state().frames == 9 and not buffer.full


def test_a_clip_carries_its_cameras_frame_id():
    buffer = filled(steady(9))
    buffer.add(frame(0, frame_id="another"))  # dropped
    assert buffer.clip().frame_id == "camera"


def test_a_model_with_other_conditioning_lengths():
    buffer = FrameBuffer(2.0, 0.5, 2.5, conditioning_lengths=(5, 1))
    stamps = steady(6, 500 * MS)
    for stamp in stamps:
        buffer.add(frame(stamp))
    assert buffer.clip().stamps_ns == tuple(stamps[-5:])


def test_an_unreadable_frame_gives_way_to_its_neighbour():
    stamps = steady(40, 50 * MS)
    buffer = FrameBuffer(RATE, 0.5, 10.0, conditioning_lengths=LENGTHS)
    for i, stamp in enumerate(stamps):
        buffer.add(unreadable(stamp) if i == 31 else frame(stamp))
    picked = buffer.clip().stamps_ns
    assert len(picked) == 9 and stamps[31] not in picked and abs(picked[4] - stamps[31]) == 50 * MS


def test_an_unreadable_frame_without_a_neighbour_is_a_missing_one():
    buffer = FrameBuffer(RATE, 0.5, 10.0, conditioning_lengths=LENGTHS)
    for i, stamp in enumerate(steady(9)):
        buffer.add(unreadable(stamp) if i == 3 else frame(stamp))
    with pytest.raises(UnevenFrames, match="frame 4 of 9"):
        buffer.clip()


def test_what_followed_a_clip_is_picked_like_a_clip():
    stamps = steady(60, 33_333_333)
    buffer = filled(stamps)
    last = buffer.clip(until_ns=stamps[29]).stamps_ns[-1]
    assert last == stamps[29]
    truth = buffer.following(last, 10)
    assert truth.stamps_ns == tuple(stamps[32:60:3]) and truth.frames.shape == (10, 2, 4, 3)
    with pytest.raises(UnevenFrames, match=r"frame 11 of 11 is missing .*nearest free frame is 0\.100 s"):
        buffer.following(last, 11)
    with pytest.raises(UnevenFrames, match="frame 3 of 3 is missing at 10 Hz: the buffer holds 0 frames"):
        buffer.following(stamps[-1], 3)


def test_judging_changes_nothing():
    buffer = filled(steady(9))
    assert buffer.judge(frame(START)) is Added.JUMPED_BACK
    assert buffer.judge(frame(START + 9 * PERIOD, width=8)) is Added.CHANGED
    assert buffer.state().frames == 9


def test_clearing_forgets():
    buffer = filled(steady(9))
    buffer.clear()
    assert buffer.state() == (0, None, None, 0.0)


@pytest.mark.parametrize(
    "settings",
    [(0.0, 1.0, 5.0), (float("nan"), 1.0, 5.0), (10.0, -1.0, 5.0), (10.0, 1.0, float("inf")), (10.0, 1.0, 0.8)],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match="must"):
        FrameBuffer(*settings, conditioning_lengths=LENGTHS)


def test_messages_become_frames_without_conversion():
    message = Image(height=2, width=3, encoding="bgr8", step=9, data=bytes(range(18)))
    message.header.frame_id = "camera_optical"
    message.header.stamp.sec, message.header.stamp.nanosec = 12, 34
    made = frame_of(message)
    assert (made.stamp_ns, made.source) == (12_000_000_034, ("camera_optical", 2, 3, "bgr8"))
    assert made.load()[0, 0].tolist() == [2, 1, 0]
    with pytest.raises(BadImage):
        frame_of(CompressedImage(format="jpeg", data=b"no image"))


def test_adding_while_clips_are_read():
    """The camera's callback adds while a prediction reads: every clip is whole, and no frame is lost."""
    buffer = FrameBuffer(RATE, 0.0, 1000.0, conditioning_lengths=LENGTHS)
    stamps = steady(3000)
    for stamp in stamps[:9]:
        buffer.add(frame(stamp))
    adder = threading.Thread(target=lambda: [buffer.add(frame(stamp)) for stamp in stamps[9:]])
    adder.start()
    while adder.is_alive():
        clip = buffer.clip()
        assert np.all(np.diff(clip.stamps_ns) == PERIOD)
    adder.join()
    assert buffer.state().frames == 3000


cameras = st.builds(
    lambda period, jitters, drops: [
        START + i * period + jitter for i, (jitter, drop) in enumerate(zip(jitters, drops, strict=True)) if not drop
    ],
    st.integers(20 * MS, 130 * MS),
    st.lists(st.integers(-60 * MS, 60 * MS), min_size=60, max_size=60),
    st.lists(st.integers(0, 19).map(lambda x: x == 0), min_size=60, max_size=60),
)


@given(stamps=cameras, until=st.integers(-2_000 * MS, 9_000 * MS))
def test_any_camera_at_any_time(stamps, until):
    """Against the contract's own words, for jittered cameras of any rate that drop frames."""
    buffer = filled(stamps, max_age_s=0.0, history_s=1000.0)
    until += START
    kept = sorted(set(_kept(stamps)))
    usable = [stamp for stamp in kept if stamp <= until]
    try:
        chosen = buffer.clip(until_ns=until).stamps_ns
    except NoFrames:
        assert not usable
        return
    except UnevenFrames:
        assert _most_that_can_be_served(usable) < 9
        return
    ideals = [usable[-1] - back * PERIOD for back in range(8, -1, -1)]
    assert chosen[-1] == usable[-1] and len(set(chosen)) == 9
    later = None
    for stamp, ideal in reversed(list(zip(chosen, ideals, strict=True))):
        assert abs(stamp - ideal) <= PERIOD // 2
        free = [s for s in usable if later is None or s < later]
        assert abs(stamp - ideal) == min(abs(s - ideal) for s in free)
        later = stamp


def _kept(stamps: list[int]) -> list[int]:
    """The frames since the last stamp that fell more than a period behind."""
    since: list[int] = []
    for stamp in stamps:
        if since and stamp < max(since) - PERIOD:
            since = []
        since.append(stamp)
    return since


def _most_that_can_be_served(usable: list[int]) -> int:
    """How many of the nine ideal times can have a frame of their own within half a period (earliest deadline first)."""
    free, served = list(usable), 0
    for ideal in [usable[-1] - back * PERIOD for back in range(8, -1, -1)]:
        fits = [s for s in free if abs(s - ideal) <= PERIOD // 2]
        if fits:
            free.remove(fits[0])
            served += 1
    return served


@given(order=st.permutations(range(6)))
def test_any_order_within_one_period_gives_the_same_clip(order):
    """Frames of one burst may arrive in any order: six frames of a 60 Hz camera lie within one model period."""
    period = 16_666_667
    stamps = steady(60, period)
    shuffled = stamps[:54] + [stamps[54 + i] for i in order]
    assert filled(shuffled).clip().stamps_ns == filled(stamps).clip().stamps_ns
