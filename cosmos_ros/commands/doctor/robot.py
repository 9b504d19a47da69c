"""What `cosmos_ros doctor` asks of ROS: the middleware in use, the image topics there are, and one camera's topic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image

from cosmos_ros.images import BadImage, check
from cosmos_ros.node.camera_subscription import DEPTH, MESSAGE_TYPES, RELIABILITIES, fitting_reliability

DISCOVERY_S = 4.0  # on a busy two-core machine nodes took 2.5 s to find each other
TYPE_NAMES = {f"sensor_msgs/msg/{kind.__name__}": transport for transport, kind in MESSAGE_TYPES.items()}


@dataclass(frozen=True)
class CameraReport:
    """What was seen of a topic.

    publishers    how many
    transport     "raw" or "compressed"; empty where the topic carries no images
    types         message types that are published
    rate          images per second that arrived
    images        what they are ("640x480 rgb8"), or why they cannot be used
    usable        whether the node could predict from them
    theirs, ours  reliability and depth of the publisher and of our subscription
    compatible    whether the two reach each other
    """

    publishers: int
    transport: str = ""
    types: tuple[str, ...] = ()
    rate: float = 0.0
    images: str = ""
    usable: bool = False
    theirs: str = ""
    ours: str = ""
    compatible: bool = False


def middleware() -> str:
    """The RMW implementation in use. Raises ImportError or RuntimeError where it cannot be loaded."""
    return rclpy.utilities.get_rmw_implementation_identifier()


def image_topics(seconds: float = DISCOVERY_S) -> list[str]:
    """Topics that carry images, after so many seconds of discovery."""
    with _node() as (node, executor):
        _spin(executor, seconds)
        return sorted(topic for topic, types in node.get_topic_names_and_types() if TYPE_NAMES.keys() & set(types))


def camera(topic: str, seconds: float = 3.0, reliability: str = "auto") -> CameraReport:
    """Listen to a topic as the node would, for so many seconds after its first image.

    Raises ValueError for a name that no topic can have.
    """
    with _node() as (node, executor):
        _require_name(node, topic)
        publishers = _publishers(node, executor, topic)
        if not publishers:
            return CameraReport(0)
        qos = QoSProfile(depth=DEPTH, reliability=RELIABILITIES.get(reliability) or fitting_reliability(publishers))
        types = tuple(sorted({publisher.topic_type for publisher in publishers}))
        transport = next((TYPE_NAMES[name] for name in types if name in TYPE_NAMES), "")
        if not transport:
            return CameraReport(len(publishers), types=types)
        images, usable, rate = _listen(node, executor, topic, MESSAGE_TYPES[transport], qos, seconds)
        return CameraReport(
            publishers=len(publishers),
            transport=transport,
            types=types,
            rate=rate,
            images=images,
            usable=usable,
            theirs=_words(publishers[0].qos_profile),
            ours=_words(qos),
            compatible=all(
                qos_check_compatible(publisher.qos_profile, qos)[0] != QoSCompatibility.ERROR
                for publisher in publishers
            ),
        )


def _listen(
    node: Node, executor: SingleThreadedExecutor, topic: str, kind: type, qos: QoSProfile, seconds: float
) -> tuple[str, bool, float]:
    """(what the first image is, whether it can be used, images per second)."""
    arrivals: list[float] = []
    first: list[Image | CompressedImage] = []

    def on_image(message: Image | CompressedImage) -> None:
        arrivals.append(time.monotonic())
        if not first:
            first.append(message)

    node.create_subscription(kind, topic, on_image, qos)
    _spin(executor, DISCOVERY_S, until=lambda: bool(arrivals))
    if not arrivals:
        return "", False, 0.0
    _spin(executor, seconds)
    rate = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) if len(arrivals) > 1 else 0.0
    try:
        info = check(first[0])
    except BadImage as error:
        return str(error), False, rate
    return f"{info.width}x{info.height} {info.encoding}", True, rate


def _require_name(node: Node, topic: str) -> None:
    try:
        node.resolve_topic_name(topic)
    except RuntimeError as error:
        raise ValueError(f"'{topic}' can be no topic: {str(error).splitlines()[0]}") from error


def _publishers(node: Node, executor: SingleThreadedExecutor, topic: str) -> list[TopicEndpointInfo]:
    _spin(executor, DISCOVERY_S, until=lambda: bool(node.get_publishers_info_by_topic(topic)))
    return node.get_publishers_info_by_topic(topic)


@contextmanager
def _node() -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """A node in a context of its own, so that the probe disturbs nobody and leaves nothing behind."""
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = Node("cosmos_ros_doctor", context=context, start_parameter_services=False, enable_rosout=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        yield node, executor
        executor.shutdown()
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def _spin(executor: SingleThreadedExecutor, seconds: float, until=lambda: False) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        executor.spin_once(timeout_sec=0.05)


def _words(qos: QoSProfile) -> str:
    return "reliable" if qos.reliability is ReliabilityPolicy.RELIABLE else "best effort"
