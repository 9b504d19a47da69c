"""Clips' numbers -> a benchmark's summary: means and shares with 95 % intervals, after each number of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cosmos_ros.evaluation.aggregate import bootstrap, rate, summarise


def summarise_clips(records: Sequence[Mapping]) -> dict[str, dict]:
    """Number of conditioning frames -> "evaluation": the evaluation's summary, "numbers": row -> measure -> interval,
    "kinds": kind of scene -> likewise. A rollout that was refused counts where the benchmark says so."""
    lengths = sorted({record["n_conditioning"] for record in records}, reverse=True)
    return {str(n): _of([record for record in records if record["n_conditioning"] == n]) for n in lengths}


def _of(records: Sequence[Mapping]) -> dict:
    kinds = sorted({record["bag"] for record in records})
    return {
        "evaluation": summarise(records),
        "numbers": _numbers(records),
        "kinds": {kind: _numbers([record for record in records if record["bag"] == kind]) for kind in kinds},
    }


def _numbers(records: Sequence[Mapping]) -> dict[str, dict[str, dict]]:
    clips = [record["benchmark"] for record in records]
    keys = {row: dict.fromkeys(key for clip in clips for key in clip.get(row, ())) for clip in clips for row in clip}
    return {
        row: {key: _interval([clip[row].get(key) for clip in clips if row in clip]) for key in of_row}
        for row, of_row in keys.items()
    }


def _interval(values: Sequence[float | bool | None]) -> dict:
    """ "mean", "low", "high", and over how many clips of how many: "clips", "of"."""
    known = [value for value in values if value is not None]
    counts = {"clips": len(known), "of": len(values)}
    if known and all(isinstance(value, bool) for value in known):
        true = sum(map(bool, known))
        share = rate(true, len(known))
        return {"mean": share["rate"], "low": share["low"], "high": share["high"], "count": true} | counts
    return bootstrap(np.array(known, np.float64)) | counts
