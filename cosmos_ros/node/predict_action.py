"""The action `~/predict`: takes goals, runs them one at a time off the executor, and answers every one of them.

A goal is always accepted and then, where it cannot be served, aborted with a code and a message: a rejected goal
could not tell its client why. The life of a goal, and the threads that carry it:

    executor   accepts it: to run now, to wait, or in the running goal's place, as `when_busy` says
    worker     one thread for the node's whole life: predicts, reports, publishes; asks after every pass whether to stop
    executor   concludes it: waits for its end or for a cancel request, and answers the client

The answer to a cancel request does not wait for the worker, which may be anywhere between two passes.
"""

from __future__ import annotations

import collections
import threading
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import RCLError, ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from cosmos_ros.action import Predict
from cosmos_ros.errors import Busy, Canceled, ForesightError, NotActive, Preempted
from cosmos_ros.msg import GuardrailStatus, Rollout
from cosmos_ros.node.messages import duration_message, guardrail_status, without_frames
from cosmos_ros.node.timers import steady_timer
from cosmos_ros.rollout import Progress, Stage

RESULT_TIMEOUT_S = 30  # rclpy's own is 900 s; one result with frames holds 47 MB at 640x1024
FEEDBACK_PERIOD_S = 0.1
WAITING_PERIOD_S = 0.5  # between two feedbacks of a goal that waits
CANCEL_POLL_S = 0.02

Prediction = TypeVar("Prediction")


class Goal:
    """One goal from its acceptance to its answer. Whoever closes it first decides how it ends."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        self.handle = handle
        self.request: Predict.Goal = handle.request
        self.outcome: Rollout | ForesightError | None = None
        self.ended = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._last_stage, self._last_feedback = None, 0.0

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> bool:
        """Nobody else can decide from here on; False where somebody has already."""
        with self._lock:
            first, self._closed = not self._closed, True
            return first

    def end(self, outcome: Rollout | ForesightError) -> None:
        """How it ended; only whoever closed the goal may say."""
        self.outcome = outcome
        self.ended.set()

    def stop(self, error: ForesightError) -> None:
        """End with an error, unless the end is decided already."""
        if self.close():
            self.end(error)

    def report(self, progress: Progress) -> None:
        """Feedback: at every change of stage, in between ten times a second. Raises Canceled on a goal that is closed.

        That is how a prediction stops: it reports after every decoding pass.
        """
        if self._closed:
            raise Canceled("the goal has ended")
        now = time.monotonic()
        if progress.stage is self._last_stage and now - self._last_feedback < FEEDBACK_PERIOD_S:
            return
        self._last_stage, self._last_feedback = progress.stage, now
        self.handle.publish_feedback(
            Predict.Feedback(
                stage=int(progress.stage),
                progress=progress.fraction,
                frames_ready=progress.frames_ready,
                tokens_per_second=progress.tokens_per_second,
                remaining=duration_message(progress.remaining_s),
            )
        )


class PredictAction:
    """The action server and its worker. Goals are served between `open` and `close`.

    predict     makes a goal's prediction, calling goal.report as it goes; raises ForesightError
    publish     puts a finished prediction on the topics and returns its message
    when_busy   the parameter's value: "reject", "preempt" or "queue"
    profile     of the guardrail in force; "" where there is none yet
    """

    def __init__(
        self,
        node: Node,
        predict: Callable[[Goal], Prediction],
        publish: Callable[[Goal, Prediction], Rollout],
        when_busy: Callable[[], str],
        profile: Callable[[], str],
    ) -> None:
        self._log = node.get_logger().get_child("predict")
        self._predict, self._publish, self._when_busy, self._profile = predict, publish, when_busy, profile
        self.last_error = ""
        self.last_status = GuardrailStatus()  # what the guards decided about the last goal that they were asked about
        self._goals: dict[bytes, Goal] = {}  # every goal that has no answer yet
        self._waiting: collections.deque[Goal] = collections.deque()
        self._running: Goal | None = None
        self._open = self._destroyed = False
        self._changed = threading.Condition()  # guards the five above
        group = ReentrantCallbackGroup()
        self._server = ActionServer(
            node,
            Predict,
            "~/predict",
            self._conclude,
            handle_accepted_callback=self._accept,
            cancel_callback=self._on_cancel,
            callback_group=group,
            result_timeout=RESULT_TIMEOUT_S,
        )
        steady_timer(node, WAITING_PERIOD_S, self._report_waiting, group)
        threading.Thread(target=self._work, name="predict", daemon=True).start()

    @property
    def state(self) -> str:
        """One line on what runs and what waits."""
        with self._changed:
            running = "one goal runs" if self._running is not None else "no goal runs"
            return f"{running}, {len(self._waiting)} waiting" if self._waiting else running

    def open(self) -> None:
        """Serve goals from now on."""
        with self._changed:
            self._open = True

    def close(self, reason: str) -> None:
        """End every goal with NOT_ACTIVE and this reason, and all that come later; wait until the worker has let go."""
        with self._changed:
            self._open = False
            self._stop_all(NotActive(reason))
            self._changed.wait_for(lambda: self._running is None)

    def destroy(self) -> None:
        self.close("the node is shutting down")
        with self._changed:
            self._destroyed = True
            self._changed.notify_all()
        self._server.destroy()

    def _accept(self, handle: ServerGoalHandle) -> None:
        goal = Goal(handle)
        with self._changed:
            self._goals[bytes(handle.goal_id.uuid)] = goal
            # A stopped goal that the worker has not let go of yet is no reason to turn the next one away.
            busy = any(not other.closed for other in (self._running, *self._waiting) if other is not None)
            policy = self._when_busy()
            if not self._open:
                goal.stop(NotActive("the node is not active: activate it (`ros2 lifecycle set`), or see its log"))
            elif busy and policy == "reject":
                goal.stop(Busy("busy with another goal: cancel it, wait, or set `when_busy` to preempt or queue"))
            elif busy and policy == "preempt":
                self._stop_all(Preempted("a newer goal took over"))
            if not goal.closed:
                self._waiting.append(goal)
                self._changed.notify_all()
        if goal.closed:
            _execute(handle)

    def _stop_all(self, error: ForesightError) -> None:
        if self._running is not None:
            self._running.stop(error)
        while self._waiting:
            goal = self._waiting.popleft()
            goal.stop(error)
            _execute(goal.handle)

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        with self._changed:
            goal = self._goals.get(bytes(handle.goal_id.uuid))
            if goal in self._waiting:
                self._waiting.remove(goal)
                _execute(handle)  # `_conclude` answers it
        return CancelResponse.ACCEPT

    def _report_waiting(self) -> None:
        with self._changed:
            for goal in self._waiting:
                goal.report(Progress(Stage.WAITING, 0.0))

    def _work(self) -> None:
        while self._serve_next():
            pass

    def _serve_next(self) -> bool:
        """Wait for a goal and see it through; False when there will be no more."""
        goal = self._next()
        if goal is None:
            return False
        try:
            _execute(goal.handle)
            prediction = self._predict(goal)
        except ForesightError as error:
            goal.stop(error)
        except Exception as error:  # whatever one goal runs into, the next one is served
            goal.stop(self._unexpected(error))
        else:
            if goal.close():
                goal.end(self._published(goal, prediction))
        return True

    def _published(self, goal: Goal, prediction: Prediction) -> Rollout | ForesightError:
        try:
            return self._publish(goal, prediction)
        except Exception as error:
            return self._unexpected(error)

    def _unexpected(self, error: Exception) -> ForesightError:
        self._log.error("a goal failed unexpectedly:\n" + "".join(traceback.format_exception(error)))
        return ForesightError(f"{type(error).__name__}: {error}; the node's log says where")

    def _next(self) -> Goal | None:
        with self._changed:
            self._running = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._destroyed)
            if self._destroyed:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _conclude(self, handle: ServerGoalHandle) -> Predict.Result:
        goal = self._goals[bytes(handle.goal_id.uuid)]
        while not goal.ended.wait(CANCEL_POLL_S):
            if handle.is_cancel_requested:
                goal.stop(Canceled("canceled by the client"))
        with self._changed:
            del self._goals[bytes(handle.goal_id.uuid)]
        if isinstance(goal.outcome, ForesightError):
            return self._failed(handle, goal.outcome)
        handle.succeed()
        self.last_status = goal.outcome.guardrail
        rollout = goal.outcome if goal.request.include_frames else without_frames(goal.outcome)
        return Predict.Result(error_code=Predict.Result.NONE, rollout=rollout, rollouts=[rollout])

    def _failed(self, handle: ServerGoalHandle, error: ForesightError) -> Predict.Result:
        if type(error) is Canceled:
            handle.canceled()
        else:
            handle.abort()
            self.last_error = f"{error.code}: {error}"
            self._log.warning(f"goal aborted with {self.last_error}")
        result = Predict.Result(error_code=getattr(Predict.Result, error.code), error_msg=str(error))
        if error.report is not None:
            result.rollout.guardrail = self.last_status = guardrail_status(error.report)
        else:
            result.rollout.guardrail.profile = self._profile()
        return result


def _execute(handle: ServerGoalHandle) -> None:
    """Have the executor conclude the goal."""
    try:
        handle.execute()
    except RCLError:
        # A cancel request slipped in between rclpy's look at the goal's state and its change. It looks again.
        handle.execute()
