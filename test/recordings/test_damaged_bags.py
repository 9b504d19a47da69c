"""Whatever is done to a bag, reading it ends in fewer frames or in BadRecording, and takes no more than it should."""

from __future__ import annotations

import datetime
import os
import random
import shutil
import sqlite3
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import yaml
import zstandard
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from cosmos_ros.recordings import bag as bags
from cosmos_ros.recordings import mcap_file
from cosmos_ros.recordings.bag import Bag
from cosmos_ros.recordings.mcap_file import McapFile
from cosmos_ros.recordings.recording import BadRecording
from cosmos_ros.recordings.storage import ros2_type

N = 10
FRAMES = np.random.default_rng(2).integers(0, 256, (N, 12, 16, 3), np.uint8)
STAMPS = [1_700_000_000_000_000_000 + i * 100_000_000 for i in range(N)]
TOPIC = "/camera/image_raw"
MUTATIONS = 150  # of each kind of bag
KINDS = [
    (StoragePlugin.MCAP, CompressionMode.NONE),
    (StoragePlugin.MCAP, CompressionMode.STORAGE),
    (StoragePlugin.MCAP, CompressionMode.MESSAGE),
    (StoragePlugin.MCAP, CompressionMode.FILE),
    (StoragePlugin.SQLITE3, CompressionMode.NONE),
    (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    (StoragePlugin.SQLITE3, CompressionMode.FILE),
]


def stamps_of(path: Path) -> tuple[list[int], list[str]]:
    """What can be read: the stamps of all frames, their pixels converted, and what was lost. Raises BadRecording."""
    recording = Bag(path)
    stamps = []
    for frame in recording.frames(recording.image_topic()):
        stamps.append(frame.stamp_ns)
        try:
            assert frame.load().shape == (frame.height, frame.width, 3)
        except ValueError as error:  # BadImage is one
            recording.losses.append(str(error))
    return stamps, recording.losses


def storage_file(bag: Path) -> Path:
    return next(file for file in bag.iterdir() if file.name != "metadata.yaml")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """With a few bytes changed, removed, doubled or zeroed, or cut off."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, n = rng.randrange(len(damaged)), rng.choice([1, 2, 8, 64, 500])
        match rng.randrange(6):
            case 0:
                damaged[at : at + n] = rng.randbytes(len(damaged[at : at + n]))
            case 1:
                damaged[at : at + n] = bytes(len(damaged[at : at + n]))
            case 2:
                damaged[at : at + n] = b"\xff" * len(damaged[at : at + n])
            case 3:
                del damaged[at : at + n]
            case 4:
                damaged[at:at] = damaged[max(0, at - n) : at]
            case 5:
                del damaged[max(1, at) :]
    return bytes(damaged)


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "compression"), KINDS, ids=lambda each: each.name.lower())
@pytest.mark.parametrize("with_metadata", [True, False], ids=["with metadata", "alone"])
def test_no_damage_to_a_storage_file_is_worse_than_fewer_frames(
    tmp_path, write_bag, storage, compression, with_metadata
):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS, storage=storage, compression=compression)
    if not with_metadata:
        (bag / "metadata.yaml").unlink()
    file = storage_file(bag)
    whole = file.read_bytes()
    rng = random.Random(f"{storage}{compression}{with_metadata}")
    read = 0
    for _ in range(MUTATIONS):
        file.write_bytes(mutated(whole, rng))
        try:
            stamps, losses = stamps_of(bag)
        except BadRecording:
            continue
        read += len(stamps)
        assert len(stamps) <= 2 * N  # bytes that were doubled are messages twice
        assert losses or len(stamps) >= N or not with_metadata
    assert read > MUTATIONS  # many are read in part
    file.write_bytes(whole)
    stamps, losses = stamps_of(bag)
    assert stamps == STAMPS and len(losses) == (not with_metadata)


def edited(bag: Path, edit: Callable[[dict], None]) -> None:
    content = yaml.safe_load((bag / "metadata.yaml").read_text())
    edit(content)
    (bag / "metadata.yaml").write_text(yaml.safe_dump(content))


WRONG_VALUES = [None, [], {}, [None], {"a": 1}, "text", -1, 10**30, 1.5, True, datetime.date(2026, 1, 1), "\0"]


@pytest.mark.slow
def test_metadata_of_wrong_types_costs_no_frames(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS)
    whole = (bag / "metadata.yaml").read_text()

    def places(value: object, path: tuple = ()) -> list[tuple]:
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [path, *(place for key, each in inside for place in places(each, (*path, key)))]

    everywhere = places(yaml.safe_load(whole))[1:]
    assert len(everywhere) > 15
    for place in everywhere:
        for wrong in WRONG_VALUES:
            (bag / "metadata.yaml").write_text(whole)

            def put(content: object, place: tuple = place, wrong: object = wrong) -> None:
                for key in place[:-1]:
                    content = content[key]
                content[place[-1]] = wrong

            edited(bag, put)
            try:
                stamps, _ = stamps_of(bag)
            except BadRecording as error:
                # Only where it names no file, or no topic of images.
                assert place[1] in ("relative_file_paths", "topics_with_message_count"), (place, wrong, error)
            else:
                # A topic under another name is another topic.
                other = place[-1] == "name" and isinstance(wrong, str)
                assert stamps == ([] if other else STAMPS), (place, wrong)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 20_000, "a: " * 20_000, "{a: " * 20_000, "- " * 20_000, "&a [*a]"),
        *("!!python/object:os.system {}", "!!bool x", "!!int x", "!!timestamp x", "\0", ""),
    ],
    ids=["flow", "keys", "braces", "list", "itself", "object", "bool", "int", "timestamp", "nul", "empty"],
)
def test_metadata_that_breaks_readers_of_yaml_costs_no_frames(tmp_path, write_bag, text):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS)
    (bag / "metadata.yaml").write_text(text)
    stamps, losses = stamps_of(bag)
    assert stamps == STAMPS and losses[0].startswith("metadata.yaml cannot be used (")


def test_metadata_in_another_encoding_or_of_enormous_size_costs_no_frames(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS)
    (bag / "metadata.yaml").write_bytes(b"\xff\xfe\x00")
    assert stamps_of(bag)[0] == STAMPS
    with (bag / "metadata.yaml").open("wb") as file:
        file.truncate(10**9)
    stamps, losses = stamps_of(bag)
    assert stamps == STAMPS and "it has 1,000,000,000 bytes" in losses[0]


SQL_DAMAGES = {
    "timestamp of text": "UPDATE messages SET timestamp = 'soon' WHERE id = 3",
    "timestamp of nothing": "UPDATE messages SET timestamp = x'00' WHERE id = 3",
    "data of text": "UPDATE messages SET data = 'text' WHERE id = 3",
    "data of number": "UPDATE messages SET data = 7 WHERE id = 3",
    "topic of text": "UPDATE messages SET topic_id = 'camera' WHERE id = 3",
    "unknown topic": "UPDATE messages SET topic_id = 77 WHERE id = 3",
}
TOPIC_DAMAGES = {
    "name of bytes": "UPDATE topics SET name = x'ff00'",
    "type of bytes": "UPDATE topics SET type = x'ff00'",
    "no topics": "DELETE FROM topics",
    "no tables": "DROP TABLE messages",
    "a view without end": "ALTER TABLE messages RENAME TO m; CREATE VIEW messages AS "
    "WITH RECURSIVE endless(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM endless) "
    "SELECT id, 1 AS topic_id, id AS timestamp, x'00' AS data FROM endless",
}


@pytest.mark.parametrize("damage", SQL_DAMAGES)
def test_sqlite_values_of_another_type_cost_only_their_message(tmp_path, write_bag, damage):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS, storage=StoragePlugin.SQLITE3)
    with sqlite3.connect(storage_file(bag)) as database:
        database.executescript(SQL_DAMAGES[damage])
    stamps, losses = stamps_of(bag)
    assert stamps == STAMPS[:2] + STAMPS[3:] and f"1 of {N} images on {TOPIC} were lost" in losses


@pytest.mark.parametrize("damage", TOPIC_DAMAGES)
def test_sqlite_topics_that_make_no_sense_are_a_bad_recording(tmp_path, write_bag, damage):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS, storage=StoragePlugin.SQLITE3)
    (bag / "metadata.yaml").unlink()
    with sqlite3.connect(storage_file(bag)) as database:
        database.executescript(TOPIC_DAMAGES[damage])
    with pytest.raises(BadRecording):
        stamps_of(bag)


def test_a_damaged_page_of_sqlite_costs_only_its_messages(tmp_path, write_bag):
    noise = np.random.default_rng(0).integers(0, 256, (N, 48, 64, 3), np.uint8)  # three pages each
    bag = write_bag(tmp_path / "bag", noise, STAMPS, storage=StoragePlugin.SQLITE3)
    file = storage_file(bag)
    data = bytearray(file.read_bytes())
    at = data.index(noise[4].tobytes()[4000:4100])  # in the middle of the fifth
    page = at // 4096 * 4096
    data[page : page + 4] = b"\xff" * 4  # the number of the next page
    file.write_bytes(data)
    stamps, losses = stamps_of(bag)
    assert stamps == STAMPS[:4] + STAMPS[5:]
    assert any("damaged or cut off" in loss and f"{N - 1} messages" in loss for loss in losses)


def record(op: int, body: bytes) -> bytes:
    return struct.pack("<BQ", op, len(body)) + body


def chunk(records: bytes, compression: str = "", unpacked: int | None = None, packed: bytes | None = None) -> bytes:
    size = len(records) if unpacked is None else unpacked
    packed = records if packed is None else packed
    head = struct.pack("<QQQI", 0, 0, size, 0) + struct.pack("<I", len(compression)) + compression.encode()
    return record(mcap_file._CHUNK, head + struct.pack("<Q", len(packed)) + packed)


def described(number: int = 1, topic: str = "/a", kind: str = "sensor_msgs/msg/Image") -> bytes:
    """A schema and a channel."""

    def text(words: str) -> bytes:
        return struct.pack("<I", len(words)) + words.encode()

    schema = struct.pack("<H", number) + text(kind) + text("ros2msg") + text("")
    channel = struct.pack("<HH", number, number) + text(topic) + text("cdr") + struct.pack("<I", 0)
    return record(mcap_file._SCHEMA, schema) + record(mcap_file._CHANNEL, channel)


def message(time: int, number: int = 1) -> bytes:
    return record(mcap_file._MESSAGE, struct.pack("<HIQQ", number, 0, time, time) + b"data")


def read_mcap(path: Path, *records: bytes) -> tuple[list[int], list[str]]:
    path.write_bytes(mcap_file.MAGIC + b"".join(records) + record(mcap_file._DATA_END, bytes(4)))
    file = McapFile(path)
    times = [each.time for each in file.messages()]
    return times, list(file.damage)


def test_a_chunk_that_cannot_be_unpacked_costs_only_itself(tmp_path):
    bad = {
        "unknown compression": chunk(message(2), "brotli"),
        "no frame of zstd": chunk(message(2), "zstd"),
        "no frame of lz4": chunk(message(2), "lz4"),
        "larger than it says": chunk(b"", "zstd", 10, zstandard.compress(bytes(1000))),
        "says that it is enormous": chunk(b"", "zstd", 2**62, zstandard.compress(bytes(1000))),
        "compression without end": record(mcap_file._CHUNK, bytes(28) + struct.pack("<I", 2**31) + bytes(20)),
        "short": record(mcap_file._CHUNK, bytes(10)),
    }
    for name, each in bad.items():
        times, damage = read_mcap(tmp_path / "a.mcap", described(), chunk(message(1)), each, chunk(message(3)))
        assert times == [1, 3] and len(damage) == 1, (name, damage)
    assert "'brotli'; known are zstd, lz4" in read_mcap(tmp_path / "a.mcap", bad["unknown compression"])[1][0]


@pytest.mark.parametrize(
    ("compression", "pack"), [("", bytes), ("zstd", zstandard.compress), ("lz4", lz4.frame.compress)]
)
def test_chunks_of_every_compression_are_read_also_where_the_last_is_cut(tmp_path, compression, pack):
    noise = np.random.default_rng(0)
    head = struct.calcsize("<HIQQ")
    bodies = [message(time)[9 : 9 + head] + noise.bytes(3000) for time in range(9)]
    records = [record(mcap_file._MESSAGE, body) for body in bodies]
    parts = [b"".join(records[at : at + 3]) for at in (0, 3, 6)]
    chunks = [chunk(part, compression, packed=pack(part)) for part in parts]
    assert read_mcap(tmp_path / "a.mcap", described(), *chunks) == (list(range(9)), [])
    whole = (tmp_path / "a.mcap").read_bytes()
    (tmp_path / "a.mcap").write_bytes(whole[: len(whole) - 5000])
    file = McapFile(tmp_path / "a.mcap")
    times = [each.time for each in file.messages()]
    assert times == list(range(len(times))) and 6 <= len(times) < 9 and file.damage


def test_chunks_within_chunks_are_passed_over_however_deep(tmp_path):
    nested = message(2)
    for _ in range(3000):
        nested = chunk(nested)
    times, damage = read_mcap(tmp_path / "a.mcap", described(), chunk(message(1)), nested, chunk(message(3)))
    assert times == [1, 3] and damage == ["a chunk within a chunk"]


def test_records_that_say_that_they_are_enormous_end_the_file(tmp_path):
    for op in (mcap_file._MESSAGE, mcap_file._SCHEMA, 9):
        lying = struct.pack("<BQ", op, 2**60) + b"short"
        times, damage = read_mcap(tmp_path / "a.mcap", described(), message(1), lying, message(3))
        assert times == [1] and damage == ["it ends in the middle"]


@pytest.fixture
def bounded_memory():
    """The test may take 64 MiB of Python's memory at most."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**26, f"{peak:,} bytes"


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """128 MiB in a few kB of zstd, which do not say so."""
    return zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**27))


def test_what_unpacks_without_bound_is_not_unpacked(bomb, tmp_path, monkeypatch, bounded_memory):
    monkeypatch.setattr(bags, "_MESSAGE_BYTES", 2**22)
    assert bags._plain(bomb) == bomb and len(bomb) < 20_000
    times, damage = read_mcap(
        tmp_path / "a.mcap", described(), chunk(b"", "zstd", 1000, bomb), chunk(b"", "lz4", 2**40, b"x"), message(3)
    )
    assert times == [3] and len(damage) == 2


def test_a_packed_file_is_unpacked_up_to_the_limit(tmp_path, write_bag, monkeypatch):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS, compression=CompressionMode.FILE)
    file = storage_file(bag)
    plain = zstandard.ZstdDecompressor().stream_reader(file.open("rb")).read()
    file.write_bytes(zstandard.compress(plain + bytes(10**7)))
    monkeypatch.setattr(bags, "_UNPACKED_BYTES", 10**6)
    monkeypatch.setattr(bags, "_UNPACKED_RATIO", 2)
    stamps, losses = stamps_of(bag)
    assert stamps == STAMPS and any("unpacks to more than 1,000,000 bytes" in loss for loss in losses)
    monkeypatch.setattr(bags, "_SPARE_BYTES", 2**62)
    with pytest.raises(BadRecording, match="it is empty"):
        stamps_of(bag)


def test_what_is_no_ordinary_file_is_not_opened(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS)
    os.mkfifo(tmp_path / "pipe.mcap")
    with pytest.raises(BadRecording, match="is a named pipe, not an ordinary file"):
        Bag(tmp_path / "pipe.mcap")
    (bag / "metadata.yaml").unlink()
    os.mkfifo(bag / "metadata.yaml")
    stamps, losses = stamps_of(bag)
    assert stamps == STAMPS and "is a named pipe" in losses[0]
    file = storage_file(bag)
    shutil.move(file, tmp_path)
    os.mkfifo(file)
    with pytest.raises(BadRecording):
        Bag(bag)


def test_one_file_of_a_bag_that_is_something_else_does_not_cost_the_others(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS)
    (bag / "metadata.yaml").unlink()
    (bag / "bag_9.mcap").write_text("a note")
    stamps, losses = stamps_of(bag)
    assert stamps == STAMPS and "bag_9.mcap is damaged or cut off (it is text)" in losses[-1]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.mcap", b"a note\nof mine\n", "is no rosbag2 recording: it is text"),
        ("a.mcap", "Größe ".encode() * 1000, "it is text"),
        ("a.db3", b"#ROSBAG V2.0\n" + bytes(100), "it is a ROS 1 bag; rosbags-convert"),
        ("a.mcap", b"PK\x03\x04" + bytes(100), "it is a zip archive"),
        ("a.mcap", b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        ("a.mcap", b"\x28\xb5\x2f\xfd" + bytes(9), "packed with zstd; give it the suffix .zstd"),
        ("a.mcap", b"", "it is empty"),
    ],
)
def test_what_something_is_that_is_no_bag_is_said(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRecording, match=said):
        stamps_of(tmp_path / name)


def test_an_mcap_under_the_name_of_sqlite_is_read(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS)
    shutil.copy(storage_file(bag), tmp_path / "renamed.db3")
    assert stamps_of(tmp_path / "renamed.db3")[0] == STAMPS


def test_a_folder_of_bags_names_them(tmp_path, write_bag):
    for i in range(7):
        write_bag(tmp_path / f"run{i}", FRAMES[:1], STAMPS[:1])
    with pytest.raises(BadRecording, match="it is a folder of recordings, run0, run1, run2, run3, run4 and 2 more"):
        Bag(tmp_path)
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "drive.mp4").touch()
    with pytest.raises(BadRecording, match="it is a folder of recordings, drive.mp4; name those that are meant"):
        Bag(tmp_path / "films")


def test_types_as_older_recorders_and_converters_write_them(tmp_path, write_bag):
    assert ros2_type("sensor_msgs/Image") == "sensor_msgs/msg/Image" == ros2_type("sensor_msgs::msg::dds_::Image_")
    assert ros2_type("pkg/srv/Call_Request") == "pkg/srv/Call_Request" and ros2_type("foxglove.Grid") == "foxglove.Grid"
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS, storage=StoragePlugin.SQLITE3)
    edited(bag, lambda content: _rename(content, "sensor_msgs/Image"))
    with sqlite3.connect(storage_file(bag)) as database:
        database.execute("UPDATE topics SET type = 'sensor_msgs/Image'")
    assert stamps_of(bag)[0] == STAMPS
    (bag / "metadata.yaml").unlink()
    assert stamps_of(bag)[0] == STAMPS


def _rename(content: dict, kind: str) -> None:
    content["rosbag2_bagfile_information"]["topics_with_message_count"][0]["topic_metadata"]["type"] = kind


def test_topics_are_listed_with_their_types_where_none_has_images(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS)
    edited(bag, lambda content: _rename(content, "foxglove_msgs/msg/CompressedVideo"))
    with pytest.raises(BadRecording) as refused:
        Bag(bag).image_topic()
    assert str(refused.value).endswith(
        "it has no topic of sensor_msgs/msg/Image or CompressedImage; its topics are /camera/image_raw "
        f"(foxglove_msgs/msg/CompressedVideo, {N} messages)"
    )


def test_images_in_another_serialization_are_no_images(tmp_path):
    def text(words: str) -> bytes:
        return struct.pack("<I", len(words)) + words.encode()

    schema = record(
        mcap_file._SCHEMA, struct.pack("<H", 1) + text("sensor_msgs/msg/Image") + text("jsonschema") + text("")
    )
    channel = struct.pack("<HH", 1, 1) + text("/a") + text("json") + struct.pack("<I", 0)
    (tmp_path / "a.mcap").write_bytes(mcap_file.MAGIC + schema + record(mcap_file._CHANNEL, channel) + message(1))
    with pytest.raises(BadRecording, match=r"its topics are /a \(sensor_msgs/msg/Image encoded as 'json'\)"):
        stamps_of(tmp_path / "a.mcap")
