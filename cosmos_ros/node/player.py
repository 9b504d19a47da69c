"""A sequence shown at its rate, on the robot's or on anybody's screen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.timer import Timer

from cosmos_ros.node.timers import steady_timer


class Player:
    """Shows one thing after the other; a new sequence takes the place of one that still plays, or follows it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._group = MutuallyExclusiveCallbackGroup()
        self._timer: Timer | None = None
        self._remaining: deque[Callable[[], None]] = deque()

    def play(self, rate: float, shows: Iterable[Callable[[], None]], goes_on: bool = False) -> None:
        """Call one after the other, `rate` per second, the first one after a period.

        goes_on  after what still plays, instead of in its place
        """
        remaining = self._remaining if goes_on else deque()
        self.stop()
        self._remaining = remaining
        remaining.extend(shows)

        def show_next() -> None:
            if remaining:
                remaining.popleft()()
            else:
                timer.cancel()

        timer = steady_timer(self._node, 1 / rate, show_next, self._group)
        self._timer = timer

    def stop(self) -> None:
        """Show no further."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        self._remaining = deque()
