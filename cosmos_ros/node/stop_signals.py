"""Signals that ask a program to end."""

from __future__ import annotations

import atexit
import contextlib
import queue
import signal
from collections.abc import Callable
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)
LOOK_UP_S = 0.2


def on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call this for every such signal, from the main thread, until the program ends; they cannot kill it any more then.

    Python puts the default in a handler's place while it ends, which kills. A second signal often comes: the terminal
    sends Ctrl-C to all programs, and `ros2 launch` passes it on.
    """
    for each in STOPS:
        signal.signal(each, handler)
    atexit.register(_ignore)


def await_stop(asked: queue.SimpleQueue) -> None:
    """Wait on the main thread until something comes through this, into which a signal's handler puts.

    Looks up now and then: the system may hand a signal to any thread, most likely to one that has just been made, but
    Python's handlers run on the main one alone, and not before it does something again.
    """
    while True:
        with contextlib.suppress(queue.Empty):
            asked.get(timeout=LOOK_UP_S)
            return


def _ignore() -> None:
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
