"""The closing line of CI, from the reports of its pytest runs: how many tests passed, failed and were skipped, and why.

A test counts once: failed where it failed in any run, skipped where it passed in none.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter

RANK = ("skipped", "passed", "failed")


def outcome(case: ElementTree.Element) -> tuple[str, str]:
    """(one of RANK, the reason where it was skipped)."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed", ""
    if (skipped := case.find("skipped")) is None:
        return "passed", ""
    # Of a module that skips as a whole the reason is in the text alone: ('file', line, 'Skipped: reason').
    whole = re.search(r"'Skipped: (.*)'\)\s*$", skipped.text or "")
    return "skipped", whole[1] if whole else skipped.get("message", "")


def merged(reports: list[str]) -> dict[tuple[str, str], tuple[str, str]]:
    """(module, name) of every test -> its outcome over all reports."""
    tests: dict[tuple[str, str], tuple[str, str]] = {}
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            key, now = (case.get("classname", ""), case.get("name", "")), outcome(case)
            tests[key] = max(tests.get(key, now), now, key=lambda one: RANK.index(one[0]))
    return tests


def main(reports: list[str]) -> int:
    tests = merged(reports)
    counts = Counter(kind for kind, _ in tests.values())
    reasons = Counter(re.sub(r"^Skipped: ", "", reason) for kind, reason in tests.values() if kind == "skipped")
    why = "; ".join(f"{times}: {reason}" for reason, times in reasons.most_common())
    skipped = f"{counts['skipped']} skipped" + (f" ({why})" if why else "")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {skipped}")
    return int(not counts["passed"] or bool(counts["failed"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
