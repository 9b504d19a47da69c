"""The closing line of CI counts each test once and says why tests were skipped."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SUMMARY = Path(__file__).parents[2] / ".ci" / "summary.py"
MAIN = """<testsuites><testsuite>
<testcase classname="a" name="passes"/>
<testcase classname="a" name="fails"><failure message="x"/></testcase>
<testcase classname="a" name="breaks"><error message="x"/></testcase>
<testcase classname="a" name="no_gpu"><skipped message="needs a GPU"/></testcase>
<testcase classname="a" name="no_gpu_either"><skipped message="Skipped: needs a GPU"/></testcase>
<testcase classname="" name="whole"><skipped message="collection skipped">('b.py', 3, 'Skipped: no Triton')</skipped>
</testcase>
<testcase classname="a" name="bridge"><skipped message="no cv_bridge"/></testcase>
</testsuite></testsuites>"""
AGAIN = """<testsuites><testsuite><testcase classname="a" name="bridge"/><testcase classname="a" name="passes"/>
</testsuite></testsuites>"""


@pytest.fixture
def closing(tmp_path, capsys):
    """closing(*reports) -> (exit status, what is printed)"""

    def summarise(*reports: str) -> tuple[int, str]:
        files = [tmp_path / f"{n}.xml" for n in range(len(reports))]
        for file, report in zip(files, reports, strict=True):
            file.write_text(report)
        return runpy.run_path(str(SUMMARY))["main"]([str(file) for file in files]), capsys.readouterr().out

    return summarise


def test_it_says_how_many_were_skipped_and_why_in_one_line(closing):
    status, said = closing(MAIN)
    why = "2: needs a GPU; 1: no Triton; 1: no cv_bridge"
    assert (status, said) == (1, f"1 passed, 2 failed, 4 skipped ({why})\n")


def test_a_test_that_passes_in_one_run_is_not_skipped_by_the_other(closing):
    _, said = closing(MAIN, AGAIN)
    assert said == "2 passed, 2 failed, 3 skipped (2: needs a GPU; 1: no Triton)\n"


def test_a_run_without_a_single_test_is_a_failure(closing):
    assert closing("<testsuites/>") == (1, "0 passed, 0 failed, 0 skipped\n")
    assert closing(AGAIN) == (0, "2 passed, 0 failed, 0 skipped\n")
