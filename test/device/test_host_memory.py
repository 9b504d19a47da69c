"""What was freed is kept while it is needed, and the system's again then."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cosmos_ros.device import host_memory

BLOCK = 100_000  # bytes; from 128 KB on glibc returns a block at once
N_BLOCKS = 2000


def printed_by(program: str) -> int:
    """What a process of its own prints, whose allocator no other test has used."""
    child = [sys.executable, "-c", program]
    return int(subprocess.run(child, capture_output=True, text=True, check=True).stdout)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(host_memory._libc, "malloc_trim"), reason="a C library without malloc_trim")
def test_what_another_thread_freed_between_blocks_in_use_is_returned():
    kept = []

    def take_turns() -> None:
        blocks = [np.ones(BLOCK, np.uint8) for _ in range(N_BLOCKS)]
        kept.extend(blocks[::50])  # in use: what lies between cannot be cut off at the end

    thread = threading.Thread(target=take_turns)
    thread.start()
    thread.join()
    before = resident_bytes()
    host_memory.return_freed_memory()
    assert before - resident_bytes() > 0.8 * BLOCK * N_BLOCKS
    assert all(block.all() for block in kept)


# As the frames' thread works: blocks larger than an arena of its own could keep.
TWICE_THE_SAME_BLOCK = """
import resource, threading
from cosmos_ros.device.host_memory import keep_freed_memory

def work():
    bytearray(100_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(100_000_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

keep_freed_memory()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not hasattr(host_memory._libc, "mallopt"), reason="a C library without mallopt")
@pytest.mark.processes
def test_a_large_block_that_a_thread_freed_is_not_taken_from_the_system_again():
    pages = printed_by(TWICE_THE_SAME_BLOCK)
    assert pages < 100_000_000 / os.sysconf("SC_PAGE_SIZE") / 10


# As a thread of the node works: glibc alone keeps twice the largest block that was ever freed at the end of an arena.
WHAT_A_THREAD_FREED = """
import os, threading
from pathlib import Path
from cosmos_ros.device.host_memory import keep_little_freed_memory, return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def work():
    blocks = [bytearray(100_000) for _ in range(400)]
    taken.set()
    measured.wait()
    del blocks
    freed.set()

keep_little_freed_memory()
bytearray(30 << 20)
taken, measured, freed = threading.Event(), threading.Event(), threading.Event()
thread = threading.Thread(target=work)
thread.start()
taken.wait()
before = resident()
measured.set()
freed.wait()
return_freed_memory()
print(before - resident())
thread.join()
"""


@pytest.mark.skipif(not hasattr(host_memory._libc, "malloc_trim"), reason="a C library without malloc_trim")
@pytest.mark.processes
def test_what_is_free_at_the_end_of_a_threads_memory_is_returned_too():
    returned = printed_by(WHAT_A_THREAD_FREED)
    assert returned > 0.9 * 40_000_000


def test_a_c_library_that_refuses_so_large_blocks_is_left_as_it_is(monkeypatch):
    """The other settings alone would have it take every block of 128 KB from the system anew."""
    asked = []
    monkeypatch.setattr(host_memory, "_libc", SimpleNamespace(mallopt=lambda *given: asked.append(given) or 0))
    host_memory.keep_freed_memory()
    assert asked == [(host_memory.M_MMAP_THRESHOLD, host_memory.LARGEST_BLOCK)]


def test_a_c_library_without_it_is_no_error(monkeypatch):
    monkeypatch.setattr(host_memory, "_libc", object())
    host_memory.keep_freed_memory()
    host_memory.keep_little_freed_memory()
    host_memory.return_freed_memory()
