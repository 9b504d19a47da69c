"""MCAP files (mcap.dev/spec), whole or damaged: read from the start, record by record, with every length bounded.

Readers that go by the index at the end stop at a file that was cut, and those that we know unpack a chunk whatever its
size. Here a length is held against what is there before anything is allocated.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import lz4.frame
import zstandard

from cosmos_ros.recordings.storage import RawMessage, Topic, make_topic

MAGIC = b"\x89MCAP0\r\n"
RECORD_BYTES = 2**30  # the largest record, or chunk unpacked, that is taken into memory
_SUMMARY_BYTES = 2**26
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _STATISTICS, _DATA_END = 2, 3, 4, 5, 6, 11, 15
_READ = (_SCHEMA, _CHANNEL, _MESSAGE)
_FOOTER_BYTES = 9 + 20 + len(MAGIC)
_CUT = "it ends in the middle"


class McapFile:
    """A StorageFile."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.damage: Counter[str] = Counter()

    def topics(self) -> dict[str, Topic]:
        """From the summary at the end; without one from the whole file, and then without counts."""
        reader = _Channels()
        counts: dict[int, int] = {}
        try:
            for op, body in self._summary():
                reader.take(op, body)
                if op == _STATISTICS:
                    counts = _channel_counts(body)
        except (struct.error, ValueError, OSError):
            reader = _Channels()
        if not reader.topics or not counts:
            return self._scanned_topics()
        totals: Counter[str] = Counter()
        for number, (name, _) in reader.topics.items():
            totals[name] += counts.get(number, 0)
        return {name: topic._replace(messages=totals[name]) for name, topic in reader.topics.values()}

    def messages(self, topics: set[str] | None = None) -> Iterator[RawMessage]:
        self.damage.clear()
        channels = _Channels()
        for op, body in self._records():
            try:
                if op != _MESSAGE:
                    channels.take(op, body)
                    continue
                number, _, time = struct.unpack_from("<HIQ", body)
            except (struct.error, ValueError):
                self.damage["a record that makes no sense"] += 1
                continue
            if number not in channels.topics:
                self.damage["a message of a channel that is not described"] += 1
                continue
            name, topic = channels.topics[number]
            if topics is None or name in topics:
                yield RawMessage(time, name, topic.type, body[22:])

    def _scanned_topics(self) -> dict[str, Topic]:
        channels = _Channels()
        for op, body in self._records():
            try:
                channels.take(op, body)
            except (struct.error, ValueError):
                continue
        return dict(channels.topics.values())

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """(opcode, content) of every whole schema, channel and message, those inside chunks too."""
        with self.file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            stream.seek(len(MAGIC))
            for op, length in self._heads(stream, size):
                if op == _CHUNK:
                    there = min(length, size - stream.tell(), RECORD_BYTES)
                    yield from self._chunk(stream.read(there), length)
                elif op in _READ:
                    yield op, stream.read(length)

    def _heads(self, stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
        """(opcode, length) of every record, the stream behind it; whoever reads less than `length` skips the rest."""
        while len(head := stream.read(9)) == 9:
            op, length = struct.unpack("<BQ", head)
            if op in (_FOOTER, _DATA_END):
                return
            start = stream.tell()
            # Of a chunk that was cut, what is there can be unpacked.
            too_long = length > size - start or (length > RECORD_BYTES and op in _READ)
            if op == 0 or (too_long and op != _CHUNK):
                break
            yield op, length
            stream.seek(start + min(length, size - start))
        self.damage[_CUT] += 1

    def _chunk(self, chunk: bytes, length: int) -> Iterator[tuple[int, bytes]]:
        """The records of a chunk: of one that was cut, as many as are there; of a damaged one, none."""
        try:
            content = _unpacked(chunk, whole=len(chunk) == length)
        except (ValueError, struct.error, UnicodeDecodeError, RuntimeError, zstandard.ZstdError) as error:
            self.damage[f"a chunk that cannot be unpacked ({error})"] += 1
            return
        at = 0
        while at + 9 <= len(content):
            op, size = struct.unpack_from("<BQ", content, at)
            if at + 9 + size > len(content):
                break
            if op == _CHUNK:  # the format knows no chunk within a chunk
                self.damage["a chunk within a chunk"] += 1
            elif op in _READ:
                yield op, content[at + 9 : at + 9 + size]
            at += 9 + size

    def _summary(self) -> Iterator[tuple[int, bytes]]:
        """The records after the data, as the footer points to them. Raises ValueError, OSError."""
        with self.file.open("rb") as stream:
            end = stream.seek(-_FOOTER_BYTES, os.SEEK_END)
            op, length, start = struct.unpack("<BQQ", stream.read(17))
            if (op, length) != (_FOOTER, 20) or not 0 < end - start <= _SUMMARY_BYTES:
                raise ValueError("no summary")
            stream.seek(start)
            for op, length in self._heads(stream, end):
                yield op, stream.read(length)


class _Channels:
    """The topics that schemas and channels describe: channel number -> (name, topic)."""

    def __init__(self) -> None:
        self.topics: dict[int, tuple[str, Topic]] = {}
        self._schemas: dict[int, str] = {}

    def take(self, op: int, body: bytes) -> None:
        """A record; others than schemas and channels are passed over. Raises ValueError, struct.error."""
        if op == _SCHEMA:
            name, _ = _string(body, 2)
            self._schemas[struct.unpack_from("<H", body)[0]] = name
        elif op == _CHANNEL:
            number, schema = struct.unpack_from("<HH", body)
            name, at = _string(body, 4)
            encoding, at = _string(body, at)
            kind = self._schemas.get(schema, "a type that is not described")
            self.topics[number] = name, make_topic(kind, None, encoding, _pairs(body, at).get("offered_qos_profiles"))


def _unpacked(chunk: bytes, whole: bool) -> bytes:
    """A chunk's records. Raises ValueError, RuntimeError or ZstdError for one that is damaged."""
    unpacked_size, crc = struct.unpack_from("<QI", chunk, 16)
    compression, at = _string(chunk, 28)
    (packed_size,) = struct.unpack_from("<Q", chunk, at)
    packed = memoryview(chunk)[at + 8 : at + 8 + packed_size]
    if unpacked_size > RECORD_BYTES:
        raise ValueError(f"it says that it unpacks to {unpacked_size:,} bytes")
    unpack = _UNPACKERS.get(compression)
    if unpack is None:
        raise ValueError(f"its compression is {compression[:20]!r}; known are {', '.join(filter(None, _UNPACKERS))}")
    # One byte more than it says shows that there is more, without unpacking it.
    content = unpack(packed, unpacked_size + 1)
    if len(content) > unpacked_size or (whole and crc and zlib.crc32(content) != crc):
        raise ValueError("its checksum or size is wrong")
    return content


def _unpacked_already(packed: memoryview, limit: int) -> bytes:
    return bytes(packed[:limit])


def _unlz4(packed: memoryview, limit: int) -> bytes:
    return lz4.frame.LZ4FrameDecompressor().decompress(packed, limit)


def _unzstd(packed: memoryview, limit: int) -> bytes:
    content = io.BytesIO()
    reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    while content.tell() < limit and (piece := reader.read(min(limit - content.tell(), 2**20))):
        content.write(piece)
    return content.getvalue()


_UNPACKERS: dict[str, Callable[[memoryview, int], bytes]] = {
    "": _unpacked_already,
    "zstd": _unzstd,
    "lz4": _unlz4,
}


def _channel_counts(statistics: bytes) -> dict[int, int]:
    """Channel number -> messages, from the map that ends a Statistics record."""
    at = 8 + 2 + 4 + 4 + 4 + 4 + 8 + 8
    (length,) = struct.unpack_from("<I", statistics, at)
    return dict(struct.iter_unpack("<HQ", statistics[at + 4 : at + 4 + length]))


def _pairs(body: bytes, at: int) -> dict[str, str]:
    """A map of strings."""
    (length,) = struct.unpack_from("<I", body, at)
    at, end, pairs = at + 4, at + 4 + length, {}
    while at < end:
        key, at = _string(body, at)
        pairs[key], at = _string(body, at)
    return pairs


def _string(body: bytes, at: int) -> tuple[str, int]:
    """A string, and where it ends. Raises ValueError, struct.error."""
    (length,) = struct.unpack_from("<I", body, at)
    if at + 4 + length > len(body):
        raise ValueError("a string that goes on beyond its record")
    return body[at + 4 : at + 4 + length].decode(), at + 4 + length
