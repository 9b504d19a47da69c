"""What a run needs to go on after it was killed: one file, written whole, and caches of what is made once.

They lie in DIR/unfinished and are removed when the run ends. Everything in them follows from the settings: a run with
other settings must not go on from them, and is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from cosmos_ros.errors import SettingError
from cosmos_ros.files import locked
from cosmos_ros.other_settings import differences
from cosmos_ros.torch_archive import save_whole
from cosmos_ros.training.card import CARD
from cosmos_ros.training.ranks import Ranks

FOLDER = "unfinished"
STATE = "state.pt"


@contextmanager
def alone_in(directory: Path, ranks: Ranks) -> Iterator[None]:
    """Make the directory, and keep other runs out of it meanwhile; a process that is killed keeps nobody out.

    Raises SettingError where a run trains into it already: two would replace each other's files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if ranks.is_first:
            try:
                stack.enter_context(locked(directory, wait=False))
            except BlockingIOError as error:
                raise SettingError(
                    f"another run trains into {directory} right now; wait for its end, or choose another --out"
                ) from error
        yield


def require_unused(directory: Path, init: Path | None) -> None:
    """Raises SettingError where a run that came to its end left its model, and this one does not go on from it."""
    if (directory / CARD).is_file() and not (init is not None and init.exists() and init.samefile(directory)):
        raise SettingError(
            f"{directory} holds a finished model, which this run would replace: choose another --out, or go on from it "
            f"by --init {directory}"
        )


class Unfinished:
    """The folder of a run that has not ended.

    settings  what decides a run's losses, as JSON takes it
    resume    go on with what lies there
    state     what was kept last: what all ranks share, and this rank's own part of it

    Raises SettingError where a run lies there and `resume` does not say to go on with it, where its settings were
    others, and where there is nothing to go on with.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], resume: bool, ranks: Ranks) -> None:
        self._folder, self._ranks = directory / FOLDER, ranks
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        there = (self._folder / STATE).is_file()
        if there and not resume:
            raise SettingError(
                f"{directory} holds a run that was broken off: go on with it by --resume, or remove {self._folder}"
            )
        if resume and not there:
            raise SettingError(f"--resume: there is no run in {directory} that was broken off")
        self.state: dict[str, Any] = self._read() if there else {}
        if not there and ranks.is_first:
            self.remove()  # what is left of a run that was killed while it tidied up: caches of other weights

    def keep(self, state: dict[str, Any], part: dict[str, Any] | None = None) -> None:
        """In place of the state that was kept before. Raises OSError where the disk refuses; that one then stays.

        To be called by every rank. The first one writes what is the same on all.

        part  what this rank alone has, of the "step" in it; all ranks have one, or none has
        """
        state = {"settings": self._settings, "part": part and part["step"]} | state
        if part is not None:
            save_whole(self._part(part["step"]), part)
        self._ranks.wait()  # the first rank's file says that all parts are there
        if self._ranks.is_first:
            save_whole(self._folder / STATE, state)
        self._ranks.wait()  # the file that it replaces named the parts before
        for file in self._folder.glob(self._part("*").name):
            if part is None or file != self._part(part["step"]):
                file.unlink()

    def _part(self, step: int | str) -> Path:
        return self._folder / f"part-{self._ranks.rank}-{step}.pt"

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, from the folder where it is there; tensors, and lists and tuples of them."""
        file = self._folder / f"{name}.pt"
        if file.is_file():
            return _unpacked(file)
        made = make()
        save_whole(file, made)
        return made

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> dict[str, Any]:
        state = _unpacked(self._folder / STATE)
        if differing := differences(state["settings"], self._settings):
            raise SettingError(
                f"--resume: the run that was broken off had other settings ({differing}): give it the same ones, "
                f"those of config by --config, or remove {self._folder}"
            )
        step = state.get("part")
        return state if step is None else state | _unpacked(self._part(step))


def _unpacked(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch.load makes of damage
        raise SettingError(f"{file} is damaged; remove {file.parent} and train anew: {error}") from error
