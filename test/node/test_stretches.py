"""Longer horizons over real DDS: a stretch leaves when it has passed, and what ends the goal later takes back none."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from cosmos_ros.action import Predict
from cosmos_ros.msg import Rollout
from cosmos_ros.srv import ScoreRollouts
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

from cosmos_ros import images
from cosmos_ros.guardrail.guard import Judgement
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.node.messages import nanoseconds_of, rollout_facts

RESULT = Predict.Result
DRAWN = {"temperature": 1.0, "top_p": 1.0, "include_frames": True}
LATCHED = QoSProfile(depth=16, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PERIOD_NS = 100_000_000  # the tiny checkpoint's


@pytest.fixture
def rollouts(robot, node, wait_for):
    """What the node has published since, from whichever publisher: a goal that needs a deeper one gets it."""
    heard = []
    subscription = robot.ros.create_subscription(Rollout, "/foresight/rollout", heard.append, 50)
    wait_for(node._configured.publisher._rollout.get_subscription_count, "the listener")
    yield heard
    robot.ros.destroy_subscription(subscription)
    wait_for(lambda: not node._configured.publisher._rollout.get_subscription_count(), "nobody")


def test_a_long_goal_comes_in_stretches_whose_stamps_go_on_and_the_result_is_the_whole(
    robot, node, rollouts, listening, wait_for
):
    stamps = robot.film(node)
    with (
        listening(robot, node, Image, "/foresight/image", (shown := []).append, 50),
        listening(robot, node, Image, "/foresight/mean", (mean := []).append, 50),
        listening(robot, node, Image, "/foresight/uncertainty", (spread := []).append, 50),
    ):
        handle = robot.send(samples=2, frames=25, seed=7, **DRAWN)
        result = robot.result(handle).result
        assert result.error_code == RESULT.NONE, result.error_msg
        assert "25 frames were asked for, 32 are there" in result.notice
        wait_for(lambda: len(rollouts) == 4, "two stretches of two samples")
        wait_for(lambda: [len(each) for each in (shown, mean, spread)] == [32] * 3, "32 frames of each")
    assert [(each.first_frame, each.sample, len(each.frames)) for each in rollouts] == [
        (0, 0, 24),
        (0, 1, 24),
        (24, 0, 8),
        (24, 1, 8),
    ]
    assert [list(each.seams) for each in rollouts] == [[], [], [1], [1]]
    assert {nanoseconds_of(each.header.stamp) for each in rollouts} == {stamps[-1]}
    for sample, whole in enumerate(result.rollouts):
        assert whole.frames == rollouts[sample].frames + rollouts[2 + sample].frames
        assert (whole.first_frame, list(whole.seams), whole.seed) == (0, [25], 7 + sample)
        assert whole.passes == rollouts[sample].passes + rollouts[2 + sample].passes
        assert whole.lead == rollouts[2 + sample].lead
    assert rollout_facts(result.rollout).as_json()["seams"] == [25]
    ideal = [stamps[-1] + k * PERIOD_NS for k in range(1, 33)]
    assert [stamp_of(frame) for frame in result.rollout.frames] == ideal
    assert shown == result.rollout.frames
    assert [stamp_of(image) for image in mean] == ideal
    assert [stamp_of(image) for image in spread] == ideal

    latecomer = robot.ros.create_subscription(Rollout, "/foresight/rollout", (late := []).append, LATCHED)
    wait_for(lambda: len(late) == 4, "all of the goal for a late listener")
    robot.ros.destroy_subscription(latecomer)
    assert late == rollouts
    costs = robot.call(
        ScoreRollouts, "foresight/score", goal_ids=[handle.goal_id], goal_image=result.rollout.frames[-1]
    ).costs
    assert costs[0].frames == 32 and costs[0].samples == 2
    alone = robot.predict(seed=8, frames=32, until=robot.time(stamps[-1]), **DRAWN)
    assert alone.notice == "" and alone.rollout.frames == result.rollouts[1].frames


@pytest.fixture
def later(node, monkeypatch):
    """later(act): have a guard do this with the frames of a goal's second stretch."""
    guardrail = node._configured.foresight.guardrail
    guard, screen, stretches = guardrail.guards.content[0], guardrail.screen, []
    judge = guard.judge

    def noted(prompt, crop, first_frame=0):
        stretches.append(first_frame)
        return screen(prompt, crop, first_frame)

    def change(act):
        monkeypatch.setattr(guardrail, "screen", noted)
        monkeypatch.setattr(guard, "judge", lambda frames: act(frames) if stretches[-1] else judge(frames))

    yield change
    monkeypatch.undo()


def stamp_of(image: Image) -> int:
    return nanoseconds_of(image.header.stamp)


def broken(frames):
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda frames: Judgement(Verdict.REFUSED, "no", frame=5), RESULT.BLOCKED_VIDEO),
        (broken, RESULT.GUARDRAIL_UNAVAILABLE),
    ],
)
def test_a_later_stretch_that_is_refused_leaves_nowhere_and_takes_back_nothing(
    robot, node, rollouts, listening, wait_for, later, act, code
):
    stamps = robot.film(node)
    later(act)
    with (
        listening(robot, node, Image, "/foresight/image", (shown := []).append, 50),
        listening(robot, node, Image, "/foresight/mean", (mean := []).append, 50),
        listening(robot, node, Image, "/foresight/contact_sheet", (sheets := []).append, 50),
    ):
        result = robot.expect(code, samples=2, frames=48, **DRAWN)
        assert result.error_msg.endswith("; frames 1 to 24 had left on ~/rollout by then")
        if code == RESULT.BLOCKED_VIDEO:
            assert "refused predicted frame 30" in result.error_msg
        last = stamps[-1] + 24 * PERIOD_NS
        wait_for(lambda: all(heard and stamp_of(heard[-1]) == last for heard in (shown, mean)), "the first stretch")
    assert [(each.first_frame, len(each.frames)) for each in rollouts] == [(0, 24)] * 2
    assert max(map(stamp_of, shown + mean)) == last
    assert len(sheets) == 1 and not result.rollouts and not result.rollout.frames


def test_a_goal_that_is_cancelled_in_a_later_stretch_ends_at_once_and_says_what_left(
    robot, node, rollouts, wait_for, later
):
    robot.film(node)
    reached, go_on = threading.Event(), threading.Event()

    def hold(frames):
        reached.set()
        assert go_on.wait(60)
        return Judgement(Verdict.PASSED)

    later(hold)
    handle = robot.send(frames=48, **DRAWN)
    assert reached.wait(60)
    robot.ask(handle.cancel_goal_async)
    answer = robot.result(handle)
    go_on.set()
    assert (answer.status, answer.result.error_code) == (GoalStatus.STATUS_CANCELED, RESULT.CANCELED)
    assert "frames 1 to 24 had left" in answer.result.error_msg
    wait_for(lambda: node._queue.idle, "the worker")
    assert [each.first_frame for each in rollouts] == [0]


@pytest.mark.parametrize(("frames", "given"), [(0, 24), (7, 8), (25, 32), (96, 96)])
def test_as_many_frames_come_as_are_asked_for(robot, node, frames, given):
    robot.film(node)
    result = robot.predict(frames=frames, include_frames=True)
    assert result.error_code == RESULT.NONE, result.error_msg
    assert len(result.rollout.frames) == given and bool(result.notice) == (frames not in (0, given))


@pytest.mark.parametrize("frames", [97, 10_000, 2**32 - 1])
def test_more_frames_than_the_parameter_allows(robot, node, frames):
    assert (
        f"frames must lie in 0..96 (0: the model's own number; the most is the parameter max_frames); got {frames}"
        in robot.expect(RESULT.INVALID_GOAL, frames=frames).error_msg
    )


def test_the_limit_is_a_parameter(robot, node, parameter):
    robot.film(node)
    with parameter(node, "max_frames", 30):
        assert "0..30" in robot.expect(RESULT.INVALID_GOAL, frames=31).error_msg
        assert len(robot.predict(frames=30, include_frames=True).rollout.frames) == 32


def test_continuous_predictions_are_as_long_as_their_parameter_says(robot, node, rollouts, parameter, wait_for):
    given = {"continuous_rate": 2.0, "continuous_frames": 40, "continuous_seed": 5}
    node.set_parameters([Parameter(name, value=value) for name, value in given.items()])
    try:
        robot.film(node, n=11)  # predictions are due with the first, the sixth and the last, and only that has a clip
        wait_for(lambda: len(rollouts) == 2, "both stretches")
    finally:
        node.set_parameters([Parameter(name, value=value) for name, value in zip(given, (0.0, 0, -1), strict=True)])
    assert [(each.first_frame, len(each.frames)) for each in rollouts] == [(0, 24), (24, 16)]
    assert all(not np.any(each.goal_id.uuid) for each in rollouts)
    frames = [images.to_rgb(frame) for each in rollouts for frame in each.frames]
    goal = robot.predict(seed=5, frames=40, until=rollouts[0].header.stamp, include_frames=True)
    assert np.array_equal(frames, [images.to_rgb(frame) for frame in goal.rollout.frames])
