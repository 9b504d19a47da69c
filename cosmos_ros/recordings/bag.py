"""rosbag2 recordings -> stamped camera frames; damaged ones as far as they can be read, with what was lost.

SQLite and MCAP, whole or split, compressed by file, by message or by chunk. `rosbags` makes messages of the bytes; the
storage files are read here, because the sizes that they state have to be checked before anything is allocated.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import zstandard
from rosbags.typesys import Stores, get_typestore

from cosmos_ros.files import check_regular
from cosmos_ros.frame_buffer import StampedFrame, frame_of
from cosmos_ros.images import MAX_PIXELS, BadImage
from cosmos_ros.recordings import mcap_file, sqlite_file
from cosmos_ros.recordings.bag_metadata import Metadata
from cosmos_ros.recordings.mcap_file import McapFile
from cosmos_ros.recordings.recording import BadRecording, Recording, bad_recording
from cosmos_ros.recordings.sqlite_file import SqliteFile
from cosmos_ros.recordings.storage import RawMessage, StorageFile, Topic
from cosmos_ros.recordings.wrong_files import what_it_is
from cosmos_ros.scratch import scratch_folder

STORAGES = (".mcap", ".db3")
SUFFIXES = (*STORAGES, ".zstd")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MESSAGE_BYTES = 2**29  # what one message may unpack to
_UNPACKED_BYTES, _UNPACKED_RATIO = 2**30, 200  # what a file may unpack to: the first, or the second times its own size
_SPARE_BYTES = 2**30  # of the disk, that unpacking leaves alone
_CAUSES = 3  # of damage that are named
_TYPES = get_typestore(Stores.ROS2_JAZZY)


class Bag(Recording):
    """One rosbag2 bag: its folder, or a single .mcap or .db3 file (either may carry .zstd).

    topics  name -> Topic, as the recorder wrote them down, or as read from the files

    Raises BadRecording where there is no bag.
    """

    def __init__(self, path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(Path(path), max_pixels)
        if not self.path.exists():
            raise BadRecording(f"{self.path} does not exist")
        with bad_recording(self.path):
            metadata = self._metadata() if self.path.is_dir() else None
            self.files = self._files(metadata)
            if not self.files:
                raise BadRecording(f"{self.path} is no rosbag2 recording: {what_it_is(self.path)}")
            self.duration = metadata.duration if metadata else None
            self.topics = metadata.topics if metadata else self._topics()

    def image_topic(self, wanted: str = "") -> str:
        """The topic to read: the wanted one, or else the only one that carries images.

        Raises BadRecording, naming the topics that are there with their types.
        """
        images = {name: topic for name, topic in self.topics.items() if topic.has_images}
        if not self.topics or all(topic.messages == 0 for topic in self.topics.values()):
            raise BadRecording(f"{self.path} is empty: it holds no messages")
        if wanted in images:
            return wanted
        if wanted in self.topics:
            raise BadRecording(f"{self.path}: {wanted} carries {self.topics[wanted]}, no images; {self._there(images)}")
        if wanted:
            raise BadRecording(f"{self.path} has no topic {wanted}; {self._there(images)}")
        if not images:
            raise BadRecording(f"{self.path}: {self._there(images)}")
        if len(images) > 1:
            raise BadRecording(f"{self.path}: name one with --image-topic; {self._there(images)}")
        return next(iter(images))

    def messages(self, topics: set[str] | None = None) -> Iterator[RawMessage]:
        """Of these topics, or of all, as they were serialized and in the order of recording. Raises BadRecording."""
        with bad_recording(self.path):
            for file in self.files:
                with self._opened(file) as storage:
                    read = 0
                    for raw in storage.messages(topics):
                        read += 1
                        yield raw._replace(data=_plain(raw.data))
                    if storage.damage:
                        causes = "; ".join(islice(storage.damage, _CAUSES))
                        self.losses.append(
                            f"{file.name} is damaged or cut off ({causes}); {read} messages could be read from it"
                        )

    def _frames(self, topic: str) -> Iterator[StampedFrame]:
        read, bad = 0, Counter[str]()
        for raw in self.messages({topic}):
            try:
                frame = frame_of(_TYPES.deserialize_cdr(raw.data, raw.type), self.max_pixels)
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

    def _there(self, images: dict[str, Topic]) -> str:
        """What the recording holds, so that nobody has to look."""
        if images:
            return "its image topics are " + ", ".join(f"{name} ({topic})" for name, topic in sorted(images.items()))
        held = ", ".join(f"{name} ({topic})" for name, topic in sorted(self.topics.items()))
        return f"it has no topic of sensor_msgs/msg/Image or CompressedImage; its topics are {held}"

    def _metadata(self) -> Metadata | None:
        try:
            return Metadata.read(self.path / "metadata.yaml")
        except FileNotFoundError:
            if any(_is_storage(file) for file in self.path.iterdir()):
                self.losses.append("metadata.yaml is missing, as after a recorder that was killed; reading the files")
        except (OSError, ValueError) as error:
            self.losses.append(f"metadata.yaml cannot be used ({error}); reading the files alone")
        return None

    def _files(self, metadata: Metadata | None) -> list[Path]:
        if not self.path.is_dir():
            check_regular(self.path)
            return [self.path] if _is_storage(self.path) else []
        if metadata is None:
            return sorted((file for file in self.path.iterdir() if _is_storage(file) and file.is_file()), key=_natural)
        files = []
        for file in (self.path / name for name in metadata.files):
            if not file.is_file():
                self.losses.append(f"{file.name}, which metadata.yaml lists, is {_absence(file)}")
            elif _is_storage(file):
                files.append(file)
        return files

    def _topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for file in self.files:
            with self._opened(file) as storage:
                for name, topic in storage.topics().items():
                    known = topics.get(name, topic._replace(messages=0)).messages
                    total = None if known is None or topic.messages is None else known + topic.messages
                    topics[name] = topic._replace(messages=total)
        return topics

    @contextlib.contextmanager
    def _opened(self, file: Path) -> Iterator[StorageFile]:
        with self._unpacked(file) as plain:
            with plain.open("rb") as stream:
                head = stream.read(4096)
            # Its first bytes say what it is, its name only what it should be.
            if head.startswith(mcap_file.MAGIC):
                yield McapFile(plain)
            elif head.startswith(sqlite_file.MAGIC):
                yield SqliteFile(plain)
            elif wrong := what_it_is(plain, head):
                if len(self.files) == 1:
                    raise BadRecording(f"{file} is no rosbag2 recording: {wrong}")
                yield _NoStorage(wrong)
            else:
                yield McapFile(plain) if plain.suffix == ".mcap" else SqliteFile(plain)

    @contextlib.contextmanager
    def _unpacked(self, file: Path) -> Iterator[Path]:
        """The storage file itself, or an unpacked copy for as long as it is needed; a cut one as far as it unpacks."""
        if file.suffix != ".zstd":
            yield file
            return
        with scratch_folder("bag") as folder:
            plain = folder / file.stem
            room = max(0, shutil.disk_usage(folder).free - _SPARE_BYTES)
            limit = min(room, max(_UNPACKED_BYTES, _UNPACKED_RATIO * file.stat().st_size))
            if _unpack(file, plain, limit):
                self.losses.append(f"{file.name} unpacks to more than {limit:,} bytes, of which only these were read")
            yield plain


class _NoStorage:
    """A StorageFile: one of a bag's files that is something else, which is no reason to lose the others."""

    def __init__(self, wrong: str) -> None:
        self.damage = Counter([wrong])

    def topics(self) -> dict[str, Topic]:
        return {}

    def messages(self, topics: set[str] | None = None) -> Iterator[RawMessage]:
        return iter(())


def _unpack(packed: Path, plain: Path, limit: int) -> bool:
    """Unpack a zstd file; whether it goes on beyond the limit. One that is cut is unpacked up to there."""
    with packed.open("rb") as source, plain.open("wb") as target:
        reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        with contextlib.suppress(zstandard.ZstdError):
            while piece := reader.read(2**20):
                target.write(piece[: limit - target.tell()])
                if target.tell() >= limit:
                    return True
    return False


def _plain(data: bytes) -> bytes:
    """The serialized message: CDR never begins like a zstd frame, so it shows which recorder compressed messages.

    One that is damaged, or unpacks to more than a message may have, stays as it is: no image will be found in it.
    """
    if not data.startswith(_ZSTD_MAGIC):
        return data
    reader = zstandard.ZstdDecompressor().stream_reader(data)
    pieces, size = [], 0
    try:
        while piece := reader.read(2**20):
            pieces.append(piece)
            size += len(piece)
            if size > _MESSAGE_BYTES:
                return data
    except zstandard.ZstdError:
        return data
    return b"".join(pieces)


def _is_storage(file: Path) -> bool:
    return (Path(file.stem).suffix if file.suffix == ".zstd" else file.suffix) in STORAGES


def _absence(file: Path) -> str:
    return "no ordinary file" if file.exists() else "missing"


def _natural(file: Path) -> tuple:
    """bag_9 before bag_10."""
    stem = file.name.split(".")[0]
    head, _, number = stem.rpartition("_")
    return (head, int(number)) if number.isdigit() else (stem, -1)
