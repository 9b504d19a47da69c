"""Several futures of one clip, and fewer frames, over real DDS: what the result, ~/rollout and ~/image carry."""

from __future__ import annotations

import numpy as np
import pytest
from cosmos_ros.action import Predict
from cosmos_ros.msg import Rollout
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

from cosmos_ros import images
from cosmos_ros.errors import VideoBlocked
from cosmos_ros.node.messages import nanoseconds_of

RESULT = Predict.Result
DRAWN = {"temperature": 1.0, "top_p": 1.0, "include_frames": True}
LATCHED = QoSProfile(depth=16, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture
def hear(robot, wait_for):
    """hear(type, topic, qos=10) -> the list of what comes, from whichever publisher the node has by then"""
    subscriptions = []

    def listen(message_type, topic, qos=10):
        heard = []
        before = robot.ros.count_publishers(topic)
        subscriptions.append(robot.ros.create_subscription(message_type, topic, heard.append, qos))
        assert before
        return heard

    yield listen
    for subscription in subscriptions:
        robot.ros.destroy_subscription(subscription)


def test_every_sample_is_what_its_seed_gives_alone_and_the_first_is_the_rollout(robot, node):
    stamps = robot.film(node)
    result = robot.predict(samples=3, seed=40, **DRAWN)
    assert result.error_code == RESULT.NONE, result.error_msg
    assert [(rollout.seed, rollout.sample) for rollout in result.rollouts] == [(40, 0), (41, 1), (42, 2)]
    assert result.rollout == result.rollouts[0]
    frames = [bytes(rollout.frames[-1].data) for rollout in result.rollouts]
    assert len(set(frames)) == 3
    for k in range(3):
        alone = robot.predict(seed=40 + k, until=robot.time(stamps[-1]), **DRAWN).rollouts
        assert len(alone) == 1 and bytes(alone[0].frames[-1].data) == frames[k]
    bare = robot.predict(samples=2, seed=40, until=robot.time(stamps[-1]), **(DRAWN | {"include_frames": False}))
    assert [rollout.frames for rollout in bare.rollouts] == [[], []]


def test_all_samples_of_a_goal_are_published_in_order_kept_for_late_joiners_and_the_first_is_played(
    robot, node, hear, listening, wait_for
):
    robot.film(node)
    early = hear(Rollout, "/foresight/rollout", 50)
    wait_for(lambda: node.count_subscribers("/foresight/rollout") == 1, "the early listener")
    with listening(robot, node, Image, "/foresight/image", (shown := []).append, 50):
        handle = robot.send(samples=5, seed=7, **DRAWN)
        result = robot.result(handle).result
        assert result.error_code == RESULT.NONE, result.error_msg
        goal_id = bytes(handle.goal_id.uuid)
        wait_for(lambda: len(of_goal(early, goal_id)) == 5, "five rollouts")
        assert of_goal(early, goal_id) == [0, 1, 2, 3, 4]
        late = hear(Rollout, "/foresight/rollout", LATCHED)
        wait_for(lambda: len(of_goal(late, goal_id)) == 5, "five latched rollouts")
        assert of_goal(late, goal_id) == [0, 1, 2, 3, 4]
        stamps = [nanoseconds_of(frame.header.stamp) for frame in result.rollout.frames]
        wait_for(lambda: shown and nanoseconds_of(shown[-1].header.stamp) == stamps[-1], "the last frame")
    assert [image for image in shown if nanoseconds_of(image.header.stamp) in stamps] == result.rollout.frames


def test_where_somebody_listens_the_samples_spread_and_mean_are_played(robot, node, listening, wait_for):
    robot.film(node)
    with (
        listening(robot, node, Image, "/foresight/uncertainty", (spread := []).append, 50),
        listening(robot, node, Image, "/foresight/mean", (mean := []).append, 50),
    ):
        result = robot.predict(samples=4, seed=3, **DRAWN)
        wait_for(lambda: len(spread) == len(mean) == 24, "24 frames each")
    frames = np.stack([[images.to_rgb(frame) for frame in rollout.frames] for rollout in result.rollouts])
    grey = frames @ np.array([0.299, 0.587, 0.114])
    for k, (map_, average) in enumerate(zip(spread, mean, strict=True)):
        assert map_.header == average.header == result.rollout.frames[k].header
        assert (map_.encoding, map_.height, map_.width, map_.step) == ("32FC1", 48, 96, 4 * 96)
        values = np.frombuffer(bytes(map_.data), "<f4").reshape(48, 96)
        assert np.allclose(values, grey[:, k].std(axis=0), atol=1e-3) and values.max() > 1
        assert np.abs(images.to_rgb(average) - frames[:, k].mean(axis=0)).max() <= 0.5 + 1e-6


def test_one_sample_has_no_spread(robot, node, listening, wait_for):
    robot.film(node)
    with (
        listening(robot, node, Image, "/foresight/uncertainty", (spread := []).append, 50),
        listening(robot, node, Image, "/foresight/image", (shown := []).append, 50),
    ):
        robot.predict(samples=1)
        wait_for(lambda: len(shown) == 24, "the rollout")
    assert spread == []


def test_a_mean_that_is_refused_stays_silent_and_the_goal_succeeds(robot, node, listening, monkeypatch, wait_for):
    robot.film(node)

    def refuse(rollouts):
        raise VideoBlocked("the mean is not safe")

    monkeypatch.setattr(node._configured.foresight, "mean", refuse)
    with listening(robot, node, Image, "/foresight/mean", (mean := []).append, 50):
        assert robot.predict(samples=2, seed=3, **DRAWN).error_code == RESULT.NONE
        wait_for(lambda: robot.warnings(node, "~/mean stays silent: BLOCKED_VIDEO"), "the warning")
    assert mean == []


def of_goal(heard: list[Rollout], goal_id: bytes) -> list[int]:
    return [rollout.sample for rollout in list(heard) if bytes(rollout.goal_id.uuid) == goal_id]


@pytest.mark.parametrize("samples", [17, 1000, 2**32 - 1])
def test_too_many_samples(robot, node, samples):
    assert (
        f"samples must lie in 0..16 (0: one); got {samples}"
        in robot.expect(RESULT.INVALID_GOAL, samples=samples).error_msg
    )


def test_no_samples_are_one(robot, node):
    robot.film(node)
    assert len(robot.predict(samples=0).rollouts) == 1


def test_several_greedy_samples_would_feign_certainty(robot, node):
    robot.film(node)
    assert "temperature 0" in robot.expect(RESULT.INVALID_GOAL, samples=2, temperature=0.0).error_msg


def test_the_seeds_of_all_samples_must_exist(robot, node):
    robot.film(node)
    assert "seed" in robot.expect(RESULT.INVALID_GOAL, samples=2, seed=2**63 - 1, temperature=1.0).error_msg


@pytest.mark.parametrize(("asked", "given"), [(8, 8), (7, 8), (1, 8), (16, 16), (23, 24), (24, 24)])
def test_fewer_frames_are_rounded_up_to_whole_latent_frames_and_the_result_says_so(robot, node, asked, given):
    robot.film(node)
    result = robot.predict(frames=asked, include_frames=True)
    assert result.error_code == RESULT.NONE, result.error_msg
    assert len(result.rollout.frames) == given
    if asked == given:
        assert result.notice == ""
    else:
        assert f"{asked} frames were asked for, {given} are there" in result.notice


def test_an_invalid_goal_does_not_take_over_from_a_valid_one(robot, node, parameter):
    """It is refused when it comes, before the queue: `preempt` is for goals that can be served."""
    robot.film(node)
    with parameter(node, "when_busy", "preempt"):
        good = robot.send(samples=4, **DRAWN)
        robot.expect(RESULT.INVALID_GOAL, samples=17)
        assert robot.result(good).result.error_code == RESULT.NONE
