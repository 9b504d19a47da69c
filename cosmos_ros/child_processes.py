"""Processes that start fresh and soon, and of which none is left behind: a child ends when the process that started it
is gone, however that ended."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from typing import NoReturn

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None)  # loaded here: between fork and exec nothing may be loaded any more


@dataclass(frozen=True)
class Failure:
    """What a process could not do, on its way to the one that asked for it."""

    error: Exception
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Of an error that is being handled."""
        return cls(_portable(error), traceback.format_exc())

    def raised(self) -> NoReturn:
        raise self.error from RuntimeError(self.traceback)


def _portable(error: Exception) -> Exception:
    """The error, or its words, where it does not come whole through a pipe."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def fresh_processes(*modules: str) -> ForkServerContext:
    """A context of `multiprocessing` whose processes begin with these modules loaded, and otherwise fresh.

    A server loads them once, and each process is forked from it: PyTorch takes seconds to load. CUDA, which survives no
    fork, is not yet in use there.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def end_with_parent() -> None:
    """In a process of `multiprocessing`: end at once when its parent has ended, even if that was killed."""

    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def killed_with(parent: int) -> None:
    """Between fork and exec (`preexec_fn`): have Linux kill this process when the thread that started it has ended.

    parent  process id of the one that starts it
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)
