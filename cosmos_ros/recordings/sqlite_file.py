"""SQLite files of rosbag2, whole or damaged: read in the order of writing, page by page as far as they can be."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmos_ros.recordings.storage import RawMessage, Topic, make_topic

MAGIC = b"SQLite format 3\0"
_TRIES = 1000  # messages that cannot be read one after the other, after which the rest counts as lost


class SqliteFile:
    """A StorageFile."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.damage: Counter[str] = Counter()

    def topics(self) -> dict[str, Topic]:
        with self._open() as database:
            described = self._described(database)
            counts: dict[int, int] | None = None
            if described:
                with contextlib.suppress(sqlite3.Error):
                    counts = dict(database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
            topics: dict[str, Topic] = {}
            for number, (name, topic) in described.items():
                total = None if counts is None else counts.get(number, 0)
                if name in topics and total is not None:
                    total += topics[name].messages or 0
                topics[name] = topic._replace(messages=total)
        return topics

    def messages(self, topics: set[str] | None = None) -> Iterator[RawMessage]:
        self.damage.clear()
        with self._open() as database:
            described = self._described(database)
            wanted = {number for number, (name, _) in described.items() if topics is None or name in topics}
            for number, time, data in self._rows(database, wanted):
                if not (isinstance(time, int) and isinstance(data, bytes)):
                    self.damage["a message whose time or content is of another type"] += 1
                    continue
                name, topic = described[number]
                yield RawMessage(time, name, topic.type, data)

    def _rows(self, database: sqlite3.Connection, wanted: set[int]) -> Iterator[tuple[int, Any, Any]]:
        """(topic, time, data) of every message that can be read. What lies on a damaged page is passed over."""
        # By rowid, the order of writing: the index on timestamps lies at the end of the file, where it was cut.
        numbers = ", ".join(map(str, sorted(wanted)))
        query = (
            "SELECT rowid, topic_id, timestamp, data FROM messages NOT INDEXED "
            f"WHERE rowid > ? AND topic_id IN ({numbers}) ORDER BY rowid"
        )
        is_cut = self._is_cut()
        last, failures, limit = -(2**63), 0, ""
        while failures < _TRIES:
            try:
                found = False
                for number, *row in database.execute(query + limit, (last,)):
                    last, failures, found = number, 0, True
                    yield tuple(row)
                if not (limit and found):
                    return
                limit = ""
            except sqlite3.Error as error:
                # Python asks for the next row before it gives one: that one is asked for again, alone. Of a file that
                # was cut it may be the one whose last page is missing, which SQLite fills with zeros.
                if is_cut:
                    self.damage[f"it was cut off: {error}"] += 1
                    return
                if limit:
                    failures += 1
                    self.damage[str(error)] += 1
                    last = max(last, 0) + 1
                limit = " LIMIT 1"

    def _described(self, database: sqlite3.Connection) -> dict[int, tuple[str, Topic]]:
        """Topic number -> (name, topic)."""
        described: dict[int, tuple[str, Topic]] = {}
        try:
            # A view under these names could compute without end.
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"topics", "messages"} <= tables:
                self.damage["it has no tables of topics and messages"] += 1
                return {}
            columns = {row[1] for row in database.execute("PRAGMA table_info(topics)")}
            qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
            for row in database.execute(f"SELECT id, name, type, serialization_format, {qos} FROM topics"):
                try:
                    described.update([_topic(*row)])
                except ValueError:
                    self.damage["a topic whose name or type is not a text"] += 1
        except sqlite3.Error as error:
            self.damage[str(error)] += 1
        return described

    def _is_cut(self) -> bool:
        """Whether the file is shorter than its header says (sqlite.org/fileformat2.html, 1.3)."""
        with self.file.open("rb") as stream:
            header = stream.read(32)
        if len(header) < 32:
            return True
        page_bytes, pages = struct.unpack(">H", header[16:18])[0], struct.unpack(">I", header[28:32])[0]
        return self.file.stat().st_size < pages * (65536 if page_bytes == 1 else page_bytes)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        uri = self.file.absolute().as_uri()
        database = sqlite3.connect(f"{uri}?mode=ro", uri=True)
        try:
            database.execute("PRAGMA schema_version")
        except sqlite3.OperationalError:
            # One in WAL mode in a folder that may not be written: without the log's help then.
            database.close()
            database = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)
        except sqlite3.DatabaseError:
            pass  # it is said where the tables are read
        database.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
        with contextlib.closing(database):
            with contextlib.suppress(sqlite3.DatabaseError):
                # Without this, SQLite refuses a file that is shorter than its header says, readable pages and all.
                database.execute("PRAGMA writable_schema = ON")
            yield database


def _topic(number: Any, name: Any, kind: Any, encoding: Any, qos: Any) -> tuple[int, tuple[str, Topic]]:
    if not isinstance(number, int) or not isinstance(name, str):
        raise ValueError("a topic without number or name")
    return number, (name, make_topic(kind, None, encoding, qos))
