"""One line of what `cosmos_ros doctor` says."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from cosmos_ros.errors import ForesightError


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it.

    mark   "ok", "note" for what is only worth knowing, "FAIL" for what keeps the node from working
    """

    mark: str
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        text = " ".join(filter(None, map(str.strip, self.text.splitlines())))  # an error's may be several lines
        line = f"{self.mark:<5} {self.subject:<11} {text}"
        return f"{line} -> {self.remedy}" if self.remedy else line


def ok(subject: str, text: str) -> Finding:
    return Finding("ok", subject, text)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding("note", subject, text, remedy)


def fail(subject: str, text: str, remedy: str = "") -> Finding:
    """`remedy` is empty where the text, an error's message, already says what to do."""
    return Finding("FAIL", subject, text, remedy)


def judged(subject: str, check: Callable[[], str]) -> Finding:
    """What a part says of itself, or why the node would refuse it: the error that its check raises."""
    try:
        return ok(subject, check())
    except ForesightError as error:
        return fail(subject, str(error))
    except OSError as error:
        return fail(subject, str(error), "see that this user can read it")


def imported(module: str, name: str, remedy: str) -> tuple[ModuleType | None, Finding]:
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a broken installation may raise anything at import
        return None, fail(name, f"cannot be imported ({type(error).__name__}: {error})", remedy)
    return found, ok(name, str(getattr(found, "__version__", "installed")))


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB"
