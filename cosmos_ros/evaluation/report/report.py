"""report.html: one file that holds everything, opens without a network and plays in an ordinary browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import jinja2

from cosmos_ros.evaluation.aggregate import FEWEST
from cosmos_ros.evaluation.report.curves import Row, chart
from cosmos_ros.metrics.perceptual import FVD_CLIPS, FVD_FILE, LPIPS_FILE

MINUS = "\N{MINUS SIGN}"
ASSETS = Path(__file__).parent / "assets"
ROWS = (  # a summary's, in this order
    Row("model", "Model"),
    Row("model_mean_of_n", "Model, mean of its samples"),
    Row("model_best_of_n", "Model, best of its samples"),
    Row("tokenizer_round_trip", "Tokenizer round trip (ceiling)"),
    Row("constant_flow", "Constant optical flow"),
    Row("repeat_last_frame", "Repeat the last frame (floor)"),
    Row("truth", "True frames"),
)
# metric -> title, unit, decimals
METRICS = {
    "psnr": ("PSNR", "dB, higher is better", 2),
    "moving_psnr": ("PSNR where it moves", "dB, higher is better", 2),
    "ssim": ("SSIM", "higher is better", 3),
    "motion_error": ("Motion error", "pixels per frame, lower is better", 2),
    "sampson": ("Sampson error", "pixels, near that of the true frames is best", 3),
    "lpips": ("LPIPS", "lower is better", 3),
}
COMPARED = ("psnr", "moving_psnr", "ssim", "motion_error", "lpips")  # a Sampson error has no better and worse
DIFFERENCES = {
    "Model, against the floor": ("against", "repeat_last_frame"),
    "Model, against constant flow": ("against", "constant_flow"),
    "Mean of its samples, against the floor": ("of_n_against_floor", "model_mean_of_n"),
    "Best of its samples, against the floor": ("of_n_against_floor", "model_best_of_n"),
}
KINDS = {"solid_colour": "Degrades to one solid colour", "sudden_object": "Sudden large unexpected object"}
PANELS = {"predicted": "Prediction", "truth": "What really happened", "difference": "Difference, twice as strong"}
NOTES = (
    "All rows are measured on the same windows, on the part of the camera's image that the model sees, at the "
    "camera's pixel scale.",
    "PSNR is taken per frame over its three channels and averaged in dB, first over the horizon, then over windows; "
    "identical frames count as 60 dB. SSIM is of the luma, with a Gaussian window of 1.5 pixels (scikit-image).",
    "A pixel moves where the true frame differs from the camera's last by more than 10 of 255 levels in a channel. "
    "There the floor is wrong by definition: constant flow is the row to hold the model against. Frames in which less "
    "than 0.1 % of the pixels move have no such number.",
    "With several samples per window, the row of the model is the average over its samples of each metric; the mean "
    "of its samples is the pixel-wise mean of their frames, measured like a rollout; the best of them is chosen by "
    "each metric, knowing the truth.",
    "Motion error is the mean endpoint distance between the optical flow (DIS, OpenCV) of predicted frames and that "
    "of the true ones, each from frame to frame. Decoded frames go on from the decoded clip, so that the loss of "
    "sharpness in the decoder is no motion. Frames wider than 512 pixels are reduced to tell motion and matches; the "
    "numbers are the camera's pixels.",
    "Sampson error: SIFT matches between frames four steps apart, the fundamental matrix by USAC_MAGSAC, the mean "
    "Sampson distance of matches within 3 pixels of it. It has no value where nothing moves.",
    "The tokenizer round trip encodes and decodes the true future: no prediction of this model can look better than "
    "its decoder. It passes the same guardrail as the predictions.",
    "Intervals hold 95 % of 2000 bootstrap resamples of the windows (SciPy, percentiles); fewer than "
    f"{FEWEST} windows have none. Windows that overlap or lie close together resemble each other, so the true "
    "uncertainty is larger.",
    "A detector's false-alarm rate is how often it fires on the true future of these very windows; the tokenizer's "
    "round trip shows what lossy decoding alone sets off.",
)
LPIPS_NOTES = {
    True: "LPIPS compares each predicted frame with the true one by what AlexNet sees in them (version 0.1 of its "
    "learned heads), at the camera's pixel scale.",
    False: f"LPIPS is not reported: it needs weights that are not part of this package, {LPIPS_FILE} "
    "(--lpips-weights).",
}
FVD_NOTES = {
    True: "FVD is the Fréchet distance between what I3D sees in a row's videos, all samples of all windows, and in the "
    f"true futures, frames brought to 224x224. Below about {FVD_CLIPS:,} windows it mostly reflects how few there are; "
    "values over different numbers of windows or frames do not compare.",
    False: f"FVD is not reported: it needs weights that are not part of this package, {FVD_FILE} (--fvd-weights), and "
    f"about {FVD_CLIPS:,} windows to mean much.",
}
NOTHING = {"mean": None, "low": None, "high": None}


class Column(NamedTuple):
    """A column of the table; `of` gives a row's number in it: mean, low and high."""

    title: str
    unit: str
    decimals: int
    of: Callable[[str], Mapping]


class Line(NamedTuple):
    """A line of a table that a benchmark adds; key is the row's, for its colour, or empty.

    cells  of each column: {"mean", "low", "high", "note"}, the note empty or what it lacks; None where the row has no
           such number
    """

    label: str
    key: str
    cells: Sequence[Mapping | None]


class Table(NamedTuple):
    """A table that a benchmark adds to a part. Each of columns is (title, unit, decimals); notes stand below it."""

    title: str
    columns: Sequence[tuple[str, str, int]]
    lines: Sequence[Line]
    notes: Sequence[str] = ()


class Part(NamedTuple):
    """What is reported of windows of one kind: all of them, or of a benchmark those after so many frames.

    title    "" where there is one part
    summary  as aggregate.summarise gives it
    plan     n_conditioning, n_future and frame_rate of the windows
    windows  their records
    tables   what a benchmark measured
    """

    title: str
    summary: Mapping
    plan: Mapping
    windows: Sequence[Mapping]
    tables: Sequence[Table] = ()


def render(metrics: Mapping, timing: Mapping, pictures: Callable[[str], Mapping], trouble: str) -> str:
    """The report of metrics.json's content.

    pictures  window key -> what its player shows: JPEG frames in base64
    trouble   why the evaluation is not complete; empty where it is
    """
    names = ", ".join(bag["name"] for bag in metrics["bags"])
    rows, summary = metrics["summary"]["rows"], metrics["summary"]
    return render_parts(
        metrics,
        timing,
        pictures,
        trouble,
        kicker="evaluation on recordings",
        title=f"{metrics['model']['name']} on {names}",
        parts=[Part("", summary, metrics["plan"], metrics["windows"])],
        notes=(*NOTES, LPIPS_NOTES["lpips" in rows.get("model", ())], FVD_NOTES["fvd" in summary]),
        numbers="metrics.json",
    )


def render_parts(
    metrics: Mapping,
    timing: Mapping,
    pictures: Callable[[str], Mapping],
    trouble: str,
    *,
    kicker: str,
    title: str,
    parts: Sequence[Part],
    notes: Sequence[str],
    numbers: str,
) -> str:
    """A report of several parts. `numbers` names the file that holds them all; the rest as `render` has it."""
    return _template().render(
        kicker=kicker,
        title=title,
        metrics=metrics,
        trouble=trouble,
        parts=[_laid_out(part, pictures) for part in parts],
        panels=PANELS,
        kinds=KINDS,
        notes=notes,
        numbers=numbers,
        run=_run(metrics, timing),
        css=(ASSETS / "report.css").read_text(),
        js=(ASSETS / "report.js").read_text(),
    )


def _laid_out(part: Part, pictures: Callable[[str], Mapping]) -> dict:
    """What the template draws of a part."""
    summary = part.summary
    measured = [window for window in part.windows if "samples" in window]
    seams = measured[0].get("seams", ()) if measured else ()
    return {
        **part._asdict(),
        "mood": _mood(summary),
        "rows": [row for row in ROWS if row.key in summary["rows"]],
        "columns": _columns(summary),
        "differences": _differences(summary),
        "charts": _charts(summary, part.plan["frame_rate"], seams),
        "seams": seams,
        "players": _players(measured, pictures),
        "measured": measured,
        "failures": _failures(part.windows),
    }


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["average"] = mean
    environment.filters["decimals"] = lambda value, n: "–" if value is None else f"{value:.{n}f}"
    environment.filters["signed"] = lambda value, n: "–" if value is None else _with_minus(f"{value:+.{n}f}")
    environment.filters["minus"] = _with_minus
    return environment.get_template("report.html")


def _with_minus(text: str) -> str:
    """With the sign that is as wide as a plus before every negative number."""
    return re.sub(r"-(?=\d)", MINUS, text)


def _mood(summary: Mapping) -> str:
    """The colour of the verdict, by whether the floor is beaten."""
    if not summary["windows"]:
        return ""
    floor = summary["against"]["repeat_last_frame"]["psnr"]
    return "bad" if floor["mean"] <= 0 else "good" if (floor["low"] or 0) > 0 else ""


def _columns(summary: Mapping) -> list[Column]:
    rows = summary["rows"]
    columns = [
        Column(*words, partial(_cell, rows, metric))
        for metric, words in METRICS.items()
        if metric in rows.get("model", ())
    ]
    if "fvd" in summary:
        unit = f"lower is better; of {summary['windows']} windows"
        columns.append(Column("FVD", unit, 1, lambda row: NOTHING | {"mean": summary["fvd"].get(row)}))
    return columns


def _cell(rows: Mapping, metric: str, row: str) -> Mapping:
    return rows[row].get(metric, NOTHING)


def _differences(summary: Mapping) -> dict:
    """What the model gains over floor and flow, window by window: columns, and the lines that are there."""
    names = [metric for metric in COMPARED if metric in summary["rows"].get("model", ())]
    columns = {metric: Column(*METRICS[metric], lambda row: NOTHING) for metric in names}
    lines = [
        {"label": label, "numbers": [(columns[metric], summary[group][row][metric]) for metric in names]}
        for label, (group, row) in DIFFERENCES.items()
        if row in summary.get(group, ())
    ]
    return {"columns": list(columns.values()), "lines": lines}


def _charts(summary: Mapping, frame_rate: float, seams: Sequence[int]) -> list:
    curves = {
        metric: {row: by[metric]["per_step"] for row, by in summary["rows"].items() if metric in by}
        for metric in METRICS
    }
    return [
        chart(title, unit, ROWS, curves[metric], frame_rate, seams)
        for metric, (title, unit, _) in METRICS.items()
        if metric in summary["rows"].get("model", ())
    ]


def _players(measured: Sequence[Mapping], pictures: Callable[[str], Mapping]) -> list[dict]:
    """The windows to look at, each once, with their pictures and the frame in the middle of the horizon."""
    ranked = sorted(measured, key=lambda window: mean(window["samples"][0]["psnr"]))
    if not ranked:
        return []
    chosen = {"Best window": ranked[-1], "Median window": ranked[(len(ranked) - 1) // 2], "Worst window": ranked[0]}
    players: dict[str, dict] = {}
    for title, window in chosen.items():
        if window["key"] not in players:
            shown = pictures(window["key"])
            players[window["key"]] = {
                "title": title if len(ranked) > 1 else "The only window",
                "window": window,
                "psnr": mean(window["samples"][0]["psnr"]),
                "floor": mean(window["repeat_last_frame"]["psnr"]),
                "pictures": shown,
                "middle": len(shown["truth"]) // 2,
            }
    return list(players.values())


def _failures(windows: Sequence[Mapping]) -> list[tuple[Mapping, str]]:
    """Each window that failed, and in which way."""
    listed = [
        (window, f", seed {sample['seed']}: {_words(failure)}")
        for window in windows
        for sample in window.get("samples", ())
        for failure in sample["failures"]
    ]
    return listed + [
        (window, f": refused, {window['refused']['message']}") for window in windows if "refused" in window
    ]


def _words(failure: Mapping) -> str:
    return f"{KINDS[failure['kind']].lower()} in frame {failure['frame']}: {failure['detail']}"


def _run(metrics: Mapping, timing: Mapping) -> dict[str, str]:
    model = metrics["model"]
    per_window = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in timing["seconds_per_window"].items())
    return {
        "Model": f"{model['name']}, {model['frame_size'][1]}x{model['frame_size'][0]}",
        "Guardrail": model["guardrail"],
        "Sampling": f"seed {metrics['seed']}, temperature {metrics['temperature']:g}, top-p {metrics['top_p']:g}",
        **({"A window every": f"{metrics['plan']['every_s']:g} s"} if "plan" in metrics else {}),
        "Time per window": per_window or "none was evaluated in this run",
        "Hardware": ", ".join(f"{name} {value}" for name, value in metrics["hardware"].items()),
        "Versions": ", ".join(f"{name} {value}" for name, value in metrics["versions"].items()),
        "Schema": metrics["schema"],
    }
