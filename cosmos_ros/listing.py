"""Long lists in messages."""

from __future__ import annotations

from collections.abc import Iterable


def listed(items: Iterable[str], most: int = 40, between: str = "; ") -> str:
    """The first of them, and how many more there are.

    between  "; " for what is a sentence itself, ", " for names
    """
    items = list(items)
    rest = len(items) - most
    more = f"{between.rstrip(', ')} and {rest} more" if rest > 0 else ""  # there is no comma before "and"
    return between.join(items[:most]) + more
