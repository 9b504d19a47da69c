"""What a benchmark leaves behind: benchmark.json, windows.csv, timing.json and report.html."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from cosmos_ros.benchmarks.aggregate import summarise_clips
from cosmos_ros.benchmarks.benchmark import Benchmark, Measure
from cosmos_ros.evaluation.report.report import NOTES, ROWS, Line, Part, Table, render_parts
from cosmos_ros.evaluation.results import circumstances, timing_of
from cosmos_ros.evaluation.store import Store
from cosmos_ros.files import write_whole

SCHEMA = "cosmos_ros/benchmark/1"  # of benchmark.json; the number rises when a reader of the old one would be misled
RESULT_FILES = ("benchmark.json", "windows.csv", "timing.json", "report.html")
PACKAGES = ("mujoco", "pycolmap")
RECORDED_NOTE = (
    "The clips are windows of recordings, whatever happens there: hold every row against that of the true frames. "
    "Where these do badly, because the camera stands still for instance, the recording says nothing about the model."
)
IMAGE_NOTE = (
    "A single image shows no motion: after it, constant flow is the floor. The tokenizer's round trip always begins "
    "with the first frame of a clip and knows all that follow."
)


class BenchmarkResults:
    """Collects what is said besides the clips' numbers, and writes it all.

    seconds          key -> what the clip took, of the clips of this run
    bags, skipped    what is said of recordings
    of_these         those of the stored clips' keys that this run asks for
    """

    def __init__(
        self,
        folder: Path,
        benchmark: Benchmark,
        settings: dict,
        started: datetime,
        bags: list[dict],
        skipped: list[dict],
        of_these: Callable[[Iterable[str]], set[str]],
    ) -> None:
        self.bags, self.skipped = bags, skipped
        self.seconds: dict[str, dict[str, float]] = {}
        self._folder, self._benchmark, self._settings, self._started = folder, benchmark, settings, started
        self._of_these = of_these

    def write(self, store: Store, trouble: str) -> dict:
        """All files, from what the store holds; returns the summary. Raises OSError."""
        kept = {record["key"]: record for record in store.records()}
        asked = self._of_these(kept)
        records = [record for key, record in kept.items() if key in asked]
        summary, table = summed_up(records)
        # Except for `time`, the same inputs give the same file; what differs from run to run goes to timing.json.
        content = {
            **self._settings,
            **circumstances(self._started, trouble, self.bags, self.skipped, PACKAGES),
            "published": [asdict(each) for each in self._benchmark.published],
            "comparable": dict(self._benchmark.comparable),
            "summary": summary,
            "windows": records,
        }
        timing = timing_of(self.seconds)
        contents = (
            json.dumps(content, indent=1, allow_nan=False),
            table,
            json.dumps(timing, indent=1),
            self._report(content, timing, store, trouble),
        )
        for name, text in zip(RESULT_FILES, contents, strict=True):
            write_whole(self._folder / name, text)
        return summary

    def _report(self, content: Mapping, timing: Mapping, store: Store, trouble: str) -> str:
        benchmark = self._benchmark
        clips = benchmark.clips_note if content["simulated"] else RECORDED_NOTE
        return render_parts(
            content,
            timing,
            store.pictures,
            trouble,
            kicker=f"benchmark · {benchmark.title}",
            title=f"{content['model']['name']}: {benchmark.title}",
            parts=[self._part(n, of_n, content) for n, of_n in content["summary"].items()],
            notes=(benchmark.question, clips, *benchmark.notes, IMAGE_NOTE, *NOTES),
            numbers=RESULT_FILES[0],
        )

    def _part(self, n: str, summary: Mapping, content: Mapping) -> Part:
        windows = [window for window in content["windows"] if window["n_conditioning"] == int(n)]
        plan = {
            "n_conditioning": int(n),
            "n_future": len(windows[0]["truth_stamps_ns"]),
            "frame_rate": content["frame_rate"],
        }
        title = f"After {n} frames" if int(n) > 1 else "After one image"
        tables = tables_of(self._benchmark, summary, "video" if int(n) > 1 else "image")
        return Part(title, summary["evaluation"], plan, windows, tables)

    def verdict(self, summary: Mapping) -> list[str]:
        """The table, in a line for each row, after each number of frames."""
        lines = []
        for n, part in summary.items():
            lines.append(f"after {n} frames:" if int(n) > 1 else "after one image:")
            table = tables_of(self._benchmark, part, "video" if int(n) > 1 else "image")[0]
            lines += [f"  {line.label}: {_words(table.columns, line.cells)}" for line in table.lines]
        return lines


def summed_up(records: list[dict]) -> tuple[dict, str]:
    """The summary and windows.csv. Raises KeyError where a record lacks what they need."""
    return summarise_clips(records), numbers_csv(records)


def tables_of(benchmark: Benchmark, summary: Mapping, conditioning: str) -> list[Table]:
    """The benchmark's own table, with the published figures in it, and the model's numbers by kind of scene."""
    columns = [(measure.title, measure.unit, measure.decimals) for measure in benchmark.measures]
    rows = [
        Line(row.label, row.key, _cells(benchmark.measures, summary["numbers"].get(row.key, {})))
        for row in ROWS
        if row.key in summary["numbers"] or row.key in summary["evaluation"]["rows"]
    ]
    published = [
        Line(f"{each.model}, published", "", _published(benchmark.measures, each.numbers))
        for each in benchmark.published
        if each.conditioning in (None, conditioning)
    ]
    titles = {measure.key: measure.title for measure in benchmark.measures}
    notes = [f"{titles[key]}, published: {why}." for key, why in benchmark.comparable.items()]
    notes.append(
        "A dash alone: this is not asked of the row, or not published. Where some clips have no number, it says of how "
        "many the mean is, and why of no more."
    )
    kinds = [
        Line(kind.replace("_", " "), "", _cells(benchmark.measures, numbers.get("model", {})))
        for kind, numbers in summary["kinds"].items()
    ]
    return [
        Table(benchmark.title, columns, [*rows, *published], notes),
        Table("The model, by kind of scene", columns, kinds),
    ]


def _cells(measures: Sequence[Measure], numbers: Mapping) -> list[dict | None]:
    return [
        _scaled(numbers[each.key], each.scale) | {"note": _note(numbers[each.key], each)}
        if each.key in numbers
        else None
        for each in measures
    ]


def _note(interval: Mapping, measure: Measure) -> str:
    """Why not every clip has a number; empty where each has one."""
    known, of = interval["clips"], interval["of"]
    if known == of:
        return ""
    return f"{known} of {of} clips, else {measure.lacking}" if known else measure.lacking


def _published(measures: Sequence[Measure], numbers: Mapping[str, float]) -> list[dict | None]:
    cells = ({"mean": numbers.get(each.key), "low": None, "high": None} for each in measures)
    return [
        _scaled(cell, each.scale) | {"note": ""} if each.key in numbers else None
        for cell, each in zip(cells, measures, strict=True)
    ]


def _scaled(interval: Mapping, scale: float) -> dict:
    values = {name: interval[name] for name in ("mean", "low", "high")}
    return {name: None if value is None else scale * value for name, value in values.items()}


def _words(columns: Sequence[tuple[str, str, int]], cells: Sequence[Mapping | None]) -> str:
    said = [
        f"{title} {_number_words(cell, decimals, ' %' if unit.startswith('%') else '')}"
        for (title, unit, decimals), cell in zip(columns, cells, strict=True)
        if cell is not None
    ]
    return ", ".join(said) or "–"


def _number_words(cell: Mapping, decimals: int, unit: str) -> str:
    said = [] if cell["low"] is None else [f"{cell['low']:.{decimals}f} to {cell['high']:.{decimals}f}"]
    said += [cell["note"]] if cell["note"] else []
    number = "–" if cell["mean"] is None else f"{cell['mean']:.{decimals}f}{unit}"
    return f"{number} ({'; '.join(said)})" if said else number


def numbers_csv(records: Sequence[Mapping]) -> str:
    """One line per window, with the benchmark's numbers of every row."""
    flat = [
        {f"{row}_{key}": value for row, by in record["benchmark"].items() for key, value in by.items()}
        for record in records
    ]
    columns = list(dict.fromkeys(column for numbers in flat for column in numbers))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "kind", "scene_seed", "n_conditioning", "refused", *columns])
    for record, numbers in zip(records, flat, strict=True):
        refused = record.get("refused", {}).get("code", "")
        known = [record["key"], record["bag"], record["scene_seed"], record["n_conditioning"], refused]
        writer.writerow([*known, *(numbers.get(column, "") for column in columns)])
    return text.getvalue()
