"""A child of multiprocessing ends with its parent, even where that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PARENT = """
import multiprocessing, os, sys, time
sys.path.insert(0, sys.argv[1])
import test_child_processes as program

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=program.child, args=(theirs,), daemon=True).start()
    print(ours.recv(), flush=True)
    time.sleep(600)
"""


def child(connection):
    from cosmos_ros.child_processes import end_with_parent

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    connection.send(os.getpid())
    time.sleep(600)


def test_a_child_ends_with_its_killed_parent(tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, program, Path(__file__).parent], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    status = Path(f"/proc/{pid}/status")
    assert status.exists()
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while _lives(status):
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.05)


def _lives(status: Path) -> bool:
    try:
        return "\nState:\tZ" not in status.read_text()  # a zombie has ended: nobody may collect orphans here
    except OSError:
        return False
