"""What a setting is: its type, what it may be, and the one check that judges a value wherever it comes from.

The settings themselves are in cosmos_ros/settings.py.
"""

from __future__ import annotations

import enum
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cosmos_ros.errors import SettingError
from cosmos_ros.paths import expanded

logger = logging.getLogger(__name__)

Value = bool | int | float | str
C = TypeVar("C", bound="Config")


class When(enum.Enum):
    """When the node takes a new value."""

    START = "read at the start"
    CONFIGURE = "read at configure"
    ANY_TIME = "any time; the next goal follows it"


@dataclass(frozen=True)
class Setting:
    """One setting.

    bounds       the least and the greatest number, both allowed
    never        numbers between the bounds that are not allowed
    least        the least number apart from 0, which means something else; 0: the lower bound
    choices      all that a text may be; empty: `pattern` decides
    pattern      what a text must match as a whole, which `form` says in words; empty: any text
    unit         of a number: "s", "Hz"
    path         a file or folder: a leading ~ is the user's home
    decides      whether a rollout depends on it, so that an evaluation goes on only where it is the same
    formerly     names under which it was known before
    """

    name: str
    default: Value
    description: str
    when: When = When.CONFIGURE
    bounds: tuple[float, float] | None = None
    never: tuple[float, ...] = ()
    least: float = 0.0
    choices: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""
    unit: str = ""
    path: bool = False
    decides: bool = False
    formerly: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def constraints(self) -> str:
        """What a value must fulfil, in words; empty where any text will do."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.bounds is not None:
            kind = "a whole number" if isinstance(self.default, int) else "a number"
            unit = f" {self.unit}" if self.unit else ""
            but = "".join(f", but not {number:g}" for number in self.never)
            but += f", but not between 0 and {self.least:g}" if self.least else ""
            low, high = (f"{int(bound):,}" if float(bound).is_integer() else f"{bound:g}" for bound in self.bounds)
            return f"{kind} from {low} to {high}{unit}{but}"
        return "true or false" if isinstance(self.default, bool) else self.form

    def check(self, value: Any) -> Value:
        """The value as this setting's type. Raises SettingError for any other value than the constraints allow."""
        kind = type(self.default)
        if kind is str and isinstance(value, str | Path) and self._is_allowed(str(value)):
            return expanded(str(value)) if self.path else str(value)
        if kind is bool and isinstance(value, bool):
            return value
        numbers = int if kind is int else int | float
        if kind in (int, float) and isinstance(value, numbers) and self._is_in_bounds(value):
            return kind(value)
        raise self.refusal(value)

    def parse(self, text: str) -> Value:
        """The value that a text from a command line means. Raises SettingError."""
        if isinstance(self.default, str):
            return self.check(text)
        try:
            value = _READERS[type(self.default)](text.strip())
        except (KeyError, ValueError):
            raise self.refusal(text) from None
        return self.check(value)

    def refusal(self, value: object) -> SettingError:
        expected = self.constraints or ("a path" if self.path else "a text")
        got = str(value) if isinstance(value, int | float) else repr(value)
        return SettingError(f"{self.name} must be {expected}; got {got}")

    def _is_allowed(self, text: str) -> bool:
        if self.choices:
            return text in self.choices
        return "\0" not in text and re.fullmatch(self.pattern or r"(?s:.*)", text, re.ASCII) is not None

    def _is_in_bounds(self, number: float) -> bool:
        if isinstance(number, bool) or not math.isfinite(number) or number in self.never or 0 < number < self.least:
            return False
        return self.bounds is None or self.bounds[0] <= number <= self.bounds[1]


_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_READERS: dict[type, Callable[[str], Value]] = {int: int, float: float, bool: lambda text: _TRUTHS[text.lower()]}


def setting(default: Value, description: str, **facts: Any) -> Any:
    """A field of a Config; `facts` are those of Setting."""
    return field(default=default, metadata={"description": description, **facts})


@dataclass(frozen=True)
class Config:
    """Base of the tables. Making one checks every value. Raises SettingError."""

    def __post_init__(self) -> None:
        for each in settings_of(type(self)):
            object.__setattr__(self, each.name, each.check(getattr(self, each.name)))

    @classmethod
    def of(cls: type[C], source: str | Path | Mapping) -> C:
        """From a mapping, or from a YAML file of one; what it does not name keeps its default.

        Raises SettingError for a name that is no setting of this table and for a file that cannot be read.
        """
        values = dict(source) if isinstance(source, Mapping) else _read(Path(source))
        table = {each.name: each for each in settings_of(cls)}
        for each in table.values():
            for old in each.formerly:
                if old in values:
                    renamed(old, each.name)
                    values.setdefault(each.name, values.pop(old))
        if unknown := sorted(map(str, values.keys() - table.keys())):
            raise SettingError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(table))}")
        return cls(**values)


def settings_of(table: type[Config]) -> tuple[Setting, ...]:
    """The settings of one table, in its order."""
    return tuple(Setting(name=each.name, default=getattr(table, each.name), **each.metadata) for each in fields(table))


def truth(name: str, text: str) -> bool:
    """Of an argument that is no setting: true, false, 1 or 0. Raises SettingError."""
    return bool(Setting(name, False, "").parse(text))


def renamed(old: str, new: str) -> None:
    """Warn of a name that was given up."""
    logger.warning("%s is now called %s; the old name will go with the next release", old, new)


def parameter_file(values: Mapping[str, Value], node: str) -> str:
    """A ROS parameter file. Texts are quoted: rcl would take `1e5` for a number and `on` for a truth.

    node  whom it is for, as rcl matches names: "/**" is every node
    """
    lines = [f"{node}:", "  ros__parameters:", *(f"    {name}: {json.dumps(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def _read(file: Path) -> dict:
    """A YAML file of one mapping; an empty one is an empty mapping."""
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"the settings in {file} cannot be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingError(f"{file} must hold settings as `name: value`; got {type(values).__name__}")
    return values
