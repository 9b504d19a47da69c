"""The service `~/score` over real DDS: costs of finished goals, and what is said of requests that cannot be served."""

from __future__ import annotations

import numpy as np
import pytest
from cosmos_ros.srv import ScoreRollouts
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image, RegionOfInterest
from unique_identifier_msgs.msg import UUID

from cosmos_ros import images
from cosmos_ros.planning import compare, score
from cosmos_ros.world_model.preprocessing import camera_view

ANSWER = ScoreRollouts.Response
CROP = camera_view((48, 100), (32, 64))  # what a model of 64x32 pixels sees of images of 100x48
DRAWN = {"temperature": 1.0, "top_p": 1.0, "include_frames": True}


def image_of(pixels: np.ndarray) -> Image:
    height, width, _ = pixels.shape
    return Image(height=height, width=width, encoding="rgb8", step=3 * width, data=pixels.tobytes())


@pytest.fixture
def ask(robot):
    return lambda **request: robot.call(ScoreRollouts, "foresight/score", **request)


@pytest.fixture
def goals(robot, node):
    """Two finished goals: their handles and results, of 3 and 2 samples."""
    finished = []
    for samples, seed in ((3, 1), (2, 50)):
        robot.film(node)
        handle = robot.send(samples=samples, seed=seed, **DRAWN)
        finished.append((handle.goal_id, robot.result(handle).result))
    return finished


class Frames:
    def __init__(self, rollout) -> None:
        self.frames = np.stack([images.to_rgb(frame) for frame in rollout.frames])


def test_the_costs_are_those_of_planning_in_the_order_asked(goals, ask):
    (first_id, first), (second_id, second) = goals
    goal_image = images.to_rgb(first.rollouts[1].frames[-1])
    answer = ask(goal_image=image_of(goal_image), goal_ids=[second_id, first_id], quantiles=[0.0, 1.0])
    assert (answer.error_code, answer.error_msg, answer.metric) == (ANSWER.NONE, "", "pixel")
    expected = [
        score([Frames(rollout) for rollout in result.rollouts], goal_image, quantiles=(0.0, 1.0))
        for result in (second, first)
    ]
    assert [bytes(cost.goal_id.uuid) for cost in answer.costs] == [bytes(second_id.uuid), bytes(first_id.uuid)]
    for heard, cost in zip(answer.costs, expected, strict=True):
        assert (heard.samples, heard.frames) == cost.costs.shape
        assert heard.cost == pytest.approx(cost.total)
        assert np.allclose(heard.mean, cost.mean) and np.allclose(heard.quantiles, cost.quantiles.ravel())
    best = compare(expected)
    assert (answer.best, answer.confidence) == (best.best, pytest.approx(best.confidence))


def test_the_latent_cost_is_measured_by_the_nodes_own_tokenizer(goals, ask):
    goal_id, result = goals[0]
    answer = ask(goal_image=result.rollouts[1].frames[-1], goal_ids=[goal_id], metric="latent", quantiles=[0.0])
    assert (answer.error_code, answer.error_msg, answer.metric) == (ANSWER.NONE, "", "latent")
    assert "tokenizer's codes" in answer.unit
    cost = answer.costs[0]
    assert cost.quantiles[-1] == 0 and cost.cost > 0  # one sample ends in the goal image itself; others go elsewhere


def test_a_goal_image_of_the_cameras_size_is_cropped_as_the_model_sees_it(goals, ask):
    whole = np.random.default_rng(0).integers(0, 256, (48, 100, 3), dtype=np.uint8)
    seen = np.ascontiguousarray(CROP.of(whole))
    ids = [goals[0][0]]
    answers = [ask(goal_image=image_of(pixels), goal_ids=ids, metric="structural") for pixels in (whole, seen)]
    assert answers[0].error_code == ANSWER.NONE, answers[0].error_msg
    assert answers[0].costs == answers[1].costs
    regions = [RegionOfInterest(x_offset=x, y_offset=4, width=30, height=20) for x in (10 + CROP.x, 10)]
    answers = [
        ask(goal_image=image_of(pixels), goal_ids=ids, region=region)
        for pixels, region in zip((whole, seen), regions, strict=True)
    ]
    assert answers[0].error_code == ANSWER.NONE, answers[0].error_msg
    assert answers[0].costs == answers[1].costs


def test_requests_that_cannot_be_served_are_answered_with_the_reason(goals, ask):
    fitting = image_of(np.zeros((48, 96, 3), np.uint8))
    stranger = UUID(uuid=[7] * 16)
    cases = [
        ({"goal_image": fitting, "goal_ids": [stranger]}, ANSWER.UNKNOWN_GOAL, "keep_rollouts"),
        ({"goal_image": image_of(np.zeros((10, 20, 3), np.uint8))}, ANSWER.INVALID_REQUEST, "20x10"),
        ({"goal_image": Image()}, ANSWER.INVALID_REQUEST, ""),
        ({"goal_image": fitting, "metric": "beauty"}, ANSWER.INVALID_REQUEST, "pixel, structural, latent"),
        ({"goal_image": fitting, "quantiles": [2.0]}, ANSWER.INVALID_REQUEST, "quantiles"),
        (
            {"goal_image": fitting, "region": RegionOfInterest(x_offset=90, width=20, height=20)},
            ANSWER.INVALID_REQUEST,
            "region",
        ),
    ]
    for request, code, words in cases:
        answer = ask(**request)
        assert answer.error_code == code and words in answer.error_msg, (request.keys(), answer.error_msg)


def test_only_the_last_goals_are_kept(robot, node, goals, ask, parameter):
    fitting = image_of(np.zeros((48, 96, 3), np.uint8))
    with parameter(node, "keep_rollouts", 1):
        robot.film(node)
        handle = robot.send(**DRAWN)
        robot.result(handle)
        assert ask(goal_image=fitting, goal_ids=[goals[1][0]]).error_code == ANSWER.UNKNOWN_GOAL
        assert [bytes(c.goal_id.uuid) for c in ask(goal_image=fitting).costs] == [bytes(handle.goal_id.uuid)]
    with parameter(node, "keep_rollouts", 0):  # which counts from now on, and not from the next goal
        assert ask(goal_image=fitting, goal_ids=[handle.goal_id]).error_code == ANSWER.UNKNOWN_GOAL
        robot.result(robot.send(**DRAWN))
        assert ask(goal_image=fitting).error_code == ANSWER.UNKNOWN_GOAL


def test_a_node_that_is_not_active_says_so(robot, ask):
    assert robot.change_state(Transition.TRANSITION_DEACTIVATE)
    assert ask(goal_image=Image()).error_code == ANSWER.NOT_ACTIVE
    assert robot.change_state(Transition.TRANSITION_ACTIVATE)
