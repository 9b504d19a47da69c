"""Does the buffer lose camera images while a prediction runs? A camera process, the node's process, and a count.

    python bench/camera_rate.py [--rate 30] [--size 640x1024] [--seconds 30] [--reliability reliable|best_effort]
                                [--checkpoint DIR] [--idle] [--out bench/results/camera_rate.json]

The camera publishes rgb8 images from a process of its own; the node runs as robots run it, with the given checkpoint;
goals are sent without a pause. What the node buffered is what its /diagnostics count. `--idle` sends no goals: what is
then lost is lost in the middleware.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from cosmos_ros.action import Predict
from diagnostic_msgs.msg import DiagnosticArray
from machine import machine
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from cosmos_ros.commands.ros_processes import free_domain
from cosmos_ros.paths import executable

BUFFERED = ("images added", "images late")


def film(rate: float, height: int, width: int, seconds: float, reliability: str) -> None:
    """The camera process: print what was published, as JSON."""
    rclpy.init()
    node = rclpy.create_node("camera")
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy[reliability.upper()])
    publisher = node.create_publisher(Image, "image", qos)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=pixels.tobytes())

    def fits() -> bool:
        """Whether the node listens, with the reliability that fits."""
        heard = [ear.qos_profile.reliability for ear in node.get_subscriptions_info_by_topic("image")]
        return heard == [qos.reliability] and publisher.get_subscription_count() == 1

    while not fits():
        time.sleep(0.05)
    time.sleep(2.0)  # the node may know its part of it later
    n, began, late_s = round(rate * seconds), time.monotonic(), []
    for i in range(n):
        time.sleep(max(0.0, began + i / rate - time.monotonic()))
        late_s.append(time.monotonic() - began - i / rate)
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    print(
        json.dumps(
            {
                "published": n,
                "seconds": round(time.monotonic() - began, 2),
                "latest_publication_ms": round(1e3 * max(late_s), 1),
                "median_publication_ms": round(1e3 * statistics.median(late_s), 2),
            }
        ),
        flush=True,
    )
    time.sleep(3.0)  # a reliable publisher stays until all is delivered


class Client(rclpy.node.Node):
    """Sends goals and reads the diagnostics."""

    def __init__(self) -> None:
        super().__init__("bench")
        self.action = ActionClient(self, Predict, "foresight/predict")
        self.values: dict[str, str] = {}
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.values |= {pair.key: pair.value for pair in status.values}
            if status.name.endswith(": node"):
                self.values["state"] = status.message

    def wait_until(self, condition, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout_s} s in vain; diagnostics: {self.values}")
            rclpy.spin_once(self, timeout_sec=0.05)

    def predict(self, stop) -> tuple[float, int]:
        """One goal, cancelled when `stop()`. Its seconds and its error code."""
        began = time.monotonic()
        sent = self.action.send_goal_async(Predict.Goal(temperature=-1.0, top_p=-1.0, seed=-1))
        rclpy.spin_until_future_complete(self, sent)
        answer, canceled = sent.result().get_result_async(), False
        while not answer.done():
            rclpy.spin_once(self, timeout_sec=0.05)
            if stop() and not canceled:
                sent.result().cancel_goal_async()
                canceled = True
        return time.monotonic() - began, answer.result().result.error_code


def measure(options: argparse.Namespace) -> dict:
    """Run the three processes; what was published, buffered and predicted."""
    environment = os.environ | {"ROS_DOMAIN_ID": str(free_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    os.environ.update(environment)
    parameters = ["-p", f'checkpoint:="{options.checkpoint}"', "-p", "history:=1.0", "-p", "max_age:=0.0"]
    node = subprocess.Popen([sys.executable, executable("foresight_node"), "--ros-args", *parameters], env=environment)
    rclpy.init()
    client = Client()
    try:
        client.wait_until(lambda: client.values.get("state") == "active")
        camera = subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--camera",
                "--rate",
                str(options.rate),
                "--size",
                options.size,
                "--seconds",
                str(options.seconds),
                "--reliability",
                options.reliability,
            ],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        client.wait_until(lambda: buffered(client.values) > options.rate)
        goals = []
        while not options.idle and camera.poll() is None:
            goals.append(client.predict(stop=lambda: camera.poll() is not None))
        client.wait_until(lambda: camera.poll() is not None)
        client.values.clear()
        client.wait_until(lambda: "images added" in client.values)
    finally:
        node.terminate()
        node.wait()
    published = json.loads(camera.stdout.read())
    fates = {
        key: int(value)
        for key, value in client.values.items()
        if key in BUFFERED or key.startswith("images ") and value.isdigit()
    }
    return {
        **published,
        "buffered": buffered(client.values),
        "lost": published["published"] - buffered(client.values),
        "fates": fates,
        "goals": len(goals),
        "goals_with_a_rollout": sum(code == Predict.Result.NONE for _, code in goals),
        "goals_by_error_code": dict(collections.Counter(code for _, code in goals)),
        "seconds_predicting": round(sum(seconds for seconds, _ in goals), 1),
    }


def buffered(values: dict[str, str]) -> int:
    return sum(int(values.get(key, 0)) for key in BUFFERED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--size", default="640x1024", help="height x width")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--reliability", default="reliable", choices=("reliable", "best_effort"))
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--camera", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    if options.camera:
        film(options.rate, height, width, options.seconds, options.reliability)
        return
    settings = {name: getattr(options, name) for name in ("rate", "size", "reliability", "idle", "checkpoint")}
    result = machine() | settings | measure(options)
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
