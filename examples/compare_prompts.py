#!/usr/bin/env python3
"""A planner that asks "what if?": one rollout goal per prompt, all from the same clip, scored against a goal image.

    ros2 run cosmos_ros foresight_node --ros-args -p checkpoint:=<a Video2World checkpoint> -r image:=/camera/image_raw
    python3 compare_prompts.py goal.png "the gripper closes on the cup" "the gripper moves away"

What differs between the goals is what the planner can choose, here the prompt. The samples of one goal are chance: they
say how sure the model is of that choice. Copy it, and put your own choices and your own goal image in.
"""

from __future__ import annotations

import argparse

import cv2
import rclpy
from cosmos_ros.action import Predict
from cosmos_ros.srv import ScoreRollouts
from rclpy.action import ActionClient
from rclpy.node import Node
from sensor_msgs.msg import Image


class PromptPlanner(Node):
    """Asks the node `foresight`, relative to its own namespace."""

    def __init__(self) -> None:
        super().__init__("prompt_planner")
        self._predict = ActionClient(self, Predict, "foresight/predict")
        self._score = self.create_client(ScoreRollouts, "foresight/score")

    def compare(self, prompts: list[str], goal_image: Image, samples: int, metric: str) -> ScoreRollouts.Response:
        """What each prompt's futures cost, in the prompts' order. Raises RuntimeError with the node's own words."""
        until, goal_ids = None, []
        for prompt in prompts:
            goal = Predict.Goal(prompt=prompt, samples=samples, seed=0)
            if until is not None:
                goal.until = until  # the same clip as for the first prompt, though the camera has moved on
            goal_id, result = self._ask(goal)
            until = result.rollout.header.stamp
            goal_ids.append(goal_id)
        self._score.wait_for_service()
        request = ScoreRollouts.Request(goal_image=goal_image, goal_ids=goal_ids, metric=metric)
        scores = self._wait(self._score.call_async(request))
        if scores.error_code != ScoreRollouts.Response.NONE:
            raise RuntimeError(scores.error_msg)
        return scores

    def _ask(self, goal: Predict.Goal):
        self._predict.wait_for_server()
        handle = self._wait(self._predict.send_goal_async(goal))
        result = self._wait(handle.get_result_async()).result
        if result.error_code != Predict.Result.NONE:
            raise RuntimeError(f"'{goal.prompt}': {result.error_msg}")
        return handle.goal_id, result

    def _wait(self, future):
        rclpy.spin_until_future_complete(self, future)
        return future.result()


def image_message(path: str) -> Image:
    pixels = cv2.imread(path, cv2.IMREAD_COLOR)
    if pixels is None:
        raise SystemExit(f"{path} is no picture that can be read")
    height, width, _ = pixels.shape
    return Image(height=height, width=width, encoding="bgr8", step=3 * width, data=pixels.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description="Which prompt leads closest to a goal image?")
    parser.add_argument("goal_image", help="a picture of the camera's size, or of the prediction's")
    parser.add_argument("prompts", nargs="+", help="one goal each; the model has to read prompts")
    parser.add_argument("--samples", type=int, default=4, help="futures of each prompt (default: 4)")
    parser.add_argument(
        "--metric",
        default="latent",
        choices=("pixel", "structural", "latent"),
        help="what a future costs: RMSE, 1 - SSIM, or distance of the tokenizer's codes (default: latent)",
    )
    args = parser.parse_args()
    goal_image = image_message(args.goal_image)
    rclpy.init()
    planner = PromptPlanner()
    try:
        scores = planner.compare(args.prompts, goal_image, args.samples, args.metric)
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    for prompt, cost in zip(args.prompts, scores.costs, strict=True):
        last = [cost.quantiles[i * cost.frames + cost.frames - 1] for i in (0, 2)]
        print(f"{cost.cost:8.4f}, at the horizon {last[0]:.4f} to {last[1]:.4f}   {prompt}")
    print(f"best, surely to {100 * scores.confidence:.0f} %: {args.prompts[scores.best]}")


if __name__ == "__main__":
    main()
