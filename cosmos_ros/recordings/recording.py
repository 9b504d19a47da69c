"""What a recording is to whoever reads one: stamped frames, by topic where it has topics, and what was lost of it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from cosmos_ros.frame_buffer import StampedFrame
from cosmos_ros.images import MAX_PIXELS
from cosmos_ros.reading import reading

NAMED = 10  # of recordings with which something is wrong: there may be thousands


class BadRecording(Exception):
    """A file from which nothing can be read; the message says why, and what there is instead."""


class Recording(ABC):
    """A bag, a video or a picture. What damaged files do to their readers is a BadRecording, whatever it was.

    losses      sentences on what could not be read, or only after a conversion; complete once `frames` has ended
    duration    seconds, as the file says; None where it does not
    is_still    whether it is a single picture
    max_pixels  of a frame; larger ones are not decoded
    """

    is_still = False

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.path = path
        self.max_pixels = max_pixels
        self.losses: list[str] = []
        self.duration: float | None = None

    @property
    def name(self) -> str:
        return self.path.name

    def image_topic(self, wanted: str = "") -> str:
        """The topic to read, the wanted one or else the only one; empty for what has no topics. Raises BadRecording."""
        return ""

    def frames(self, topic: str = "") -> Iterator[StampedFrame]:
        """The frames in the order of recording, pixels still to be converted. Raises BadRecording where none can be."""
        with bad_recording(self.path):
            yield from self._frames(topic)

    @abstractmethod
    def _frames(self, topic: str) -> Iterator[StampedFrame]: ...


def bad_recording(path: Path) -> contextlib.AbstractContextManager[None]:
    """Whatever a damaged file makes of the code that reads it is a BadRecording."""
    return reading(path, BadRecording, fault="cannot be read", remedy="copy it again, or make it anew")
