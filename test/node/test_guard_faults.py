"""A guard that fails in a running node: the goal ends, no pixel leaves, the next goal is served."""

from __future__ import annotations

import threading

import pytest
from cosmos_ros.action import Predict
from cosmos_ros.msg import GuardDecision, Rollout

from cosmos_ros.guardrail.guard import Judgement

RESULT = Predict.Result
REFUSED = GuardDecision.REFUSED


def broken(_):
    raise RuntimeError("broken")


@pytest.fixture
def rollouts(robot, node, listening):
    """What the node has published since."""
    messages = []
    with listening(robot, node, Rollout, "/foresight/rollout", messages.append):
        yield messages


@pytest.mark.parametrize(
    ("kind", "method", "act"),
    [
        ("content", "judge", broken),
        ("content", "judge", lambda _: Judgement(99)),
        ("filters", "filter", broken),
        ("filters", "filter", lambda frames: (frames[:1], Judgement(0))),
    ],
)
def test_a_fault_ends_the_goal_and_the_next_is_served(robot, node, wait_for, rollouts, monkeypatch, kind, method, act):
    robot.film(node)
    guard = getattr(node._configured.foresight.guardrail.guards, kind)[0]
    with monkeypatch.context() as patch:
        patch.setattr(guard, method, act)
        result = robot.expect(RESULT.GUARDRAIL_UNAVAILABLE)
    assert f"guard {guard.name} " in result.error_msg
    assert (guard.name, REFUSED) in [(d.guard, d.verdict) for d in result.rollout.guardrail.decisions]
    assert not result.rollout.frames
    assert robot.predict(seed=5).error_code == RESULT.NONE
    wait_for(lambda: rollouts, "the good rollout")
    assert [rollout.seed for rollout in rollouts] == [5]


def test_a_guard_that_hangs_ends_the_goal_in_its_time(rig, ready, tiny_checkpoint, monkeypatch):
    robot, node = rig(checkpoint=str(tiny_checkpoint), guard_timeout=3.0)
    ready(node, robot)
    robot.film(node)
    guardrail = node._configured.foresight.guardrail
    guard, go_on = guardrail.guards.content[0], threading.Event()
    judge = guard.judge
    monkeypatch.setattr(guard, "judge", lambda frames: go_on.wait(60) and judge(frames))
    result = robot.expect(RESULT.GUARDRAIL_UNAVAILABLE)
    assert f"guard {guard.name} did not answer within 3 s" in result.error_msg
    go_on.set()
    monkeypatch.setattr(guardrail.watch, "timeout_s", 60.0)  # guards that do answer may be slow on a busy machine
    assert robot.predict().error_code == RESULT.NONE
