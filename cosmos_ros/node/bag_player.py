"""Plays a rosbag2 recording (MCAP or SQLite) into ROS at its recorded rate, with /clock, where `ros2 bag` is not.

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
from rosbags.interfaces import Connection, QosDurability
from rosbags.rosbag2 import Reader, ReaderError
from rosgraph_msgs.msg import Clock

from cosmos_ros.node.messages import time_message
from cosmos_ros.rollout import NANOSECONDS

CLOCK_PERIOD_S = 0.01
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
SETTLE_S = 0.5  # the other side may still be matching when we see it, and still reading when we are through


class BagPlayer(Node):
    """Publishes a recording's messages; types that are not installed here are named and left out."""

    def __init__(self, reader: Reader) -> None:
        super().__init__("bag_player")
        self._reader = reader
        self._topics: dict[int, Publisher] = {}
        for connection in reader.connections:
            if (message_type := _message_type(connection.msgtype)) is None:
                self.get_logger().warning(f"{connection.topic} is left out: {connection.msgtype} is not installed here")
                continue
            self._topics[connection.id] = self.create_publisher(message_type, connection.topic, _qos(connection))
        recorded_clock = any(connection.topic == "/clock" for connection in reader.connections)
        self._clock_publisher = None if recorded_clock else self.create_publisher(Clock, "/clock", 10)

    def wait_for_listeners(self, topics: Iterable[str] = ()) -> None:
        """Until each of these topics has a subscriber, or as many as times it is named; none given: until one of the
        recorded image topics has one.

        Raises ValueError for a topic that is neither in the recording nor the /clock that goes with it.
        """
        recorded = {c.topic: c for c in self._reader.connections if c.id in self._topics}
        published = {topic: self._topics[c.id] for topic, c in recorded.items()}
        if self._clock_publisher is not None:
            published["/clock"] = self._clock_publisher
        if unknown := sorted(set(topics) - set(published)):
            raise ValueError(f"{', '.join(unknown)} is not in the recording; it has {', '.join(sorted(recorded))}")
        wanted = Counter(topics or [topic for topic, c in recorded.items() if c.msgtype in IMAGE_TYPES])
        enough = all if topics else any
        self.get_logger().info(f"waiting for a subscriber on {', '.join(wanted.elements())}")
        while wanted and not enough(published[topic].get_subscription_count() >= n for topic, n in wanted.items()):
            self._pause(0.05)
        self._pause(SETTLE_S)

    def play(self, rate: float) -> int:
        """The recording once, `rate` times as fast as it was made. Returns the number of messages published."""
        begin_ns, began = self._reader.start_time, time.monotonic()
        connections = [c for c in self._reader.connections if c.id in self._topics]
        played = 0
        for connection, stamp_ns, data in self._reader.messages(connections):
            self._sleep_until(stamp_ns, begin_ns, began, rate)
            self._topics[connection.id].publish(bytes(data))
            played += 1
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


def _message_type(name: str) -> type | None:
    package, _, message = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), message)
    except (ImportError, AttributeError):
        return None


def _qos(connection: Connection) -> QoSProfile:
    """Reliable; latched where it was recorded so."""
    latched = any(
        qos.durability is QosDurability.TRANSIENT_LOCAL for qos in getattr(connection.ext, "offered_qos_profiles", ())
    )
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
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
        reader = Reader(options.bag)
        reader.open()
    except (ReaderError, OSError) as error:
        print(f"bag_player: cannot read {options.bag}: {error}", file=sys.stderr)
        return 1
    rclpy.init(args=args)
    player = BagPlayer(reader)
    try:
        player.wait_for_listeners(options.wait_for)
        while True:
            played = player.play(options.rate)
            player.get_logger().info(f"played {played} messages")
            if not options.loop:
                break
        player.finish()
    except ValueError as error:
        print(f"bag_player: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        reader.close()
        player.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
