"""What a run needs to go on after it was killed: one file, written whole, and caches of what is made once.

They lie in DIR/unfinished and are removed when the run ends. Everything in them follows from the settings: a run with
other settings must not go on from them, and is refused.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cosmos_ros.errors import SettingError
from cosmos_ros.files import write_whole

FOLDER = "unfinished"
STATE = "state.pt"


class Unfinished:
    """The folder of a run that has not ended.

    settings  what decides a run's losses, as JSON takes it
    resume    go on with what lies there

    Raises SettingError where a run lies there and `resume` does not say to go on with it, where its settings were
    others, and where there is nothing to go on with.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self._folder = directory / FOLDER
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        there = (self._folder / STATE).is_file()
        if there and not resume:
            raise SettingError(
                f"{directory} holds a run that was broken off: go on with it by --resume, or remove {self._folder}"
            )
        if resume and not there:
            raise SettingError(f"--resume: there is no run in {directory} that was broken off")
        self.state: dict[str, Any] = self._read() if there else {}

    def keep(self, state: dict[str, Any]) -> None:
        """In place of the state that was kept before. Raises OSError where the disk refuses; that one then stays."""
        write_whole(self._folder / STATE, _packed({"settings": self._settings} | state))

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, from the folder where it is there; tensors, and lists and tuples of them."""
        file = self._folder / f"{name}.pt"
        if file.is_file():
            return _unpacked(file)
        made = make()
        write_whole(file, _packed(made))
        return made

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> dict[str, Any]:
        state = _unpacked(self._folder / STATE)
        before = state["settings"]
        differing = [name for name in before | self._settings if before.get(name) != self._settings.get(name)]
        if differing:
            raise SettingError(
                f"--resume: the run that was broken off had other settings: {', '.join(differing)}; "
                f"give it the same ones, or remove {self._folder}"
            )
        return state


def _packed(content: Any) -> memoryview:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def _unpacked(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch.load makes of damage
        raise SettingError(f"{file} is damaged; remove {file.parent} and train anew: {error}") from error
