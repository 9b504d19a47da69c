"""The machine: its Python, PyTorch, GPUs and disk. Nothing here needs PyTorch to be there."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from cosmos_ros.commands.doctor.finding import Finding, fail, gigabytes, imported, note, ok
from cosmos_ros.paths import cache_directory

SUPPORTED_PYTHON = ((3, 10), (3, 13))
ROOM_FOR_CACHES = 2_000_000_000  # bytes: prompt embeddings, and what a build leaves
CACHE_REMEDY = "set XDG_CACHE_HOME to a directory that this user may write"


def python() -> Finding:
    low, high = SUPPORTED_PYTHON
    text = f"{platform.python_version()} ({sys.executable})"
    if low <= sys.version_info[:2] <= high:
        return ok("python", text)
    return fail("python", text, "use Python {}.{} to {}.{}".format(*low, *high))


def torch_and_gpu() -> Iterator[Finding]:
    torch, finding = imported("torch", "PyTorch", "pip install 'torch>=2.6'; pytorch.org names the build for your GPU")
    yield finding
    if torch is None:
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            try:
                free, total = torch.cuda.mem_get_info(index)
                yield ok("GPU", f"{torch.cuda.get_device_name(index)}: {gigabytes(free)} of {gigabytes(total)} free")
            except RuntimeError as error:
                yield fail("GPU", f"cuda:{index} does not answer: {error}", "see what nvidia-smi says of it")
    elif Path("/proc/driver/nvidia/version").is_file() or shutil.which("nvidia-smi"):
        yield fail(
            "GPU",
            "PyTorch sees none, though there is an NVIDIA driver",
            "install a CUDA build of PyTorch that this driver supports",
        )
    else:
        yield note("GPU", "none; only a small model is quick on the CPU")


def disk() -> Finding:
    """Whether there is room for what is kept between runs. The node runs without, and encodes prompts anew."""
    place = cache_directory()
    try:
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
    except OSError as error:
        return note("disk", f"nothing can be kept between runs: {error}", CACHE_REMEDY)
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        return note("disk", f"nothing can be kept between runs: {place} takes no files of this user", CACHE_REMEDY)
    text = f"{gigabytes(free)} free in {place}"
    return ok("disk", text) if free > ROOM_FOR_CACHES else fail("disk", text, "free some, or set XDG_CACHE_HOME")


def available_host_memory() -> int:
    """Bytes that this process may still take, as the kernel reckons."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
