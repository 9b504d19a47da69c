"""What the README says is so: its links lead somewhere, its table is the action's, its program runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_error_codes_are_the_actions():
    declared = re.findall(r"^uint16 (\w+)=(\d+)", (ROOT / "action" / "Predict.action").read_text(), re.MULTILINE)
    told = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [(name, number) for number, name in told] == declared


def test_every_command_is_told():
    from cosmos_ros.commands.cli import COMMANDS

    readme = (ROOT / "README.md").read_text()
    assert [command for command in COMMANDS if f"cosmos_ros {command}" not in readme] == []


@pytest.mark.processes
def test_the_program_without_ros_runs(tmp_path):
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (program,) = (program for program in programs if "rclpy" not in program)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(24, ")
