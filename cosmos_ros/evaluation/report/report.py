"""report.html: one file that holds everything, opens without a network and plays in an ordinary browser."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template

from cosmos_ros.evaluation.report.curves import Row, chart
from cosmos_ros.metrics.perceptual import FVD_CLIPS, FVD_FILE, LPIPS_FILE

MINUS = "\N{MINUS SIGN}"
ASSETS = Path(__file__).parent / "assets"
ROWS = (
    Row("model", "Model"),
    Row("model_best_of_n", "Model, best of its samples"),
    Row("tokenizer_round_trip", "Tokenizer round trip (ceiling)"),
    Row("constant_flow", "Constant optical flow"),
    Row("repeat_last_frame", "Repeat the last frame (floor)"),
    Row("truth", "True frames"),
)
# metric -> title, unit, decimals
METRICS = {
    "psnr": ("PSNR", "dB, higher is better", 2),
    "ssim": ("SSIM", "higher is better", 3),
    "motion_error": ("Motion error", "pixels per frame, lower is better", 2),
    "sampson": ("Sampson error", "pixels, near that of the true frames is best", 3),
    "lpips": ("LPIPS", "lower is better", 3),
}
KINDS = {"solid_colour": "Degrades to one solid colour", "sudden_object": "Sudden large unexpected object"}
NOTES = (
    "All rows are measured on the same windows, on the part of the camera's image that the model sees, at the "
    "camera's pixel scale.",
    "PSNR is taken per frame over its three channels and averaged in dB, first over the horizon, then over windows; "
    "identical frames count as 60 dB. SSIM is of the luma, with a Gaussian window of 1.5 pixels (scikit-image).",
    "Motion error is the mean endpoint distance between the optical flow (DIS, OpenCV) of predicted frames and that "
    "of the true ones, each from frame to frame. Decoded frames go on from the decoded clip, so that the loss of "
    "sharpness in the decoder is no motion. Frames wider than 512 pixels are reduced to tell motion and matches; the "
    "numbers are the camera's pixels.",
    "Sampson error: SIFT matches between frames four steps apart, the fundamental matrix by USAC_MAGSAC, the mean "
    "Sampson distance of matches within 3 pixels of it. It has no value where nothing moves.",
    "The tokenizer round trip encodes and decodes the true future: no prediction of this model can look better than "
    "its decoder. It passes the same guardrail as the predictions.",
    "Intervals hold 95 % of 2000 bootstrap resamples of the windows. Windows that overlap or lie close together "
    "resemble each other, so the true uncertainty is larger.",
    "A detector's false-alarm rate is how often it fires on the true future of these very windows; the tokenizer's "
    "round trip of it tells what lossy decoding alone sets off.",
)
LPIPS_NOTES = {
    True: "LPIPS compares each predicted frame with the true one by what AlexNet sees in them (version 0.1 of its "
    "learned heads), at the camera's pixel scale.",
    False: f"LPIPS is not reported: it needs weights that are not part of this package, {LPIPS_FILE} "
    "(--lpips-weights).",
}
FVD_NOTES = {
    True: "FVD is the Fréchet distance between what I3D sees in a row's videos, all samples of all windows, and in the "
    f"true futures, frames brought to 224x224. Below about {FVD_CLIPS:,} windows it tells mostly how few there are; "
    "values over different numbers of windows or frames do not compare.",
    False: f"FVD is not reported: it needs weights that are not part of this package, {FVD_FILE} (--fvd-weights), and "
    f"about {FVD_CLIPS:,} windows to mean much.",
}


def render(metrics: Mapping, timing: Mapping, pictures: Callable[[str], Mapping], trouble: str) -> str:
    """The report of metrics.json's content.

    pictures  window key -> what its player shows: JPEG frames in base64
    trouble   why the evaluation is not complete; empty where it is
    """
    plan, summary = metrics["plan"], metrics["summary"]
    names = ", ".join(bag["name"] for bag in metrics["bags"])
    facts = (
        f"<b>{summary['windows']}</b> windows of <b>{plan['n_conditioning']}</b> camera frames and the "
        f"<b>{plan['n_future']}</b> that followed, at <b>{plan['frame_rate']:g}</b> Hz · "
        f"<b>{metrics['samples']}</b> {'sample' if metrics['samples'] == 1 else 'samples'} each, "
        f"seed <b>{metrics['seed']}</b> · {metrics['time']['finished'][:16].replace('T', ' ')} UTC"
    )
    body = [_trouble(trouble), _verdict(summary)]
    if summary["windows"]:
        body += [_table(summary), _charts(summary, plan["frame_rate"]), _players(metrics["windows"], pictures)]
        body += [_windows(metrics["windows"])]
    if metrics["windows"]:
        body += [_failures(metrics["windows"], summary)]
    body += [_recordings(metrics), _notes(summary), _settings(metrics, timing)]
    return Template((ASSETS / "report.html").read_text()).substitute(
        title=html.escape(f"{metrics['model']['name']} on {names}"),
        heading=html.escape(f"{metrics['model']['name']} on {names}"),
        facts=facts,
        css=(ASSETS / "report.css").read_text(),
        js=(ASSETS / "report.js").read_text(),
        body="\n".join(body),
        footer="Numbers and windows also stand in metrics.json and windows.csv beside this file.",
    )


def _trouble(trouble: str) -> str:
    if not trouble:
        return ""
    return f'<div class="card warning"><b>This evaluation is not complete</b>: {html.escape(trouble)}</div>'


def _verdict(summary: Mapping) -> str:
    minus = re.compile(r"-(?=\d)")
    sentences = "".join(f"<p>{minus.sub(MINUS, html.escape(sentence))}</p>" for sentence in summary["verdict"])
    mood = ""
    if summary["windows"]:
        floor = summary["against"]["repeat_last_frame"]["psnr"]
        mood = "bad" if floor["mean"] <= 0 else "good" if (floor["low"] or 0) > 0 else ""
    return f'<div class="card verdict {mood}">{sentences}</div>'


def _table(summary: Mapping) -> str:
    metrics = {metric: words for metric, words in METRICS.items() if metric in summary["rows"]["model"]}
    head = "".join(f"<th>{title}<small>{unit}</small></th>" for title, unit, _ in metrics.values())
    if "fvd" in summary:
        head += f"<th>FVD<small>lower is better; of {summary['windows']} windows</small></th>"
    lines = []
    for row in _present(summary):
        numbers = summary["rows"][row.key]
        cells = "".join(_cell(numbers.get(metric), decimals) for metric, (_, _, decimals) in metrics.items())
        if "fvd" in summary:
            fvd = summary["fvd"].get(row.key)
            cells += f"<td>{'–' if fvd is None else f'{fvd:.1f}'}</td>"
        lines.append(f'<tr class="{row.key}"><td>{_swatch(row)}{row.label}</td>{cells}</tr>')
    return (
        "<section><h2>In the mean over the horizon</h2><div class='card scroll'><table><thead><tr><th></th>"
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _cell(number: Mapping | None, decimals: int) -> str:
    if number is None or number["mean"] is None:
        return "<td>–</td>"
    interval = f"{number['low']:.{decimals}f} to {number['high']:.{decimals}f}" if number["low"] is not None else ""
    return f"<td>{number['mean']:.{decimals}f}<small>{interval}</small></td>"


def _charts(summary: Mapping, frame_rate: float) -> str:
    legend = "".join(f"<span>{_swatch(row)}{row.label}</span>" for row in _present(summary))
    charts = "".join(
        chart(
            title,
            unit,
            ROWS,
            {key: by[metric]["per_step"] for key, by in summary["rows"].items() if metric in by},
            frame_rate,
        )
        for metric, (title, unit, _) in METRICS.items()
        if metric in summary["rows"]["model"]
    )
    return (
        "<section><h2>Over the horizon</h2>"
        f'<div class="legend">{legend}</div><div class="charts">{charts}</div></section>'
    )


def _players(windows: Sequence[Mapping], pictures: Callable[[str], Mapping]) -> str:
    ranked = sorted((w for w in windows if "samples" in w), key=lambda w: _psnr(w["samples"][0]))
    chosen = {"Best window": ranked[-1], "Median window": ranked[(len(ranked) - 1) // 2], "Worst window": ranked[0]}
    seen: set[str] = set()
    players = []
    for title, window in chosen.items():
        if window["key"] not in seen:
            seen.add(window["key"])
            players.append(_player("The only window" if len(ranked) == 1 else title, window, pictures(window["key"])))
    return (
        "<section><h2>What it looks like</h2><p>The first sample of the windows with the best, median and worst PSNR. "
        "The camera's frames come first, under a grey edge; predicted frames have an orange one.</p>"
        f"{''.join(players)}</section>"
    )


def _player(title: str, window: Mapping, pictures: Mapping) -> str:
    panels = {
        "predicted": "Prediction",
        "truth": "What really happened",
        "difference": "Difference, twice as strong",
    }
    figures = "".join(
        f'<figure class="{name}"><canvas></canvas><figcaption>{words}</figcaption></figure>'
        for name, words in panels.items()
    )
    return (
        f'<div class="card player"><div class="top"><h3>{title}</h3><span>{html.escape(window["bag"])} at '
        f"{window['time_ns'] / 1e9:.2f} s · {_psnr(window['samples'][0]):.2f} dB, repeating the last frame "
        f"{_psnr(window['repeat_last_frame']):.2f} dB</span></div>"
        f'<div class="panels">{figures}</div><div class="controls"><button type="button">Play</button>'
        '<input type="range" min="0" value="0" aria-label="frame"><output></output></div>'
        f'<script type="application/json">{json.dumps(pictures)}</script></div>'
    )


def _failures(windows: Sequence[Mapping], summary: Mapping) -> str:
    columns = {"model": "Rollouts", "truth": "True futures", "tokenizer_round_trip": "Their tokenizer round trips"}
    head = "".join(f"<th>{words}</th>" for words in columns.values())
    rows = "".join(
        f"<tr><td>{words}</td>{''.join(_rate(summary['failures'][name][kind]) for name in columns)}</tr>"
        for kind, words in KINDS.items()
    )
    listed = [
        f"<li>{_where(window)}, seed {sample['seed']}: "
        f"{KINDS[failure['kind']].lower()} in frame {failure['frame']}: {html.escape(failure['detail'])}</li>"
        for window in windows
        for sample in window.get("samples", ())
        for failure in sample["failures"]
    ]
    listed += [
        f"<li>{_where(window)}: refused, {html.escape(window['refused']['message'])}</li>"
        for window in windows
        if "refused" in window
    ]
    items = f"<ul>{''.join(listed)}</ul>" if listed else "<p>None.</p>"
    return (
        "<section><h2>Failures</h2><p>How often each detector fires: on rollouts, and falsely, on what the camera "
        f"truly saw and on its round trip.</p><div class='card scroll'><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table><details{' open' if len(listed) <= 12 else ''}><summary>{len(listed)} in the "
        f"list</summary>{items}</details></div></section>"
    )


def _rate(rate: Mapping) -> str:
    interval = f"95 %: {rate['low']:.0%} to {rate['high']:.0%}" if rate["of"] else ""
    return f"<td>{rate['count']} of {rate['of']}<small>{interval}</small></td>"


def _windows(windows: Sequence[Mapping]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(w['bag'])}</td><td>{w['time_ns'] / 1e9:.3f}</td><td>{_psnr(w['samples'][0]):.2f}</td>"
        f"<td>{_psnr(w['repeat_last_frame']):.2f}</td><td>{_psnr(w['constant_flow']):.2f}</td>"
        f"<td>{_psnr(w['tokenizer_round_trip']):.2f}</td></tr>"
        for w in windows
        if "samples" in w
    )
    head = "".join(f"<th>{words}</th>" for words in ("Time, s", "Model", "Floor", "Flow", "Ceiling"))
    return (
        "<section><h2>Windows</h2><details class='card'><summary>PSNR of every window, first sample, dB</summary>"
        f"<div class='scroll'><table><thead><tr><th>Recording</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        "</div></details></section>"
    )


def _recordings(metrics: Mapping) -> str:
    items = []
    for bag in metrics["recordings"]:
        name = html.escape(bag["name"])
        remarks = [bag["error"]] if "error" in bag else [*bag["losses"], *bag["notes"]]
        topic = f" · {html.escape(bag['topic'])}" if "topic" in bag else ""
        inner = "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks)
        items.append(f"<li><b>{name}</b>{topic}: {'<ul>' + inner + '</ul>' if inner else 'read whole'}</li>")
    reasons = ", ".join(f"{count} × {reason}" for reason, count in metrics["skipped_by_reason"].items())
    examples = {skip["reason"]: skip["message"] for skip in reversed(metrics["skipped"])}
    detail = "".join(f"<li>{reason}: {html.escape(message)}</li>" for reason, message in examples.items())
    skipped = f"<p>{len(metrics['skipped'])} windows were skipped: {reasons}. The first of each:</p><ul>{detail}</ul>"
    none = "<p>No window was skipped.</p>"
    return (
        f"<section><h2>Recordings</h2><div class='card'><ul>{''.join(items)}</ul>"
        f"{skipped if metrics['skipped'] else none}</div></section>"
    )


def _notes(summary: Mapping) -> str:
    notes = (*NOTES, LPIPS_NOTES["lpips" in summary["rows"].get("model", ())], FVD_NOTES["fvd" in summary])
    items = "".join(f"<li>{note}</li>" for note in notes)
    return f"<section><h2>How this was measured</h2><ul>{items}</ul></section>"


def _settings(metrics: Mapping, timing: Mapping) -> str:
    per_window = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in timing["seconds_per_window"].items())
    pairs = {
        "Model": f"{metrics['model']['name']}, {metrics['model']['frame_size'][1]}x{metrics['model']['frame_size'][0]}",
        "Guardrail": metrics["model"]["guardrail"],
        "Sampling": f"seed {metrics['seed']}, temperature {_or_default(metrics['temperature'])}, "
        f"top-p {_or_default(metrics['top_p'])}",
        "A window every": f"{metrics['plan']['every_s']:g} s",
        "Time per window": per_window or "none was evaluated in this run",
        "Hardware": ", ".join(f"{name} {value}" for name, value in metrics["hardware"].items()),
        "Versions": ", ".join(f"{name} {value}" for name, value in metrics["versions"].items()),
        "Schema": metrics["schema"],
    }
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in pairs.items())
    return f"<section><h2>Run</h2><div class='card'><dl>{rows}</dl></div></section>"


def _present(summary: Mapping) -> list[Row]:
    return [row for row in ROWS if row.key in summary["rows"]]


def _swatch(row: Row) -> str:
    return f'<span class="swatch" style="background:var(--{row.key})"></span>'


def _psnr(numbers: Mapping) -> float:
    return sum(numbers["psnr"]) / len(numbers["psnr"])


def _or_default(value: float | None) -> str:
    return "as recommended" if value is None else f"{value:g}"


def _where(window: Mapping) -> str:
    return f"{html.escape(window['bag'])} at {window['time_ns'] / 1e9:.2f} s"
