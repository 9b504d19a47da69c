"""Predictive foresight for robots: a world model's next 24 camera frames, guarded, over ROS 2."""

import importlib

_HOMES = {"Clip": "rollout", "Foresight": "foresight", "GuardedRollout": "rollout"}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Load a public name's module on first use: processes that only play bags or show pictures never load torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
