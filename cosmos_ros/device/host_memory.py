"""Memory of the host that was freed, and is the system's again."""

from __future__ import annotations

import ctypes

_libc = ctypes.CDLL(None)


def return_freed_memory() -> None:
    """Hand what this process has freed back to the system, in some ten milliseconds.

    glibc keeps what a thread has freed for that thread, in pieces between what is still in use. A node whose threads
    take turns with frames of megabytes grew for minutes that way, by 300 MB. Other C libraries have no such call, and
    nothing happens.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
