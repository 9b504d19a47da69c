"""Command-line flags made from the settings: one flag for each, under the setting's name."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from typing import Any

from cosmos_ros.errors import SettingError
from cosmos_ros.settings import (
    SETTINGS,
    C,
    ClipConfig,
    ForesightConfig,
    SamplingConfig,
    Setting,
    Value,
    renamed,
    settings_of,
)

SHORTEST_STEP_S = 0.001  # from one window to the next: less than a camera's period takes every frame


def add_flags(parser: argparse.ArgumentParser, title: str, settings: Iterable[Setting]) -> None:
    """A group of flags. A flag that is not given leaves its setting at the default."""
    group = parser.add_argument_group(title)
    for each in settings:
        facts = "; ".join(filter(None, (each.constraints, f"default: {_words(each.default)}")))
        words = f"{each.description} [{facts}]".replace("%", "%%")
        group.add_argument(each.flag, metavar=_metavar(each), help=words)
        for old in each.formerly:
            parser.add_argument(_flag(old), dest=each.name, action=_Renamed, help=argparse.SUPPRESS)


def add_workers(parser: argparse.ArgumentParser, what: str) -> None:
    """--workers and --ray: over which processes the work is spread; `what` names its pieces."""
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="worker processes; default: one per GPU, or per core up to 4",
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help=f'spread the {what} over a Ray cluster: its address, "auto", or "local"'
    )


def add_prediction_flags(parser: argparse.ArgumentParser) -> None:
    """The settings by which clips are picked from recordings and predicted from."""
    add_flags(parser, "clips, as the node picks them", settings_of(ClipConfig))
    add_flags(parser, "sampling", settings_of(SamplingConfig))
    add_flags(parser, "model", settings_of(ForesightConfig))


def config_of(args: argparse.Namespace, table: type[C]) -> C:
    """One table as the flags say. Raises SettingError."""
    given = {each.name: getattr(args, each.name, None) for each in settings_of(table)}
    return table(**{name: SETTINGS[name].parse(text) for name, text in given.items() if text is not None})


def require(
    args: argparse.Namespace,
    *,
    positive: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    steps: Iterable[str] = (),
) -> None:
    """Look at numbers of flags that are no settings; steps are seconds from one window to the next. Raises
    SettingError."""
    for name in (*positive, *steps):
        if not 0 < getattr(args, name) < math.inf:
            raise SettingError(f"{_flag(name)} must be positive and finite; got {getattr(args, name)}")
    for name in steps:
        if getattr(args, name) < SHORTEST_STEP_S:
            raise SettingError(f"{_flag(name)} must be at least {SHORTEST_STEP_S:g} s; got {getattr(args, name)}")
    for name in not_negative:
        if not getattr(args, name) >= 0:
            raise SettingError(f"{_flag(name)} must not be negative; got {getattr(args, name)}")


class _Renamed(argparse.Action):
    """A flag's old name: it works, with a warning."""

    def __call__(
        self, parser: argparse.ArgumentParser, args: argparse.Namespace, text: Any, flag: str | None = None
    ) -> None:
        renamed(flag or "", _flag(self.dest))
        setattr(args, self.dest, text)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _metavar(setting: Setting) -> str:
    if setting.path:
        return "DIR"
    if setting.choices:
        return "|".join(setting.choices)
    if setting.unit:
        return setting.unit.upper()
    return {bool: "BOOL", int: "N", float: "X", str: "WORD"}[type(setting.default)]


def _words(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"
