"""Temporary folders that go with the program that made them, however it ends.

At the end of their block, or of the program where a signal broke that off. A program that was killed removes nothing,
so the next one that makes a folder in the same place removes what it left: a program holds a lock on each of its
folders, and the kernel gives a dead one's back.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX, _SUFFIX = "cosmos_ros_", ".scratch"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def scratch_folder(purpose: str, parent: str | None = None) -> Iterator[Path]:
    """A temporary folder for the block, with its purpose in its name; by default in the system's place for them."""
    place = Path(parent or tempfile.gettempdir())
    _remove_stale(place)
    folder, lock = _locked_folder(purpose, place)
    remove = functools.partial(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(remove)
    try:
        yield folder
    finally:
        remove()
        atexit.unregister(remove)
        os.close(lock)


def _locked_folder(purpose: str, place: Path) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(_SUFFIX, f"{_PREFIX}{purpose}_", place))
        with contextlib.suppress(FileNotFoundError):  # taken for stale before it was locked
            lock = os.open(folder, _FOLDER)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_stale(place: Path) -> None:
    """Remove this user's folders that no living program holds."""
    for folder in place.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # held, somebody else's, or gone
            lock = os.open(folder, _FOLDER)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
