"""Evaluators of test_workers.py, in a module of their own that a worker process can import."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

MUCH = 50_000_000  # bytes; a pipe holds some hundred thousand


class Stubborn(Exception):
    """Goes into a pipe, but does not come out of it: it is made of more than it gives to Exception."""

    def __init__(self, n, what):
        super().__init__(f"{n} {what}")


class Squares:
    """In a worker: n gives its square; what is negative is an error."""

    def __init__(self, settings):
        self.settings = settings

    def __call__(self, n):
        if n < -9:
            raise Stubborn(n, "is far too negative")
        if n < 0:
            raise ValueError(f"{n} is negative")
        return n * n


class DiesAfterwards:
    """In a worker: gives the window back, and is killed when it waits for another one."""

    def __init__(self, settings):
        pass

    def __call__(self, window):
        threading.Thread(target=die_in_recv, args=(threading.main_thread().ident,), daemon=True).start()
        return window


def die_in_recv(thread: int) -> None:
    while True:
        if sys._current_frames()[thread].f_code.co_name == "_recv":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.001)


class DiesWhileItSends:
    """In a worker: the first window gives its process id, the second one an outcome that is sent by half."""

    def __init__(self, settings):
        self.n = 0

    def __call__(self, window):
        self.n += 1
        if self.n == 1:
            return os.getpid()
        threading.Thread(target=die_in_send, args=(threading.main_thread().ident,), daemon=True).start()
        return bytes(MUCH)


def die_in_send(thread: int) -> None:
    while True:
        frame = sys._current_frames()[thread]
        if frame.f_code.co_name == "_send" and len(frame.f_locals["buf"]) >= MUCH:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.001)


class OwnProcess:
    """In a worker: its process id for the first window; the second one takes for ever."""

    def __init__(self, settings):
        self.n = 0

    def __call__(self, window):
        self.n += 1
        if self.n > 1:
            threading.Event().wait()
        return os.getpid()
