"""An evaluation's folder: what was measured so far, so that an interrupted run can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cosmos_ros.evaluation.measure import Outcome
from cosmos_ros.files import write_whole
from cosmos_ros.other_settings import differences

SETTINGS_FILE, WINDOWS = "settings.json", "windows"
RESULT_FILES = ("metrics.json", "windows.csv", "timing.json", "report.html")
AGAIN = "delete it and go on with --resume"  # which measures that window again


class OtherEvaluation(Exception):
    """The folder belongs to an evaluation that this one may not go on with, or overwrite."""


class Store:
    """windows/<key>.json and windows/<key>.pictures.json of every evaluated window, and settings.json.

    settings   what decides the numbers; going on with others would mix two evaluations
    results    files that will be written beside them
    summarise  what the records are kept for: the KeyError that it raises of one tells that another release measured it.
               Whether it does depends on what a record has, and never on the numbers in it
    Raises OtherEvaluation, OSError.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict,
        resume: bool,
        results: tuple[str, ...] = RESULT_FILES,
        summarise: Callable[[list[dict]], object] = list,
    ) -> None:
        self.folder = folder
        self._windows = folder / WINDOWS
        held = f"{folder} holds a previous {settings['schema'].split('/')[1]}"  # evaluation or benchmark
        known = folder / SETTINGS_FILE
        if strangers := _strangers(folder, settings["schema"], results):
            raise OtherEvaluation(
                f"{folder} holds files of somebody else that would be overwritten ({', '.join(strangers)}): "
                "choose another --out"
            )
        if known.exists() and self._records():
            if not resume:
                raise OtherEvaluation(f"{held}: go on with --resume, or choose another --out")
            if differing := differences(_read(known, "choose another --out"), settings):
                raise OtherEvaluation(f"{held} with other settings ({differing}): choose another --out")
            try:
                # One of each form, and by itself: all of hundreds would take seconds.
                for record in {_form(record): record for record in self.records()}.values():
                    summarise([record])
            except KeyError as error:
                raise OtherEvaluation(
                    f"{held} that another release began: its records have no {error}, which is needed now; "
                    "choose another --out"
                ) from error
        write_whole(known, json.dumps(settings, indent=1, sort_keys=True))

    def keep(self, outcome: Outcome) -> None:
        """The record last: what is there of a window whose keeping was cut off does not count."""
        if outcome.pictures:
            write_whole(self._pictures_file(outcome.key), outcome.pictures)
        write_whole(self._windows / f"{outcome.key}.json", json.dumps(outcome.record, sort_keys=True))

    def keys(self) -> set[str]:
        """Of the windows that are done: all that was kept of them is there. The others are to be measured again."""
        return {record["key"] for record in self._done()}

    def records(self) -> list[dict]:
        """Of all windows that are done, in the order of bags and times."""
        return sorted(self._done(), key=lambda record: (record["key"].split("-")[0], record["time_ns"], record["key"]))

    def pictures(self, key: str) -> dict:
        return _read(self._pictures_file(key), AGAIN)

    def _done(self) -> list[dict]:
        """Records of windows that are whole: one that was measured has pictures, one that was refused has none."""
        records = (_read(file, AGAIN) for file in self._records())
        return [record for record in records if "samples" not in record or self._pictures_file(record["key"]).exists()]

    def _records(self) -> list[Path]:
        return [file for file in self._windows.glob("*.json") if not file.name.endswith(".pictures.json")]

    def _pictures_file(self, key: str) -> Path:
        return self._windows / f"{key}.pictures.json"


def _form(part: object) -> object:
    """The names of all that a record, or a part of one, has: records that have the same lack the same."""
    if isinstance(part, dict):
        return frozenset((name, _form(value)) for name, value in part.items())
    if isinstance(part, list) and part and isinstance(part[0], dict):
        return frozenset(map(_form, part))
    return None


def _strangers(folder: Path, schema: str, results: tuple[str, ...]) -> list[str]:
    """Files by the names that such an evaluation writes, in a folder that none has written to."""
    kind = schema.rpartition("/")[0]
    try:
        ours = str(json.loads((folder / SETTINGS_FILE).read_text())["schema"]).rpartition("/")[0] == kind
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    return [] if ours else [name for name in (SETTINGS_FILE, WINDOWS, *results) if (folder / name).exists()]


def _read(file: Path, remedy: str) -> dict[str, Any]:
    """Raises OtherEvaluation where the file is not one of ours any more."""
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise OtherEvaluation(f"{file} is damaged ({error}): {remedy}") from error
    if not isinstance(content, dict):
        raise OtherEvaluation(f"{file} is damaged: {remedy}")
    return content
