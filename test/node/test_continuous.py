"""The continuous mode: what is due by the stamps, what gives way to goals, how a refusal rests; and over real DDS."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cosmos_ros.action import Predict
from cosmos_ros.msg import Rollout
from rclpy.parameter import Parameter

from cosmos_ros.errors import InvalidGoal, UnevenFrames, VideoBlocked
from cosmos_ros.node import continuous
from cosmos_ros.node.continuous import Continuous
from cosmos_ros.node.diagnostics import OK, WARN, continuous_status
from cosmos_ros.node.messages import nanoseconds_of
from cosmos_ros.queue import Job, PredictionQueue, Request
from cosmos_ros.settings import ContinuousConfig

RESULT = Predict.Result
START = 1_700_000_000 * 10**9
CAMERA_NS = 33_333_333
PERIOD_NS = 100_000_000  # the tiny checkpoint's


class Log:
    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, text: str) -> None:
        self.said.append(text)


class Model:
    """Predicts nothing, or what it is told to raise; says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.raises: Exception | None = None
        self.held = False
        self.go = threading.Semaphore(0)

    def predict(self, job: Job) -> Iterator[SimpleNamespace]:
        self.asked.append(job.request)
        if self.held:
            assert self.go.acquire(timeout=60)
        if self.raises:
            raise self.raises
        yield SimpleNamespace(n_frames=24, is_last=True)


class Rig:
    def __init__(self) -> None:
        self.model, self.log = Model(), Log()
        self.queue = PredictionQueue(self.model.predict, lambda job, part: "frames")
        self.queue.open()
        self.settings = ContinuousConfig(continuous_rate=2.0)
        self.mode = Continuous(self.queue, lambda: self.settings, self.log)

    def frame(self, stamp_ns: int) -> None:
        """A frame comes, and what it made due is done before the next one."""
        self.mode.frame_came(stamp_ns)
        while not (self.queue.idle or self.model.held):
            time.sleep(0.001)


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.model.go.release(1000)
    rig.queue.destroy("the test is over")


def test_the_stamps_decide_what_is_due(rig):
    for i in range(300):  # 10 s of a 30 Hz camera
        rig.frame(START + i * CAMERA_NS)
    until = [request.until_ns for request in rig.model.asked]
    assert len(until) == 20
    wanted = [START + k * 500_000_000 for k in range(20)]
    assert all(0 <= stamp - due < CAMERA_NS for stamp, due in zip(until, wanted, strict=True))
    assert rig.mode.counts == {"published": 20}


def test_a_pause_of_the_camera_is_not_made_up_for(rig):
    for stamp in (0, 100, 5000, 5100, 5500, 5600):
        rig.frame(START + stamp * 10**6)
    assert [(r.until_ns - START) // 10**6 for r in rig.model.asked] == [0, 5000, 5500]


def test_a_bag_that_loops_begins_anew(rig):
    for stamp in (0, 500, 900, 0, 100, 500):
        rig.frame(START + stamp * 10**6)
    assert [(r.until_ns - START) // 10**6 for r in rig.model.asked] == [0, 500, 0, 500]


def test_a_bag_that_loops_in_less_than_the_period_is_still_predicted(rig):
    rig.settings = replace(rig.settings, continuous_rate=0.1)
    for stamp in (0, 500, 1000, 0, 500, 1000, 0):
        rig.frame(START + stamp * 10**6)
    assert [(r.until_ns - START) // 10**6 for r in rig.model.asked] == [0, 0, 0]


def test_what_is_asked_for_are_the_parameters(rig):
    rig.settings = replace(
        rig.settings, continuous_prompt="a drive", continuous_seed=7, continuous_samples=3, continuous_frames=16
    )
    rig.frame(START)
    assert rig.model.asked == [Request(prompt="a drive", seed=7, until_ns=START, samples=3, frames=16)]


def test_it_starts_and_stops_at_any_time(rig):
    rig.settings = replace(rig.settings, continuous_rate=0.0)
    rig.frame(START)
    assert rig.model.asked == [] and continuous_status(rig.mode).summary == "off"
    rig.settings = replace(rig.settings, continuous_rate=10.0)
    rig.frame(START + 10**9)
    rig.settings = replace(rig.settings, continuous_rate=0.0)
    rig.frame(START + 2 * 10**9)
    assert [r.until_ns for r in rig.model.asked] == [START + 10**9]


def test_what_cannot_keep_up_is_skipped_and_counted(rig):
    rig.model.held = True
    for k in range(5):
        rig.frame(START + k * 500_000_000)
    assert rig.mode.counts == {"skipped, the model was busy or not active": 4}
    rig.model.held = False
    rig.model.go.release()
    while not rig.queue.idle:
        time.sleep(0.001)
    rig.frame(START + 5 * 500_000_000)
    assert [(r.until_ns - START) // 500_000_000 for r in rig.model.asked] == [0, 5]


def test_a_goal_goes_before_it_and_it_is_dropped(rig):
    rig.model.held = True
    rig.mode.frame_came(START)
    goal = Job(Request(prompt="goal"))
    rig.queue.submit(goal, "reject")
    rig.mode.frame_came(START + 10**9)
    rig.model.go.release(2)
    assert goal.ended.wait(60) and goal.outcome == ["frames"]
    assert [request.prompt for request in rig.model.asked[-1:]] == ["goal"] and len(rig.model.asked) <= 2
    assert rig.mode.counts["dropped for a goal"] == 1
    assert rig.mode.counts["skipped, the model was busy or not active"] == 1
    assert rig.log.said == []


def test_a_refusal_rests_longer_each_time_and_is_told(rig, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(continuous.time, "monotonic", lambda: clock[0])
    rig.model.raises = VideoBlocked("the scene is not safe")
    asked_after = []
    for second in range(200):
        before = len(rig.model.asked)
        rig.frame(START + second * 10**9)
        if len(rig.model.asked) > before:
            asked_after.append(second)
        clock[0] += 1.0
    rests = [b - a for a, b in zip(asked_after, asked_after[1:], strict=False)]
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "rests for" in continuous_status(rig.mode).summary and continuous_status(rig.mode).level == WARN
    assert "BLOCKED_VIDEO: the scene is not safe" in rig.log.said[0]
    rig.settings = replace(rig.settings, continuous_prompt="another")  # which may pass
    rig.model.raises = None
    rig.frame(START + 300 * 10**9)
    assert rig.mode.counts["published"] == 1 and continuous_status(rig.mode).level == OK


def test_too_few_frames_are_waited_for_without_a_word(rig):
    rig.model.raises = UnevenFrames("frame 3 of 9 is missing")
    for k in range(4):
        rig.frame(START + k * 10**9)
    assert rig.mode.counts == {"without a clip": 4} and rig.log.said == [] and not rig.mode.rests_s


def test_a_mistake_in_the_parameters_is_told(rig):
    rig.model.raises = InvalidGoal("tiny takes no prompt")
    rig.frame(START)
    assert "INVALID_GOAL: tiny takes no prompt" in rig.log.said[0]


def test_predictions_without_a_goal_are_those_that_a_goal_would_give(robot, node, listening, wait_for):
    heard: list[Rollout] = []
    with listening(robot, node, Rollout, "/foresight/rollout", heard.append):
        node.set_parameters([Parameter("continuous_rate", value=2.0), Parameter("continuous_seed", value=5)])
        try:
            stamps = robot.film(node, n=9)
            for _ in range(20):
                stamps += robot.film(node, n=1, last_ns=stamps[-1] + PERIOD_NS, goes_on=True)
                wait_for(lambda: node._queue.idle, "the prediction")
        finally:
            node.set_parameters([Parameter("continuous_rate", value=0.0), Parameter("continuous_seed", value=-1)])
        wait_for(lambda: len(heard) >= 4, "four predictions")
        ours = list(heard)
        assert all(bytes(rollout.goal_id.uuid) == bytes(16) and rollout.seed == 5 for rollout in ours)
        ends = [nanoseconds_of(rollout.header.stamp) for rollout in ours]
        assert all(b - a == 5 * PERIOD_NS for a, b in zip(ends, ends[1:], strict=False))
        asked = robot.predict(seed=5, until=robot.time(ends[-1]), include_frames=True)
    assert asked.error_code == RESULT.NONE, asked.error_msg
    assert asked.rollout.frames == ours[-1].frames
