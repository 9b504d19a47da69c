"""Memory of the host that was freed: kept by a program that only predicts, given back by a node that rests."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt, see malloc.h
LARGEST_BLOCK = 1 << 30  # bytes; a larger one comes from the system and goes back to it at once
MOST_KEPT = (1 << 31) - 1  # bytes
LARGEST_BLOCK_OF_A_NODE = 32 << 20  # bytes; the largest that every glibc allows, and to which it goes by itself
LEAST_RETURNED = 1 << 20  # bytes at the end of an arena

_libc = ctypes.CDLL(None)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next prediction. To be called before it starts threads.

    The refiner works with pictures of up to 140 MB, one after the other. glibc takes such blocks from the system anew
    each time, which clears page after page of them. The arenas that glibc gives to threads cannot keep blocks of more
    than 64 MB, so all threads share one. That suits a program that predicts and does nothing else; in the node the
    threads of the camera and of the middleware would wait for that one arena, and it fell into pieces under load.
    Other C libraries have no such call, and nothing happens. An older glibc keeps no block of more than 32 MB and
    refuses; it is left as it is, as the other two settings alone would have it keep even less.
    """
    if hasattr(_libc, "mallopt") and _libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK):
        _libc.mallopt(M_ARENA_MAX, 1)
        _libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def keep_little_freed_memory() -> None:
    """Let this process return what is free at the end of a thread's arena, from now on.

    glibc has sixteen arenas on two cores, and keeps up to 64 MB at the end of each, which `return_freed_memory` does
    not reach (malloc_trim cuts off the end of the first arena alone). A node with clients grew by 270 MB in eight
    minutes that way, while what it used stayed the same to a megabyte. Other C libraries have no such call, and nothing
    happens.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK_OF_A_NODE)  # which would stay at 128 KB where the next one is set
        _libc.mallopt(M_TRIM_THRESHOLD, LEAST_RETURNED)


def return_freed_memory() -> None:
    """Hand what this process has freed back to the system, in some ten milliseconds.

    glibc keeps what a thread has freed for that thread, in pieces between what is still in use. A node whose threads
    take turns with frames of megabytes grew for minutes that way, by 300 MB. Other C libraries have no such call, and
    nothing happens.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
