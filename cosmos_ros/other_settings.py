"""In what the settings of a run that is to go on differ from those that it began with, in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cosmos_ros.listing import listed

LISTED = 3  # of recordings that only one run has: there may be thousands
NOT_SET = "not set"  # of null too: a setting that a run did not know yet is no other one


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Every setting that differs, with both values: "config.width was 64, is 96 now; seed was 0, is 1 now"; "": none.

    before, now  settings as JSON takes them; of nested ones each is named by its path
    """
    then, asked = dict(_each(before)), dict(_each(now))
    both = ((name, then.get(name, NOT_SET), asked.get(name, NOT_SET)) for name in sorted(then | asked))
    return "; ".join(_difference(*each) for each in both if each[1] != each[2])


def _each(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str | list[str]]]:
    """The path of each setting and its value as JSON; of a list of recordings or the like, each item's."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _each(value, f"{path}{name}.")
        elif isinstance(value, (list, tuple)) and all(isinstance(item, (str, Mapping)) for item in value):
            yield f"{path}{name}", [_text(item) for item in value]
        else:
            yield f"{path}{name}", _text(value)


def _difference(name: str, before: str | list[str], now: str | list[str]) -> str:
    if isinstance(before, str) or isinstance(now, str):
        return f"{name} was {_listed(before)}, is {_listed(now)} now"
    only = [
        f"{_listed(items)} only {when}"
        for items, when in ((_without(before, now), "then"), (_without(now, before), "now"))
        if items
    ]
    return f"{name}: {', '.join(only)}" if only else f"{name} in another order"


def _without(items: list[str], others: list[str]) -> list[str]:
    return list((Counter(items) - Counter(others)).elements())


def _listed(value: str | list[str]) -> str:
    """A value, or the first items of a list and how many more there are."""
    if isinstance(value, str):
        return value
    return listed(value, LISTED, ", ") or "[]"


def _text(value: Any) -> str:
    return NOT_SET if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
