"""Where the guards' networks compute."""

from __future__ import annotations

import torch


def chosen_device(name: str) -> torch.device:
    """"auto" is CUDA where there is one, else the CPU; any other name is torch's."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
