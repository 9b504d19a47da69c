"""Progress where the output is no terminal: lines, and nothing that only a terminal understands."""

from __future__ import annotations

import sys

import pytest

from cosmos_ros import progress_bar
from cosmos_ros.progress_bar import ProgressBar

FORMAT = "{percentage:.0f} % {desc}"


@pytest.fixture
def lines(capfd):
    """lines() -> what was written to the standard error, which is no terminal"""
    assert not sys.stderr.isatty()
    return lambda: capfd.readouterr().err.split("\n")


def test_a_log_gets_the_first_and_the_last_line_and_those_that_are_asked_for(lines):
    with ProgressBar(total=4, bar_format=FORMAT) as bar:
        bar.update(1)  # too soon for a line
        bar.set_description_str("decoding", refresh=False)
        bar.update(1)
        bar.refresh()
        bar.update(2)
    assert lines() == ["0 %", "50 % decoding", "100 % decoding", ""]


def test_a_log_gets_a_line_now_and_then(lines, monkeypatch):
    monkeypatch.setattr(progress_bar, "LINE_S", 0.0)
    with ProgressBar(total=3, bar_format=FORMAT, miniters=1) as bar:
        for _ in range(3):
            bar.update()
    assert lines() == ["0 %", "33 %", "67 %", "100 %", ""]


def test_messages_stand_between_the_lines(lines):
    with ProgressBar(total=2, bar_format=FORMAT) as bar:
        bar.update()
        ProgressBar.write("one is done", file=sys.stderr)
        bar.update()
    assert lines() == ["0 %", "one is done", "50 %", "100 %", ""]
