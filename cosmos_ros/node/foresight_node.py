"""The managed node `foresight`: a camera in, guarded predictions out.

    configure    reads the parameters, loads the guardrail, listens to the camera
    activate     loads the model and warms it up, serves goals
    deactivate   ends the running goal, gives the GPU back
    cleanup      forgets everything; parameters may change

With `autostart` (the default) it configures and activates itself. Where that fails it stays alive in the state that it
reached, says why in its log and on /diagnostics, and tries again when a transition is requested.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.exceptions import InvalidHandle, ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from unique_identifier_msgs.msg import UUID

from cosmos_ros.device.host_memory import keep_little_freed_memory, return_freed_memory
from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.errors import ForesightError, NoFrames, NotActive, UnevenFrames
from cosmos_ros.foresight import Foresight
from cosmos_ros.frame_buffer import FrameBuffer
from cosmos_ros.guardrail.stretches import joined
from cosmos_ros.msg import Rollout
from cosmos_ros.node.camera_subscription import CameraSubscription
from cosmos_ros.node.continuous import Continuous
from cosmos_ros.node.diagnostics import (
    Diagnostics,
    Status,
    camera_status,
    continuous_status,
    goals_status,
    guardrail_status,
    image_now_status,
    model_status,
    node_status,
    rollout_status,
    surprise_status,
)
from cosmos_ros.node.image_now import ImageNow
from cosmos_ros.node.log import Complaints, NodeLogHandler
from cosmos_ros.node.messages import whole_messages
from cosmos_ros.node.parameters import Parameters
from cosmos_ros.node.predict_action import PredictAction
from cosmos_ros.node.rclpy_internals import (
    QuietExecutor,
    destroy_state_machine,
    lifecycle_state,
    survive_impossible_transitions,
)
from cosmos_ros.node.rollout_publisher import Camera, RolloutPublisher
from cosmos_ros.node.score_rollouts import KeptRollouts, ScoreService
from cosmos_ros.node.stop_signals import await_stop, on_stop
from cosmos_ros.node.surprise import Origin, SurpriseWatch
from cosmos_ros.node.timers import steady_timer
from cosmos_ros.planning.calibration import Way
from cosmos_ros.queue import Job, PredictionQueue
from cosmos_ros.rollout import GuardedRollout
from cosmos_ros.settings import (
    ClipConfig,
    ContinuousConfig,
    ForesightConfig,
    NodeConfig,
    SamplingConfig,
    SurpriseConfig,
)

# One for the camera, one that waits for the running goal's end, one for a transition; the rest for all that is brief.
EXECUTOR_THREADS = 6
SHUTDOWN = "the node is shutting down"
SHUTDOWN_PATIENCE_S = 5.0  # for callbacks that still run at the end: loading a model can take minutes


@dataclass(frozen=True)
class Configured:
    """What exists from configure to cleanup."""

    foresight: Foresight
    buffer: FrameBuffer
    camera: CameraSubscription
    publisher: RolloutPublisher
    image_now: ImageNow
    surprise: SurpriseWatch


@dataclass(frozen=True)
class Prediction:
    """A stretch of a prediction.

    stretches    those so far, this one last, each with a rollout for every sample
    n_stretches  that there will be
    """

    stretches: tuple[list[GuardedRollout], ...]
    n_stretches: int
    camera: Camera
    epoch: int  # of ~/image_now, when the clip was taken
    origin: Origin

    @property
    def rollouts(self) -> list[GuardedRollout]:
        return self.stretches[-1]

    @property
    def n_frames(self) -> int:
        return len(self.rollouts[0].frames)

    @property
    def is_last(self) -> bool:
        return len(self.stretches) == self.n_stretches

    def whole(self) -> list[GuardedRollout]:
        """Each sample's stretches so far as one rollout."""
        return [joined(sample) for sample in zip(*self.stretches, strict=True)]


class ForesightNode(LifecycleNode):
    """The node. Serve it with `serve`, or spin it with `spin`; `destroy_node` ends its goals and its worker."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("foresight", **kwargs)
        self._package_log, self._complaints = NodeLogHandler(self), Complaints(self.get_logger().warning)
        self._settings = Parameters(self, is_configured=lambda: self.state != "unconfigured")
        self._configured: Configured | None = None
        self._trouble = ""  # why the last transition failed
        self._queue = PredictionQueue(self._predict, self._publish)
        self._queue.refuse("the node is not configured: configure and activate it (`ros2 lifecycle set`)")
        self._action = PredictAction(
            self,
            self._queue,
            lambda: self._settings.of(NodeConfig),
            lambda: self._configured.foresight.guardrail.profile if self._configured else "",
        )
        self._continuous = Continuous(
            self._queue, lambda: self._settings.of(ContinuousConfig), self.get_logger().get_child("continuous")
        )
        self._kept = KeptRollouts(lambda: self._settings.of(NodeConfig).keep_rollouts)
        ScoreService(self, self._kept, lambda: self.state == "active", lambda: self._parts.foresight)
        Diagnostics(self, self._statuses)
        survive_impossible_transitions(self)
        if self._settings["autostart"]:
            # In the lifecycle services' callback group: a lifecycle manager cannot interfere half-way.
            self._autostart_timer = steady_timer(self, 0.0, self._autostart)

    @property
    def state(self) -> str:
        """The lifecycle state: unconfigured, inactive, active, finalized, or a transition's name."""
        return lifecycle_state(self)

    @property
    def _parts(self) -> Configured:
        """What configure made. Raises NotActive where there is nothing."""
        if self._configured is None:
            raise NotActive("the node is not configured")
        return self._configured

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._queue.refuse("the node is being configured; goals are served once it is active")
        return self._attempt("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._queue.refuse("the node is loading its model; goals are served once it is active")
        result = self._attempt("activate", self._load)
        if result == TransitionCallbackReturn.SUCCESS:
            super().on_activate(state)
            self._queue.open()
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

    def say_farewell(self) -> None:
        """Answer every goal, and see that the answers go out. The executor must still spin."""
        self._action.say_farewell(SHUTDOWN)

    def destroy_node(self) -> None:
        self._queue.destroy(SHUTDOWN)
        self._action.destroy()
        self._forget()
        self._package_log.close()
        super().destroy_node()
        destroy_state_machine(self)

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
            return_freed_memory()  # of the model that goes, or of the files of the one that came
            self._trouble = ""
            self._queue.refuse("the node is not active: activate it (`ros2 lifecycle set`)")
            self.get_logger().info(f"{what}: done")
            return TransitionCallbackReturn.SUCCESS
        self._queue.refuse(f"the node is not active: it {self._trouble}")
        self.get_logger().error(self._trouble)
        return TransitionCallbackReturn.FAILURE

    def _configure(self) -> None:
        parameters = self._settings
        foresight = Foresight(parameters.of(ForesightConfig))
        clips, config = parameters.of(ClipConfig), parameters.of(NodeConfig)
        frame_rate = clips.frame_rate or foresight.spec.frame_rate
        longest_clip_s = max(foresight.spec.conditioning_lengths) / frame_rate
        buffer = FrameBuffer(
            frame_rate,
            clips.max_age,
            max(config.history, longest_clip_s),
            conditioning_lengths=foresight.spec.conditioning_lengths,
        )
        surprise = SurpriseWatch(self, buffer, foresight, frame_rate, parameters.of(SurpriseConfig))
        camera = CameraSubscription(
            self,
            buffer,
            transport=config.image_transport,
            reliability=config.image_reliability,
            max_pixels=clips.max_pixels,
            on_frame=self._frame_came,
        )
        image_now = ImageNow(
            self,
            frame_rate,
            lambda: self._settings.of(NodeConfig).latency_compensation,
            lambda: surprise.alarm.standing,
            lambda: buffer.restarts,
        )
        self._configured = Configured(foresight, buffer, camera, RolloutPublisher(self), image_now, surprise)
        self.get_logger().info(f"model {foresight.spec.name}, guardrail {foresight.guardrail.posture}")
        self.get_logger().info(f"listening to {camera.topic}, clips at {frame_rate:g} Hz")

    def _load(self) -> None:
        set_cpu_threads(self._settings.of(NodeConfig).cpu_threads)
        self._parts.foresight.load()

    def _unload(self) -> None:
        self._queue.close("the node was deactivated")
        if self._configured is not None:
            self._configured.publisher.stop()
            self._configured.image_now.stop()
            self._configured.surprise.stop()
            self._configured.foresight.unload()

    def _forget(self) -> None:
        if self._configured is not None:
            self._configured.camera.destroy()
            self._configured.publisher.destroy()
            self._configured.image_now.destroy()
            self._configured.surprise.destroy()
            self._configured = None
        self._kept.clear()

    def _predict(self, job: Job) -> Generator[Prediction, None, None]:
        """On the queue's worker thread, stretch by stretch. Raises ForesightError."""
        set_cpu_threads(self._settings.of(NodeConfig).cpu_threads)
        request, configured = job.request, self._parts
        n_frames = configured.foresight.spec.conditioning_lengths[1 if request.from_image else 0]
        now_ns = self.get_clock().now().nanoseconds
        epoch, compared = configured.image_now.epoch, configured.surprise.epoch
        try:
            clip = configured.buffer.clip(n_frames, until_ns=request.until_ns, now_ns=now_ns)
        except NoFrames as error:
            raise error if configured.buffer.state().frames else NoFrames(configured.camera.why_empty()) from error
        except UnevenFrames as error:
            restless = configured.camera.why_restless()
            raise UnevenFrames(f"{error}; {restless}") if restless else error from None
        camera = Camera(
            clip.frame_id, clip.frames.shape[1:3], configured.camera.infos.at(clip.stamps_ns[-1], clip.frame_id)
        )
        temperature = self._or_default("temperature", request.temperature)
        top_p = self._or_default("top_p", request.top_p)
        origin = Origin(clip, Way.of(configured.foresight.spec, n_frames, temperature, top_p), compared)
        n_stretches = len(configured.foresight.stretch_lengths(n_frames, request.frames))
        predicted: tuple[list[GuardedRollout], ...] = ()
        stretches = configured.foresight.predict_stretches(
            clip,
            request.samples,
            request.prompt,
            seed=request.seed,
            temperature=temperature,
            top_p=top_p,
            frames=request.frames,
            on_progress=job.report,
        )
        with closing(stretches):
            for rollouts in stretches:
                predicted += (rollouts,)
                yield Prediction(predicted, n_stretches, camera, epoch, origin)

    def _frame_came(self, stamp_ns: int) -> None:
        self._continuous.frame_came(stamp_ns)
        if self._configured is not None:
            self._configured.surprise.frame_came()

    def _publish(self, job: Job, prediction: Prediction) -> list[Rollout]:
        """Publish a stretch; returns its messages, of a goal's last one those of the whole rollouts."""
        rollouts, camera, parts = prediction.rollouts, prediction.camera, self._parts
        goal_id = UUID(uuid=list(job.id))
        messages = parts.publisher.publish(rollouts, goal_id, camera, prediction.n_stretches)
        parts.image_now.add(rollouts[0], camera.frame_id, prediction.epoch)
        parts.surprise.expect(rollouts[0], prediction.origin, job.id)
        if any(job.id) and prediction.is_last:  # a continuous prediction has no id by which it could be asked for
            whole = prediction.whole()
            self._kept.add(job.id, whole, camera.size)
            if prediction.n_stretches > 1:
                messages = whole_messages(whole, messages)
        if len(rollouts) > 1:
            try:
                parts.publisher.publish_together(rollouts, camera, lambda: parts.foresight.mean(rollouts))
            except ForesightError as error:  # each sample passed, and they are published
                self._complaints.say("mean", f"~/mean stays silent: {error.code}: {error}")
        return messages

    def _or_default(self, name: str, requested: float | None) -> float | None:
        """The request's value; where it has none the parameter's; where that is negative, None: the model's own."""
        return self._settings.of(SamplingConfig).chosen()[name] if requested is None else requested

    def _statuses(self) -> list[Status]:
        configured, now_ns = self._configured, self.get_clock().now().nanoseconds
        statuses = [node_status(self.state, self._trouble), goals_status(self._queue, self._action)]
        if configured is not None:
            statuses += [
                camera_status(configured.camera, configured.buffer, now_ns),
                model_status(configured.foresight),
                guardrail_status(configured.foresight.guardrail, self._action.last_status),
                rollout_status(configured.publisher.last_lead_s),
                continuous_status(self._continuous),
                image_now_status(configured.image_now),
                surprise_status(configured.surprise),
            ]
        return statuses


def spin(node: ForesightNode, done: threading.Event | None = None) -> bool:
    """Serve the node until the context shuts down or `done` is set and the executor woken.

    What one callback runs into does not end the others. Returns False where callbacks still run at the end.
    """
    executor = QuietExecutor(EXECUTOR_THREADS, context=node.context)
    executor.add_node(node)
    while node.context.ok() and not (done and done.is_set()):
        try:
            executor.spin_once()
        except InvalidHandle:
            pass  # of what a callback destroyed on its own thread, as the camera's subscription for another one
        except Exception:
            if node.context.ok():  # else it is the shutdown itself, seen from the middle of a wait
                node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")
    return executor.finish(SHUTDOWN_PATIENCE_S)


def serve(node: ForesightNode, leave: queue.SimpleQueue) -> bool:
    """Spin the node on another thread until something comes through `leave`; then answer its goals.

    Returns False where something still runs, which the interpreter's end would wait for.
    """
    done = threading.Event()
    ended: list[bool] = []

    def spin_until_done() -> None:
        try:
            ended.append(spin(node, done))
        finally:
            leave.put(None)

    spinning = threading.Thread(target=spin_until_done, name="spin", daemon=True)
    spinning.start()
    await_stop(leave)
    node.say_farewell()
    done.set()
    if node.executor is not None:
        node.executor.wake()
    spinning.join()
    return ended == [True]


def main(args: list[str] | None = None) -> int:
    keep_little_freed_memory()
    # rclpy's own handlers would close the context, and with it the way to every client that waits for an answer.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    leave: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # the one kind that a signal handler may put into
    on_stop(lambda number, _: leave.put(number))
    try:
        node = ForesightNode()
    except ParameterException as error:
        print(f"foresight_node: {error}", file=sys.stderr)
        return 1
    if not serve(node, leave):
        node.get_logger().warning(f"left while a callback still ran after {SHUTDOWN_PATIENCE_S:g} s")
        os._exit(0)  # nothing here holds what a file or another process needs
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
