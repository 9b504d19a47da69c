"""Files to predict from -> clips: videos, images, recordings, and JSON Lines that list many."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmos_ros.errors import UnevenFrames
from cosmos_ros.files import check_regular
from cosmos_ros.frame_buffer import FrameBuffer, StampedFrame
from cosmos_ros.images import MAX_PIXELS
from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.recordings.recording import BadRecording
from cosmos_ros.rollout import NANOSECONDS, Clip

OUTPUTS = (".mp4", ".png", ".json")  # what is written for an input


@dataclass(frozen=True)
class Job:
    """One input and its prompt. `origin` names a line of a JSON Lines file, for messages."""

    path: Path
    prompt: str
    origin: str


def jobs(inputs: Iterable[str], prompt: str) -> Iterator[Job | BadRecording]:
    """Every input; those that a .jsonl file lists, line by line, relative to the working directory as published.

    A line that is no job comes as the BadRecording that it is, so that the others go on.
    """
    for name in inputs:
        if Path(name).suffix != ".jsonl":
            yield Job(Path(name), prompt, name)
            continue
        try:
            check_regular(name)
            lines = Path(name).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            yield BadRecording(f"{name} cannot be read: {error}")
            continue
        yield from (_listed(f"{name}, line {i}", line) for i, line in enumerate(lines, start=1) if line.strip())


def read_clip(
    path: Path, frame_rate: float, n_conditioning: int, image_topic: str = "", max_pixels: int = MAX_PIXELS
) -> tuple[Clip, list[str]]:
    """What a prediction from this file goes on from, and sentences on what was lost or converted on the way.

    A picture alone, or the last frames of a video or bag.

    frame_rate  Hz, of the clip: frames are picked by their times as the live node picks them
    Raises BadRecording, NoFrames, UnevenFrames.
    """
    recording = open_recording(path, max_pixels)
    frames = recording.frames(recording.image_topic(image_topic))
    if recording.is_still:
        clip = Clip(next(frames).load()[None], (NANOSECONDS,), frame_rate)
    else:
        clip = _last_clip(frames, frame_rate, n_conditioning)
    return clip, recording.losses


Identity = tuple[int, int]  # of a file: device and inode


def identities(paths: Iterable[Path]) -> set[Identity]:
    """What tells the files of these paths from all others; those that are not there have no identity."""
    return {identity for path in paths if (identity := _identity(path)) is not None}


def free_name(path: Path, folder: Path, taken: Container[str], inputs: Container[Identity] = ()) -> str:
    """A name for this input's outputs that is not in `taken`, in lower case, and that nothing else in `folder` has.

    An earlier run's outputs from the same input are overwritten, but no file of `inputs`.
    """
    stem = _stem(path)
    for i in itertools.count(1):
        name = stem if i == 1 else f"{stem}_{i}"
        # Case aside: some file systems do not tell it apart.
        if name.lower() not in taken and _is_free(folder, name, path, inputs):
            return name
    raise AssertionError("unreachable: count() never ends")


def stale_names(path: Path, folder: Path, taken: Container[str], inputs: Container[Identity] = ()) -> list[str]:
    """Names of what earlier runs predicted from this input into `folder` and that are not in `taken`, in lower case.

    Beside newer outputs they would pass for samples of the same prediction. Nothing that has a file of `inputs`.
    """
    stem = _stem(path)
    ours = re.compile(rf"{re.escape(stem)}(_([2-9]|[1-9]\d+))?")
    found = (file.stem for file in folder.glob(f"{glob.escape(stem)}*.json"))
    return [
        name
        for name in sorted(found, key=lambda name: (len(name), name))
        if ours.fullmatch(name) and name.lower() not in taken and _is_free(folder, name, path, inputs)
    ]


def _stem(path: Path) -> str:
    """Of an input's name; "." and ".." have one too."""
    return Path(os.path.normpath(path.absolute())).stem or "input"


def _listed(origin: str, line: str) -> Job | BadRecording:
    try:
        entry = json.loads(line)
        path, prompt = entry["visual_input"], entry.get("prompt", "")
        if not (isinstance(path, str) and path and isinstance(prompt, str)):
            raise TypeError("visual_input and prompt must be strings")
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        expected = 'expected {"visual_input": "FILE", "prompt": "..."}'
        return BadRecording(f"{origin}: {expected}; got {line[:80]!r} ({type(error).__name__}: {error})")
    return Job(Path(path), prompt, origin)


def _is_free(folder: Path, name: str, path: Path, inputs: Container[Identity]) -> bool:
    """Whether all of the names that will be written are free, or belong to the same input from an earlier run."""
    outputs = [folder / f"{name}{suffix}" for suffix in OUTPUTS]
    there = identities(outputs)
    if not there:
        return True
    if _identity(path) in there or any(identity in inputs for identity in there):
        return False
    try:
        return json.loads(outputs[-1].read_text())["input"] == str(path.absolute())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _identity(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _last_clip(frames: Iterable[StampedFrame], frame_rate: float, n_conditioning: int) -> Clip:
    history_s = (n_conditioning + 1) / frame_rate
    buffer = FrameBuffer(frame_rate, max_age_s=0.0, history_s=history_s, conditioning_lengths=(n_conditioning,))
    for frame in frames:
        buffer.add(frame)
    try:
        return buffer.clip(n_conditioning)
    except UnevenFrames as error:
        raise UnevenFrames(f"{error}; --frame-rate HZ picks frames, and predicts, at another rate") from error
