"""Prompts over real DDS, for a model that needs one."""

from __future__ import annotations

import pytest
from cosmos_ros.action import Predict
from cosmos_ros.msg import GuardDecision

RESULT = Predict.Result


@pytest.fixture(scope="module")
def node(domain, robot, running_node, ready, tiny_text_checkpoint):
    with running_node(domain, checkpoint=str(tiny_text_checkpoint)) as node:
        ready(node, robot)
        yield node


@pytest.fixture(autouse=True)
def next_goal_succeeds(robot, node, known_prompt):
    yield
    robot.film(node)
    answer = robot.predict(prompt=known_prompt)
    assert answer.error_code == RESULT.NONE, answer.error_msg
    assert answer.rollout.prompt == known_prompt


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt(robot, node, prompt):
    robot.film(node)
    assert "needs a prompt" in robot.expect(RESULT.INVALID_GOAL, prompt=prompt).error_msg


def test_ten_thousand_words(robot, node):
    robot.film(node)
    assert "10000 words" in robot.expect(RESULT.INVALID_GOAL, prompt="cube " * 10_000).error_msg


def test_a_prompt_that_the_guardrail_refuses_says_which_guard(robot, node):
    robot.film(node)
    result = robot.expect(RESULT.BLOCKED_PROMPT, prompt="a bloody massacre, people are tortured and murdered")
    decisions = result.rollout.guardrail.decisions
    assert result.rollout.guardrail.profile == "embedded"
    assert [d.verdict for d in decisions if d.guard == "blocklist"] == [GuardDecision.REFUSED]
    assert result.rollout.frames == []


def test_a_prompt_that_nobody_can_embed(robot, node):
    robot.film(node)
    assert "t5" in robot.expect(RESULT.MODEL_UNAVAILABLE, prompt="the gripper closes").error_msg.lower()
