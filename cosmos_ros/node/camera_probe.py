"""A look at the robot's image topics, for `cosmos_ros doctor`: a camera is heard and counted as the node does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import LoggingSeverity
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

from cosmos_ros.errors import ForesightError, NoFrames
from cosmos_ros.frame_buffer import Added, FrameBuffer, StampedFrame
from cosmos_ros.images import MAX_PIXELS
from cosmos_ros.node.camera_subscription import (
    DEPTH,
    LOST,
    MESSAGE_TYPES,
    RELIABILITIES,
    CameraSubscription,
    node_of,
)

DISCOVERY_S = 4.0  # on a busy two-core machine nodes took 2.5 s to find each other
LISTEN_S = 3.0  # at least, after the first image; as long as one and a half clips take
TYPE_NAMES = {f"sensor_msgs/msg/{kind.__name__}": transport for transport, kind in MESSAGE_TYPES.items()}


@dataclass(frozen=True)
class CameraReport:
    """What was seen of a topic.

    publishers    the nodes that publish it
    transport     "raw" or "compressed"; empty where the topic carries no images
    types         message types that are published
    arrived, lost images that came and images that got lost on the way while we listened
    rate          images per second that arrived and could be used
    images        what they are ("640x480 rgb8"); empty where none could be used
    trouble       why no clip could be picked from them; empty where one could
    theirs, ours  reliability of the publishers of these images and of our subscription
    compatible    whether each of them reaches us
    """

    publishers: tuple[str, ...]
    transport: str = ""
    types: tuple[str, ...] = ()
    arrived: int = 0
    lost: int = 0
    rate: float = 0.0
    images: str = ""
    trouble: str = ""
    theirs: str = ""
    ours: str = ""
    compatible: bool = False


def middleware() -> str:
    """The RMW implementation in use. Raises ImportError or RuntimeError where it cannot be loaded."""
    return rclpy.utilities.get_rmw_implementation_identifier()


def image_topics() -> list[str]:
    """Topics that carry images, as far as discovery found them in its time."""
    with _node() as (node, executor):
        _spin(executor, DISCOVERY_S)
        return sorted(topic for topic, types in node.get_topic_names_and_types() if TYPE_NAMES.keys() & set(types))


def camera(
    topic: str,
    *,
    frame_rate: float = 10.0,
    conditioning_lengths: Collection[int] = (9, 1),
    max_age_s: float = 1.0,
    max_pixels: int = MAX_PIXELS,
    reliability: str = "auto",
    seconds: float = LISTEN_S,
) -> CameraReport:
    """Listen to a topic as the node would, for at least `seconds` after its first image, and pick a clip.

    frame_rate            Hz, of clips
    conditioning_lengths  frames that a clip may have

    Raises ValueError for a name that no topic can have.
    """
    with _node() as (node, _):
        _require_name(node, topic)
    with _node("--ros-args", "-r", f"image:={topic}") as (node, executor):
        publishers = _publishers(node, executor, topic)
        types = tuple(sorted({publisher.topic_type for publisher in publishers}))
        transport = next((TYPE_NAMES[name] for name in types if name in TYPE_NAMES), "")
        if not transport:
            return CameraReport(tuple(sorted(map(node_of, publishers))), types=types)
        clip_s = max(conditioning_lengths) / frame_rate
        seconds = max(seconds, 1.5 * clip_s)
        buffer = _WatchedBuffer(frame_rate, max_age_s, seconds + clip_s, conditioning_lengths=conditioning_lengths)
        subscription = CameraSubscription(
            node, buffer, transport=transport, reliability=reliability, max_pixels=max_pixels
        )
        _spin(executor, DISCOVERY_S, until=lambda: subscription.counts.total() > subscription.counts[LOST])
        before = subscription.counts.copy()  # what was lost before the first image was sent before we listened
        if before.total() > before[LOST]:
            _spin(executor, seconds)
        seen = subscription.counts - before
        # Now all of them are known, and their names; whoever sends another type under the same name is not heard.
        now_there = node.get_publishers_info_by_topic(topic) or publishers
        publishers = [publisher for publisher in now_there if TYPE_NAMES.get(publisher.topic_type) == transport]
        ours = QoSProfile(depth=DEPTH, reliability=RELIABILITIES[subscription.reliability])
        return CameraReport(
            publishers=tuple(sorted(map(node_of, publishers))),
            transport=transport,
            types=types,
            arrived=seen.total() - seen[LOST],
            lost=seen[LOST],
            rate=buffer.rate,
            images=buffer.images,
            trouble=_trouble(node, buffer, subscription),
            theirs=" and ".join(sorted({_words(publisher.qos_profile) for publisher in publishers})),
            ours=_words(ours),
            compatible=all(
                qos_check_compatible(publisher.qos_profile, ours)[0] != QoSCompatibility.ERROR
                for publisher in publishers
            ),
        )


class _WatchedBuffer(FrameBuffer):
    """The node's buffer, which remembers when frames came and what the last one was."""

    images = ""

    @property
    def rate(self) -> float:
        """Frames per second that came in."""
        first, last, n = self._times
        return (n - 1) / (last - first) if n > 1 else 0.0

    def add(self, frame: StampedFrame) -> Added:
        now = time.monotonic()
        first, _, n = self._times
        self._times = (first if n else now, now, n + 1)
        self.images = f"{frame.width}x{frame.height} {frame.encoding}"
        return super().add(frame)

    _times = (0.0, 0.0, 0)


def _trouble(node: Node, buffer: FrameBuffer, subscription: CameraSubscription) -> str:
    """Why the node could not predict from what came."""
    # The clock of a simulator, or of a bag that is played, is not this process's.
    simulated = bool(node.get_publishers_info_by_topic("/clock"))
    try:
        buffer.clip(now_ns=None if simulated else node.get_clock().now().nanoseconds)
    except NoFrames:
        return subscription.why_empty()
    except ForesightError as error:
        return str(error)
    return ""


def _require_name(node: Node, topic: str) -> None:
    try:
        node.resolve_topic_name(topic)
    except RuntimeError as error:
        raise ValueError(f"'{topic}' can be no topic: {str(error).splitlines()[0]}") from error


def _publishers(node: Node, executor: SingleThreadedExecutor, topic: str) -> list[TopicEndpointInfo]:
    _spin(executor, DISCOVERY_S, until=lambda: bool(node.get_publishers_info_by_topic(topic)))
    return node.get_publishers_info_by_topic(topic)


@contextmanager
def _node(*arguments: str) -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """A node in a context of its own, so that the probe disturbs nobody and leaves nothing behind."""
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = Node(
            "cosmos_ros_doctor",
            context=context,
            cli_args=list(arguments),
            start_parameter_services=False,
            enable_rosout=False,
        )
        node.get_logger().set_level(LoggingSeverity.FATAL)  # the doctor says what it found, once
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        yield node, executor
        executor.shutdown()
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def _spin(executor: SingleThreadedExecutor, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        executor.spin_once(timeout_sec=0.05)


def _words(qos: QoSProfile) -> str:
    return "reliable" if qos.reliability is ReliabilityPolicy.RELIABLE else "best effort"
