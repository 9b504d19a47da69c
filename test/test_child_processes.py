"""A child of multiprocessing ends with its parent, even where that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from ast import literal_eval
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PARENT = """
import multiprocessing, os, sys, time
sys.path.insert(0, sys.argv[1])
import test_child_processes as program
from cosmos_ros.child_processes import fresh_processes

if __name__ == "__main__":
    context = fresh_processes("colorsys") if sys.argv[2] == "fresh" else multiprocessing.get_context(sys.argv[2])
    ours, theirs = context.Pipe()
    context.Process(target=program.child, args=(theirs,), daemon=True).start()
    print(ours.recv(), flush=True)
    time.sleep(600)
"""


def child(connection):
    from cosmos_ros.child_processes import end_with_parent

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    connection.send((os.getpid(), "colorsys" in sys.modules))
    time.sleep(600)


@pytest.mark.parametrize("context", ["spawn", "fresh"])
def test_a_child_ends_with_its_killed_parent(tmp_path, context):
    """And a fresh one begins with the modules that it was to have."""
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, program, Path(__file__).parent, context], stdout=subprocess.PIPE, text=True
    )
    pid, loaded = literal_eval(parent.stdout.readline())
    assert loaded is (context == "fresh")
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
