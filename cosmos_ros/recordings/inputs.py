"""Files to predict from -> clips: videos, images, recordings, and JSON Lines that list many."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.frame_buffer import FrameBuffer, StampedFrame
from cosmos_ros.recordings.bag import Recording
from cosmos_ros.rollout import NANOSECONDS, Clip

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
BAGS = (".mcap", ".db3", ".zstd")


class BadInput(Exception):
    """An input that cannot be predicted from; the message says why."""


@dataclass(frozen=True)
class Job:
    """One input and its prompt. `origin` names a line of a JSON Lines file, for messages."""

    path: Path
    prompt: str
    origin: str


def jobs(inputs: Iterable[str], prompt: str) -> Iterator[Job | BadInput]:
    """Every input; those that a .jsonl file lists, line by line, relative to the working directory as published.

    A line that is no job comes as the BadInput that it is, so that the others go on.
    """
    for name in inputs:
        if Path(name).suffix != ".jsonl":
            yield Job(Path(name), prompt, name)
            continue
        try:
            lines = Path(name).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            yield BadInput(f"{name} cannot be read: {error}")
            continue
        yield from (_listed(f"{name}, line {i}", line) for i, line in enumerate(lines, start=1) if line.strip())


def read_clip(path: Path, frame_rate: float, n_conditioning: int, image_topic: str = "") -> Clip:
    """What a prediction from this file goes on from: an image alone, or the last frames of a video or recording.

    frame_rate  Hz, of the clip: frames are picked by their times as the live node picks them
    Raises BadInput, BadRecording, NoFrames, UnevenFrames.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise BadInput(f"{path} does not exist")
    if suffix in IMAGES:
        return Clip(_image(path)[None], (NANOSECONDS,), frame_rate)
    if path.is_dir() or suffix in BAGS:
        recording = Recording(path)
        return _last_clip(recording.frames(recording.image_topic(image_topic)), frame_rate, n_conditioning)
    if suffix in VIDEOS:
        return _last_clip(_video(path), frame_rate, n_conditioning)
    known = ", ".join((*VIDEOS, *IMAGES, ".jsonl"))
    raise BadInput(f"{path}: no video, image or recording by its name; known are {known} and rosbag2 bags")


def free_name(path: Path, folder: Path, taken: set[str]) -> str:
    """A name for this input's outputs that no other input of this run has, nor one of an earlier run in `folder`."""
    for i in itertools.count(1):
        name = path.stem if i == 1 else f"{path.stem}_{i}"
        # Case aside: some file systems do not tell it apart.
        if name.lower() not in taken and _is_ours(folder / f"{name}.json", path):
            taken.add(name.lower())
            return name
    raise AssertionError("unreachable: count() never ends")


def _listed(origin: str, line: str) -> Job | BadInput:
    try:
        entry = json.loads(line)
        path, prompt = entry["visual_input"], entry.get("prompt", "")
        if not (isinstance(path, str) and path and isinstance(prompt, str)):
            raise TypeError("visual_input and prompt must be strings")
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        expected = 'expected {"visual_input": "FILE", "prompt": "..."}'
        return BadInput(f"{origin}: {expected}; got {line[:80]!r} ({type(error).__name__}: {error})")
    return Job(Path(path), prompt, origin)


def _is_ours(facts: Path, path: Path) -> bool:
    """Whether the name is free, or belongs to the same input from an earlier run."""
    if not facts.exists():
        return True
    try:
        return json.loads(facts.read_text())["input"] == str(path.absolute())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _image(path: Path) -> np.ndarray:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if pixels is None:
        raise BadInput(f"{path} is no image that can be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _video(path: Path) -> Iterator[StampedFrame]:
    """The frames of a video, stamped by their presentation times."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadInput(f"{path} holds no video stream")
            for frame in container.decode(video=0):
                # A second later than the file says: a stamp of zero means that there is none.
                stamp_ns = NANOSECONDS + round((frame.time or 0.0) * NANOSECONDS)
                load = functools.partial(frame.to_ndarray, format="rgb24")
                yield StampedFrame(stamp_ns, "", frame.height, frame.width, "video", load)
    except av.error.FFmpegError as error:
        raise BadInput(f"{path} cannot be decoded: {error}") from error


def _last_clip(frames: Iterable[StampedFrame], frame_rate: float, n_conditioning: int) -> Clip:
    history_s = (n_conditioning + 1) / frame_rate
    buffer = FrameBuffer(frame_rate, max_age_s=0.0, history_s=history_s, conditioning_lengths=(n_conditioning,))
    for frame in frames:
        buffer.add(frame)
    return buffer.clip(n_conditioning)
