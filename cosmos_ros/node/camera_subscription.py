"""The camera's images into the frame buffer, as they come: checked, not converted; and what to say when none come."""

from __future__ import annotations

import collections
import time

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from cosmos_ros.frame_buffer import Added, FrameBuffer, frame_of
from cosmos_ros.images import BadImage
from cosmos_ros.node.timers import steady_timer

MESSAGE_TYPES = {"raw": Image, "compressed": CompressedImage}
RELIABILITIES = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}
DEPTH = 10              # a third of a second at 30 Hz: bridges the pauses that Python's lock makes under load
SILENCE_S = 5.0         # without an image for so long: say why
RATE_WINDOW_S = 2.0     # over which the incoming rate is taken
WORTH_A_WARNING = (Added.DUPLICATE, Added.UNSTAMPED, Added.JUMPED_BACK, Added.CHANGED)


class CameraSubscription:
    """Subscribes to `image` and `camera_info` until `destroy`, and empties the buffer when the clock is set back.

    transport       "raw" (sensor_msgs/Image) or "compressed" (sensor_msgs/CompressedImage)
    reliability     "best_effort" or "reliable"
    """

    def __init__(self, node: Node, buffer: FrameBuffer, *, transport: str, reliability: str) -> None:
        self._node = node
        self._log = node.get_logger().get_child("camera")
        self._buffer = buffer
        self._warned: set[str] = set()
        self._arrivals: collections.deque[float] = collections.deque(maxlen=1000)
        self._last_arrival = time.monotonic()
        self.info: CameraInfo | None = None
        self.frame_id = ""                                      # of the newest frame in the buffer
        self.counts: collections.Counter[str] = collections.Counter()  # of what became of each image

        self._qos = QoSProfile(depth=DEPTH, reliability=RELIABILITIES[reliability])
        # The images have a callback group to themselves: whatever else the node does, the next one is taken at once.
        self._images = node.create_subscription(
            MESSAGE_TYPES[transport], "image", self._on_image, self._qos,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        others = MutuallyExclusiveCallbackGroup()
        self._infos = node.create_subscription(
            CameraInfo, "camera_info", self._on_info, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            callback_group=others,
        )
        self._watch = steady_timer(node, 1.0, self._look_for_silence, others)
        self._jump = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)), post_callback=self._on_time_jump
        )

    @property
    def topic(self) -> str:
        return self._images.topic_name

    @property
    def rate(self) -> float:
        """Images per second that arrived lately, good or bad."""
        now = time.monotonic()
        return sum(now - arrival <= RATE_WINDOW_S for arrival in tuple(self._arrivals)) / RATE_WINDOW_S

    @property
    def silent_s(self) -> float:
        """Seconds since an image arrived, or since the subscription was made."""
        return time.monotonic() - self._last_arrival

    def destroy(self) -> None:
        self._jump.unregister()
        self._node.destroy_timer(self._watch)
        self._node.destroy_subscription(self._images)
        self._node.destroy_subscription(self._infos)

    def _on_image(self, message: Image | CompressedImage) -> None:
        if self.silent_s > SILENCE_S:
            self._warned.discard("silence")     # the next silence is another one
        self._last_arrival = time.monotonic()
        self._arrivals.append(self._last_arrival)
        try:
            frame = frame_of(message)
        except BadImage as bad:
            self.counts[bad.cause] += 1
            self._warn_once(bad.cause, f"images on {self.topic} are ignored: {bad}")
            return
        added = self._buffer.add(frame)
        self.counts[added.name.lower()] += 1
        self.frame_id = frame.frame_id
        if added in WORTH_A_WARNING:
            self._warn_once(added.name, f"image on {self.topic} with stamp {frame.stamp_ns} ns: {added.value}")

    def _on_info(self, info: CameraInfo) -> None:
        self.info = info

    def _on_time_jump(self, _: object) -> None:
        self._buffer.clear()
        self._warn_once("clock", "the clock was set back: the frame buffer starts afresh")

    def _look_for_silence(self) -> None:
        if self.silent_s > SILENCE_S:
            publishers = self._node.get_publishers_info_by_topic(self.topic)
            self._warn_once("silence", f"no image on {self.topic} for {SILENCE_S:g} s: {self._why_silent(publishers)}")

    def _why_silent(self, publishers: list[TopicEndpointInfo]) -> str:
        if not publishers:
            return "nobody publishes it; remap `image` to the camera's topic"
        expected = f"sensor_msgs/msg/{self._images.msg_type.__name__}"
        if others := sorted({publisher.topic_type for publisher in publishers} - {expected}):
            return f"its publisher sends {', '.join(others)}, this node expects {expected}; set `image_transport`"
        ours = self._qos.reliability.name
        theirs = ", ".join(sorted({publisher.qos_profile.reliability.name for publisher in publishers}))
        if ours == "RELIABLE" and "BEST_EFFORT" in theirs:
            return f"publisher's QoS is {theirs}, ours is {ours}; set `image_reliability: best_effort`"
        return f"its publisher is there (QoS {theirs}, ours {ours}) but sends nothing that arrives"

    def _warn_once(self, cause: str, message: str) -> None:
        """Once per cause, not per frame."""
        if cause not in self._warned:
            self._warned.add(cause)
            self._log.warning(message)
