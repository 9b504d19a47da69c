"""The measured rows of the tables in docs/benchmarks.md, from bench/results.

A comment before a table says of which benchmark it is and what its columns are: <!-- physics 9: psnr moved_iou -->.
A column is a benchmark's measure or a metric of the evaluation, after so many frames; `1:failed` names others, and
`a+b` puts several means into one cell. Headings and published figures are left as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from cosmos_ros.benchmarks.benchmark import Measure
from cosmos_ros.benchmarks.catalogue import benchmark

ROWS = {
    "model": "model",
    "round trip": "tokenizer_round_trip",
    "constant optical flow": "constant_flow",
    "repeat the last frame": "repeat_last_frame",
    "true frames": "truth",
}
COMMENT = re.compile(r"<!-- (\w+) (\d+): (.+) -->")
METRICS = {"psnr": Measure("psnr", "PSNR", "dB", 2)}  # of the evaluation's, where the benchmark has none


def renewed(page: str, results: Path) -> str:
    """The page with the numbers of bench/results."""
    lines, table = [], None
    for line in page.split("\n"):
        if found := COMMENT.fullmatch(line):
            table = _Table(found[1], found[2], found[3].split(), results)
        elif not line.startswith("|") and line:
            table = None
        elif table and (row := _row(line)):
            label = line.split("|")[1].strip()
            line = f"| {label} | " + " | ".join(table.cells(row)) + " |"
        lines.append(line)
    return "\n".join(lines)


def _row(line: str) -> str | None:
    """Which of a benchmark's rows a line of a table shows."""
    return next((row for words, row in ROWS.items() if line.startswith(f"| {words}")), None)


class _Table:
    def __init__(self, name: str, n: str, columns: list[str], results: Path) -> None:
        content = json.loads((results / f"benchmark_{name}.json").read_text())
        self._summary, self._n, self._columns = content["summary"], n, columns
        self._measures = METRICS | {measure.key: measure for measure in benchmark(name).measures}

    def cells(self, row: str) -> list[str]:
        return [self._cell(row, column) for column in self._columns]

    def _cell(self, row: str, column: str) -> str:
        n, _, keys = column.rpartition(":")
        parts = [self._words(row, n or self._n, key) for key in keys.split("+")]
        return parts[0] if len(parts) == 1 else ", ".join(part.partition(" ")[0] for part in parts)

    def _words(self, row: str, n: str, key: str) -> str:
        part, measure = self._summary[n], self._measures[key]
        of_row = part["numbers"].get(row, {})
        interval = of_row.get(key) or part["evaluation"]["rows"].get(row, {}).get(key)
        return _in_words(interval, measure) if interval else "–"


def _in_words(interval: Mapping, measure: Measure) -> str:
    mean, low, high = (interval[name] for name in ("mean", "low", "high"))
    if mean is None:
        return "–"
    if low is None:
        clips = interval["clips"]
        return f"{_number(mean, measure)}, {clips} {'clip' if clips == 1 else 'clips'}"
    between = f"{_number(low, measure)} to {_number(high, measure)}"
    if "count" in interval:
        return f"{interval['count']} of {interval['clips']} ({between} %)"
    return f"{_number(mean, measure)} ({between})"


def _number(value: float, measure: Measure) -> str:
    return f"{measure.scale * value:.{measure.decimals}f}"
