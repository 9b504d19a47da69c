"""Timers that keep running while ROS time is paused: a paused bag or simulator must not stop the node's checks."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.timer import Timer

_STEADY = Clock(clock_type=ClockType.STEADY_TIME)


def steady_timer(
    node: Node, period_s: float, callback: Callable[[], None], group: CallbackGroup | None = None
) -> Timer:
    """Calls back every `period_s` seconds of real time, whatever `use_sim_time` says."""
    return node.create_timer(period_s, callback, group, _STEADY)
