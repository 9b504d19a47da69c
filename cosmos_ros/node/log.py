"""What the package logs through Python's `logging`, in the node's log; and warnings that are not repeated per frame."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from rclpy.node import Node

PACKAGE = "cosmos_ros"
WELL_S = 30.0  # what has not happened for this long is well again
MOST_TEXTS = 5  # that one cause says at a time: a fault that differs from frame to frame must not fill the log


class NodeLogHandler(logging.Handler):
    """Hands the package's records, from INFO on, to a node's logger until it is closed."""

    def __init__(self, node: Node) -> None:
        super().__init__(logging.INFO)
        self._log = node.get_logger()
        package = logging.getLogger(PACKAGE)
        package.setLevel(logging.INFO)
        package.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # A line for each severity: rclpy holds every line that logs to the severity of its first call.
        if record.levelno >= logging.ERROR:
            self._log.error(text)
        elif record.levelno >= logging.WARNING:
            self._log.warning(text)
        else:
            self._log.info(text)

    def close(self) -> None:
        logging.getLogger(PACKAGE).removeHandler(self)
        super().close()


class Complaints:
    """Warnings once per cause and what it says, however often it happens; again where it was well in between.

    warn  takes a line for the log
    """

    def __init__(self, warn: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._warn, self._clock = warn, clock
        self._last: dict[tuple[str, str], float] = {}  # (cause, what it says) -> when it happened last

    def say(self, cause: str, text: str) -> None:
        """Warn, unless the same was said before, in other numbers perhaps, and has gone on since."""
        now = self._clock()
        self._last = {said: when for said, when in self._last.items() if now - when <= WELL_S}
        said = (cause, re.sub(r"\d+", "#", text))
        if said not in self._last:
            if sum(other == cause for other, _ in self._last) >= MOST_TEXTS:
                return
            self._warn(text)
        self._last[said] = now

    def well(self, cause: str) -> None:
        """Whatever was said about it is over."""
        self._last = {said: when for said, when in self._last.items() if said[0] != cause}
