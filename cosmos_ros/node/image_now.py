"""The topic `~/image_now`: the predicted frame for the node's clock plus `latency_compensation`.

For a driver whose picture comes over a slow link, and for whoever must not wait for the camera. A frame goes out once,
when it becomes the one to show, with its own stamp; stamps rise, and while there is no frame to show, nothing goes out.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from cosmos_ros.node.messages import frame_message
from cosmos_ros.node.rollout_publisher import QUEUE
from cosmos_ros.node.timers import steady_timer
from cosmos_ros.planning.frame_for_now import FrameForNow, NothingToShow
from cosmos_ros.rollout import NANOSECONDS, GuardedRollout

LOOKS_PER_FRAME = 4  # at the clock, while somebody listens: by a quarter of a period a frame may come late
IDLE_S = 0.5  # between two looks for somebody who listens


class ImageNow:
    """Publishes while the node is active and somebody listens.

    frame_rate  Hz, of the predictions
    ahead_s     the parameter as it is now, seconds
    alarm       whether a surprise alarm stands
    restarts    how often the camera's images began anew
    """

    def __init__(
        self,
        node: LifecycleNode,
        frame_rate: float,
        ahead_s: Callable[[], float],
        alarm: Callable[[], bool],
        restarts: Callable[[], int],
    ) -> None:
        self._node, self._ahead_s = node, ahead_s
        self._frames = FrameForNow(alarm, restarts)
        self._last: tuple[int, float, int] | None = None  # epoch, seconds ahead and stamp of what went out last
        self._publisher = node.create_lifecycle_publisher(Image, "~/image_now", QUEUE)
        self._busy_s = 1 / (LOOKS_PER_FRAME * frame_rate)
        self._timer = steady_timer(node, IDLE_S, self._look, MutuallyExclusiveCallbackGroup())

    @property
    def epoch(self) -> int:
        """Changes where clock or camera begin anew; to be noted before a clip is taken."""
        return self._frames.epoch(self._now_ns())

    @property
    def listeners(self) -> int:
        return self._publisher.get_subscription_count()

    @property
    def ahead_s(self) -> float:
        return self._ahead_s()

    @property
    def why_nothing(self) -> str:
        """Why there is no frame to show now; empty where there is one."""
        try:
            self._frames.at(self._now_ns(), self._ahead_s())
        except NothingToShow as reason:
            return str(reason)
        return ""

    def add(self, rollout: GuardedRollout, frame_id: str, epoch: int) -> None:
        """Take in a released rollout, or a stretch of one. Raises TypeError for anything but a GuardedRollout."""
        if not isinstance(rollout, GuardedRollout):
            raise TypeError(f"only guarded frames may be shown; got {type(rollout).__name__}")
        self._frames.add(rollout, epoch, self._now_ns(), frame_id)

    def stop(self) -> None:
        """Forget all predictions."""
        self._frames.clear()

    def destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        self._node.destroy_lifecycle_publisher(self._publisher)

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _look(self) -> None:
        listened_to = self.listeners > 0
        period_ns = round((self._busy_s if listened_to else IDLE_S) * NANOSECONDS)
        if self._timer.timer_period_ns != period_ns:
            self._timer.timer_period_ns = period_ns
        if listened_to:
            self._show()

    def _show(self) -> None:
        now_ns, ahead_s = self._now_ns(), self._ahead_s()
        try:
            shown = self._frames.at(now_ns, ahead_s)
        except NothingToShow:
            return
        this = (shown.epoch, ahead_s, shown.stamp_ns)
        went_out = self._last is not None and self._last[:2] == this[:2] and self._last[2] >= this[2]
        if not went_out:
            self._last = this
            self._publisher.publish(frame_message(shown.rollout, shown.index, shown.frame_id))
