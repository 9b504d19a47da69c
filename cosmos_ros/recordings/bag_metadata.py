"""metadata.yaml of a rosbag2 recording; the type of every value is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos_ros.files import check_regular
from cosmos_ros.recordings.storage import Topic, check_yaml_size, load_yaml, make_topic


@dataclass(frozen=True)
class Metadata:
    """What the recorder wrote down when it ended: names of storage files, topics, and seconds."""

    files: tuple[str, ...]
    topics: dict[str, Topic]
    duration: float

    @classmethod
    def read(cls, file: Path) -> Metadata:
        """Raises FileNotFoundError where there is none, ValueError or another OSError where it cannot be used."""
        check_regular(file)
        check_yaml_size(file)
        content = load_yaml(file.read_text())
        bag = _mapping(_mapping(content, "the file").get("rosbag2_bagfile_information"), "rosbag2_bagfile_information")
        nanoseconds = _mapping(bag.get("duration"), "duration").get("nanoseconds")
        return cls(
            files=tuple(_name(name) for name in _list(bag.get("relative_file_paths"), "relative_file_paths")),
            topics=dict(map(_topic, _list(bag.get("topics_with_message_count"), "topics_with_message_count"))),
            duration=_count(nanoseconds, "duration") / 1e9,
        )


def _topic(entry: Any) -> tuple[str, Topic]:
    entry = _mapping(entry, "a topic")
    topic = _mapping(entry.get("topic_metadata"), "topic_metadata")
    count = _count(entry.get("message_count"), "message_count")
    name, encoding = topic.get("name"), topic.get("serialization_format")
    if not isinstance(name, str):
        raise ValueError(f"a topic's name is {name!r}")
    return name, make_topic(topic.get("type"), count, encoding, topic.get("offered_qos_profiles"))


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_kind(value)} instead of a mapping")
    return value


def _list(value: Any, what: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{what} is {_kind(value)} instead of a list")
    return value


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{what} is {_kind(value)} instead of a number from 0 on")
    return value


def _name(value: Any) -> str:
    """The file's own name: as rosbag2 does, older recorders wrote paths with the bag's folder in front."""
    if not isinstance(value, str) or not (name := Path(value).name) or "\0" in name:
        raise ValueError(f"a file's name is {_kind(value)}")
    return name


def _kind(value: Any) -> str:
    return (
        "missing"
        if value is None
        else f"{str(value)[:40]!r}"
        if isinstance(value, (int, float, str))
        else (f"a {type(value).__name__}")
    )
