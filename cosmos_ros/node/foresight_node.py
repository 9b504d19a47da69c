"""The managed node `foresight`: a camera in, guarded predictions out.

    configure    reads the parameters, loads the guardrail, listens to the camera
    activate     loads the model and warms it up, serves goals
    deactivate   ends the running goal, gives the GPU back
    cleanup      forgets everything; parameters may change

With `autostart` (the default) it configures and activates itself. Where that fails it stays alive in the state that it
reached, says why in its log and on /diagnostics, and can be told to try again.
"""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields

import cv2
import numpy as np
import rclpy
import torch
from lifecycle_msgs.srv import ChangeState
from rclpy.exceptions import InvalidHandle, ParameterException
from rclpy.executors import MultiThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from cosmos_ros.action import Predict
from cosmos_ros.errors import ForesightError, InvalidGoal
from cosmos_ros.foresight import Foresight, ForesightConfig
from cosmos_ros.frame_buffer import FrameBuffer
from cosmos_ros.msg import Rollout
from cosmos_ros.node.camera_subscription import CameraSubscription
from cosmos_ros.node.diagnostics import (
    Diagnostics,
    Finding,
    camera_finding,
    goals_finding,
    guardrail_finding,
    model_finding,
    node_finding,
)
from cosmos_ros.node.log import NodeLogHandler
from cosmos_ros.node.messages import nanoseconds_of
from cosmos_ros.node.parameters import Parameters
from cosmos_ros.node.predict_action import Goal, PredictAction
from cosmos_ros.node.rollout_publisher import Camera, RolloutPublisher
from cosmos_ros.node.timers import steady_timer
from cosmos_ros.rollout import GuardedRollout

# One for the camera, one that waits for the running goal's end, one for a transition; the rest for all that is brief.
EXECUTOR_THREADS = 6


@dataclass(frozen=True)
class Configured:
    """What exists from configure to cleanup."""

    foresight: Foresight
    buffer: FrameBuffer
    camera: CameraSubscription
    publisher: RolloutPublisher


@dataclass(frozen=True)
class Prediction:
    rollout: GuardedRollout
    camera: Camera


class ForesightNode(LifecycleNode):
    """The node. Spin it with `spin`; `destroy_node` ends its goals and its worker."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("foresight", **kwargs)
        self._package_log = NodeLogHandler(self)
        self._settings = Parameters(self, is_configured=lambda: self.state != "unconfigured")
        self._configured: Configured | None = None
        self._trouble = ""  # why the last transition failed
        self._action = PredictAction(
            self,
            self._predict,
            self._publish,
            lambda: self._settings["when_busy"],
            lambda: self._configured.foresight.guardrail.profile if self._configured else "",
        )
        Diagnostics(self, self._findings)
        self._survive_impossible_transitions()
        if self._settings["autostart"]:
            # In the lifecycle services' callback group: a lifecycle manager cannot interfere half-way.
            self._autostart_timer = steady_timer(self, 0.0, self._autostart)

    @property
    def state(self) -> str:
        """The lifecycle state: unconfigured, inactive, active, finalized, or a transition's name."""
        return self._state_machine.current_state[1]

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._attempt("activate", self._load)
        if result == TransitionCallbackReturn.SUCCESS:
            super().on_activate(state)
            self._action.open()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._attempt("deactivate", self._unload)
        super().on_deactivate(state)  # after it: a rollout that is just being published still goes out
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("clean up", self._forget)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._attempt("unload the model", self._unload)
        return self._attempt("shut down", self._forget)

    def destroy_node(self) -> None:
        self._action.destroy()
        self._forget()
        self._package_log.close()
        super().destroy_node()
        # rclpy leaves it to the garbage collector, and with it the node: it would stay in the graph and, when it goes
        # at last, take the way to /rosout from the next node of its name.
        self._state_machine.destroy_when_not_in_use()

    def _autostart(self) -> None:
        self.destroy_timer(self._autostart_timer)
        if self.state == "unconfigured" and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _attempt(self, what: str, work: Callable[[], None]) -> TransitionCallbackReturn:
        """Run one transition's work; where it fails, say why and stay in the state that the node came from."""
        try:
            work()
        except ForesightError as error:
            self._trouble = f"could not {what}: {error.code}: {error}"
        except Exception as error:  # rclpy would swallow it, and leave the node in a state without a reason
            self._trouble = f"could not {what}: {type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc())
        else:
            self._trouble = ""
            self.get_logger().info(f"{what}: done")
            return TransitionCallbackReturn.SUCCESS
        self.get_logger().error(self._trouble)
        return TransitionCallbackReturn.FAILURE

    def _configure(self) -> None:
        parameters = self._settings
        settings = {field.name: parameters[field.name] for field in fields(ForesightConfig)}
        foresight = Foresight(ForesightConfig(**settings))
        frame_rate = parameters["frame_rate"] or foresight.spec.frame_rate
        longest_clip_s = max(foresight.spec.conditioning_lengths) / frame_rate
        buffer = FrameBuffer(frame_rate, parameters["max_age"], max(parameters["history"], longest_clip_s))
        camera = CameraSubscription(
            self, buffer, transport=parameters["image_transport"], reliability=parameters["image_reliability"]
        )
        self._configured = Configured(foresight, buffer, camera, RolloutPublisher(self))
        self.get_logger().info(f"model {foresight.spec.name}, guardrail {foresight.guardrail.posture}")
        self.get_logger().info(f"listening to {camera.topic}, clips at {frame_rate:g} Hz")

    def _load(self) -> None:
        self._limit_threads()
        self._configured.foresight.load()

    def _unload(self) -> None:
        self._action.close("the node was deactivated")
        if self._configured is not None:
            self._configured.publisher.stop()
            self._configured.foresight.unload()

    def _forget(self) -> None:
        if self._configured is not None:
            self._configured.camera.destroy()
            self._configured.publisher.destroy()
            self._configured = None

    def _predict(self, goal: Goal) -> Prediction:
        """On the action's worker thread. Raises ForesightError."""
        self._limit_threads()
        request, configured = goal.request, self._configured
        if request.condition not in (Predict.Goal.VIDEO, Predict.Goal.IMAGE):
            raise InvalidGoal(f"condition must be VIDEO (0) or IMAGE (1); got {request.condition}")
        n_frames = configured.foresight.spec.conditioning_lengths[request.condition]  # a video's, an image's
        sampling = {
            "seed": request.seed if request.seed >= 0 else None,
            "temperature": self._or_default("temperature", request.temperature),
            "top_p": self._or_default("top_p", request.top_p),
        }
        now_ns = self.get_clock().now().nanoseconds
        clip = configured.buffer.clip(n_frames, until_ns=nanoseconds_of(request.until) or None, now_ns=now_ns)
        camera = Camera(configured.camera.frame_id, clip.frames.shape[1:3], configured.camera.info)
        rollout = configured.foresight.predict(clip, request.prompt, **sampling, on_progress=goal.report)
        return Prediction(rollout, camera)

    def _publish(self, goal: Goal, prediction: Prediction) -> Rollout:
        return self._configured.publisher.publish(prediction.rollout, goal.handle.goal_id, prediction.camera)

    def _or_default(self, name: str, requested: float) -> float | None:
        """The goal's value; where it is negative the parameter's; where that is too, None: the model's own."""
        if not math.isfinite(requested):
            raise InvalidGoal(f"{name} must be finite; got {requested}")
        value = requested if requested >= 0 else self._settings[name]
        # The goal's float32 0.8 would be 0.800000011920929: its shortest decimal is what the client wrote.
        return float(str(np.float32(value))) if value >= 0 else None

    def _limit_threads(self) -> None:
        """Leave a core to the camera. Torch keeps this per thread, so every thread that computes has to say it."""
        threads = self._settings["cpu_threads"] or max(1, len(os.sched_getaffinity(0)) - 1)
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)

    def _findings(self) -> list[Finding]:
        configured, now_ns = self._configured, self.get_clock().now().nanoseconds
        findings = [node_finding(self.state, self._trouble), goals_finding(self._action)]
        if configured is not None:
            findings += [
                camera_finding(configured.camera, configured.buffer.state(), now_ns),
                model_finding(configured.foresight),
                guardrail_finding(configured.foresight.guardrail, self._action.last_status),
            ]
        return findings

    def _survive_impossible_transitions(self) -> None:
        """Answer `false`: rclpy's own service lets the state machine's error through, which ends the executor."""
        change_state = self._service_change_state.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except rclpy_implementation.RCLError as error:
                self.get_logger().warning(f"refused a transition from {self.state}: {error}")
                response.success = False
                return response

        self._service_change_state.callback = answer


def spin(node: ForesightNode) -> None:
    """Serve the node until the context shuts down. What one callback runs into does not end the others."""
    executor = MultiThreadedExecutor(EXECUTOR_THREADS, context=node.context)
    executor.add_node(node)
    while node.context.ok():
        try:
            executor.spin_once()
        except InvalidHandle:
            pass  # of what a callback destroyed on its own thread, as the camera's subscription for another one
        except Exception:
            if node.context.ok():  # else it is the shutdown itself, seen from the middle of a wait
                node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")


def main(args: list[str] | None = None) -> int:
    rclpy.init(args=args)
    try:
        node = ForesightNode()
    except ParameterException as error:
        print(f"foresight_node: {error}", file=sys.stderr)
        return 1
    try:
        spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
