"""What the README says is so: its links lead somewhere, its table is the action's, its program runs."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from catkin_pkg.changelog import get_changelog_from_path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_error_codes_are_the_actions():
    declared = re.findall(r"^uint16 (\w+)=(\d+)", (ROOT / "action" / "Predict.action").read_text(), re.MULTILINE)
    told = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [(name, number) for number, name in told] == declared


def test_the_changelog_is_one_and_ends_at_the_packages_version():
    """As REP 132 has it. "Forthcoming" is no version yet."""
    changelog = get_changelog_from_path(ROOT / "CHANGELOG.rst", "cosmos_ros")
    version = ElementTree.parse(ROOT / "package.xml").getroot().findtext("version")
    assert version in [number for number, _, _ in changelog.foreach_version()]
    assert "\nForthcoming\n" in (ROOT / "CHANGELOG.rst").read_text()


def words_in(figure: str) -> set[str]:
    """What the figure says, word by word."""
    texts = ElementTree.parse(ROOT / "docs" / figure).getroot().itertext()
    return {word for text in texts for word in re.split(r"[^\w~/]+", text)}


def test_the_figure_of_the_topics_shows_those_of_the_table():
    table = re.findall(r"^\| (`.+?) (?:\(in\) )?\|", (ROOT / "README.md").read_text(), re.MULTILINE)
    topics = {name for cell in table for name in re.findall(r"`([^`]+)`", cell)}
    drawn = words_in("topics.svg")
    assert topics <= drawn
    assert {word for word in drawn if "/" in word} <= topics


def test_the_figure_of_the_rooms_shows_every_room():
    rooms = {path.parent.name for path in (ROOT / "cosmos_ros").glob("*/__init__.py")}
    assert rooms | {"foresight"} <= words_in("rooms.svg")


@pytest.mark.processes  # choosing an OpenGL looks for its library by ldconfig
def test_the_benchmarks_tables_show_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    tables = importlib.import_module("benchmark_tables")
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert tables.renewed(page, ROOT / "bench" / "results") == page
    assert tables.renewed(page.replace("| model | ", "| model | 99.9 "), ROOT / "bench" / "results") == page


def test_every_command_is_told():
    from cosmos_ros.commands.cli import COMMANDS

    readme = (ROOT / "README.md").read_text()
    assert [command for command in COMMANDS if f"cosmos_ros {command}" not in readme] == []


@pytest.mark.processes
def test_the_program_without_ros_runs(tmp_path):
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (program,) = (program for program in programs if "rclpy" not in program)
    program = program.replace("seed=0)", "seed=0, frames=8)")  # a third of the frames in half of the time
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(8, ")
