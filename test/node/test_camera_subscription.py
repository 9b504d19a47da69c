"""What the subscription does about publishers of either QoS, about silence, and about a clock that is set back."""

from __future__ import annotations

import math
import threading
import time
from functools import partial

import pytest
from cosmos_ros.action import Predict
from rclpy.exceptions import InvalidHandle
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from cosmos_ros.node import camera_subscription
from cosmos_ros.node.camera_infos import CameraInfos
from cosmos_ros.node.diagnostics import WARN
from cosmos_ros.node.log import Complaints

BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
PERIOD_NS = 100_000_000


@pytest.fixture
def blind(rig, tiny_checkpoint, wait_for):
    """blind(**parameters) -> (robot, active node), and no camera"""

    def make(**parameters):
        robot, node = rig(None, **{"checkpoint": str(tiny_checkpoint), "image_reliability": "auto"} | parameters)
        wait_for(lambda: node.state == "active", "the active node")
        return robot, node

    return make


def test_it_is_as_reliable_as_the_publishers_that_are_there(blind, wait_for):
    robot, node = blind()
    camera = node._configured.camera
    wait_for(lambda: camera.reliability == "best_effort", "best effort, which hears whoever comes")
    reliable = robot.ros.create_publisher(Image, "image", 10)
    wait_for(lambda: camera.reliability == "reliable", "reliable, like its publisher")
    robot.ros.create_publisher(Image, "image", BEST_EFFORT)
    wait_for(lambda: camera.reliability == "best_effort", "best effort, to hear both")
    for publisher in list(robot.ros.publishers):
        if publisher.topic_name.endswith("/image"):
            photograph(robot, node, publisher, wait_for)
    assert reliable in robot.ros.publishers
    wait_for(lambda: len(node.get_subscriptions_info_by_topic(camera.topic)) == 1, "the outgoing subscription's end")


def test_who_sends_another_type_under_the_same_name_does_not_count(blind, running_robot, wait_for):
    robot, node = blind()
    camera = node._configured.camera
    robot.ros.create_publisher(Image, "image", BEST_EFFORT)
    with running_robot(robot.domain, robot.namespace, CompressedImage):  # reliable
        wait_for(lambda: node.count_publishers(camera.topic) == 2, "both publishers")
        assert camera._fitting_reliability() is ReliabilityPolicy.BEST_EFFORT and not camera._who_else()
        assert "publisher's QoS is best_effort, ours is best_effort" in camera._why_silent()


def test_a_subscription_that_goes_while_it_is_about_to_be_waited_for_is_no_error(blind, wait_for, monkeypatch):
    robot, node = blind()
    event, gone = node._configured.camera._images.event_handlers[0], []
    add_to_wait_set = event.add_to_wait_set

    def add_or_be_gone(wait_set):
        if not gone:
            gone.append(True)
            raise InvalidHandle("cannot use Destroyable because destruction was requested")
        add_to_wait_set(wait_set)

    monkeypatch.setattr(event, "add_to_wait_set", add_or_be_gone)
    wait_for(lambda: gone, "the wait")
    photograph(robot, node, robot.ros.create_publisher(Image, "image", 10), wait_for)  # it goes on
    assert not robot.warnings(node, "a callback failed")


@pytest.mark.parametrize(
    ("parameters", "publisher", "reason"),
    [
        ({}, None, "nobody publishes it"),
        ({}, (CompressedImage, 10), "sends sensor_msgs/msg/CompressedImage, this node expects sensor_msgs/msg/Image"),
        ({"image_transport": "compressed"}, (Image, 10), "set `image_transport`"),
        ({"image_reliability": "reliable"}, (Image, BEST_EFFORT), "publisher's QoS is best_effort, ours is reliable"),
        ({"image_reliability": "best_effort"}, (Image, 10), "it sends nothing"),
    ],
)
def test_silence_is_explained_once(blind, wait_for, monkeypatch, parameters, publisher, reason):
    monkeypatch.setattr(camera_subscription, "SILENCE_S", math.inf)  # until the publisher is known
    robot, node = blind(**parameters)
    topic = node._configured.camera.topic
    if publisher:
        robot.ros.create_publisher(publisher[0], "image", publisher[1])
        wait_for(lambda: node.count_publishers(topic), "the publisher")
    monkeypatch.setattr(camera_subscription, "SILENCE_S", 0.5)
    wait_for(lambda: robot.warnings(node, f"no image on {topic}"), "the warning")
    time.sleep(3 * camera_subscription.WATCH_PERIOD_S)
    (said,) = robot.warnings(node, f"no image on {topic}")
    assert reason in said


def test_a_second_silence_is_told_again(blind, wait_for, monkeypatch):
    monkeypatch.setattr(camera_subscription, "SILENCE_S", math.inf)  # until the first image is there
    robot, node = blind(image_reliability="best_effort")
    said = f"no image on {node._configured.camera.topic}"
    publisher = robot.ros.create_publisher(Image, "image", 10)
    for times in (1, 2):
        photograph(robot, node, publisher, wait_for)
        monkeypatch.setattr(camera_subscription, "SILENCE_S", 0.3)
        wait_for(lambda times=times: len(robot.warnings(node, said)) >= times, f"silence told {times} times")


def test_another_reason_for_the_silence_is_told_in_log_diagnostics_and_goals(blind, wait_for, monkeypatch):
    monkeypatch.setattr(camera_subscription, "SILENCE_S", 0.3)
    robot, node = blind()
    wait_for(lambda: robot.warnings(node, "nobody publishes it"), "the first reason")
    assert "nobody publishes it" in robot.expect(Predict.Result.NO_FRAMES).error_msg
    robot.ros.create_publisher(CompressedImage, "image", 10)
    reason = "its publisher sends sensor_msgs/msg/CompressedImage"
    wait_for(lambda: robot.warnings(node, reason), "the second reason")
    assert reason in robot.expect(Predict.Result.NO_FRAMES).error_msg
    status = diagnosed(node)
    assert status.level == WARN and reason in status.summary


def test_the_continuous_mode_without_a_camera_says_what_is_missing_and_begins_with_the_first_clip(
    blind, wait_for, monkeypatch
):
    monkeypatch.setattr(camera_subscription, "SILENCE_S", 0.3)
    robot, node = blind(continuous_rate=10.0, image_reliability="reliable")
    wait_for(lambda: robot.warnings(node, "nobody publishes it; remap `image` to the camera's topic"), "the warning")
    assert diagnosed(node).level == WARN and "nobody publishes it" in diagnosed(node).summary
    assert not node._continuous.counts, "nothing was due"
    robot.images = robot.ros.create_publisher(Image, "image", 10)
    wait_for(robot.images.get_subscription_count, "the subscription")
    robot.film(node, n=10)
    wait_for(lambda: node._continuous.counts["published"], "a prediction")
    assert not robot.warnings(node, "the continuous prediction failed")


def test_images_that_cannot_be_used_are_counted_with_the_reason(blind, wait_for, monkeypatch):
    robot, node = blind(image_reliability="reliable")
    robot.images = robot.ros.create_publisher(Image, "image", 10)
    camera = node._configured.camera
    wait_for(lambda: node.count_publishers(camera.topic), "the publisher")
    wait_for(robot.images.get_subscription_count, "the subscription")
    for _ in range(3):
        robot.images.publish(robot.image(0))
    robot.images.publish(robot.image(time.time_ns(), encoding="martian"))
    wait_for(lambda: camera.counts.total() == 4, "four images")
    said = robot.expect(Predict.Result.NO_FRAMES).error_msg
    assert "3 unstamped" in said and "martian" in said
    monkeypatch.setattr(camera_subscription, "SILENCE_S", 0.0)
    monkeypatch.setattr(camera, "_last_arrival", math.inf)
    status = diagnosed(node)
    assert status.level == WARN and "none of the images" in status.summary and "martian" in status.summary


def test_two_cameras_on_one_topic_are_named_in_goal_and_diagnostics(blind, wait_for, monkeypatch):
    robot, node = blind(image_reliability="reliable", max_age=30.0)
    monkeypatch.setattr(camera_subscription, "SILENCE_S", math.inf)
    cameras = [robot.ros.create_publisher(Image, "image", 10) for _ in range(2)]
    camera, now = node._configured.camera, time.time_ns()
    wait_for(lambda: node.count_publishers(camera.topic) == 2, "both publishers")
    wait_for(lambda: all(each.get_subscription_count() for each in cameras), "the subscription")
    for n in range(6):
        image = robot.image(now + n * PERIOD_NS)
        image.header.frame_id = f"camera_{n % 2}"
        cameras[0].publish(image)
        wait_for(lambda n=n: camera.counts.total() > n, "the image")
        if n < camera_subscription.OFTEN:
            assert not camera.trouble, "a single change is none"
    why = "the size, encoding or frame_id changed: the buffer starts afresh with this frame; 2 publish it"
    assert why in robot.expect(Predict.Result.UNEVEN_FRAMES).error_msg
    status = diagnosed(node)
    assert status.level == WARN and "again and again" in status.summary and why in status.summary


def test_a_publisher_that_is_discovered_before_its_node_is_not_given_the_middlewares_placeholder():
    known = TopicEndpointInfo(node_name="wrist", node_namespace="/arm")
    early = TopicEndpointInfo(node_name="_NODE_NAME_UNKNOWN_", node_namespace="_NODE_NAMESPACE_UNKNOWN_")
    assert camera_subscription.node_of(known) == "/arm/wrist"
    assert "UNKNOWN" not in camera_subscription.node_of(early)


def test_a_dropped_image_does_not_rename_the_next_rollout(blind, wait_for):
    robot, node = blind(image_reliability="reliable", max_age=30.0)
    robot.images = robot.ros.create_publisher(Image, "image", 10)
    wait_for(robot.images.get_subscription_count, "the subscription")
    robot.film(node)
    stranger = robot.image(0)
    stranger.header.frame_id = "stranger"
    robot.images.publish(stranger)
    wait_for(lambda: node._configured.camera.counts["unstamped"], "the stranger")
    assert robot.predict().rollout.header.frame_id == "camera_optical"


def test_the_outgoing_subscriptions_images_are_no_duplicates(blind, wait_for, monkeypatch):
    robot, node = blind(image_reliability="reliable")
    camera = node._configured.camera
    image = robot.image(time.time_ns())
    camera._on_image(image)
    monkeypatch.setattr(camera, "_settled", math.inf)
    camera._on_image(image)
    assert camera.counts["duplicate"] == 0
    monkeypatch.setattr(camera, "_settled", 0.0)
    camera._on_image(image)
    assert camera.counts["duplicate"] == 1
    assert len(robot.warnings(node, "its stamp is there already")) == 1


def test_a_calibration_goes_with_the_clip_that_it_was_made_for():
    infos = CameraInfos(complaints := Complaints((said := []).append))

    def info(stamp_s: int, focal_length: float, frame_id: str = "camera") -> CameraInfo:
        made = CameraInfo(k=[focal_length, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
        made.header.stamp.sec, made.header.frame_id = stamp_s, frame_id
        return made

    assert infos.at(0, "camera") is None and infos.newest is None
    for stamp_s in range(10, 20):
        infos.add(info(stamp_s, 100.0))
    infos.add(info(20, 200.0))
    assert infos.at(15 * 10**9, "camera").k[0] == infos.at(20 * 10**9 - 1, "camera").k[0] == 100.0
    assert infos.at(20 * 10**9, "camera").k[0] == 200.0
    assert infos.at(0, "camera").k[0] == 100.0, "before the first: the first"
    infos.add(info(30, 300.0, "other"))
    assert infos.at(40 * 10**9, "camera").k[0] == 200.0
    assert infos.at(40 * 10**9, "third") is None and "camera_info of 'other' is not used" in said[0]
    infos.clear()
    assert infos.at(0, "other").k[0] == 300.0 and complaints


def diagnosed(node):
    (status,) = (status for status in node._statuses() if status.subject == "camera")
    return status


@pytest.fixture
def timed(blind):
    """A node that lives on /clock: (robot, node, tick); tick(ns) sets its clock."""
    robot, node = blind(image_reliability="reliable", max_age=1.0)
    robot.images = robot.ros.create_publisher(Image, "image", 10)
    clock = robot.ros.create_publisher(Clock, "/clock", 10)
    node.set_parameters([Parameter("use_sim_time", value=True)])

    return robot, node, partial(robot.set_clock, clock, node)


def test_a_clock_that_is_set_back_empties_the_buffer(timed, wait_for):
    robot, node, tick = timed
    tick(1000 * 10**9)
    robot.film(node, n=1, last_ns=1000 * 10**9)
    tick(1001 * 10**9)
    assert node._configured.buffer.state().frames == 1, "time that goes on changes nothing"
    tick(900 * 10**9)
    wait_for(lambda: node._configured.buffer.state().frames == 0, "the empty buffer")


def test_a_clock_that_is_set_back_amid_an_image_that_jumps_back_too_takes_nothing_away(timed, wait_for, monkeypatch):
    """Both begin anew as a bag loops. The node sees the clock's time before it is told of the jump."""
    robot, node, tick = timed
    tick(1000 * 10**9)
    robot.film(node, n=1, last_ns=1000 * 10**9)
    camera, buffer, told = node._configured.camera, node._configured.buffer, threading.Event()
    add, has_jumped_first = buffer.add, camera._images_jumped_first

    def slowly_add(frame):
        added = add(frame)
        tick(900 * 10**9)
        told.wait(0.1)
        return added

    monkeypatch.setattr(buffer, "add", slowly_add)
    monkeypatch.setattr(camera, "_images_jumped_first", lambda: told.set() or has_jumped_first())
    robot.images.publish(robot.image(900 * 10**9))
    wait_for(told.is_set, "the clock's jump")
    wait_for(lambda: robot.warnings(node, "the clock was set back"), "its end")
    assert buffer.state().newest_ns == 900 * 10**9 and buffer.state().frames == 1


def test_a_clock_that_is_set_back_again_and_again_is_named_where_no_clip_comes(timed, wait_for):
    """As where two publish it."""
    robot, node, tick = timed
    for _ in range(camera_subscription.OFTEN):
        tick(1000 * 10**9)
        robot.film(node, n=1, last_ns=1000 * 10**9)
        tick(900 * 10**9)
    why = f"images on {node._configured.camera.topic} again and again: the clock was set back"
    wait_for(lambda: why in robot.expect(Predict.Result.NO_FRAMES).error_msg, "the reason")
    assert diagnosed(node).level == WARN and why in diagnosed(node).summary


def test_age_is_measured_by_the_robots_clock(timed, wait_for):
    robot, node, tick = timed
    start = 5_000 * 10**9
    tick(start)
    robot.film(node, last_ns=start)
    assert robot.predict().error_code == Predict.Result.NONE
    tick(start + 2 * 10**9)
    assert robot.predict().error_code == Predict.Result.STALE_FRAMES


def photograph(robot, node, publisher, wait_for) -> None:
    """Publish until an image has arrived: a best-effort one may come before its reader knows the publisher."""
    before = node._configured.camera.counts.total()

    def has_come():
        publisher.publish(robot.image(time.time_ns()))
        return node._configured.camera.counts.total() > before

    wait_for(has_come, "an image")
