"""What the storage files of a bag hold: topics and raw messages, as every reader of one gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml

YAML_BYTES = 2**24  # of a metadata.yaml; that of ten thousand split files has 2 MB
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class Topic(NamedTuple):
    """What the recorder says of a topic.

    messages  how many it wrote; None where it does not say
    encoding  of its messages; all that ROS 2 writes is "cdr"
    latched   whether a subscriber that came late was given the last message too
    """

    type: str
    messages: int | None
    encoding: str = "cdr"
    latched: bool = False

    @property
    def has_images(self) -> bool:
        return self.type in IMAGE_TYPES and self.encoding == "cdr"

    def __str__(self) -> str:
        foreign = f" encoded as {self.encoding!r}" if self.encoding != "cdr" else ""
        return self.type + foreign + ("" if self.messages is None else f", {self.messages} messages")


class RawMessage(NamedTuple):
    """One message as it was recorded; `time` is when, in nanoseconds."""

    time: int
    topic: str
    type: str
    data: bytes


class StorageFile(Protocol):
    """One storage file. `damage` counts what was found wrong with it, by cause; complete once `messages` has ended."""

    damage: Counter[str]

    def topics(self) -> dict[str, Topic]: ...

    def messages(self, topics: set[str] | None = None) -> Iterator[RawMessage]:
        """Those of these topics, or all, in the order of writing; of a damaged file, every one that is whole."""
        ...


def make_topic(kind: Any, messages: int | None, encoding: Any, qos: Any) -> Topic:
    """From what a file says of a topic, none of it believed. Raises ValueError."""
    if not isinstance(kind, str) or not kind:
        raise ValueError(f"a topic's type is {kind!r}")
    return Topic(ros2_type(kind), messages, encoding if isinstance(encoding, str) and encoding else "cdr", latched(qos))


def ros2_type(name: str) -> str:
    """`sensor_msgs/msg/Image`, for which older recorders and converters write `sensor_msgs/Image`, or as DDS does."""
    if "::dds_::" in name:
        name = name.replace("::dds_::", "/").replace("::", "/").removesuffix("_")
    return name.replace("/", "/msg/") if name.count("/") == 1 else name


def latched(qos: Any) -> bool:
    """Whether offered QoS profiles, a list or YAML of one, name transient local durability."""
    try:
        profiles = load_yaml(qos) if isinstance(qos, str) else qos
    except ValueError:
        return False
    if not isinstance(profiles, list):
        return False
    durabilities = [profile.get("durability") for profile in profiles if isinstance(profile, dict)]
    return 1 in durabilities or "transient_local" in durabilities


def load_yaml(text: str) -> Any:
    """Of YAML from outside. Raises ValueError for whatever is wrong with it, twenty thousand levels included."""
    try:
        return yaml.safe_load(text)
    except Exception as error:  # the reader raises anything that a tag leads it to: KeyError of `!!bool x`
        raise ValueError(f"no YAML that can be read: {type(error).__name__}") from error


def check_yaml_size(file: Path) -> None:
    """Raise ValueError for a file that is too large to be anybody's metadata."""
    if (size := file.stat().st_size) > YAML_BYTES:
        raise ValueError(f"it has {size:,} bytes")
