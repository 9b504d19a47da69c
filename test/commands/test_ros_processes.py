"""Processes of a graph of their own: found free, stopped in order, their failures reported in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cosmos_ros.commands import ros_processes
from cosmos_ros.commands.ros_processes import Processes, ProcessFailed, free_domain

pytestmark = pytest.mark.processes


def children_of(pid: int) -> list[int]:
    children = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it may end while we look
            if f"\nPPid:\t{pid}\n" in status.read_text():
                children.append(int(status.parent.name))
    return children


def alive(pid: int) -> bool:
    try:
        # A zombie has ended: in a container nobody may collect the orphans.
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_domain_in_use_is_not_taken(monkeypatch):
    taken = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebody:
        somebody.bind(("", 7400 + 250 * taken + 10))
        other = free_domain()  # whatever else runs on this machine
        monkeypatch.setattr(ros_processes, "DOMAINS", (taken, other))
        assert free_domain() == other != taken
        monkeypatch.setattr(ros_processes, "DOMAINS", (taken,))
        with pytest.raises(ProcessFailed, match="no UDP port for DDS can be had .*: free one"):
            free_domain()


def test_processes_find_each_other_on_this_machine_only(monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_STATIC_PEERS", "192.0.2.1")
    with Processes(tmp_path) as processes:
        environment = processes._environment
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert environment["ROS_DOMAIN_ID"] == str(processes.domain)
    assert "ROS_STATIC_PEERS" not in environment


def test_a_missing_middleware_costs_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_that_is_not_there")
    with pytest.raises(ProcessFailed, match=r"\A[^\n]*rmw_that_is_not_there[^\n]*unset RMW_IMPLEMENTATION[^\n]*\Z"):
        Processes(tmp_path)


def test_a_process_that_fails_shows_its_log(tmp_path):
    with (
        Processes(tmp_path) as processes,
        pytest.raises(ProcessFailed, match="bag_player ended with status 1") as failure,
    ):
        processes.start("bag_player", str(tmp_path / "no_such_bag"))
        processes.start("predict_client", "--patience", "60")
        processes.wait_for("predict_client", time.monotonic() + 300)
    assert "no_such_bag" in failure.value.log


def test_nothing_is_waited_for_past_the_deadline(tmp_path):
    with Processes(tmp_path) as processes, pytest.raises(ProcessFailed, match="did not finish in time"):
        processes.start("predict_client", "--patience", "60")
        processes.wait_for("predict_client", time.monotonic())


def test_what_it_started_ends_with_a_process_that_is_killed(tmp_path):
    program = """
import sys, time
from pathlib import Path
from cosmos_ros.commands.ros_processes import Processes
with Processes(Path(sys.argv[1])) as processes:
    processes.start("predict_client", "--patience", "600")
    print("started", flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", program, tmp_path]
    parent = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "started\n"
    (child,) = children_of(parent.pid)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 300
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_an_interrupted_demo_leaves_no_process_and_no_file_behind(tmp_path, ending):
    demo = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from cosmos_ros.commands.cli import main; raise SystemExit(main())",
            "demo",
            "--out",
            tmp_path,
        ],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout.readline().startswith("replaying"), demo.stderr.read()
    children = children_of(demo.pid)
    assert len(children) >= 2
    demo.send_signal(ending)
    _, errors = demo.communicate()
    assert demo.returncode == 128 + ending
    assert "Traceback" not in errors
    assert not any(map(alive, children))
    assert not list(tmp_path.iterdir())
