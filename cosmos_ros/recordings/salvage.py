"""The messages of a damaged storage file, from its start up to where it ends making sense, record by record."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame
import zstandard

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 3, 4, 5, 6
_MCAP_LIMIT = 2**31  # bytes; what a damaged length may make us read at once
_UNPACKERS = {
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    "lz4": lz4.frame.LZ4FrameDecompressor,
}


class RawMessage(NamedTuple):
    """One message as it was recorded; `time` is when, in nanoseconds."""

    time: int
    topic: str
    type: str
    data: bytes


def salvaged(file: Path) -> Iterator[RawMessage]:
    """Every message up to where a damaged file ends making sense."""
    return _from_mcap(file) if file.suffix == ".mcap" else _from_sqlite(file)


def _from_mcap(file: Path) -> Iterator[RawMessage]:
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    with file.open("rb") as stream, contextlib.suppress(struct.error, UnicodeDecodeError):
        stream.seek(len(_MCAP_MAGIC))
        for op, body in _mcap_records(stream):
            if op == _SCHEMA:
                schemas[_u16(body, 0)] = _mcap_string(body, 2)
            elif op == _CHANNEL:
                channels[_u16(body, 0)] = _mcap_string(body, 4), schemas.get(_u16(body, 2), "")
            elif op == _MESSAGE and _u16(body, 0) in channels:
                time = struct.unpack_from("<Q", body, 6)[0]
                yield RawMessage(time, *channels[_u16(body, 0)], body[22:])


def _mcap_records(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(opcode, body) of every whole record, those inside chunks too (mcap.dev/spec). Ends where the file does."""
    while len(head := stream.read(9)) == 9:
        op, length = struct.unpack("<BQ", head)
        body = stream.read(min(length, _MCAP_LIMIT))
        if op == _CHUNK:
            yield from _mcap_records(io.BytesIO(_chunk_content(body)))
        elif len(body) == length:
            yield op, body


def _chunk_content(chunk: bytes) -> bytes:
    """The records of a chunk: of one that was cut, as many bytes as there are; of a damaged one, none."""
    if len(chunk) < 40:
        return b""
    crc = struct.unpack_from("<I", chunk, 24)[0]
    compression = _mcap_string(chunk, 28)
    start = 32 + len(compression) + 8
    size = struct.unpack_from("<Q", chunk, start - 8)[0]
    packed, content = chunk[start : start + size], b""
    with contextlib.suppress(zstandard.ZstdError, RuntimeError):
        content = _UNPACKERS[compression]().decompress(packed) if compression else packed
    damaged = len(packed) == size and crc and zlib.crc32(content) != crc
    return b"" if damaged else content


def _mcap_string(body: bytes, at: int) -> str:
    length = struct.unpack_from("<I", body, at)[0]
    return body[at + 4 : at + 4 + length].decode()


def _u16(body: bytes, at: int) -> int:
    return struct.unpack_from("<H", body, at)[0]


def _from_sqlite(file: Path) -> Iterator[RawMessage]:
    # By rowid, the order of writing: the index on timestamps lies at the end of the file, where it was cut.
    query = (
        "SELECT messages.timestamp, topics.name, topics.type, messages.data FROM messages NOT INDEXED "
        "JOIN topics ON topics.id = messages.topic_id ORDER BY messages.id"
    )
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database,
    ):
        # Without this, SQLite refuses a file that is shorter than its header says, readable pages and all.
        database.execute("PRAGMA writable_schema = ON")
        for row in database.execute(query):
            yield RawMessage(*row)
