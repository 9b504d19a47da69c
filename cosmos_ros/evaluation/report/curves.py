"""Curves over the horizon, laid out in pixels for the report's template to draw, with bands for their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    def labels(self) -> list[tuple[str, str]]:
        """(pixel, words) of each value that is written on it."""
        return [(f"{self(tick):.1f}", f"{round(tick, 9):g}") for tick in self.ticks]


class Curve(NamedTuple):
    """A row's mean, and the band of its interval, as points of an SVG line; no band: empty."""

    key: str
    line: str
    band: str


@dataclass(frozen=True)
class Chart:
    """One metric's curves. `pointer` is what the page's script shows under the pointer; without curves it is None.

    seams  where a stretch begins that was predicted from predicted frames
    """

    title: str
    unit: str
    x: Sequence[tuple[str, str]] = ()
    y: Sequence[tuple[str, str]] = ()
    curves: Sequence[Curve] = ()
    pointer: Mapping | None = None
    seams: Sequence[str] = ()
    width, height, left, right, top, bottom = WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM


def chart(
    title: str,
    unit: str,
    rows: Sequence[Row],
    per_step: Mapping[str, Mapping],
    frame_rate: float,
    seams: Sequence[int] = (),
) -> Chart:
    """Mean and interval per step, for the rows that have any.

    seams     steps, from 1 on, with which a later stretch begins
    per_step  row key -> {"mean": [...], "low": [...], "high": [...]}, None where a step has no number
    """
    rows = [row for row in rows if row.key in per_step and _there(per_step[row.key]["mean"])]
    drawn = [value for row in rows for key in ("mean", "low", "high") for value in _there(per_step[row.key][key])]
    if not drawn:
        return Chart(title, unit)
    n = len(per_step[rows[0].key]["mean"])
    times = [k / frame_rate for k in range(1, n + 1)]
    x = Axis.over(times, LEFT, WIDTH - RIGHT)
    y = Axis.over(drawn, HEIGHT - BOTTOM, TOP)
    places = [x(time) for time in times]
    tips = [[f"step {k + 1}, +{times[k]:.2f} s", *(_tip(row, per_step[row.key], k) for row in rows)] for k in range(n)]
    return Chart(
        title,
        unit,
        x.labels(),
        y.labels(),
        [_curve(row.key, per_step[row.key], places, y) for row in rows],
        {"x": [round(place, 1) for place in places], "tips": tips, "rows": [row.key for row in rows]},
        [f"{x((seam - 0.5) / frame_rate):.1f}" for seam in seams],
    )


def _curve(key: str, values: Mapping[str, Sequence[float | None]], x: Sequence[float], y: Axis) -> Curve:
    mean, low, high = (_points(values[which], x, y) for which in ("mean", "low", "high"))
    return Curve(key, " ".join(mean), " ".join(low + high[::-1]))


def _points(values: Sequence[float | None], x: Sequence[float], y: Axis) -> list[str]:
    """Of the steps that have a value."""
    return [f"{x[k]:.1f},{y(value):.1f}" for k, value in enumerate(values) if value is not None]


def _tip(row: Row, values: Mapping[str, Sequence[float | None]], k: int) -> str:
    mean, low, high = (values[key][k] for key in ("mean", "low", "high"))
    if mean is None:
        return f"{row.label}: –"
    interval = f" ({low:.4g} to {high:.4g})" if low is not None else ""
    return f"{row.label}: {mean:.4g}{interval}"


def _there(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
