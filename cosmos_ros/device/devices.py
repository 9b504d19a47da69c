"""Which device and which precision a setting names, and what is free there."""

from __future__ import annotations

import torch

from cosmos_ros.errors import SettingError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FLOAT8 = "fp8"  # of matrix products alone: all else then has the precision of "auto"
FLOAT8_CAPABILITY = (8, 9)  # of the GPUs that multiply so: Ada, Hopper and later


def resolve_device(device: str) -> torch.device:
    """The device that the setting `device` names. Raises SettingError where it names none, or one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    if place is None or place.type not in ("cpu", "cuda"):
        raise SettingError(f"device must be auto, cpu, cuda or cuda:N; got '{device}'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise SettingError(f"device {device} is not there: this PyTorch sees {torch.cuda.device_count()} CUDA GPUs")
    return place


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision that the setting `dtype` names on the device. Raises SettingError where it names none."""
    if dtype in ("auto", FLOAT8):
        return default_dtype(device)
    if dtype not in DTYPES:
        raise SettingError(f"dtype must be auto, {', '.join(DTYPES)} or {FLOAT8}; got '{dtype}'")
    return DTYPES[dtype]


def has_float8(device: torch.device) -> bool:
    """Whether the device multiplies matrices in 8-bit floating point."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FLOAT8_CAPABILITY


def default_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def free_memory(device: torch.device) -> int:
    """Bytes free on the device for this process, including what PyTorch has reserved and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def empty_cache(device: torch.device) -> None:
    """Give what PyTorch has reserved on the device and does not use back to the driver."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
