"""rosbag2 recordings -> stamped camera frames; damaged ones as far as they can be read, with what was lost.

SQLite and MCAP, whole or split, compressed by file, by message or by chunk. `rosbags` reads every file that is in
order; one that was cut off or damaged is read from its start, record by record.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
import zstandard
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from cosmos_ros.frame_buffer import StampedFrame, frame_of
from cosmos_ros.images import BadImage
from cosmos_ros.recordings.salvage import RawMessage, salvaged

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
STORAGES = (".mcap", ".db3")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_TYPES = get_typestore(Stores.ROS2_JAZZY)


class BadRecording(Exception):
    """A recording from which nothing can be read; the message says why and what there is instead."""


class Topic(NamedTuple):
    """A topic's type, and how many messages the recorder says it wrote; None where it does not say."""

    type: str
    messages: int | None


class Recording:
    """One rosbag2 bag: its folder, or a single .mcap or .db3 file (either may carry .zstd).

    losses    sentences on what could not be read; complete once `frames` has come to its end
    duration  seconds, as the recorder wrote it down; None where it did not

    Raises BadRecording where there is no bag.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.losses: list[str] = []
        if not self.path.exists():
            raise BadRecording(f"{self.path} does not exist")
        metadata = self._metadata() if self.path.is_dir() else {}
        self.files = self._files(metadata)
        if not self.files:
            raise BadRecording(f"{self.path} is no rosbag2 recording: it holds no .mcap or .db3 file that can be read")
        self.duration = metadata["duration"]["nanoseconds"] / 1e9 if "duration" in metadata else None
        self.topics = self._topics(metadata)

    @property
    def name(self) -> str:
        return self.path.name

    def image_topic(self, wanted: str = "") -> str:
        """The topic to read: the wanted one, or else the only one that carries images.

        Raises BadRecording, naming the image topics that are there.
        """
        images = {name: topic for name, topic in self.topics.items() if topic.type in IMAGE_TYPES}
        listed = ", ".join(f"{name} ({_count(topic)})" for name, topic in sorted(images.items()))
        there = f"its image topics are {listed}" if images else "it has no image topic"
        if not self.topics or all(topic.messages == 0 for topic in self.topics.values()):
            raise BadRecording(f"{self.path} is empty: it holds no messages")
        if wanted in images:
            return wanted
        if wanted in self.topics:
            raise BadRecording(f"{self.path}: {wanted} carries {self.topics[wanted].type}, no images; {there}")
        if wanted:
            raise BadRecording(f"{self.path} has no topic {wanted}; {there}")
        if len(images) != 1:
            raise BadRecording(f"{self.path}: name one with --image-topic; {there}")
        return next(iter(images))

    def frames(self, topic: str) -> Iterator[StampedFrame]:
        """The topic's frames in the order of recording, pixels still to be converted."""
        read, bad = 0, Counter[str]()
        for raw in self._messages(topic):
            try:
                frame = frame_of(_TYPES.deserialize_cdr(_plain(raw.data), raw.type))
            except BadImage as error:
                bad[str(error)] += 1
            except Exception as error:  # whatever a damaged message makes of the deserializer
                bad[f"the message cannot be read: {type(error).__name__}: {error}"] += 1
            else:
                yield frame
            read += 1
        expected = self.topics[topic].messages
        if expected is not None and read < expected:
            self.losses.append(f"{expected - read} of {expected} images on {topic} were lost")
        self.losses += [f"{count} images on {topic} are unusable: {why}" for why, count in bad.items()]

    def _messages(self, topic: str) -> Iterator[RawMessage]:
        for file in self.files:
            with _decompressed(file) as plain:
                yield from self._from_file(plain, file.name, topic)

    def _from_file(self, file: Path, name: str, topic: str) -> Iterator[RawMessage]:
        last, read = -1, 0
        try:
            with Reader(file) as reader:
                # Asked for no connection, the reader would give all.
                if wanted := [c for c in reader.connections if c.topic == topic]:
                    for connection, time, data in reader.messages(wanted):
                        last, read = time, read + 1
                        yield RawMessage(time, topic, connection.msgtype, data)
            return
        except Exception as error:  # a damaged file makes the reader fail in any way it likes
            reason = f"{type(error).__name__}: {error}"
        for raw in salvaged(file):
            if raw.topic == topic and raw.time > last:
                read += 1
                yield raw
        self.losses.append(f"{name} is damaged or cut off ({reason}); {read} images could be read from it")

    def _metadata(self) -> dict:
        try:
            metadata = yaml.safe_load((self.path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
            metadata["relative_file_paths"], metadata["topics_with_message_count"], metadata["duration"]["nanoseconds"]
            return metadata
        except FileNotFoundError:
            self.losses.append("metadata.yaml is missing, as after a recorder that was killed; reading the files alone")
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            self.losses.append(f"metadata.yaml cannot be read ({type(error).__name__}); reading the files alone")
        return {}

    def _files(self, metadata: dict) -> list[Path]:
        if not self.path.is_dir():
            return [self.path] if _storage(self.path) else []
        if not metadata:
            return sorted((file for file in self.path.iterdir() if _storage(file)), key=_natural)
        # As rosbags and rosbag2 do: older recorders wrote paths with the bag's folder in front.
        files = [self.path / Path(name).name for name in metadata["relative_file_paths"]]
        for file in files:
            if not file.exists():
                self.losses.append(f"{file.name}, which metadata.yaml lists, is missing")
        return [file for file in files if file.exists() and _storage(file)]

    def _topics(self, metadata: dict) -> dict[str, Topic]:
        if metadata:
            listed = [(t["topic_metadata"], t["message_count"]) for t in metadata["topics_with_message_count"]]
            return {topic["name"]: Topic(topic["type"], count) for topic, count in listed}
        topics: dict[str, Topic] = {}
        for file in self.files:
            with _decompressed(file) as plain:
                for name, topic in _topics_of(plain).items():
                    known = topics.get(name, Topic(topic.type, 0)).messages
                    total = None if known is None or topic.messages is None else known + topic.messages
                    topics[name] = Topic(topic.type, total)
        return topics


def _topics_of(file: Path) -> dict[str, Topic]:
    """The topics of one storage file, without metadata.yaml's help."""
    try:
        with Reader(file) as reader:
            return {c.topic: Topic(c.msgtype, c.msgcount) for c in reader.connections}
    except Exception:  # a damaged file makes the reader fail in any way it likes
        return {raw.topic: Topic(raw.type, None) for raw in salvaged(file)}


@contextlib.contextmanager
def _decompressed(file: Path) -> Iterator[Path]:
    """The storage file itself, or an unpacked copy for as long as it is needed; a cut one as far as it unpacks."""
    if file.suffix != ".zstd":
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="cosmos_ros_bag_") as folder:
        plain = Path(folder) / file.stem
        with file.open("rb") as packed, plain.open("wb") as unpacked, contextlib.suppress(zstandard.ZstdError):
            stream = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            shutil.copyfileobj(stream, unpacked)
        yield plain


def _plain(data: bytes) -> bytes:
    """The serialized message: CDR never begins like a zstd frame, so it shows which recorder compressed messages."""
    data = bytes(data)
    return zstandard.ZstdDecompressor().decompressobj().decompress(data) if data.startswith(_ZSTD_MAGIC) else data


def _storage(file: Path) -> bool:
    return (Path(file.stem).suffix if file.suffix == ".zstd" else file.suffix) in STORAGES


def _natural(file: Path) -> tuple:
    """bag_9 before bag_10."""
    stem = file.name.split(".")[0]
    head, _, number = stem.rpartition("_")
    return (head, int(number)) if number.isdigit() else (stem, -1)


def _count(topic: Topic) -> str:
    return "images" if topic.messages is None else f"{topic.messages} images"
