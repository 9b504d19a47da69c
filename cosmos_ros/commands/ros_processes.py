"""Processes of a ROS graph of their own on this machine: a free domain, logs in files, none left behind."""

from __future__ import annotations

import functools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from cosmos_ros.child_processes import killed_with
from cosmos_ros.paths import executable

DOMAINS = range(1, 102)  # above, a domain's ports lie among those that Linux hands out to anybody
WAYS_OUT = ("ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER", "ROS_LOCALHOST_ONLY")  # overrule the discovery range
GRACE_S = 10.0  # for a process to end by itself after SIGINT
POLL_S = 0.1
MIDDLEWARE_REMEDY = (
    "unset RMW_IMPLEMENTATION or install what it names (requirements/ros.txt has Fast DDS), correct what else of ROS's "
    "environment is named here, and use the Python that this ROS 2 was built for"
)
LOG_LINES = 15


class ProcessFailed(Exception):
    """Says in one line what is wrong and what to do; `log` is what the process at fault said last."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class Processes:
    """Starts this package's programs; leaving the context ends them all.

    They find each other in `domain`, which nobody else on this machine uses, and on this machine only: no robot on
    the network hears them.

    folder  where each program's log goes

    Raises ProcessFailed where ROS's middleware does not start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.domain = free_domain()
        self._environment = {name: value for name, value in os.environ.items() if name not in WAYS_OUT}
        self._environment |= {"ROS_DOMAIN_ID": str(self.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        self._running: dict[str, subprocess.Popen] = {}
        if fault := middleware_fault(self._environment):
            raise ProcessFailed(f"{fault}; {MIDDLEWARE_REMEDY}")

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # The last first: a client cancels its goal while the node still answers.
        for process in reversed(self._running.values()):
            _end(process)

    def start(self, program: str, *arguments: str, shows_progress: bool = False) -> None:
        """`shows_progress`: what it writes to stderr is for the user and not for the log."""
        with self._log(program).open("wb") as log:
            self._running[program] = subprocess.Popen(
                [sys.executable, executable(program), *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if shows_progress else log,
                start_new_session=True,  # Ctrl-C is for us alone: we end them in order
                preexec_fn=functools.partial(killed_with, os.getpid()),  # where we are killed, Linux ends them
            )

    def wait_for(self, program: str, deadline: float) -> None:
        """Until the program has ended well. Raises ProcessFailed where one of them fails, or at the deadline."""
        while (status := self._running[program].poll()) is None:
            for other, process in self._running.items():
                if process.poll():
                    raise self._failure(other, f"{other} ended with status {process.returncode}")
            if time.monotonic() > deadline:
                raise self._failure(next(iter(self._running)), f"{program} did not finish in time")
            time.sleep(POLL_S)
        if status:
            raise self._failure(next(iter(self._running)), f"{program} ended with status {status}")

    def _failure(self, program: str, message: str) -> ProcessFailed:
        lines = self._log(program).read_text(errors="replace").splitlines(keepends=True)[-LOG_LINES:]
        return ProcessFailed(f"{message}; above is the end of {program}'s log", "".join(lines))

    def _log(self, program: str) -> Path:
        return self._folder / f"{program}.log"


def middleware_fault(environment: Mapping[str, str]) -> str:
    """Why ROS's middleware does not start; empty where it does.

    Tried in a process of its own: where it is missing, rcl ends the process that asks for it.
    """
    command = [sys.executable, "-c", "import rclpy; rclpy.init(); rclpy.create_node('probe')"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if not done.returncode:
        return ""
    said = done.stderr.strip() or done.stdout.strip()  # Fast DDS says it on stdout
    last_line = said.splitlines()[-1:] or [f"status {done.returncode}"]
    return f"ROS 2's middleware does not start: {last_line[0]}"


def free_domain() -> int:
    """A ROS domain whose DDS ports nobody on this machine uses. Raises ProcessFailed where there is none."""
    error: OSError | None = None
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unicast:
                unicast.bind(("", 7400 + 250 * domain + 10))  # the first participant's, by the RTPS standard
        except OSError as taken:
            error = taken
        else:
            return domain
    raise ProcessFailed(f"no UDP port for DDS can be had ({error}): free one of 7660 to 32660, or allow sockets here")


def _end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # Ctrl-C again: at once, then
        process.kill()
        process.wait()
