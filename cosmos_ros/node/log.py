"""What the package logs through Python's `logging`, in the node's log: on the console, in its file and on /rosout."""

from __future__ import annotations

import logging

from rclpy.node import Node

PACKAGE = "cosmos_ros"


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
