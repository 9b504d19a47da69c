"""The benchmarks of the model that ships: measures them, and renews what the project shows of them.

    python bench/benchmarks.py run RUNS [NAME...] [--workers 2]   measures; RUNS/NAME is a benchmark's folder
    python bench/benchmarks.py renew RUNS [NAME...]               renews bench/results, and pictures and tables in docs

What a run took is measured together with the filming, whose clips are kept in RUNS: take a new folder for it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import subprocess
import time
from pathlib import Path

from benchmark_sheets import write_sheet
from benchmark_tables import renewed

from cosmos_ros.benchmarks.catalogue import BENCHMARKS

ROOT = Path(__file__).parents[1]
RESULTS, DOCS = ROOT / "bench" / "results", ROOT / "docs"
TOOK = "took.json"
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "renew"))
    parser.add_argument("runs", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(BENCHMARKS))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    for name in args.names:
        if args.what == "run":
            run(name, args.runs.resolve(), args.workers)
        else:
            renew(name, args.runs)


def run(name: str, runs: Path, workers: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # so that its workers become ours when it has ended
    (runs / "cache").mkdir(parents=True, exist_ok=True)
    before, started = cpu_seconds(), time.monotonic()
    subprocess.run(
        ["cosmos_ros", "benchmark", name, "--out", str(runs / name), "--workers", str(workers)],
        env={**os.environ, "XDG_CACHE_HOME": str(runs / "cache")},
        check=True,
    )
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    took = {"workers": workers, "wall_s": round(time.monotonic() - started), "cpu_s": round(cpu_seconds() - before)}
    (runs / name / TOOK).write_text(json.dumps(took))
    print(name, took, flush=True)


def cpu_seconds() -> float:
    """Of the processes that this one has started and that have ended, and of those that they have waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def renew(name: str, runs: Path) -> None:
    folder, file = runs / name, RESULTS / f"benchmark_{name}.json"
    content = json.loads((folder / "benchmark.json").read_text())
    windows = content.pop("windows")  # megabytes; the summary stays
    content["time"] |= json.loads((folder / TOOK).read_text())
    file.write_text(json.dumps(content, indent=1) + "\n")
    write_sheet(windows, folder, DOCS / f"benchmark_{name}.jpg")
    page = DOCS / "benchmarks.md"
    page.write_text(renewed(page.read_text(), RESULTS))


if __name__ == "__main__":
    main()
