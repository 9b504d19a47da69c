"""The camera's images into the frame buffer, as they come: checked, not converted; and what to say when none come."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from cosmos_ros.frame_buffer import RESTARTS, Added, FrameBuffer, StampedFrame, frame_of
from cosmos_ros.images import MAX_PIXELS, BadImage
from cosmos_ros.node.camera_infos import CameraInfos
from cosmos_ros.node.log import Complaints
from cosmos_ros.node.timers import steady_timer

MESSAGE_TYPES = {"raw": Image, "compressed": CompressedImage}
RELIABILITIES = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}
DEPTH = 30  # a second at 30 Hz: bridges what Python's lock holds up, as while a rollout is published
WATCH_PERIOD_S = 0.2  # in which a publisher that comes or goes is noticed
SILENCE_S = 5.0  # without an image for so long: say why
RATE_WINDOW_S = 2.0  # over which the incoming rate is taken
LOST = "lost on the way"  # among the fates that are counted
UNKNOWN_NODE = "_NODE_NAME_UNKNOWN_"  # rmw's, of a publisher that is discovered before its node
OFTEN = 3  # starts afresh within SILENCE_S that are no single change of a camera's setup
SETTLE_S = 1.0  # after a change of subscription: the outgoing one has the same images, the new one knows none before
SAME_JUMP_NS = 10**9  # images and clock that jump back to times as near as that do so for one reason
WORTH_A_WARNING = (Added.DUPLICATE, Added.UNSTAMPED, Added.JUMPED_BACK, Added.CHANGED)


class CameraSubscription:
    """Subscribes to `image` and `camera_info` until `destroy`, and empties the buffer when the clock is set back.

    transport       "raw" (sensor_msgs/Image) or "compressed" (sensor_msgs/CompressedImage)
    on_frame        called with the stamp, nanoseconds, of each frame that is the buffer's newest; must return at once
    reliability     "best_effort", "reliable", or "auto": reliable while every publisher of the topic is, because a
                    best-effort image of more than a few hundred kilobytes seldom survives the way; else best effort,
                    which hears every publisher
    """

    def __init__(
        self,
        node: Node,
        buffer: FrameBuffer,
        *,
        transport: str,
        reliability: str,
        max_pixels: int = MAX_PIXELS,
        on_frame: Callable[[int], None] = lambda stamp_ns: None,
    ) -> None:
        self._node = node
        self._on_frame = on_frame
        self._log = node.get_logger().get_child("camera")
        self._buffer = buffer
        self._max_pixels = max_pixels
        self.topic = node.resolve_topic_name("image")
        self._message_type = MESSAGE_TYPES[transport]
        self._expected = f"sensor_msgs/msg/{self._message_type.__name__}"
        self._asked_reliability = RELIABILITIES.get(reliability)  # None: auto
        self._complaints = Complaints(self._log.warning)
        self._arrivals: collections.deque[float] = collections.deque(maxlen=1000)
        self._last_arrival = self._last_usable = time.monotonic()
        self._first_arrival: float | None = None
        self._last_fault = ""  # why the last image that could not be used could not
        self._restarts: collections.deque[float] = collections.deque(maxlen=OFTEN)  # when the buffer started afresh
        self._last_restart = ""  # why it did
        self._jumped_to_ns: int | None = None  # stamp to which the images jumped back last
        self._taking = threading.Lock()  # a clock that is set back comes between two images, never amid one
        self._settled = 0.0  # by time.monotonic(): when the subscription has been the only one for a while
        self.infos = CameraInfos(self._complaints)
        self.counts: collections.Counter[str] = collections.Counter()  # of what became of each image

        # The images have a callback group to themselves: whatever else the node does, the next one is taken at once.
        self._image_group = MutuallyExclusiveCallbackGroup()
        self._reliability = ReliabilityPolicy.BEST_EFFORT  # hears whoever comes first
        self._reliability = self._fitting_reliability()
        self._images = self._subscribe()
        others = MutuallyExclusiveCallbackGroup()
        self._infos = node.create_subscription(
            CameraInfo,
            "camera_info",
            self.infos.add,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            callback_group=others,
        )
        self._watch_timer = steady_timer(node, WATCH_PERIOD_S, self._watch, others)
        self._jump = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)), post_callback=self._on_time_jump
        )

    @property
    def reliability(self) -> str:
        """Of the current subscription: "reliable" or "best_effort"."""
        return self._reliability.name.lower()

    @property
    def rate(self) -> float:
        """Images per second that arrived lately, good or bad."""
        now = time.monotonic()
        return sum(now - arrival <= RATE_WINDOW_S for arrival in tuple(self._arrivals)) / RATE_WINDOW_S

    @property
    def silent_s(self) -> float:
        """Seconds since an image arrived, or since the subscription was made."""
        return time.monotonic() - self._last_arrival

    @property
    def unusable_s(self) -> float:
        """Seconds since an image came into the buffer, or since the subscription was made."""
        return time.monotonic() - self._last_usable

    @property
    def trouble(self) -> str:
        """Why the buffer gets no images, or keeps none; empty where it does, or where it is too early to say."""
        if self.silent_s > SILENCE_S:
            return f"no image on {self.topic} for {self.silent_s:.0f} s: {self._why_silent()}"
        if self.unusable_s > SILENCE_S and self._last_fault:
            return f"none of the images on {self.topic} could be used for {self.unusable_s:.0f} s: {self._last_fault}"
        return self.why_restless()

    def why_restless(self) -> str:
        """Why no clip can grow, because the buffer starts afresh again and again; empty where it does not."""
        restarts = tuple(self._restarts)
        if len(restarts) < OFTEN or time.monotonic() - restarts[0] > SILENCE_S:
            return ""
        return f"images on {self.topic} again and again: {self._last_restart}"

    def why_empty(self) -> str:
        """Why there is no frame to predict from."""
        if self._first_arrival is None:
            return f"no image has arrived on {self.topic} yet: {self._why_silent()}"
        if restless := self.why_restless():
            return f"no usable image is there; {restless}"
        fates = ", ".join(f"{count} {fate}" for fate, count in sorted(self.counts.items()))
        last = f"; the last one that could not be used: {self._last_fault}" if self._last_fault else ""
        return f"no usable image is there; of those that came on {self.topic}: {fates}{last}"

    @property
    def info(self) -> CameraInfo | None:
        """The newest calibration. What goes with a clip is `infos.at(...)`."""
        return self.infos.newest

    def destroy(self) -> None:
        self._jump.unregister()
        self._node.destroy_timer(self._watch_timer)
        self._node.destroy_subscription(self._images)
        self._node.destroy_subscription(self._infos)

    def _subscribe(self) -> Subscription:
        return self._node.create_subscription(
            self._message_type,
            "image",
            self._on_image,
            QoSProfile(depth=DEPTH, reliability=self._reliability),
            callback_group=self._image_group,
            # No callback for publishers whose QoS does not fit: `_why_silent` names them if nothing arrives.
            event_callbacks=SubscriptionEventCallbacks(message_lost=self._on_lost, use_default_callbacks=False),
        )

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._complaints.well("silence")
        self._last_arrival = time.monotonic()
        self._first_arrival = self._first_arrival or self._last_arrival
        self._arrivals.append(self._last_arrival)
        try:
            frame = frame_of(message, self._max_pixels)
        except BadImage as bad:
            self._last_fault = str(bad)
            self._complaints.say(bad.cause, f"images on {self.topic} are ignored: {bad}")
            self.counts[bad.cause] += 1
            return
        with self._taking:
            self._take(frame)

    def _take(self, frame: StampedFrame) -> None:
        added = self._buffer.add(frame)
        if added is Added.DUPLICATE and self._last_arrival < self._settled:
            return  # the outgoing subscription had it
        if added in (Added.DUPLICATE, Added.UNSTAMPED):
            self._last_fault = added.value
        else:
            self._last_usable = self._last_arrival
        if added in WORTH_A_WARNING:
            what = f"{added.value}{self._who_else()}"
            self._complaints.say(added.name, f"image on {self.topic} with stamp {frame.stamp_ns} ns: {what}")
            if added is Added.JUMPED_BACK:
                self._jumped_to_ns = frame.stamp_ns
            if added in RESTARTS:
                self._last_restart = what
                self._restarts.append(self._last_arrival)
        if added in (Added.ADDED, *RESTARTS):
            self._on_frame(frame.stamp_ns)
        self.counts[added.name.lower()] += 1  # last: whoever sees it counted finds all that came of it

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        if time.monotonic() < self._settled:
            return  # what a new subscription counts as lost came before it
        self.counts[LOST] += event.total_count_change
        remedy = "give the camera's process and this one more shared memory, see config/fastdds_large_images.xml"
        if self._reliability is ReliabilityPolicy.BEST_EFFORT:
            remedy = f"publish them reliably, or {remedy}"
        self._complaints.say("lost", f"images on {self.topic} get lost on the way ({self.reliability}): {remedy}")

    def _on_time_jump(self, _: object) -> None:
        what = "the clock was set back or exchanged: the frame buffer starts afresh"
        with self._taking:
            if not self._images_jumped_first():  # which counted as a restart then
                self._buffer.clear()
                self._last_restart = what
                self._restarts.append(time.monotonic())
        self.infos.clear()
        self._complaints.say("clock", what)

    def _images_jumped_first(self) -> bool:
        """Whether the buffer began afresh at the clock's new time already: a bag's images may loop before its clock."""
        oldest_ns, now_ns = self._buffer.state().oldest_ns, self._node.get_clock().now().nanoseconds
        return oldest_ns is not None and oldest_ns == self._jumped_to_ns and 0 <= now_ns - oldest_ns < SAME_JUMP_NS

    def _watch(self) -> None:
        reliability = self._fitting_reliability()
        if reliability is not self._reliability:
            outgoing, self._reliability = self._images, reliability
            self._settled = time.monotonic() + SETTLE_S
            self._images = self._subscribe()
            self._node.destroy_subscription(outgoing)
            self._last_arrival = self._last_usable = time.monotonic()  # it has had no time to hear anything
            self._log.info(f"subscribed to {self.topic} as {self.reliability}, like its publisher")
        if self.silent_s > SILENCE_S:
            why = self._why_silent()
            self._complaints.say("silence", f"no image on {self.topic} for {self.silent_s:.0f} s: {why}")
        elif why := self.why_no_info():
            self._complaints.say("camera_info", f"~/camera_info stays silent: {why}")

    def _fitting_reliability(self) -> ReliabilityPolicy:
        if self._asked_reliability is not None:
            return self._asked_reliability
        publishers = self._publishers()
        return fitting_reliability(publishers) if publishers else self._reliability

    def _publishers(self) -> list[TopicEndpointInfo]:
        """Of the message type that is subscribed to: whoever sends another one under the same name is not heard."""
        everybody = self._node.get_publishers_info_by_topic(self.topic)
        return [publisher for publisher in everybody if publisher.topic_type == self._expected]

    def _why_silent(self) -> str:
        fitting, everybody = self._publishers(), self._node.get_publishers_info_by_topic(self.topic)
        if not everybody:
            return "nobody publishes it; remap `image` to the camera's topic"
        if not fitting:
            others = ", ".join(sorted({publisher.topic_type for publisher in everybody}))
            return f"its publisher sends {others}, this node expects {self._expected}; set `image_transport`"
        theirs = ", ".join(sorted({publisher.qos_profile.reliability.name.lower() for publisher in fitting}))
        qos = f"the publisher's QoS is {theirs}, ours is {self.reliability}"
        if self.reliability == "reliable" and "best_effort" in theirs:
            return f"{qos}; set `image_reliability` to auto or best_effort"
        return f"{qos}, which fit; it sends nothing, or nothing survives the way"

    def why_no_info(self) -> str:
        """Why no calibration has come; empty where one has, or where it is too early to say."""
        if self.info is not None or not self._first_arrival or time.monotonic() < self._first_arrival + SILENCE_S:
            return ""
        topic = self._infos.topic_name
        publishers = self._node.get_publishers_info_by_topic(topic)
        if not publishers:
            return f"nobody publishes {topic}; remap `camera_info`, if the camera has one"
        types = ", ".join(sorted({publisher.topic_type for publisher in publishers}))
        if "sensor_msgs/msg/CameraInfo" not in types:
            return f"the publisher of {topic} sends {types}, this node expects sensor_msgs/msg/CameraInfo"
        return f"nothing has come on {topic}, though somebody publishes it"

    def _who_else(self) -> str:
        """The publishers, where there are several: their frames cannot be told apart."""
        names = sorted(map(node_of, self._publishers()))
        return f"; {len(names)} publish it: {', '.join(names)}" if len(names) > 1 else ""


def node_of(publisher: TopicEndpointInfo) -> str:
    """The full name of the node that publishes."""
    if publisher.node_name == UNKNOWN_NODE:
        return "one whose name is not known yet"
    return f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"


def fitting_reliability(publishers: list[TopicEndpointInfo]) -> ReliabilityPolicy:
    """What `auto` makes of a topic's publishers: reliable while all of them are, so that it hears every one."""
    offered = {publisher.qos_profile.reliability for publisher in publishers}
    return ReliabilityPolicy.RELIABLE if offered == {ReliabilityPolicy.RELIABLE} else ReliabilityPolicy.BEST_EFFORT
