"""What a run says while it trains: a progress line, training.jsonl, and TensorBoard where it is wanted."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmos_ros.errors import SettingError
from cosmos_ros.files import append
from cosmos_ros.progress_bar import ProgressBar

FILE = "training.jsonl"
TENSORBOARD = "tensorboard"


class Journal:
    """Appends one JSON object per line to DIR/training.jsonl; the first rank's alone, the others' say nothing.

    tensorboard  also write every number for TensorBoard, into DIR/tensorboard

    Raises SettingError where TensorBoard is wanted and not installed.
    """

    def __init__(self, directory: Path, speaks: bool = True, tensorboard: bool = False) -> None:
        self._path, self._speaks = directory / FILE, speaks
        self._start = time.monotonic()
        self.last_loss = float("nan")
        self._board = self._tensorboard(directory) if tensorboard and speaks else None

    def note(self, stage: str, step: int | None = None, **values: Any) -> None:
        """One line; numbers with a step also go to TensorBoard. Raises NotWritten, an OSError."""
        self.last_loss = values.get("loss", self.last_loss)
        if not self._speaks:
            return
        about = {"seconds": round(time.monotonic() - self._start, 1), "stage": stage}
        about |= {} if step is None else {"step": step}
        append(self._path, json.dumps(about | values) + "\n")
        if step is None:
            ProgressBar.write(f"{stage}: " + ", ".join(f"{name} {value}" for name, value in values.items()))
        elif self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{name}", value, step)

    @contextlib.contextmanager
    def progress(self, stage: str, first: int, steps: int) -> Iterator[ProgressBar]:
        """A bar over a stage's steps: its rate and the time left are the bar's own."""
        with ProgressBar(
            total=steps, initial=first, desc=stage, unit="step", disable=not self._speaks, dynamic_ncols=True
        ) as bar:
            yield bar

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    @staticmethod
    def _tensorboard(directory: Path) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SettingError(
                "--tensorboard needs TensorBoard, which is not installed: "
                "python -m pip install -r requirements/tensorboard.txt"
            ) from error
        return SummaryWriter(str(directory / TENSORBOARD))
