"""Signals that come when, or where, they are not expected."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATE = """
import os
from cosmos_ros.node.stop_signals import STOPS, on_stop

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=STOPS[{which}]):
        kill(pid, number)  # when Python has taken the handlers away

late = Late()
on_stop(lambda *_: None)
"""

ELSEWHERE = """
import queue, signal, threading, time
from cosmos_ros.node.stop_signals import STOPS, await_stop, on_stop

asked = queue.SimpleQueue()
on_stop(lambda number, _: asked.put(number))

def take():
    time.sleep(0.1)  # in which the main thread begins to wait
    signal.pthread_kill(threading.get_ident(), STOPS[{which}])

threading.Thread(target=take).start()
await_stop(asked)
"""


@pytest.mark.parametrize("which", [0, 1])
def test_a_signal_while_python_ends_kills_nothing(which):
    assert subprocess.run([sys.executable, "-c", LATE.format(which=which)]).returncode == 0


@pytest.mark.parametrize("which", [0, 1])
def test_a_signal_that_another_thread_takes_is_heard(which):
    assert subprocess.run([sys.executable, "-c", ELSEWHERE.format(which=which)], timeout=120).returncode == 0
