"""Sends one goal to the node's action, shows its progress, and writes what comes back.

With --out it writes `frames.npy` (uint8 [n, height, width, 3] RGB, the guarded frames as the node sent them) and
`rollout.json` (everything else that the result says). Exit status: 0 a rollout, 1 a goal that ended without one (its
error code and message are printed), 2 no node to ask.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from cosmos_ros import images
from cosmos_ros.action import Predict
from cosmos_ros.files import check_place, write_together
from cosmos_ros.msg import Rollout
from cosmos_ros.node.messages import nanoseconds_of, rollout_facts, time_message
from cosmos_ros.node.stop_signals import on_stop
from cosmos_ros.progress import Stage
from cosmos_ros.progress_bar import ProgressBar
from cosmos_ros.rollout import NANOSECONDS

# What a node answers that has only just started, until it is up and has seen the camera for a second.
NOT_YET = ("NOT_ACTIVE", "NO_FRAMES", "UNEVEN_FRAMES")
CONDITIONS = {"video": Predict.Goal.VIDEO, "image": Predict.Goal.IMAGE}
FRAMES_FILE, FACTS_FILE = "frames.npy", "rollout.json"
STAGES = {int(stage): stage.name.lower().replace("_", " ") for stage in Stage}
_CONSTANTS = [name for name in dir(type(Predict.Result)) if name.isupper() and not name.startswith("_")]
ERROR_NAMES = {getattr(Predict.Result, name): name for name in _CONSTANTS}
ASK_AGAIN_S = 1.0
ARRIVAL_NS = NANOSECONDS // 2  # by which an image may come later than the clock reaches its stamp
FAREWELL_S = 1.0  # in which the last answer of a node that has left may still be on its way


class NoNode(RuntimeError):
    """Nobody serves the action."""


class PredictClient(Node):
    """A client of the action `foresight/predict`, relative to its own namespace."""

    def __init__(self) -> None:
        super().__init__("predict_client")
        self._client = ActionClient(self, Predict, "foresight/predict")
        self._state = self.create_client(GetState, "foresight/get_state")
        self._interrupted = False
        self._last_served = 0.0  # by time.monotonic()

    def interrupt(self, *_: object) -> None:
        """Cancel the goal; a signal handler. An exception instead could hit rclpy while it holds an answer."""
        self._interrupted = True

    def predict(self, goal: Predict.Goal, patience_s: float) -> Predict.Result:
        """Send the goal and wait for its result; ask again for `patience_s` seconds while the node is not ready yet.

        Raises NoNode, also where the node goes away with the goal, and KeyboardInterrupt where it was interrupted
        before there was a goal to cancel.
        """
        deadline = time.monotonic() + patience_s
        while not self._client.server_is_ready():
            if time.monotonic() > deadline:
                raise NoNode(
                    f"no node served foresight/predict within {patience_s:g} s: is it running, in this namespace "
                    "and this ROS_DOMAIN_ID?"
                )
            self._spin_on()
        while True:
            self._wait_until_active(deadline)
            result = self._ask(goal)
            if error_name(result.error_code) not in NOT_YET or time.monotonic() > deadline:
                return result
            again = time.monotonic() + ASK_AGAIN_S
            while time.monotonic() < again:
                self._spin_on()

    def wait_for_frames(self, until_ns: int) -> None:
        """Until the frames of this ROS time have come: the robot's clock may run ahead of its images. 0: not at all."""
        while until_ns and self.get_clock().now().nanoseconds < until_ns + ARRIVAL_NS:
            self._spin_on()

    def _wait_until_active(self, deadline: float) -> None:
        """Until the node says that it is; goals before that would only fill its log. At the deadline it may say why."""
        while time.monotonic() < deadline and self._state.service_is_ready():
            answer = self._state.call_async(GetState.Request())
            while not answer.done():
                self._spin_on()
                if time.monotonic() > deadline:
                    return
            if answer.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
                return
            self._spin_on()

    def _spin_on(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        rclpy.spin_once(self, timeout_sec=0.1)

    def _ask(self, goal: Predict.Goal) -> Predict.Result:
        progress = GoalProgress()
        self._last_served = time.monotonic()
        try:
            sent = self._client.send_goal_async(goal, feedback_callback=lambda message: progress.show(message.feedback))
            while not sent.done():
                self._listen()
            handle, canceled = sent.result(), False
            answer = handle.get_result_async()
            while not answer.done():
                if self._interrupted and not canceled:
                    handle.cancel_goal_async()
                    canceled = True
                self._listen()
            return answer.result().result
        finally:
            progress.close()

    def _listen(self) -> None:
        """Take what the node has to say, while it owes an answer. Raises NoNode once it is gone."""
        rclpy.spin_once(self, timeout_sec=0.1)
        if self._client.server_is_ready():
            self._last_served = time.monotonic()
        elif time.monotonic() > self._last_served + FAREWELL_S:
            raise NoNode("the node that served foresight/predict went away with the goal; its log says why")


class GoalProgress:
    """The goal's progress on the standard error, with a line for every stage where that is no terminal."""

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None
        self._stage: int | None = None

    def show(self, feedback: Predict.Feedback) -> None:
        words = _words(feedback)
        if self._bar is None:
            bar_format = "{percentage:3.0f} %|{bar:30}| {elapsed}  {desc}"
            self._bar = ProgressBar(total=100, bar_format=bar_format, desc=words)
            self._stage = feedback.stage
        self._bar.set_description_str(words, refresh=False)
        self._bar.update(100 * feedback.progress - self._bar.n)
        if feedback.stage != self._stage:
            self._bar.refresh()
        self._stage = feedback.stage

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _words(feedback: Predict.Feedback) -> str:
    """What is being done, as far as this client's version knows the stage."""
    words = STAGES.get(feedback.stage, f"stage {feedback.stage}")
    if feedback.stage == Stage.GENERATING:
        words += f", {feedback.frames_ready} frames, {feedback.tokens_per_second:.0f} tokens/s"
    if (remaining_ns := nanoseconds_of(feedback.remaining)) > 0:
        words += f", {remaining_ns / NANOSECONDS:.0f} s left"
    return words


def error_name(code: int) -> str:
    """The name of an error code of Predict's result; NONE for a rollout."""
    return ERROR_NAMES.get(code, f"error {code}")


def write(rollout: Rollout, folder: Path) -> None:
    """`frames.npy` and `rollout.json`, both whole or none. Raises OSError where the disk refuses."""
    frames = io.BytesIO()
    np.save(frames, np.stack([images.to_rgb(frame) for frame in rollout.frames]))
    facts = json.dumps(summary(rollout), indent=2) + "\n"
    # The facts come last: who waits for them, as `live_recorder`'s readers do, finds the frames there.
    write_together({folder / FACTS_FILE: facts, folder / FRAMES_FILE: frames.getbuffer()})


def summary(rollout: Rollout) -> dict:
    """Everything in a rollout except its pixels, with the frame_id under which it was published."""
    return rollout_facts(rollout).as_json() | {"frame_id": rollout.header.frame_id}


def _arguments(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="predict_client", description="Ask the node for one prediction.")
    parser.add_argument("--condition", choices=CONDITIONS, default="video", help="on 9 frames or on one image")
    parser.add_argument("--prompt", default="", help="for models that take text")
    parser.add_argument("--seed", type=int, default=-1, help="same seed, same frames: same rollout (default: drawn)")
    parser.add_argument("--frames", type=int, default=0, help="how many to predict (default: the model's own number)")
    parser.add_argument("--temperature", type=float, default=-1.0, help="0: greedy (default: the node's)")
    parser.add_argument("--top-p", type=float, default=-1.0, help="in (0, 1] (default: the node's)")
    parser.add_argument(
        "--until",
        type=int,
        default=0,
        metavar="NANOSECONDS",
        help="wait for this ROS time, then condition on frames not newer than it (default: the newest)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for the node and its first frames (default: 10)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write frames.npy and rollout.json here")
    return parser.parse_args(remove_ros_args(args if args is not None else sys.argv)[1:])


def _goal(options: argparse.Namespace) -> Predict.Goal:
    return Predict.Goal(
        condition=CONDITIONS[options.condition],
        prompt=options.prompt,
        seed=options.seed,
        temperature=options.temperature,
        top_p=options.top_p,
        frames=options.frames,
        until=time_message(options.until),
        include_frames=options.out is not None,
    )


def main(args: list[str] | None = None) -> int:
    options = _arguments(args)
    try:
        for name in (FRAMES_FILE, FACTS_FILE) if options.out is not None else ():
            check_place(options.out / name)
    except OSError as error:
        print(f"predict_client: {error}", file=sys.stderr)
        return 1
    # rclpy's own handlers would close the context before the goal could be cancelled.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    client = PredictClient()
    on_stop(client.interrupt)
    try:
        client.wait_for_frames(options.until)
        result = client.predict(_goal(options), options.patience)
    except NoNode as error:
        print(f"predict_client: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        client.destroy_node()
        rclpy.try_shutdown()
    if result.error_code != Predict.Result.NONE:
        print(f"predict_client: {error_name(result.error_code)}: {result.error_msg}", file=sys.stderr)
        return 1
    try:
        if options.out is not None:
            write(result.rollout, options.out)
    except OSError as error:
        print(f"predict_client: {error}", file=sys.stderr)
        return 1
    print(json.dumps(summary(result.rollout)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
