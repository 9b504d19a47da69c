"""The action `~/predict`: a client's goals into the queue, and what became of them back to the client.

A goal is always accepted and then, where it cannot be served, aborted with a code and a message: a rejected goal
could not tell its client why. The queue's worker predicts and publishes; an executor's thread concludes each goal: it
waits for the goal's end or for a cancel request, and answers. So the answer to a cancel request does not wait for the
worker, which may be anywhere between two passes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rclpy.action import CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from cosmos_ros.action import Predict
from cosmos_ros.errors import Canceled, ForesightError, InvalidGoal
from cosmos_ros.msg import GuardrailStatus
from cosmos_ros.node.messages import feedback_message, guardrail_status, request_of, without_frames
from cosmos_ros.node.rclpy_internals import AnsweringActionServer, execute
from cosmos_ros.node.timers import steady_timer
from cosmos_ros.queue import Job, PredictionQueue, Request
from cosmos_ros.settings import NodeConfig

RESULT_TIMEOUT_S = 30  # rclpy's own is 900 s; one result with frames holds 47 MB at 640x1024
WATCH_PERIOD_S = 0.5  # between two feedbacks of a goal that waits, and between two looks at who is still there
CANCEL_POLL_S = 0.02
DISCOVERY_S = 2.0  # by which a goal may come before the feedback subscription of its client is known
FAREWELL_S = 1.0  # in which the last results go out; a client that does not ask for its result is not waited for


@dataclass
class ActionGoal:
    """A goal that has no answer yet.

    clients  who listened to feedback about when it came, by endpoint: its own client is one of them
    gone     how many of them have gone since
    """

    handle: ServerGoalHandle
    clients: frozenset[bytes]
    gone: int = 0
    job: Job = field(init=False)
    came: float = field(default_factory=time.monotonic)
    executing: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def id(self) -> bytes:
        return bytes(self.handle.goal_id.uuid)

    def execute(self) -> None:
        """Have the executor conclude it, once."""
        with self.lock:
            first, self.executing = not self.executing, True
        if first:
            execute(self.handle)


class PredictAction:
    """The action server in front of a queue whose jobs end with the messages of every stretch, last those of the whole.

    settings  the parameters as they are now: `when_busy` and `max_frames` count
    profile   of the guardrail in force; "" where there is none yet
    """

    def __init__(
        self, node: Node, queue: PredictionQueue, settings: Callable[[], NodeConfig], profile: Callable[[], str]
    ) -> None:
        self._node, self._queue, self._settings, self._profile = node, queue, settings, profile
        self._log = node.get_logger().get_child("predict")
        self.last_error = ""
        self.last_status = GuardrailStatus()  # what the guards decided about the last goal that they were asked about
        self._goals: dict[bytes, ActionGoal] = {}  # every goal that has no answer yet
        group = ReentrantCallbackGroup()
        self._server = AnsweringActionServer(
            node,
            Predict,
            "~/predict",
            self._conclude,
            handle_accepted_callback=self._accept,
            cancel_callback=self._on_cancel,
            callback_group=group,
            result_timeout=RESULT_TIMEOUT_S,
        )
        self._feedback_topic = node.resolve_topic_name("~/predict/_action/feedback")
        steady_timer(node, WATCH_PERIOD_S, self._watch, group)

    @property
    def orphans(self) -> list[str]:
        """What is known of goals whose clients have gone, a line each."""
        return [_orphan(goal) for goal in tuple(self._goals.values()) if goal.gone]

    def say_farewell(self, reason: str) -> None:
        """End every goal with NOT_ACTIVE and this reason, and see that the answers go out."""
        unanswered = set(self._goals)
        self._queue.refuse(reason)
        self._queue.close(reason)
        self._server.wait_for_answers(unanswered, FAREWELL_S)

    def destroy(self) -> None:
        self._server.destroy()

    def _accept(self, handle: ServerGoalHandle) -> None:
        goal = ActionGoal(handle, self._clients())
        request, objection, settings = Request(), None, self._settings()
        try:
            request = request_of(handle.request, settings.max_frames)
        except InvalidGoal as error:
            objection = error
        goal.job = Job(
            request,
            id=goal.id,
            on_start=goal.execute,
            on_progress=lambda progress: handle.publish_feedback(feedback_message(progress)),
            on_end=goal.execute,
        )
        self._goals[goal.id] = goal
        if objection is not None:
            goal.job.stop(objection)
        else:
            self._queue.submit(goal.job, settings.when_busy)

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        goal = self._goals.get(bytes(handle.goal_id.uuid))
        if goal is not None and self._queue.drop(goal.job):
            goal.execute()  # `_conclude` ends it: rclpy has not noted the request yet
        return CancelResponse.ACCEPT

    def _conclude(self, handle: ServerGoalHandle) -> Predict.Result:
        goal = self._goals[bytes(handle.goal_id.uuid)]
        while not goal.job.ended.wait(CANCEL_POLL_S):
            if handle.is_cancel_requested:
                goal.job.stop(Canceled("canceled by the client"))
        del self._goals[goal.id]
        outcome, goal.job.outcome = goal.job.outcome, None  # no frame waits until the last one forgets the job
        if isinstance(outcome, ForesightError):
            return self._failed(handle, outcome, goal.job.frames_left)
        handle.succeed()
        whole = outcome[-1]
        self.last_status = whole[0].guardrail
        rollouts = whole if handle.request.include_frames else [without_frames(rollout) for rollout in whole]
        return Predict.Result(
            error_code=Predict.Result.NONE,
            rollout=rollouts[0],
            rollouts=rollouts,
            notice=_notice(handle.request.frames, len(whole[0].frames)),
        )

    def _failed(self, handle: ServerGoalHandle, error: ForesightError, frames_left: int) -> Predict.Result:
        said = f"{error}; frames 1 to {frames_left} had left on ~/rollout by then" if frames_left else str(error)
        if type(error) is Canceled:
            handle.canceled()
        else:
            handle.abort()
            self.last_error = f"{error.code}: {said}"
            self._log.warning(f"goal aborted with {self.last_error}")
        result = Predict.Result(error_code=getattr(Predict.Result, error.code), error_msg=said)
        if error.report is not None:
            result.rollout.guardrail = self.last_status = guardrail_status(error.report)
        else:
            result.rollout.guardrail.profile = self._profile()
        return result

    def _watch(self) -> None:
        self._queue.report_waiting()
        goals = tuple(self._goals.values())
        here = self._clients() if goals else frozenset()
        for goal in goals:
            if time.monotonic() < goal.came + DISCOVERY_S:
                goal.clients |= here
            gone = len(goal.clients - here)
            if gone > goal.gone:
                goal.gone = gone
                self._log.warning(f"{_orphan(goal)}; it goes on, for others may read ~/rollout")

    def _clients(self) -> frozenset[bytes]:
        """Whoever listens to feedback: an action's clients all do, and rclpy does not say which sent a goal."""
        listeners = self._node.get_subscriptions_info_by_topic(self._feedback_topic)
        return frozenset(bytes(listener.endpoint_gid) for listener in listeners)


def _notice(asked: int, given: int) -> str:
    """What became of the number of frames that a goal asked for; 0: it left the number to the server."""
    if asked in (0, given):
        return ""
    return f"{asked} frames were asked for, {given} are there: the model predicts whole latent frames"


def _orphan(goal: ActionGoal) -> str:
    name = f"goal {goal.id.hex()[:8]}"
    if goal.gone == len(goal.clients):
        return f"the client of {name} is gone"
    return f"{goal.gone} of the {len(goal.clients)} clients that may have sent {name} are gone"
