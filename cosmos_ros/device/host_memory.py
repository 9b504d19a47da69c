"""Memory of the host that was freed: kept while a prediction works, and the system's again when it rests."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt, see malloc.h
LARGEST_BLOCK = 1 << 30  # bytes; a larger one comes from the system and goes back to it at once
MOST_KEPT = (1 << 31) - 1  # bytes

_libc = ctypes.CDLL(None)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, until `return_freed_memory`. To be called before it starts threads.

    The refiner works with pictures of up to 140 MB, one after the other. glibc takes such blocks from the system anew
    each time, which clears page after page of them: a quarter of the CPU time of decoding and refining. The arenas that
    glibc gives to threads cannot keep blocks of more than 64 MB; so all threads share one, which holds less in all than
    they did. Other C libraries have no such call, and nothing happens. An older glibc keeps no block of more than 32 MB
    and refuses; it is left as it is, as the other two settings alone would have it keep even less.
    """
    if hasattr(_libc, "mallopt") and _libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK):
        _libc.mallopt(M_ARENA_MAX, 1)
        _libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def return_freed_memory() -> None:
    """Hand what this process has freed back to the system, in some ten milliseconds.

    glibc keeps what was freed in pieces between what is still in use, and after `keep_freed_memory` all else too. A
    node whose threads take turns with frames of megabytes grew for minutes that way, by 300 MB. Other C libraries have
    no such call, and nothing happens.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
