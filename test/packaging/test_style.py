"""ruff as an ordinary test, with the rules of pyproject.toml; and files of one subject each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_ruff_is_content():
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, "check", "--no-cache", "--quiet", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_outgrows_its_subject():
    long = {
        str(p.relative_to(ROOT)): n
        for p in (ROOT / "cosmos_ros").rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 450
    }
    assert not long, f"files of more than 450 lines probably hold two subjects: {long}"
