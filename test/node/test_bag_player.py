"""The bag player as a robot runs it: a process of its own, over real DDS."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from cosmos_ros.node.messages import nanoseconds_of

START_NS, PERIOD_NS = 1_700_000_000 * 10**9, 100_000_000
TOPIC = "/camera/image_raw"


class BagWriter:
    """Writes messages of rosbags' own types, one connection per topic."""

    def __init__(self, folder: Path, plugin: StoragePlugin) -> None:
        self.store = get_typestore(Stores.ROS2_JAZZY)
        self.store.register(get_types_from_msg("float64 torque", "gripper_msgs/msg/Grip"))
        self._bag = Writer(folder, version=9, storage_plugin=plugin)
        self._connections = {}

    def __enter__(self) -> BagWriter:
        self._bag.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._bag.close()

    def add(self, topic: str, stamp_ns: int, type_name: str, **fields: object) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._bag.add_connection(topic, type_name, typestore=self.store)
        message = self.store.types[type_name](**fields)
        self._bag.write(self._connections[topic], stamp_ns, self.store.serialize_cdr(message, type_name))

    def time(self, stamp_ns: int) -> object:
        return self.store.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def write_bag(
    folder: Path, n: int = 30, plugin: StoragePlugin = StoragePlugin.MCAP, clock_offset_ns: int | None = None
) -> Path:
    """n images of 100x48 at 10 Hz, a note, one message of a type that is nowhere; /clock where it has an offset."""
    rng = np.random.default_rng(0)
    with BagWriter(folder, plugin) as bag:
        bag.add("/note", START_NS, "std_msgs/msg/String", data="a bag")
        bag.add("/grip", START_NS, "gripper_msgs/msg/Grip", torque=1.0)
        for stamp in range(START_NS, START_NS + n * PERIOD_NS, PERIOD_NS):
            header = bag.store.types["std_msgs/msg/Header"](stamp=bag.time(stamp), frame_id="camera_optical")
            bag.add(
                TOPIC,
                stamp,
                "sensor_msgs/msg/Image",
                header=header,
                height=48,
                width=100,
                encoding="rgb8",
                is_bigendian=0,
                step=300,
                data=rng.integers(0, 255, 48 * 300, dtype=np.uint8),
            )
            if clock_offset_ns is not None:
                bag.add("/clock", stamp, "rosgraph_msgs/msg/Clock", clock=bag.time(stamp + clock_offset_ns))
    return folder


@pytest.fixture
def listen(robot):
    """listen(type, topic) -> the list of what comes, reliably"""
    subscriptions = []

    def subscribe(message_type, topic):
        heard = []
        qos = QoSProfile(depth=1000, durability=DurabilityPolicy.VOLATILE)
        subscriptions.append(robot.ros.create_subscription(message_type, topic, heard.append, qos))
        return heard

    yield subscribe
    for subscription in subscriptions:
        robot.ros.destroy_subscription(subscription)


def stamps_of(heard: list[Image]) -> list[int]:
    return [nanoseconds_of(image.header.stamp) for image in heard]


def times_of(heard: list[Clock]) -> list[int]:
    return [nanoseconds_of(tick.clock) for tick in heard]


@pytest.mark.parametrize("plugin", StoragePlugin, ids=lambda plugin: plugin.name)
def test_the_player_plays_every_message_once_with_the_recordings_clock(start, listen, tmp_path, wait_for, plugin):
    bag = write_bag(tmp_path / "bag", plugin=plugin)
    images, notes, clock = listen(Image, TOPIC), listen(String, "/note"), listen(Clock, "/clock")
    player = start("bag_player", bag, "--rate", "2", "--wait-for", TOPIC, "--wait-for", "/note")
    assert player.wait(120) == 0, player.said()
    last_ns = START_NS + 29 * PERIOD_NS
    wait_for(lambda: times_of(clock)[-1:] == [last_ns] and stamps_of(images)[-1:] == [last_ns], "what is on its way")
    assert stamps_of(images) == [START_NS + i * PERIOD_NS for i in range(30)]
    pixels = np.random.default_rng(0).integers(0, 255, 48 * 300, dtype=np.uint8)
    assert bytes(images[0].data) == pixels.tobytes()
    assert [note.data for note in notes] == ["a bag"]
    times = times_of(clock)
    assert times == sorted(times) and times[0] >= START_NS
    assert set(times) - set(stamps_of(images)), "time goes on between the images"
    assert "/grip is left out: gripper_msgs/msg/Grip is not installed here" in player.said()


def test_the_player_plays_a_cut_bag_as_far_as_it_goes_and_says_so(start, listen, tmp_path, wait_for):
    bag = write_bag(tmp_path / "bag", plugin=StoragePlugin.MCAP)
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    images = listen(Image, TOPIC)
    player = start("bag_player", bag, "--rate", "5", "--wait-for", TOPIC)
    assert player.wait(120) == 0, player.said()
    assert "is damaged or cut off" in player.said()
    wait_for(lambda: f"played {len(images)} messages" in player.said() or len(images) > 5, "what is on its way")
    assert stamps_of(images) == [START_NS + i * PERIOD_NS for i in range(len(images))] and 5 < len(images) < 25


def test_the_player_waits_until_the_topic_it_is_told_has_a_listener(start, listen, tmp_path, wait_for):
    bag = write_bag(tmp_path / "bag", n=5)
    notes = listen(String, "/note")
    player = start("bag_player", bag, "--wait-for", TOPIC, "--rate", "5")
    wait_for(lambda: "waiting for a subscriber on /camera/image_raw" in player.said(), "the player")
    assert notes == [] and player.poll() is None
    images = listen(Image, TOPIC)
    assert player.wait(120) == 0, player.said()
    wait_for(lambda: len(images) == 5 and len(notes) == 1, "five images and one note")


def test_the_player_waits_for_as_many_listeners_as_it_is_told(start, listen, tmp_path, wait_for):
    bag = write_bag(tmp_path / "bag", n=5)
    clocks = [listen(Clock, "/clock")]
    player = start("bag_player", bag, "--wait-for", "/clock", "--wait-for", "/clock", "--rate", "5")
    wait_for(lambda: "waiting for a subscriber on /clock, /clock" in player.said(), "the player")
    time.sleep(2.0)  # in which one listener would be found
    assert clocks == [[]] and player.poll() is None
    clocks.append(listen(Clock, "/clock"))
    assert player.wait(120) == 0, player.said()
    wait_for(lambda: all(times_of(clock)[-1:] == [START_NS + 4 * PERIOD_NS] for clock in clocks), "the time, twice")


def test_a_recorded_clock_is_played_as_it_was(start, listen, tmp_path, wait_for):
    bag = write_bag(tmp_path / "bag", n=5, clock_offset_ns=-START_NS)
    clock, images = listen(Clock, "/clock"), listen(Image, TOPIC)
    player = start("bag_player", bag, "--rate", "5", "--wait-for", TOPIC, "--wait-for", "/clock")
    assert player.wait(120) == 0, player.said()
    wait_for(lambda: len(images) == len(clock) == 5, "five images and their times")
    assert times_of(clock) == [i * PERIOD_NS for i in range(5)]


def test_a_loop_begins_again_until_it_is_interrupted(start, listen, tmp_path, wait_for):
    bag = write_bag(tmp_path / "bag", n=4)
    images = listen(Image, TOPIC)
    player = start("bag_player", bag, "--rate", "10", "--loop")
    wait_for(lambda: len(images) >= 9, "the third round")
    player.send_signal(signal.SIGINT)
    assert player.wait(120) == 0, player.said()
    assert stamps_of(images)[:9] == [START_NS + i % 4 * PERIOD_NS for i in range(9)]
    assert "Traceback" not in player.said()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["BAG", "--wait-for", "/rear"], "/rear is not in the recording"),
        (["BAG", "--rate", "0"], "--rate must be positive"),
    ],
)
def test_the_player_says_what_it_cannot_do(start, tmp_path, arguments, complaint):
    bag = write_bag(tmp_path / "bag", n=2)
    player = start("bag_player", *[bag if word == "BAG" else word for word in arguments])
    assert player.wait(120) in (1, 2)
    assert complaint in player.said() and "Traceback" not in player.said()
