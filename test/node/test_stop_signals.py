"""A signal that comes while a program ends already does not kill it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os
from cosmos_ros.node.stop_signals import STOPS, on_stop

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=STOPS[{which}]):
        kill(pid, number)  # when Python has taken the handlers away

late = Late()
on_stop(lambda *_: None)
"""


@pytest.mark.parametrize("which", [0, 1])
def test_a_signal_while_python_ends_kills_nothing(which):
    assert subprocess.run([sys.executable, "-c", PROGRAM.format(which=which)]).returncode == 0
