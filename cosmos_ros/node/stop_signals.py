"""Signals that ask a program to end."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


def on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call this for every such signal, from the main thread, until the program ends; they cannot kill it any more then.

    Python puts the default in a handler's place while it ends, which kills. A second signal often comes: the terminal
    sends Ctrl-C to all programs, and `ros2 launch` passes it on.
    """
    for each in STOPS:
        signal.signal(each, handler)
    atexit.register(_ignore)


def _ignore() -> None:
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
