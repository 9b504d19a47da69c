"""Recordings of every kind are read alike, and damaged ones as far as they go."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from cosmos_ros.recordings.bag import Bag
from cosmos_ros.recordings.recording import BadRecording

N = 40
FRAMES = np.random.default_rng(1).integers(0, 256, (N, 1, 1, 3), np.uint8).repeat(48, axis=1).repeat(64, axis=2)
STAMPS = [1_700_000_000_000_000_000 + i * 100_000_000 for i in range(N)]
TOPIC = "/camera/image_raw"

KINDS = [
    (StoragePlugin.MCAP, CompressionMode.NONE),
    (StoragePlugin.MCAP, CompressionMode.FILE),
    (StoragePlugin.MCAP, CompressionMode.MESSAGE),
    (StoragePlugin.MCAP, CompressionMode.STORAGE),
    (StoragePlugin.SQLITE3, CompressionMode.NONE),
    (StoragePlugin.SQLITE3, CompressionMode.FILE),
    (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
]
KIND_NAMES = [f"{storage.name}-{mode.name}".lower() for storage, mode in KINDS]


def storage_file(bag: Path) -> Path:
    return next(file for file in bag.iterdir() if file.name != "metadata.yaml")


def cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


def edit_metadata(bag: Path, edit) -> None:
    content = yaml.safe_load((bag / "metadata.yaml").read_text())
    edit(content["rosbag2_bagfile_information"])
    (bag / "metadata.yaml").write_text(yaml.safe_dump(content))


def split_bag(path: Path, write_bag, storage: StoragePlugin, parts: int = 3) -> Path:
    """One bag in several storage files, as a recorder with --max-bag-size leaves it."""
    step = N // parts
    pieces = [slice(i * step, (i + 1) * step if i < parts - 1 else N) for i in range(parts)]
    bags = [
        write_bag(path.parent / f"part{i}", FRAMES[piece], STAMPS[piece], storage=storage)
        for i, piece in enumerate(pieces)
    ]
    path.mkdir()
    names = []
    for i, bag in enumerate(bags):
        file = storage_file(bag)
        names.append(f"{path.name}_{i}{file.suffix}")
        shutil.copy(file, path / names[-1])
    shutil.copy(bags[0] / "metadata.yaml", path)

    def whole(metadata: dict) -> None:
        metadata["relative_file_paths"] = names
        metadata["message_count"] = N
        metadata["topics_with_message_count"][0]["message_count"] = N

    edit_metadata(path, whole)
    return path


@pytest.mark.parametrize(("storage", "compression"), KINDS, ids=KIND_NAMES)
def test_every_kind_of_bag_gives_the_same_frames(tmp_path, write_bag, storage, compression):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS, storage=storage, compression=compression)
    recording = Bag(bag)
    frames = list(recording.frames(recording.image_topic()))
    assert [frame.stamp_ns for frame in frames] == STAMPS
    assert all(np.array_equal(frame.load(), true) for frame, true in zip(frames, FRAMES, strict=True))
    assert recording.losses == [] and recording.duration == pytest.approx(3.9)


@pytest.mark.parametrize("encoding", ["jpeg", "png", "bgr8", "mono16"])
def test_compressed_and_other_images(tmp_path, write_bag, encoding):
    bag = write_bag(tmp_path / "bag", FRAMES[:5], STAMPS[:5], encoding=encoding, topic="/cam/image_raw/compressed")
    frames = list(Bag(bag).frames("/cam/image_raw/compressed"))
    assert [frame.load().shape for frame in frames] == [(48, 64, 3)] * 5


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_split_bags(tmp_path, write_bag, storage):
    recording = Bag(split_bag(tmp_path / "bag", write_bag, storage))
    assert len(recording.files) == 3
    assert [frame.stamp_ns for frame in recording.frames(TOPIC)] == STAMPS
    assert recording.losses == []


def test_split_files_are_read_in_their_natural_order_without_metadata(tmp_path, write_bag):
    bag = split_bag(tmp_path / "bag", write_bag, StoragePlugin.MCAP)
    (bag / "metadata.yaml").unlink()
    (bag / "bag_2.mcap").rename(bag / "bag_10.mcap")
    recording = Bag(bag)
    assert [frame.stamp_ns for frame in recording.frames(recording.image_topic())] == STAMPS
    assert "metadata.yaml is missing" in recording.losses[0]


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_single_storage_file(tmp_path, write_bag, storage):
    file = storage_file(write_bag(tmp_path / "bag", FRAMES, STAMPS, storage=storage))
    recording = Bag(file)
    assert len(list(recording.frames(recording.image_topic()))) == N
    assert recording.losses == []


@pytest.mark.parametrize(("storage", "compression"), KINDS, ids=KIND_NAMES)
def test_a_cut_file_is_read_up_to_the_cut(tmp_path, write_bag, storage, compression):
    # Noise does not compress: half of the file is about half of the frames.
    noise = np.random.default_rng(0).integers(0, 256, (N, 96, 128, 3), np.uint8)
    bag = write_bag(tmp_path / "bag", noise, STAMPS, storage=storage, compression=compression)
    cut(storage_file(bag), 0.5)
    recording = Bag(bag)
    frames = list(recording.frames(TOPIC))
    assert N // 4 < len(frames) < N * 3 // 4
    assert [frame.stamp_ns for frame in frames] == STAMPS[: len(frames)]
    assert all(np.array_equal(frame.load(), true) for frame, true in zip(frames, noise, strict=False))
    assert any("is damaged or cut off" in loss for loss in recording.losses)
    assert f"{N - len(frames)} of {N} images on {TOPIC} were lost" in recording.losses


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_recorder_that_was_killed_leaves_no_metadata_and_a_cut_file(tmp_path, write_bag, storage):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS, storage=storage)
    (bag / "metadata.yaml").unlink()
    cut(storage_file(bag), 0.6)
    recording = Bag(bag)
    assert recording.image_topic() == TOPIC and recording.duration is None
    frames = list(recording.frames(TOPIC))
    assert len(frames) > N // 4
    assert len(recording.losses) == 2


def test_a_damaged_chunk_in_the_middle_costs_only_itself(tmp_path, write_bag):
    noise = np.random.default_rng(0).integers(0, 256, (N, 256, 256, 3), np.uint8)  # several chunks
    bag = write_bag(tmp_path / "bag", noise, STAMPS, compression=CompressionMode.STORAGE)
    file = storage_file(bag)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200_000] = bytes(200_000)
    file.write_bytes(data)
    recording = Bag(bag)
    stamps = [frame.stamp_ns for frame in recording.frames(TOPIC)]
    assert N // 2 < len(stamps) < N and stamps[-1] == STAMPS[-1] and stamps == sorted(set(stamps))
    assert len(recording.losses) == 2


def test_a_missing_split_file_is_named(tmp_path, write_bag):
    bag = split_bag(tmp_path / "bag", write_bag, StoragePlugin.MCAP)
    (bag / "bag_1.mcap").unlink()
    recording = Bag(bag)
    assert len(list(recording.frames(TOPIC))) == N - 13
    assert recording.losses == [
        "bag_1.mcap, which metadata.yaml lists, is missing",
        f"13 of {N} images on {TOPIC} were lost",
    ]


def test_metadata_that_is_no_metadata(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS)
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [1, 2")
    recording = Bag(bag)
    assert len(list(recording.frames(recording.image_topic()))) == N
    assert "metadata.yaml cannot be used" in recording.losses[0]


def test_unusable_images_are_counted_by_their_cause(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES, STAMPS, encoding="jpeg")
    whole = storage_file(bag).read_bytes()
    # JPEG's end marker gone from every image: they are all cut off.
    storage_file(bag).write_bytes(whole.replace(b"\xff\xd9", b"\x00\x00"))
    recording = Bag(bag)
    assert list(recording.frames(TOPIC)) == []
    assert any("images on /camera/image_raw are unusable: the " in loss for loss in recording.losses)


def test_the_image_topics_are_listed(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES[:3], STAMPS[:3], other_topics=("/rear/image_raw",))
    recording = Bag(bag)
    assert recording.image_topic("/rear/image_raw") == "/rear/image_raw"
    kind = r"\(sensor_msgs/msg/Image, 3 messages\)"
    listed = f"/camera/image_raw {kind}, /rear/image_raw {kind}"
    with pytest.raises(BadRecording, match=f"has no topic /front; its image topics are {listed}"):
        recording.image_topic("/front")
    with pytest.raises(BadRecording, match=f"name one with --image-topic; .*{listed}"):
        recording.image_topic()


def test_a_topic_that_carries_no_images(tmp_path, write_bag):
    bag = write_bag(tmp_path / "bag", FRAMES[:3], STAMPS[:3], other_topics=("/scan",))

    def other_type(metadata: dict) -> None:
        metadata["topics_with_message_count"][1]["topic_metadata"]["type"] = "sensor_msgs/msg/LaserScan"

    edit_metadata(bag, other_type)
    with pytest.raises(BadRecording, match="/scan carries sensor_msgs/msg/LaserScan, 3 messages, no images"):
        Bag(bag).image_topic("/scan")


def test_what_is_no_bag(tmp_path, write_bag):
    with pytest.raises(BadRecording, match="does not exist"):
        Bag(tmp_path / "nowhere")
    with pytest.raises(BadRecording, match="no rosbag2 recording"):
        Bag(tmp_path)
    empty = write_bag(tmp_path / "empty", FRAMES[:0], [])
    with pytest.raises(BadRecording, match="is empty: it holds no messages"):
        Bag(empty).image_topic()
