"""What an evaluation leaves behind: metrics.json, windows.csv, timing.json and report.html."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from statistics import mean

import torch

from cosmos_ros.evaluation.aggregate import summarise, window_means
from cosmos_ros.evaluation.report.report import render
from cosmos_ros.evaluation.store import RESULT_FILES, Store
from cosmos_ros.files import write_whole
from cosmos_ros.foresight import Foresight
from cosmos_ros.world_model.checkpoints.weight_files import fingerprint, model_files

SCHEMA = "cosmos_ros/evaluation/2"  # of metrics.json; the number rises when a reader of the old one would be misled
PACKAGES = ("cosmos_ros", "torch", "numpy", "opencv-python-headless", "scikit-image", "rosbags")


class Results:
    """Collects what is said about bags and windows besides the windows' numbers, and writes it all.

    seconds  key -> what the window took, of the windows of this run
    """

    def __init__(self, folder: Path, settings: dict, started: datetime) -> None:
        self.bags: list[dict] = []
        self.skipped: list[dict] = []
        self.seconds: dict[str, dict[str, float]] = {}
        self._folder, self._settings, self._started = folder, settings, started

    def write(self, store: Store, trouble: str) -> dict:
        """All files, from what the store holds; returns the summary. Raises OSError."""
        records = store.records()
        summary, table = summed_up(records)
        # Except for `time`, the same inputs give the same file; what differs from run to run goes to timing.json.
        metrics = {
            **self._settings,
            **circumstances(self._started, trouble, self.bags, self.skipped),
            "summary": summary,
            "windows": [_without_features(record) for record in records],
        }
        timing = timing_of(self.seconds)
        contents = (
            json.dumps(metrics, indent=1, allow_nan=False),
            table,
            json.dumps(timing, indent=1),
            render(metrics, timing, store.pictures, trouble),
        )
        for name, content in zip(RESULT_FILES, contents, strict=True):
            write_whole(self._folder / name, content)
        return summary


def summed_up(records: list[dict]) -> tuple[dict, str]:
    """The summary and windows.csv. Raises KeyError where a record lacks what they need."""
    return summarise(records), windows_csv(records)


def circumstances(
    started: datetime, trouble: str, bags: list[dict], skipped: list[dict], packages: Iterable[str] = ()
) -> dict:
    """How a run went: when, with what, on which machine, and what was read of the recordings.

    packages  whose versions are said besides those that every evaluation uses
    """
    return {
        "complete": not trouble,
        "time": {"started": started.isoformat(), "finished": datetime.now(timezone.utc).isoformat()},
        "versions": versions(packages),
        "hardware": hardware(),
        "recordings": bags,
        "skipped": skipped,
        "skipped_by_reason": dict(sorted(Counter(skip["reason"] for skip in skipped).items())),
    }


def _without_features(record: dict) -> dict:
    """Hundreds of numbers per video that say nothing by themselves; they stay in the window's own file."""
    return {name: value for name, value in record.items() if name != "video_features"}


def timing_of(seconds: dict[str, dict[str, float]]) -> dict:
    """What timing.json holds: what each window took, stage by stage, and the means."""
    timed = [each for each in seconds.values() if each]
    stages = timed[0] if timed else ()
    return {
        "seconds_per_window": {stage: round(mean(each[stage] for each in timed), 3) for stage in stages},
        "windows": seconds,
    }


def describe_model(foresight: Foresight) -> dict:
    """What identifies the model and its guardrail."""
    spec = foresight.spec
    files = {str(file.relative_to(spec.directory)): file for file in model_files(spec.directory)}
    if spec.diffusion_decoder is not None:
        files |= {f"{file.parent.name}/{file.name}": file for file in spec.diffusion_decoder.files}
    return {
        "name": spec.name,
        "frame_size": list(spec.frame_size),
        "bytes": sum(file.stat().st_size for file in files.values()),
        "fingerprints": {name: fingerprint(file) for name, file in files.items()},
        "guardrail": foresight.guardrail.posture,
    }


def describe_bag(path: Path) -> dict:
    """What identifies a recording, so that a resumed run notices another one."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {"name": path.name, "bytes": sum(file.stat().st_size for file in files)}


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Of Python, of the packages that every evaluation uses, and of those of `more` that are installed."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *more):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # OpenCV from apt, say
            continue
    return found


def hardware() -> dict[str, str]:
    """What the numbers were computed on: machine, CPU, GPUs."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cpu": next(names, platform.processor()), "gpus": ", ".join(gpus) or "none"}


def windows_csv(records: list[dict]) -> str:
    """One line per window: where it lies, and the mean over the horizon of each row and metric."""
    measured = [record for record in records if "samples" in record]
    rows = window_means(measured[0]) if measured else {}
    columns = [f"{row}_{metric}" for row, by in rows.items() for metric in by]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "bag", "time_ns", "last_conditioning_stamp_ns", "refused", "failures", *columns])
    for record in records:
        means = window_means(record) if "samples" in record else {}
        flat = {f"{row}_{metric}": value for row, by in means.items() for metric, value in by.items()}
        writer.writerow(
            [
                record["key"],
                record["bag"],
                record["time_ns"],
                record["conditioning_stamps_ns"][-1],
                record.get("refused", {}).get("code", ""),
                " ".join(sorted({f["kind"] for sample in record.get("samples", ()) for f in sample["failures"]})),
                *(flat.get(column, "") for column in columns),
            ]
        )
    return text.getvalue()
