"""The probe behind `cosmos_ros doctor`, listening to real cameras over DDS."""

import contextlib
import threading

import domain_coordinator
import pytest
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from cosmos_ros.commands.doctor import robot
from cosmos_ros.commands.ros_processes import free_domain

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
def camera(message, reliability=RELIABLE):
    """Publishes the message on /camera until the end, from a context of its own."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("camera", context=context)
    publisher = node.create_publisher(type(message), "/camera", QoSProfile(depth=5, reliability=reliability))
    over = threading.Event()

    def publish() -> None:
        while not over.wait(PERIOD_S):
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
    monkeypatch.setattr(robot, "DISCOVERY_S", 60.0)  # at most, where something is to be found
    with domain_coordinator.domain_id(free_domain) as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        yield


@pytest.fixture
def found(monkeypatch, wait_for):
    """found(reliability="auto") -> what is seen of a camera that sends nothing we hear, once it is found"""
    monkeypatch.setattr(robot, "DISCOVERY_S", 1.0)

    def look(reliability="auto"):
        return wait_for(
            lambda: (seen := robot.camera("/camera", reliability=reliability)).publishers and seen, "the camera"
        )

    return look


@pytest.mark.parametrize("reliability", [RELIABLE, BEST_EFFORT])
def test_a_camera_that_sends_is_seen_with_its_rate_and_qos(reliability):
    with camera(image(), reliability):
        seen = robot.camera("/camera", seconds=2.0)
    assert (seen.publishers, seen.transport, seen.usable, seen.compatible) == (1, "raw", True, True)
    assert seen.images == "4x3 rgb8"
    assert 1 < seen.rate < 4 / PERIOD_S, "images that had to wait may come all at once"
    assert seen.theirs == seen.ours == {RELIABLE: "reliable", BEST_EFFORT: "best effort"}[reliability]


def test_a_best_effort_camera_does_not_reach_a_reliable_subscription(found):
    with camera(image(), BEST_EFFORT):
        seen = found(reliability="reliable")
    assert not seen.compatible and seen.images == "" and seen.rate == 0
    assert (seen.theirs, seen.ours) == ("best effort", "reliable")


def test_compressed_images_are_told_from_raw_ones():
    with camera(jpeg()):
        seen = robot.camera("/camera", seconds=0.1)
    assert seen.transport == "compressed" and seen.usable and seen.images.startswith("16x8 ")


def test_images_that_cannot_be_used_say_why():
    with camera(image(step=100)):
        seen = robot.camera("/camera", seconds=0.1)
    assert not seen.usable and "data" in seen.images


def test_a_topic_of_another_kind_and_a_topic_that_is_not_there(found):
    with camera(String(data="no image")):
        seen = found()
        assert seen.types == ("std_msgs/msg/String",) and seen.transport == ""
        assert robot.camera("/nothing").publishers == 0


def test_image_topics_are_listed(wait_for):
    with camera(image()):
        wait_for(lambda: robot.image_topics(seconds=1.0) == ["/camera"], "the topic in the list")
