"""Bad images, stamps and goals over real DDS: the documented code or one warning, and the next goal succeeds."""

from __future__ import annotations

import re
import time

import pytest
from cosmos_ros.action import Predict

from cosmos_ros.images import BadImage, check

RESULT = Predict.Result
PERIOD_NS = 100_000_000
NAN = float("nan")


@pytest.fixture(autouse=True)
def next_goal_succeeds(robot, node):
    """Whatever a test here does to the node, it lives and serves the next good goal."""
    yield
    assert node.state == "active"
    robot.film(node)
    answer = robot.predict()
    assert answer.error_code == RESULT.NONE, answer.error_msg


@pytest.fixture
def publish(robot, node, wait_for):
    """publish(message, fate, n=3): publish it n times; wait until the node has counted each under its fate."""

    def send(message, fate, n=3):
        counts = node._configured.camera.counts
        for _ in range(n):
            before = counts[fate]
            robot.images.publish(message)
            wait_for(lambda before=before: counts[fate] > before, f"an image that is {fate}")

    return send


@pytest.mark.parametrize(
    ("cause", "faults"),
    [
        ("data_short", [{"data": b"\x00" * 100}, {"data": b""}]),
        ("no_pixels", [{"width": 0}, {"height": 0}]),
        ("unknown_encoding", [{"encoding": "rgb999"}, {"encoding": ""}]),
        ("step_small", [{"step": 7}]),
        ("odd_size", [{"encoding": "nv12", "height": 47}]),
    ],
)
def test_an_image_that_cannot_be_read_is_ignored_with_one_warning_for_what_it_says(robot, node, publish, cause, faults):
    """Once, whatever its numbers: an encoding of another name is another thing to mend."""
    before = node._configured.buffer.state()
    texts = []
    for fields in faults:
        image = robot.image(time.time_ns(), **fields)
        with pytest.raises(BadImage) as bad:
            check(image)
        texts.append(str(bad.value))
        publish(image, cause)
    assert node._configured.buffer.state() == before
    said = [re.sub(r"\d+", "", text) for text in texts]
    assert [len(robot.warnings(node, text)) for text in texts] == [
        int(said[i] not in said[:i]) for i in range(len(said))
    ]


def test_a_change_of_size_starts_the_clip_afresh_and_warns_once(robot, node, publish):
    robot.film(node)
    now = time.time_ns()
    for i in range(3):  # to and fro: each change empties the buffer
        publish(robot.image(now + 2 * i, height=24, data=b"\x05" * 24 * 300), "changed", n=1)
        publish(robot.image(now + 2 * i + 1), "changed", n=1)
    assert "again and again: the size" in robot.expect(RESULT.UNEVEN_FRAMES).error_msg
    assert len(robot.warnings(node, "ns: the size, encoding or frame_id changed")) == 1


def test_a_change_of_encoding_starts_the_clip_afresh(robot, node, publish):
    robot.film(node)
    publish(robot.image(time.time_ns(), encoding="bgr8"), "changed", n=1)
    robot.expect(RESULT.UNEVEN_FRAMES)


def test_stamps_that_jump_back_start_the_clip_afresh_and_warn_once(robot, node, publish):
    for _ in range(3):
        stamps = robot.film(node)
        publish(robot.image(stamps[0] - 10 * PERIOD_NS), "jumped_back", n=1)
        assert node._configured.buffer.state().frames == 1
    robot.expect(RESULT.UNEVEN_FRAMES)
    assert len(robot.warnings(node, "ns: the stamps went backwards")) == 1


def test_a_stamp_that_repeats_counts_once(robot, node, publish):
    stamps = robot.film(node)
    before = node._configured.buffer.state()
    publish(robot.image(stamps[-1]), "duplicate")
    assert node._configured.buffer.state() == before
    assert len(robot.warnings(node, "its stamp is there already")) == 1


def test_an_image_without_a_stamp_is_dropped(robot, node, publish):
    robot.film(node)
    before = node._configured.buffer.state()
    publish(robot.image(0), "unstamped")
    assert node._configured.buffer.state() == before
    assert len(robot.warnings(node, "nobody stamped it")) == 1


def test_a_camera_that_stopped_is_stale(robot, node):
    robot.film(node, last_ns=time.time_ns() - 60 * 10**9)
    assert "max_age" in robot.expect(RESULT.STALE_FRAMES).error_msg


def test_stamps_of_another_clock_are_stale(robot, node):
    robot.film(node, last_ns=time.time_ns() + 3600 * 10**9)
    assert "clock" in robot.expect(RESULT.STALE_FRAMES).error_msg


def test_a_goal_before_any_frame(robot, node):
    node._configured.buffer.clear()
    robot.expect(RESULT.NO_FRAMES)
    robot.expect(RESULT.NO_FRAMES, condition=Predict.Goal.IMAGE)


def test_a_goal_before_nine_frames(robot, node):
    robot.film(node, n=8)
    assert "1 of 9" in robot.expect(RESULT.UNEVEN_FRAMES).error_msg


def test_a_gap_in_the_clip(robot, node):
    stamps = robot.film(node, n=5)
    robot.film(node, n=4, last_ns=stamps[-1] + 6 * PERIOD_NS, goes_on=True)
    robot.expect(RESULT.UNEVEN_FRAMES)


def test_until_in_the_future(robot, node):
    stamps = robot.film(node)
    robot.expect(RESULT.INVALID_GOAL, until=robot.time(stamps[-1] + 3600 * 10**9))


def test_until_before_the_buffer(robot, node):
    stamps = robot.film(node)
    robot.expect(RESULT.NO_FRAMES, until=robot.time(stamps[0] - 1))
    robot.expect(RESULT.UNEVEN_FRAMES, until=robot.time(stamps[4]))


@pytest.mark.parametrize(
    "goal",
    [
        {"temperature": NAN},
        {"temperature": float("inf")},
        {"temperature": float("-inf")},
        {"temperature": 11.0},
        {"top_p": NAN},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"condition": 2},
    ],
    ids=str,
)
def test_a_field_out_of_range(robot, node, goal):
    robot.film(node)
    assert next(iter(goal)) in robot.expect(RESULT.INVALID_GOAL, **goal).error_msg


def test_a_prompt_for_a_model_that_takes_none(robot, node):
    robot.film(node)
    assert "takes no prompt" in robot.expect(RESULT.INVALID_GOAL, prompt="a red cube").error_msg


def test_ten_thousand_words(robot, node):
    robot.film(node)
    robot.expect(RESULT.INVALID_GOAL, prompt="cube " * 10_000)
