"""Progress on the standard error: tqdm's bar on a terminal, lines in a log."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

LINE_S = 10.0  # seconds from line to line where the output is no terminal


class ProgressBar(tqdm):
    """tqdm, but where the output is no terminal a line now and then takes the place of a bar that is drawn over."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.in_place = sys.stderr.isatty()
        super().__init__(*args, mininterval=0.1 if self.in_place else LINE_S, maxinterval=LINE_S, **options)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        if file.isatty():
            return tqdm.status_printer(file)
        last = ""

        def print_line(text: str) -> None:
            nonlocal last
            if text.strip() and text != last:
                print(text.strip(), file=file, flush=True)
            last = text

        return print_line

    def clear(self, *args: Any, **options: Any) -> None:
        if self.in_place:  # lines of a log stay
            super().clear(*args, **options)

    def close(self) -> None:
        if not (self.in_place or self.disable):
            self.refresh()
            self.fp = io.StringIO()  # what a terminal's cursor needs at the end is nothing for a log
        super().close()
