"""Guarded rollouts onto their topics: the whole at once, and its frames played at their rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from unique_identifier_msgs.msg import UUID

from cosmos_ros import images
from cosmos_ros.msg import Rollout
from cosmos_ros.node.messages import (
    contact_sheet_message,
    cropped_camera_info,
    frame_messages,
    rollout_message,
    uncertainty_messages,
)
from cosmos_ros.node.player import Player
from cosmos_ros.rollout import NANOSECONDS, GuardedRollout

MATCHING_S = 2.0  # in which listeners of a topic meet a new publisher of it
QUEUE = QoSProfile(depth=10)  # reliable, volatile


def latched(depth: int) -> QoSProfile:
    """Reliable, and the last `depth` messages for late joiners too."""
    return QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class Camera:
    """The camera that a rollout continues, as it was when the clip was taken."""

    frame_id: str
    size: tuple[int, int]  # (height, width) of its images
    info: CameraInfo | None  # None: nobody published one


class RolloutPublisher:
    """Publishes ~/rollout, ~/image (and compressed), ~/camera_info, ~/contact_sheet, ~/uncertainty and ~/mean.

    ~/rollout is always published and latched, so that a late subscriber gets every stretch of every sample of the last
    goal. The others show the first sample; as they cost time, they are published only while they have subscribers. All
    are silent unless the node is active. A later stretch of a rollout is played after the earlier ones.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._log = node.get_logger().get_child("rollout")
        self._kept = 1
        self._rollout = node.create_lifecycle_publisher(Rollout, "~/rollout", latched(self._kept))
        self._image = node.create_lifecycle_publisher(Image, "~/image", QUEUE)
        self._compressed = node.create_lifecycle_publisher(CompressedImage, "~/image/compressed", QUEUE)
        self._info = node.create_lifecycle_publisher(CameraInfo, "~/camera_info", QUEUE)
        self._sheet = node.create_lifecycle_publisher(Image, "~/contact_sheet", QUEUE)
        self._uncertainty = node.create_lifecycle_publisher(Image, "~/uncertainty", QUEUE)
        self._mean = node.create_lifecycle_publisher(Image, "~/mean", QUEUE)
        self._player, self._uncertainty_player, self._mean_player = Player(node), Player(node), Player(node)
        self._warned = False
        self.last_lead_s: float | None = None  # of the rollout that was published last; None: none was

    def publish(
        self, rollouts: Sequence[GuardedRollout], goal_id: UUID, camera: Camera, n_stretches: int = 1
    ) -> list[Rollout]:
        """Publish a stretch of all samples and begin to play the first; returns the messages.

        n_stretches  that the goal will have

        Raises TypeError for anything but a GuardedRollout.
        """
        self._keep(len(rollouts) * n_stretches)
        messages = [rollout_message(rollout, goal_id, camera.frame_id) for rollout in rollouts]
        for rollout, message in zip(rollouts, messages, strict=True):
            message.lead = (rollout.stamps_ns[-1] - self._node.get_clock().now().nanoseconds) / NANOSECONDS
            self._rollout.publish(message)
        self.last_lead_s = messages[0].lead
        first, message = rollouts[0], messages[0]
        if self._sheet.get_subscription_count():
            self._sheet.publish(contact_sheet_message(first, message.frames[0].header))
        self._play(first, message, self._cropped_info(first, camera))
        return messages

    def publish_together(
        self, rollouts: Sequence[GuardedRollout], camera: Camera, mean: Callable[[], GuardedRollout]
    ) -> None:
        """Play what several samples say together: ~/uncertainty and ~/mean, each only if it has subscribers.

        mean  makes the guarded mean of these samples; what it raises comes through
        """
        rate, goes_on = rollouts[0].frame_rate, rollouts[0].first_frame > 0
        if self._uncertainty.get_subscription_count():
            maps = uncertainty_messages(rollouts, camera.frame_id)
            self._uncertainty_player.play(rate, [partial(self._uncertainty.publish, image) for image in maps], goes_on)
        if self._mean.get_subscription_count():
            frames = frame_messages(mean(), camera.frame_id)
            self._mean_player.play(rate, [partial(self._mean.publish, image) for image in frames], goes_on)

    def stop(self) -> None:
        """Play no further."""
        for player in (self._player, self._uncertainty_player, self._mean_player):
            player.stop()

    def destroy(self) -> None:
        self.stop()
        for publisher in (
            self._rollout,
            self._image,
            self._compressed,
            self._info,
            self._sheet,
            self._uncertainty,
            self._mean,
        ):
            self._node.destroy_lifecycle_publisher(publisher)

    def _keep(self, n: int) -> None:
        """Have ~/rollout latch n messages from now on, if it keeps fewer: 16 of 640x1024 would take 750 MB for nothing.

        A publisher's depth cannot change, so another one takes its place, once it knows all that listen.
        """
        if n <= self._kept:
            return
        outgoing, listeners = self._rollout, self._rollout.get_subscription_count()
        self._rollout, self._kept = self._node.create_lifecycle_publisher(Rollout, "~/rollout", latched(n)), n
        self._rollout.on_activate(None)  # as the node was when the goal came
        deadline = time.monotonic() + MATCHING_S
        while self._rollout.get_subscription_count() < listeners and time.monotonic() < deadline:
            time.sleep(0.005)
        self._node.destroy_lifecycle_publisher(outgoing)

    def _play(self, rollout: GuardedRollout, message: Rollout, info: CameraInfo | None) -> None:
        def show(frame: np.ndarray, image: Image) -> None:
            if self._image.get_subscription_count():
                self._image.publish(image)
            if self._compressed.get_subscription_count():
                form, data = images.compress(frame)
                self._compressed.publish(CompressedImage(header=image.header, format=form, data=data))
            if info is not None:
                info.header = image.header
                self._info.publish(info)

        pairs = zip(rollout.frames, message.frames, strict=True)
        shows = [partial(show, frame, image) for frame, image in pairs]
        self._player.play(rollout.frame_rate, shows, goes_on=rollout.first_frame > 0)

    def _cropped_info(self, rollout: GuardedRollout, camera: Camera) -> CameraInfo | None:
        if camera.info is None:
            return None
        try:
            return cropped_camera_info(camera.info, rollout.crop, camera.size)
        except ValueError as error:
            if not self._warned:
                self._warned = True
                self._log.warning(f"~/camera_info stays silent: {error}; republish it for the size of the images")
            return None
