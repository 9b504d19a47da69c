"""Curves over the horizon as inline SVG, with bands for their intervals."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 34


class Row(NamedTuple):
    """A row of the table: its key in the summary (and its colour's name), and its words."""

    key: str
    label: str


class Axis(NamedTuple):
    """A linear scale from data to pixels, with the values that are written on it."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> Axis:
        low, high = min(values), max(values)
        room = 0.05 * (high - low) or 0.5
        low, high = low - room, high + room
        step = 10 ** math.floor(math.log10((high - low) / 3))
        step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
        first = math.ceil(low / step)
        return cls(low, high, start, end, tuple(i * step for i in range(first, math.floor(high / step) + 1)))


def chart(title: str, unit: str, rows: Sequence[Row], per_step: Mapping[str, Mapping], frame_rate: float) -> str:
    """One metric's curves, mean and interval per step, for the rows that have any.

    per_step  row key -> {"mean": [...], "low": [...], "high": [...]}, None where a step has no number
    """
    rows = [row for row in rows if row.key in per_step and _there(per_step[row.key]["mean"])]
    drawn = [value for row in rows for key in ("mean", "low", "high") for value in _there(per_step[row.key][key])]
    if not drawn:
        return f'<div class="card chart"><h3>{title}</h3><p>No step gave a number.</p></div>'
    n = len(per_step[rows[0].key]["mean"])
    times = [k / frame_rate for k in range(1, n + 1)]
    x = Axis.over(times, LEFT, WIDTH - RIGHT)
    y = Axis.over(drawn, HEIGHT - BOTTOM, TOP)
    curves = "".join(_curve(row.key, per_step[row.key], [x(time) for time in times], y) for row in rows)
    tips = [[f"step {k + 1}, +{times[k]:.2f} s", *(_tip(row, per_step[row.key], k) for row in rows)] for k in range(n)]
    data = {"x": [round(x(time), 1) for time in times], "tips": tips, "rows": [row.key for row in rows]}
    return (
        f'<div class="card chart"><h3>{html.escape(title)} <span>{html.escape(unit)}</span></h3>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)} over the horizon">'
        f"{_frame(x, y)}{curves}"
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg><div class="tip"></div>'
        f'<script type="application/json">{json.dumps(data)}</script></div>'
    )


def _curve(key: str, values: Mapping[str, Sequence[float | None]], x: Sequence[float], y: Axis) -> str:
    steps = [k for k, mean in enumerate(values["mean"]) if mean is not None]
    banded = [k for k in steps if values["low"][k] is not None]
    edges = [(k, values["low"][k]) for k in banded] + [(k, values["high"][k]) for k in reversed(banded)]
    band = f'<polygon class="band" fill="var(--{key})" points="{_points(edges, x, y)}"/>' if banded else ""
    line = _points([(k, values["mean"][k]) for k in steps], x, y)
    return f'{band}<polyline class="curve {key}" stroke="var(--{key})" points="{line}"/>'


def _points(steps: Sequence[tuple[int, float]], x: Sequence[float], y: Axis) -> str:
    return " ".join(f"{x[k]:.1f},{y(value):.1f}" for k, value in steps)


def _frame(x: Axis, y: Axis) -> str:
    lines = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{LEFT - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in (round(tick, 9) for tick in y.ticks)
    ]
    lines += [
        f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
        for tick in (round(tick, 9) for tick in x.ticks)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 2}" text-anchor="middle">seconds after the last camera frame</text>')
    return "".join(lines)


def _tip(row: Row, values: Mapping[str, Sequence[float | None]], k: int) -> str:
    mean, low, high = (values[key][k] for key in ("mean", "low", "high"))
    if mean is None:
        return f"{row.label}: –"
    interval = f" ({low:.4g} to {high:.4g})" if low is not None else ""
    return f"{row.label}: {mean:.4g}{interval}"


def _there(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
