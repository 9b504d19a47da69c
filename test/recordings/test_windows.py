"""Windows: where they lie, what they hold, and what is said where none can be made."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cosmos_ros.frame_buffer import FrameBuffer, StampedFrame
from cosmos_ros.recordings.windows import Plan, Skipped, Window, WindowMaker

START = 1_700_000_000_000_000_000
S = 1_000_000_000
PLAN = Plan(frame_rate=10.0, n_conditioning=9, n_future=24, every_s=1.0, max_age_s=1.0)


def frame(stamp: int, width: int = 4, encoding: str = "rgb8") -> StampedFrame:
    pixels = np.full((2, width, 3), (stamp // 1_000_000) % 251, np.uint8)
    return StampedFrame(stamp, "camera", 2, width, encoding, lambda: pixels)


def steady(seconds: float, rate: float = 30.0, start: int = START) -> list[int]:
    return [start + round(i * S / rate) for i in range(round(seconds * rate) + 1)]


def made(frames: list[StampedFrame], plan: Plan = PLAN, done=()) -> tuple[list[Window], list[Skipped], list[str]]:
    maker = WindowMaker("bag", 0, plan, done)
    everything = list(maker.windows(frames))
    return (
        [each for each in everything if isinstance(each, Window)],
        [each for each in everything if isinstance(each, Skipped)],
        maker.notes,
    )


def test_windows_lie_a_step_apart_as_long_as_the_truth_reaches():
    windows, skipped, notes = made([frame(stamp) for stamp in steady(6.0)])
    assert [window.time_ns - START for window in windows] == [800_000_000 + i * S for i in range(3)]
    assert not skipped and not notes
    assert len({window.key for window in windows}) == 3


def test_a_window_is_what_the_live_node_would_pick_and_what_then_happened():
    frames = [frame(stamp) for stamp in steady(6.0)]
    windows, _, _ = made(frames)
    for window in windows:
        live = FrameBuffer(10.0, max_age_s=1.0, history_s=3.0, conditioning_lengths=(9, 1))
        for each in frames:
            if each.stamp_ns <= window.time_ns + S // 2:
                live.add(each)
        clip = live.clip(until_ns=window.time_ns, now_ns=window.time_ns + S // 2)
        assert clip.stamps_ns == window.clip.stamps_ns and np.array_equal(clip.frames, window.clip.frames)
        times = [window.clip.stamps_ns[-1] + k * S // 10 for k in range(1, 25)]
        assert np.abs(np.array(window.truth.stamps_ns) - times).max() <= 1
        assert [int(pixels[0, 0, 0]) for pixels in window.truth.frames] == [
            (stamp // 1_000_000) % 251 for stamp in window.truth.stamps_ns
        ]


def test_no_more_of_the_recording_is_kept_than_a_window_needs():
    maker = WindowMaker("bag", 0, PLAN)
    held = [maker._buffer.state().frames for _ in maker.windows(map(frame, steady(60.0)))]
    assert len(held) > 50 and max(held) <= (PLAN.span_s + 0.9) * 30


def test_windows_that_are_done_are_passed_over():
    frames = [frame(stamp) for stamp in steady(6.0)]
    windows, _, _ = made(frames)
    rest, _, _ = made(frames, done={windows[1].key})
    assert [window.key for window in rest] == [windows[0].key, windows[2].key]


def test_a_gap_in_clip_or_truth_skips_the_window_with_the_reason():
    stamps = [stamp for stamp in steady(8.0) if not 0.35 * S < stamp - START - 3.0 * S < 0.65 * S]
    windows, skipped, _ = made([frame(stamp) for stamp in stamps])
    # Clips end at 0.8, 1.8, ...; one soon after the gap misses a conditioning frame, those before it a true one.
    assert {skip.reason for skip in skipped} == {"UNEVEN_FRAMES"}
    assert [(skip.time_ns - START) / S for skip in skipped] == [1.8, 2.8, 3.8]
    assert ["conditioning" in skip.message for skip in skipped] == [False, False, True]
    assert [(window.time_ns - START) / S for window in windows] == [0.8, 4.8]


def test_a_camera_slower_than_the_model_makes_no_window():
    windows, skipped, _ = made([frame(stamp) for stamp in steady(10.0, rate=4.0)])
    assert not windows and len(skipped) == 7 and "camera gives 4.0 Hz" in skipped[0].message


@pytest.mark.parametrize(
    ("second", "cut"),
    [
        (steady(5.0), "the stamps jump back at .* by 5.000 s"),
        (steady(5.0, start=START + 3600 * S), "the camera pauses for 3595.000 s"),
    ],
)
def test_a_cut_ends_the_stretch_and_begins_another(second, cut):
    windows, skipped, notes = made([frame(stamp) for stamp in steady(5.0) + second])
    assert [window.time_ns - START for window in windows[:2]] == [800_000_000, 1_800_000_000]
    assert [window.time_ns - second[0] for window in windows[2:]] == [800_000_000, 1_800_000_000]
    assert [skip.reason for skip in skipped] == ["CUT"] * 3
    assert len(notes) == 1 and re.search(cut, notes[0]) and re.search(cut, skipped[0].message)


@pytest.mark.parametrize("change", [{"width": 6}, {"encoding": "bgr8"}])
def test_a_changed_size_or_encoding_is_said(change):
    frames = [frame(stamp) for stamp in steady(5.0)]
    frames += [frame(stamp, **change) for stamp in steady(5.0, start=START + 5 * S + S // 30)]
    windows, _, notes = made(frames)
    assert len(windows) == 4 and len(notes) == 1 and "the camera changes at" in notes[0]
    widths = [(window.clip.frames.shape[2], window.truth.frames.shape[2]) for window in windows]
    assert all(clip == truth for clip, truth in widths)


def test_repeated_and_missing_stamps_are_counted():
    frames = [frame(stamp) for stamp in steady(5.0)]
    doubled = [each for one in frames for each in (one, one, frame(0))]
    windows, skipped, notes = made(doubled)
    assert len(windows) == 2 and not skipped
    assert notes == [
        f"{len(frames)} times a frame was dropped: its stamp is there already",
        f"{len(frames)} times a frame was dropped: its stamp is zero, which means that nobody stamped it",
    ]


def test_too_short_a_recording_makes_no_window():
    assert made([frame(stamp) for stamp in steady(3.0)]) == ([], [], [])
