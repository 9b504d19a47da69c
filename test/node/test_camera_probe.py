"""The probe behind `cosmos_ros doctor`, listening to real cameras over DDS."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable

import domain_coordinator
import pytest
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from cosmos_ros.commands.ros_processes import free_domain
from cosmos_ros.node import camera_probe
from cosmos_ros.node.messages import time_message

PERIOD_S = 0.05
RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


def image(step: int = 12) -> Image:
    return Image(height=3, width=4, encoding="rgb8", step=step, data=bytes(3 * 12))


def jpeg() -> CompressedImage:
    import numpy as np

    from cosmos_ros.images import compress

    name, data = compress(np.zeros((8, 16, 3), np.uint8))
    return CompressedImage(format=name, data=data)


@contextlib.contextmanager
def camera(message, reliability=RELIABLE, stamp: Callable[[int], int] = lambda now_ns: now_ns, every: int = 1):
    """Publishes the message on /camera until the end, from a context of its own; `sent` counts.

    stamp  of an image, nanoseconds, from the time at which it is sent
    every  of so many images one is sent
    """
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("camera", context=context)
    publisher = node.create_publisher(type(message), "/camera", QoSProfile(depth=5, reliability=reliability))
    over = threading.Event()

    def publish() -> None:
        while not over.wait(every * PERIOD_S):
            if hasattr(message, "header"):
                message.header.stamp = time_message(stamp(node.get_clock().now().nanoseconds))
            publisher.publish(message)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.fixture(autouse=True)
def own_domain(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setattr(camera_probe, "DISCOVERY_S", 60.0)  # at most, where something is to be found
    with domain_coordinator.domain_id(free_domain) as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        yield


@pytest.fixture
def found(monkeypatch, wait_for):
    """found(reliability="auto") -> what is seen of a camera that sends nothing we hear, once it is found"""
    monkeypatch.setattr(camera_probe, "DISCOVERY_S", 1.0)

    def look(reliability="auto"):
        return wait_for(
            lambda: (seen := camera_probe.camera("/camera", reliability=reliability)).publishers and seen, "the camera"
        )

    return look


@pytest.mark.parametrize("reliability", [RELIABLE, BEST_EFFORT])
def test_a_camera_that_sends_is_seen_with_its_rate_and_qos(reliability):
    with camera(image(), reliability):
        seen = camera_probe.camera("/camera", seconds=2.0)
    assert (seen.publishers, seen.transport, seen.compatible) == (("/camera",), "raw", True)
    assert seen.images == "4x3 rgb8" and seen.arrived and not seen.lost
    assert 1 < seen.rate < 4 / PERIOD_S, "images that had to wait may come all at once"
    assert seen.theirs == seen.ours == {RELIABLE: "reliable", BEST_EFFORT: "best effort"}[reliability]


def test_a_best_effort_camera_does_not_reach_a_reliable_subscription(found):
    with camera(image(), BEST_EFFORT):
        seen = found(reliability="reliable")
    assert not seen.compatible and seen.images == "" and seen.rate == 0
    assert (seen.theirs, seen.ours) == ("best effort", "reliable")


def test_two_cameras_on_one_topic_are_both_named_and_both_count(wait_for):
    def look():
        return camera_probe.camera("/camera", reliability="reliable", conditioning_lengths=(1,), seconds=0.1)

    with camera(image(), BEST_EFFORT), camera(image()):
        seen = wait_for(lambda: (seen := look()).publishers == ("/camera", "/camera") and seen, "both cameras")
    assert seen.theirs == "best effort and reliable" and not seen.compatible


def test_compressed_images_are_told_from_raw_ones():
    with camera(jpeg()):
        seen = camera_probe.camera("/camera", seconds=0.1)
    assert seen.transport == "compressed" and seen.images.startswith("16x8 ")


def test_images_that_cannot_be_used_say_why():
    with camera(image(step=100)):
        seen = camera_probe.camera("/camera", seconds=0.1)
    assert seen.arrived and not seen.images and "data" in seen.trouble


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        (lambda now_ns: 0, "nobody stamped it"),
        (lambda now_ns: now_ns - 60 * 10**9, "is 6"),
    ],
    ids=["unstamped", "old"],
)
def test_images_from_which_the_node_would_not_predict_say_why(stamp, words):
    with camera(image(), stamp=stamp):
        seen = camera_probe.camera("/camera", seconds=0.1)
    assert seen.arrived and words in seen.trouble


def test_a_camera_that_is_too_slow_for_a_clip_says_which_frame_is_missing():
    with camera(image(), every=20):
        seen = camera_probe.camera("/camera", frame_rate=10.0, conditioning_lengths=(2,), seconds=2.5)
    assert "conditioning frame" in seen.trouble and "missing" in seen.trouble


LOSSY_CAMERA = """
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node("camera")
qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
publisher = node.create_publisher(Image, "/camera", qos)
image = Image(height=1024, width=1280, encoding="rgb8", step=3 * 1280, data=bytes(3 * 1280 * 1024))
node.create_timer(0.03, lambda: publisher.publish(image))
rclpy.spin(node)
"""


def test_images_that_get_lost_on_the_way_are_counted():
    """Fast DDS's shared memory is smaller than one of these: at best effort many do not reach another process."""
    process = subprocess.Popen([sys.executable, "-c", LOSSY_CAMERA], stderr=subprocess.DEVNULL)
    try:
        seen = camera_probe.camera("/camera", seconds=3.0)
    finally:
        process.kill()
        process.wait()
    assert seen.lost > seen.arrived / 10, seen


def test_a_topic_of_another_kind_and_a_topic_that_is_not_there(found):
    with camera(String(data="no image")):
        seen = found()
        assert seen.types == ("std_msgs/msg/String",) and seen.transport == ""
        assert camera_probe.camera("/nothing").publishers == ()


def test_image_topics_are_listed(wait_for, monkeypatch):
    monkeypatch.setattr(camera_probe, "DISCOVERY_S", 0.5)
    with camera(image()):
        wait_for(lambda: camera_probe.image_topics() == ["/camera"], "the topic in the list")
