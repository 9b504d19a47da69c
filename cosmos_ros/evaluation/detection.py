"""How soon an alarm notices what a CSV says happened, and how often it comes for nothing."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from scipy.stats import chi2

from cosmos_ros.errors import SettingError
from cosmos_ros.files import check_regular
from cosmos_ros.planning.calibration import Nominal
from cosmos_ros.planning.monitor import Alarm
from cosmos_ros.rollout import NANOSECONDS

COLUMNS = ("recording", "start", "end", "label")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Something happens in a recording, from `start` to `end` seconds after its first frame."""

    recording: str
    start: float
    end: float
    label: str


def read_labels(path: str | Path, recordings: Sequence[str]) -> list[Interval]:
    """The intervals of a CSV with the columns recording,start,end,label; a recording without one is nominal.

    recordings  the names that there are: a bag's folder or file

    Raises SettingError for what is no such file, for a recording that is not among them, or more than once, and for
    intervals of a recording that overlap.
    """
    try:
        check_regular(path)
        with Path(path).open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a mark
            reader = csv.DictReader(file)
            if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                raise SettingError(f"{path} needs the columns {','.join(COLUMNS)}; it has no {', '.join(missing)}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingError(f"the labels in {path} cannot be read: {error}") from error
    intervals = [_interval(f"{path}, line {line}", row) for line, row in enumerate(rows, start=2)]
    if strangers := sorted({each.recording for each in intervals} - set(recordings)):
        raise SettingError(f"{path} names recordings that are not evaluated: {', '.join(strangers)}")
    if twins := sorted({each.recording for each in intervals if recordings.count(each.recording) > 1}):
        raise SettingError(f"{path} names {', '.join(twins)}, and several recordings have that name: rename them")
    by_time = sorted(intervals, key=lambda each: (each.recording, each.start))
    for one, next_one in pairwise(by_time):
        if one.recording == next_one.recording and next_one.start < one.end:
            raise SettingError(
                f"{path}: in {one.recording} {next_one.label} begins at {next_one.start:g} s, before {one.label} ends "
                f"at {one.end:g} s: an alarm could not tell which of them it noticed, so make one interval of them"
            )
    return intervals


@dataclass(frozen=True)
class Raised:
    """An alarm. decided_ns: the newest stamp when it was raised"""

    decided_ns: int
    interval: Interval | None  # in which it was raised; None: nothing was happening


@dataclass(frozen=True)
class Watched:
    """What came of one recording. nominal_frames: those that were compared while nothing happened"""

    raised: list[Raised]
    missed: list[Interval]
    delays_s: list[tuple[Interval, float]]
    nominal_frames: int


def alarms_in(
    record: dict, row: str, nominal: Nominal, limit: float, alarm: Alarm, intervals: Sequence[Interval]
) -> Watched:
    """Replay a watched recording's comparisons. At the start of each interval the alarm is cleared, so that a false one
    that still stands neither hides what happens nor counts as having noticed it."""
    raised: list[Raised] = []
    current: Interval | None = None
    frames = 0
    for each in record["comparisons"]:
        stamp_ns, decided_ns = each["stamp_ns"], each["decided_ns"]
        now = _at(intervals, (stamp_ns - record["first_ns"]) / NANOSECONDS)
        if now is not current:
            alarm.clear()
        current = now
        value = nominal.on_scale(each["step"], each[row])
        if value is None:
            continue
        frames += now is None
        if alarm.take(stamp_ns, nominal.score(value), value > limit):
            raised.append(Raised(decided_ns, now))
    delays, missed = [], []
    for interval in intervals:
        own = [alarm.decided_ns for alarm in raised if alarm.interval is interval]
        if own:
            delays.append((interval, (own[0] - record["first_ns"]) / NANOSECONDS - interval.start))
        else:
            missed.append(interval)
    return Watched(raised, missed, delays, frames)


def unseen(record: dict, intervals: Sequence[Interval]) -> list[Interval]:
    """Intervals in which no frame of a watched recording was compared, so that no alarm could notice them."""
    times = [(each["stamp_ns"] - record["first_ns"]) / NANOSECONDS for each in record["comparisons"]]
    return [each for each in intervals if not any(each.start <= seconds <= each.end for seconds in times)]


def summarise(watched: Iterable[Watched], frame_rate: float) -> dict:
    """By label: how many there were, how many were noticed and how soon; and false alarms per hour."""
    watched = list(watched)
    delays = [each for one in watched for each in one.delays_s]
    missed = [interval for one in watched for interval in one.missed]
    labels = sorted({interval.label for interval, _ in delays} | {interval.label for interval in missed})
    by_label = {}
    for label in labels:
        seconds = [delay for interval, delay in delays if interval.label == label]
        by_label[label] = {
            "intervals": len(seconds) + sum(interval.label == label for interval in missed),
            "detected": len(seconds),
            "median_delay_s": round(median(seconds), 3) if seconds else None,
            "longest_delay_s": round(max(seconds), 3) if seconds else None,
        }
    false = sum(alarm.interval is None for one in watched for alarm in one.raised)
    hours = sum(one.nominal_frames for one in watched) / frame_rate / 3600
    return {
        "labels": by_label,
        "false_alarms": false,
        "nominal_hours": round(hours, 5),
        "false_alarms_per_hour": round(false / hours, 2) if hours else None,
        "false_alarms_per_hour_at_most": round(_most(false) / hours, 2) if hours else None,
    }


def table(rows: dict[str, dict]) -> str:
    """The summaries of several rows, as Markdown."""
    labels = sorted({label for summary in rows.values() for label in summary["labels"]})
    lines = ["| | " + " | ".join(rows) + " |", "| --- |" + " --- |" * len(rows)]
    for label in labels:
        lines.append(
            f"| {label.replace('_', ' ')} | "
            + " | ".join(_noticed(each["labels"][label]) for each in rows.values())
            + " |"
        )
    lines.append("| false alarms per hour | " + " | ".join(map(_false_alarms, rows.values())) + " |")
    return "\n".join(lines)


def _noticed(found: dict) -> str:
    noticed = f"{found['detected']} of {found['intervals']}"
    if not found["detected"]:
        return noticed
    return f"{noticed}, after {found['median_delay_s']:.2f} s (at most {found['longest_delay_s']:.2f} s)"


def _false_alarms(summary: dict) -> str:
    if summary["false_alarms_per_hour"] is None:
        return "nothing nominal was compared"
    return (
        f"{summary['false_alarms_per_hour']:.0f} (at most {summary['false_alarms_per_hour_at_most']:.0f}; "
        f"{summary['false_alarms']} in {60 * summary['nominal_hours']:.1f} min)"
    )


def _most(count: int) -> float:
    """The upper end of the exact 95 % interval of a Poisson mean of which this many were counted."""
    return float(chi2.ppf((1 + CONFIDENCE) / 2, 2 * (count + 1)) / 2)


def _at(intervals: Sequence[Interval], seconds: float) -> Interval | None:
    return next((each for each in intervals if each.start <= seconds <= each.end), None)


def _interval(where: str, row: dict) -> Interval:
    try:
        start, end = float(row["start"]), float(row["end"])
        if not (row["recording"] and row["label"] and math.isfinite(end) and 0 <= start <= end):
            raise ValueError
    except (TypeError, ValueError):
        raise SettingError(
            f"{where}: expected a recording, a start and an end in seconds after its first frame, and a label; "
            f"got {','.join(str(row.get(column)) for column in COLUMNS)}"
        ) from None
    return Interval(row["recording"], start, end, row["label"])
