"""What the guards decided. Plain data."""

from __future__ import annotations

import enum
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
