"""What the guards decided. Plain data."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Verdict(enum.IntEnum):
    """A guard's decision. The values are the constants of msg/GuardDecision.msg."""

    PASSED = 0
    MODIFIED = 1
    REFUSED = 2


@dataclass(frozen=True)
class GuardDecision:
    """What one guard decided, in how long, with which weights (SHA-256 over its files)."""

    guard: str
    verdict: Verdict
    detail: str = ""
    weights: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class GuardrailReport:
    """The posture under which a rollout left: the profile and every decision, in order."""

    profile: str
    decisions: tuple[GuardDecision, ...]


def merged(reports: Sequence[GuardrailReport]) -> GuardrailReport:
    """What the same guards decided about several stretches, as one report: each guard's gravest verdict."""
    by_guard: dict[str, list[GuardDecision]] = {}
    for report in reports:
        for decision in report.decisions:
            by_guard.setdefault(decision.guard, []).append(decision)
    return GuardrailReport(reports[0].profile, tuple(map(_merged, by_guard.values())))


def _merged(decisions: list[GuardDecision]) -> GuardDecision:
    details = dict.fromkeys(decision.detail for decision in decisions if decision.detail)
    return GuardDecision(
        decisions[0].guard,
        max(decision.verdict for decision in decisions),
        "; ".join(details),
        decisions[0].weights,
        sum(decision.seconds for decision in decisions),
    )
