"""Files of one subject each. The rest of style is `make lint`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_file_outgrows_its_subject():
    long = {
        str(p.relative_to(ROOT)): n
        for p in (ROOT / "cosmos_ros").rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 450
    }
    assert not long, f"files of more than 450 lines probably hold two subjects: {long}"
