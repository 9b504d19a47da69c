"""Everything here reaches behind rclpy's public interface, for want of another way: what an upgrade may break.

Written against rclpy 7.1 (Jazzy). Each says why it is needed and what happens without it.
"""

from __future__ import annotations

import inspect
import threading
import time

from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionServer
from rclpy.action.server import ServerGoalHandle
from rclpy.executors import MultiThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

POLL_S = 0.01
RCLError = rclpy_implementation.RCLError  # what rcl raises, as on an illegal change of a goal's state


def lifecycle_state(node: LifecycleNode) -> str:
    """unconfigured, inactive, active, finalized, or a transition's name. There is no public way to read it."""
    return node._state_machine.current_state[1]


def survive_impossible_transitions(node: LifecycleNode) -> None:
    """Answer a transition that the state does not allow with `false`.

    rclpy's own service lets the state machine's error through, which ends the executor.
    """
    service = node._service_change_state
    change_state = service.callback

    def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        try:
            return change_state(request, response)
        except RCLError as error:
            node.get_logger().warning(f"refused a transition from {lifecycle_state(node)}: {error}")
            response.success = False
            return response

    service.callback = answer


def destroy_state_machine(node: LifecycleNode) -> None:
    """Call it after destroy_node.

    rclpy leaves it to the garbage collector, and with it the node: it would stay in the graph and, when it goes at
    last, take the way to /rosout from the next node of its name.
    """
    node._state_machine.destroy_when_not_in_use()


def execute(handle: ServerGoalHandle) -> None:
    """Have the executor run the goal's execute callback."""
    try:
        handle.execute()
    except RCLError:
        # A cancel request slipped in between rclpy's look at the goal's state and its change. It looks again.
        handle.execute()


class AnsweringActionServer(ActionServer):
    """An action server that can wait until results are sent: destroyed too early, it would take them along."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._sent: set[bytes] = set()  # goals whose result was sent to at least one client
        self._sending = threading.Condition()
        super().__init__(*args, **kwargs)

    def wait_for_answers(self, goal_ids: set[bytes], patience_s: float) -> None:
        """Until the result of each goal was sent. A client that never asks for it is waited for in vain."""
        with self._sending:
            self._sending.wait_for(lambda: goal_ids <= self._sent, patience_s)

    def _send_result_response(self, request_header: object, future: Future) -> None:
        super()._send_result_response(request_header, future)
        futures = dict(self._result_futures)
        with self._sending:
            self._sent &= futures.keys()
            self._sent |= {goal_id for goal_id, its_result in futures.items() if its_result is future}
            self._sending.notify_all()


class QuietExecutor(MultiThreadedExecutor):
    """An executor that ends without noise: rclpy prints "never retrieved" for every error that nothing has read, and
    Python "never awaited" for every callback that was due and is not called any more."""

    def finish(self, patience_s: float) -> bool:
        """Let the callbacks that have begun or were handed to a thread end. False where they do not end in time.

        Nothing may spin any more.
        """
        self._executor.shutdown(wait=False)
        deadline = time.monotonic() + patience_s
        while not (ended := all(task.done() for task in self._futures)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for task in self._futures:
            task.exception()
        for task, _, _ in self._tasks:
            if not (task.done() or task.executing()) and inspect.iscoroutine(task._handler):
                task._handler.close()
        self.shutdown()
        return ended
