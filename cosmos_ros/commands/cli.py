"""`cosmos_ros demo | predict | evaluate | ...`: each command lives in its own module and is loaded on use."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator

from cosmos_ros.device.host_memory import keep_freed_memory
from cosmos_ros.errors import SettingError

# command -> (module that has add_arguments(parser) and run(args) -> exit status, one line of help)
COMMANDS = {
    "demo": ("cosmos_ros.commands.demo", "replay the sample bag through the node and predict its future"),
    "predict": ("cosmos_ros.commands.predict", "predict from a video, an image or a bag, without ROS"),
    "evaluate": ("cosmos_ros.commands.evaluate", "measure the foresight on recorded bags"),
    "benchmark": (
        "cosmos_ros.commands.benchmark",
        "is the predicted world consistent, does it obey physics, does it fail",
    ),
    "calibrate": ("cosmos_ros.commands.calibrate", "learn from nominal recordings when a frame is surprising"),
    "train": ("cosmos_ros.commands.train", "train a tokenizer and a world model of your own"),
    "doctor": ("cosmos_ros.commands.doctor.doctor", "say what this machine, robot and checkpoint lack"),
}


def main(argv: list[str] | None = None) -> int:
    keep_freed_memory()
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="cosmos_ros", description="Predictive foresight for robots.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_line) in COMMANDS.items():
        command = commands.add_parser(name, help=help_line, description=help_line[0].upper() + help_line[1:] + ".")
        # Only the chosen command's module is imported: `doctor` must run where torch does not.
        if argv[:1] == [name]:
            importlib.import_module(module).add_arguments(command)
    logging.basicConfig(format="%(message)s")  # what the package logs goes to standard error
    logging.getLogger("cosmos_ros").setLevel(logging.INFO)
    args = parser.parse_args(argv)
    try:
        with _sigterm_as_ctrl_c():
            return importlib.import_module(COMMANDS[args.command][0]).run(args)
    except SettingError as error:
        print(f"cosmos_ros {args.command}: {error}", file=sys.stderr)
        return 1
    except _Terminated:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: it stops its processes and removes its temporary files."""

    def end(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # which alone may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
