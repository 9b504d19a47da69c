"""Cancel, preempt, queue, reject, deactivate: while the model is held between two decoding passes, so nothing is left
to chance, and passes are counted instead of seconds."""

from __future__ import annotations

import threading

import pytest
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from cosmos_ros.action import Predict
from cosmos_ros.msg import Rollout
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient

from cosmos_ros.node.diagnostics import WARN
from cosmos_ros.progress import Stage

RESULT = Predict.Result
CANCELED, ABORTED, SUCCEEDED = GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED, GoalStatus.STATUS_SUCCEEDED
DRAWN = {"temperature": 1.0, "top_p": 1.0}


class Brake:
    """Holds the real model after each decoding pass until it is released, and counts the passes."""

    def __init__(self, model, monkeypatch) -> None:
        self.passes = 0
        self._held = threading.Event()
        self._go = threading.Event()
        roll_out = model.roll_out

        def braked(*args, **kwargs):
            counted = 0
            for step in roll_out(*args, **kwargs):  # the last pass's comes again and again while frames are decoded
                self.passes, counted = self.passes + step.passes - counted, step.passes
                self._held.set()
                assert self._go.wait(60)
                yield step

        monkeypatch.setattr(model, "roll_out", braked)

    def wait_held(self) -> None:
        assert self._held.wait(60), "no decoding pass"

    def release(self) -> None:
        self._go.set()


@pytest.fixture
def brake(node, monkeypatch):
    brake = Brake(node._configured.foresight._model, monkeypatch)
    yield brake
    brake.release()


@pytest.fixture
def running(robot, node, brake):
    """A goal whose model is held after its first pass."""
    robot.film(node)
    handle = robot.send(**DRAWN)
    brake.wait_held()
    return handle


@pytest.fixture(autouse=True)
def next_goal_succeeds(robot, node, wait_for):
    """And so it does, whatever happened before; only this rollout and other good ones were published."""
    yield
    robot.film(node)
    assert robot.predict().error_code == RESULT.NONE


@pytest.fixture
def published(robot, node, listening):
    """Ids of the goals whose rollouts are published from now on."""
    ids = []
    with listening(robot, node, Rollout, "/foresight/rollout", lambda rollout: ids.append(bytes(rollout.goal_id.uuid))):
        yield ids


def id_of(handle) -> bytes:
    return bytes(handle.goal_id.uuid)


def idle(node, wait_for) -> None:
    wait_for(lambda: node._queue.idle, "the worker to let go")


def test_cancel_is_answered_at_once_and_the_model_stops_after_the_pass_it_is_in(
    robot, node, brake, running, published, wait_for
):
    cancel = robot.ask(running.cancel_goal_async)
    assert cancel.return_code == CancelGoal.Response.ERROR_NONE and len(cancel.goals_canceling) == 1
    answer = robot.result(running)  # the model is still held: the answer does not wait for it
    assert (answer.status, answer.result.error_code) == (CANCELED, RESULT.CANCELED)
    assert answer.result.rollout.frames == []
    brake.release()
    idle(node, wait_for)
    assert brake.passes == 1
    assert id_of(running) not in published


def test_cancel_before_it_runs(robot, node, brake, running, parameter, wait_for):
    with parameter(node, "when_busy", "queue"):
        waiting = robot.send()
        wait_for(lambda: any(f.stage == Stage.WAITING for f in robot.feedback), "feedback that it waits")
        robot.ask(waiting.cancel_goal_async)
        answer = robot.result(waiting)
    assert (answer.status, answer.result.error_code) == (CANCELED, RESULT.CANCELED)
    brake.release()
    assert robot.result(running).status == SUCCEEDED, "the running goal is not touched"


def test_cancel_after_the_end(robot, node):
    robot.film(node)
    handle = robot.send()
    assert robot.result(handle).status == SUCCEEDED
    cancel = robot.ask(handle.cancel_goal_async)
    assert cancel.return_code == CancelGoal.Response.ERROR_GOAL_TERMINATED
    assert cancel.goals_canceling == []


def test_a_second_goal_is_rejected_with_the_reason(robot, node, brake, running):
    second = robot.result(robot.send())
    assert (second.status, second.result.error_code) == (ABORTED, RESULT.BUSY)
    assert "busy" in second.result.error_msg and "when_busy" in second.result.error_msg
    brake.release()
    assert robot.result(running).status == SUCCEEDED


def test_a_goal_after_a_cancel_is_not_rejected_though_the_model_still_finishes_its_pass(robot, node, brake, running):
    robot.ask(running.cancel_goal_async)
    assert robot.result(running).status == CANCELED
    second = robot.send(**DRAWN)
    brake.release()
    assert robot.result(second).status == SUCCEEDED


def test_a_newer_goal_takes_over(robot, node, brake, running, parameter, published, wait_for):
    with parameter(node, "when_busy", "preempt"):
        second = robot.send(**DRAWN)
        first_answer = robot.result(running)  # while the model is held
        third = robot.send(**DRAWN)
        second_answer = robot.result(second)
    for answer in (first_answer, second_answer):
        assert (answer.status, answer.result.error_code) == (ABORTED, RESULT.PREEMPTED)
    brake.release()
    assert robot.result(third).status == SUCCEEDED
    wait_for(lambda: id_of(third) in published, "the third goal's rollout")
    assert published == [id_of(third)]
    alone = brake.passes - 1  # the first goal took one, the second none
    robot.predict(**DRAWN)
    assert brake.passes - 1 - alone == alone


def test_goals_queue_in_their_order(robot, node, brake, running, parameter, published, wait_for):
    with parameter(node, "when_busy", "queue"):
        waiting = [robot.send(**DRAWN) for _ in range(3)]
        robot.ask(waiting[1].cancel_goal_async)
        assert robot.result(waiting[1]).status == CANCELED
        brake.release()
        answers = [robot.result(handle) for handle in (running, waiting[0], waiting[2])]
    assert [answer.status for answer in answers] == [SUCCEEDED] * 3
    wait_for(lambda: len(published) == 3, "three rollouts")
    assert published == [id_of(running), id_of(waiting[0]), id_of(waiting[2])]


def test_cancel_all(robot, node, brake, running, parameter):
    with parameter(node, "when_busy", "queue"):
        waiting = robot.send()
        response = robot.call(CancelGoal, "foresight/predict/_action/cancel_goal")
    assert len(response.goals_canceling) == 2
    assert [robot.result(handle).status for handle in (running, waiting)] == [CANCELED] * 2


def test_deactivate_ends_the_running_and_the_waiting_goal_and_unloads(robot, node, brake, running, parameter, wait_for):
    with parameter(node, "when_busy", "queue"):
        waiting = robot.send()
    change = threading.Thread(target=robot.change_state, args=(Transition.TRANSITION_DEACTIVATE,))
    change.start()
    for handle in (running, waiting):
        answer = robot.result(handle)
        assert (answer.status, answer.result.error_code) == (ABORTED, RESULT.NOT_ACTIVE)
        assert "deactivated" in answer.result.error_msg
    brake.release()
    change.join()
    assert brake.passes == 1
    assert robot.state() == "inactive" and not node._configured.foresight.loaded
    assert "not active" in robot.expect(RESULT.NOT_ACTIVE).error_msg
    assert not node._configured.foresight.loaded, "a refused goal loads nothing"
    assert robot.change_state(Transition.TRANSITION_ACTIVATE)
    assert node._configured.foresight.loaded


def test_a_goal_whose_client_is_gone_goes_on(robot, node, brake, published, wait_for, running_robot, domain):
    robot.film(node)
    with running_robot(domain) as other:
        handle = other.send(**DRAWN)
        brake.wait_held()
        wait_for(lambda: len(node._action._goals[id_of(handle)].clients) == 2, "both clients")
    said = f"1 of the 2 clients that may have sent goal {id_of(handle).hex()[:8]} are gone"
    wait_for(lambda: said in node._action.orphans, "the client's going")
    (status,) = (status for status in node._statuses() if status.subject == "goals")
    assert status.level == WARN and said in status.summary
    brake.release()
    wait_for(lambda: id_of(handle) in published, "its rollout")
    wait_for(lambda: not node._action.orphans, "the goal's end")


def test_a_goal_whose_only_client_is_gone(rig, ready, tiny_checkpoint, monkeypatch, wait_for, running_robot, domain):
    robot, node = rig(checkpoint=str(tiny_checkpoint))
    ready(node, robot)
    robot.action.destroy()
    feedback = node.resolve_topic_name("~/predict/_action/feedback")
    try:
        wait_for(lambda: not node.count_subscribers(feedback), "the other client's leave")
        brake = Brake(node._configured.foresight._model, monkeypatch)
        robot.film(node)
        with running_robot(domain, robot.namespace) as other:
            handle = other.send(**DRAWN)
            brake.wait_held()
            wait_for(lambda: node._action._goals[id_of(handle)].clients, "its client")
        said = f"the client of goal {id_of(handle).hex()[:8]} is gone"
        wait_for(lambda: said in node._action.orphans, "the client's going")
        brake.release()
        wait_for(lambda: node._queue.idle, "its end")
    finally:
        robot.action = ActionClient(robot.ros, Predict, "foresight/predict")


def test_an_unexpected_failure_ends_one_goal_only(robot, node, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("of all things")

    robot.film(node)
    with monkeypatch.context() as patch:
        patch.setattr(node._configured.foresight._model, "tokenize", broken)
        assert "ZeroDivisionError: of all things" in robot.expect(RESULT.INTERNAL).error_msg
    with monkeypatch.context() as patch:
        patch.setattr(node._configured.publisher, "publish", broken)
        robot.expect(RESULT.INTERNAL)


def test_the_device_out_of_memory_ends_one_goal_only(robot, node, monkeypatch):
    robot.film(node)
    with monkeypatch.context() as patch:
        patch.setattr(node._configured.foresight._model, "tokenize", _exhaust_memory)
        assert robot.expect(RESULT.OUT_OF_MEMORY).error_msg


def _exhaust_memory(*args, **kwargs):
    import torch

    return torch.empty(2**60, dtype=torch.uint8)
