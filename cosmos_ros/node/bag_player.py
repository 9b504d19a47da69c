"""Plays a rosbag2 recording (MCAP or SQLite) into ROS at its recorded rate, with /clock, where `ros2 bag` is not.

One that was cut off or damaged is played as far as it can be read, and what was lost is said.

Publishers are reliable and start only when somebody listens, so that no image is lost. Nodes that listen should run
with `use_sim_time`: the recording's time is published on /clock (as recorded, where the recording holds /clock).
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from cosmos_ros.node.messages import time_message
from cosmos_ros.recordings.bag import Bag
from cosmos_ros.recordings.recording import BadRecording
from cosmos_ros.recordings.storage import Topic
from cosmos_ros.rollout import NANOSECONDS

CLOCK_PERIOD_S = 0.01
SETTLE_S = 0.5  # the other side may still be matching when we see it, and still reading when we are through


class BagPlayer(Node):
    """Publishes a recording's messages; types that are not installed here are named and left out."""

    def __init__(self, bag: Bag) -> None:
        super().__init__("bag_player")
        self._bag = bag
        self._topics: dict[str, Publisher] = {}
        for name, topic in bag.topics.items():
            if (message_type := _message_type(topic)) is None:
                self.get_logger().warning(f"{name} is left out: {topic.type} is not installed here")
                continue
            self._topics[name] = self.create_publisher(message_type, name, _qos(topic))
        for loss in bag.losses:
            self.get_logger().warning(loss)
        self._clock_publisher = None if "/clock" in bag.topics else self.create_publisher(Clock, "/clock", 10)

    def wait_for_listeners(self, topics: Iterable[str] = ()) -> None:
        """Until each of these topics has a subscriber, or as many as times it is named; none given: until one of the
        recorded image topics has one.

        Raises ValueError for a topic that is neither in the recording nor the /clock that goes with it.
        """
        published = dict(self._topics)
        if self._clock_publisher is not None:
            published["/clock"] = self._clock_publisher
        if unknown := sorted(set(topics) - set(published)):
            raise ValueError(f"{', '.join(unknown)} is not in the recording; it has {', '.join(sorted(self._topics))}")
        wanted = Counter(topics or [name for name in self._topics if self._bag.topics[name].has_images])
        enough = all if topics else any
        self.get_logger().info(f"waiting for a subscriber on {', '.join(wanted.elements())}")
        while wanted and not enough(published[topic].get_subscription_count() >= n for topic, n in wanted.items()):
            self._pause(0.05)
        self._pause(SETTLE_S)

    def play(self, rate: float) -> int:
        """The recording once, `rate` times as fast as it was made. Returns the number of messages published."""
        begin_ns, began, played = 0, time.monotonic(), 0
        self._bag.losses.clear()
        for message in self._bag.messages(set(self._topics)):
            begin_ns = begin_ns or message.time
            self._sleep_until(message.time, begin_ns, began, rate)
            self._topics[message.topic].publish(message.data)
            played += 1
        for loss in self._bag.losses:
            self.get_logger().warning(loss)
        return played

    def finish(self) -> None:
        """Wait until everything has arrived."""
        for publisher in self._topics.values():
            publisher.wait_for_all_acked(Duration(seconds=SETTLE_S))
        time.sleep(SETTLE_S)

    def _sleep_until(self, stamp_ns: int, begin_ns: int, began: float, rate: float) -> None:
        """Let the recording's time come to `stamp_ns`, telling it on /clock as it goes."""
        while True:
            now_ns = begin_ns + round((time.monotonic() - began) * rate * NANOSECONDS)
            if self._clock_publisher is not None:
                self._clock_publisher.publish(Clock(clock=time_message(min(now_ns, stamp_ns))))
            if now_ns >= stamp_ns:
                return
            self._pause(min(CLOCK_PERIOD_S, (stamp_ns - now_ns) / NANOSECONDS / rate))

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)
        if not self.context.ok():
            raise ExternalShutdownException


def _message_type(topic: Topic) -> type | None:
    """None where it is not installed here."""
    package, _, message = topic.type.split("/") if topic.type.count("/") == 2 else ("", "", "")
    if topic.encoding != "cdr" or not package:
        return None
    try:
        return getattr(importlib.import_module(f"{package}.msg"), message)
    except (ImportError, AttributeError):
        return None


def _qos(topic: Topic) -> QoSProfile:
    """Reliable; latched where it was recorded so."""
    durability = DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=100, durability=durability)


def _arguments(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bag_player", description="Play a rosbag2 recording into ROS.")
    parser.add_argument("bag", type=Path, help="directory of the recording, or its .mcap or .db3 file")
    parser.add_argument("--rate", type=float, default=1.0, help="times the recorded speed (default: 1)")
    parser.add_argument("--loop", action="store_true", help="begin again at the end, until interrupted")
    parser.add_argument(
        "--wait-for",
        action="append",
        default=[],
        metavar="TOPIC",
        help="start when this topic has a subscriber; named twice, two (default: any image topic)",
    )
    known = parser.parse_args(remove_ros_args(args if args is not None else sys.argv)[1:])
    if not known.rate > 0:
        parser.error(f"--rate must be positive; got {known.rate}")
    return known


def main(args: list[str] | None = None) -> int:
    options = _arguments(args)
    try:
        bag = Bag(options.bag)
    except BadRecording as error:
        print(f"bag_player: {error}", file=sys.stderr)
        return 1
    rclpy.init(args=args)
    player = BagPlayer(bag)
    try:
        player.wait_for_listeners(options.wait_for)
        while True:
            played = player.play(options.rate)
            player.get_logger().info(f"played {played} messages")
            if not options.loop:
                break
        player.finish()
    except (ValueError, BadRecording) as error:
        print(f"bag_player: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        player.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
