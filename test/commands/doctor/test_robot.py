"""What the doctor says of the middleware and of a camera. That the camera is seen as it is: test/node."""

from __future__ import annotations

import pytest

from cosmos_ros.commands.doctor import robot
from cosmos_ros.node.camera_probe import CameraReport
from cosmos_ros.settings import ClipConfig, NodeConfig

pytestmark = pytest.mark.processes

CAMERA = {
    "publishers": ("/camera",),
    "transport": "raw",
    "types": ("sensor_msgs/msg/Image",),
    "arrived": 90,
    "rate": 30.0,
    "images": "640x480 rgb8",
    "theirs": "reliable",
    "ours": "best effort",
    "compatible": True,
}


@pytest.mark.parametrize(("domain", "said"), [("forty", "not an integral number"), ("9999", "too high")])
def test_a_domain_that_cannot_be_is_told_with_what_the_middleware_says_of_it(domain, said, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    (found,) = robot.findings("", robot.Wanted(), ClipConfig(), NodeConfig())
    assert found.mark == "FAIL" and said in found.text and "ROS's environment" in found.remedy


@pytest.mark.parametrize("topic", ["camera/", "/camera//image", "{camera}", "my camera"])
def test_a_name_that_no_topic_can_have_is_a_fault_and_not_the_end(topic):
    found = list(robot.findings(topic, robot.Wanted(10.0), ClipConfig(), NodeConfig()))
    assert [finding.mark for finding in found] == ["ok", "FAIL"]
    assert str(found[1]).startswith(f"FAIL  camera      '{topic}' can be no topic: ")
    assert "\n" not in str(found[1]) and found[1].remedy


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ({}, ["ok", "ok"], "640x480 rgb8, 30.00 images/s; the model's rate is 10 Hz"),
        ({"rate": 9.98}, ["ok", "ok"], "9.98 images/s; the model's rate is 10 Hz"),
        ({"rate": 9.49}, ["ok", "FAIL"], "9.49 images/s; the model's rate is 10 Hz -> raise the camera's rate"),
        ({"publishers": ()}, ["FAIL"], "nobody publishes /camera"),
        ({"transport": "", "types": ("std_msgs/msg/String",)}, ["FAIL"], "carries std_msgs/msg/String"),
        (
            {"theirs": "best effort", "ours": "reliable", "compatible": False, "images": "", "arrived": 0},
            ["FAIL", "FAIL"],
            "publisher's QoS best effort, ours reliable -> set image_reliability: auto",
        ),
        ({"images": "", "trouble": "data is shorter than step*height"}, ["ok", "FAIL"], "data is shorter"),
        (
            {"trouble": "frame 3 is missing"},
            ["ok", "FAIL"],
            "no clip: frame 3 is missing -> see that images come",
        ),
        ({"lost": 3}, ["ok", "note", "ok"], "3 of 93 images got lost on the way -> publish reliably, or give both"),
        ({"lost": 180}, ["ok", "FAIL", "ok"], "180 of 270 images got lost on the way"),
        ({"transport": "compressed"}, ["ok", "note", "ok"], "set image_transport: compressed"),
        ({"publishers": ("/left", "/right")}, ["note", "ok", "ok"], "2 publish /camera: /left, /right -> give each"),
    ],
)
def test_a_camera_is_judged_by_what_was_seen_of_it(change, expected, words):
    found = list(robot.camera("/camera", CameraReport(**CAMERA | change), model_rate=10.0))
    assert [finding.mark for finding in found] == expected
    assert any(words in str(finding) for finding in found)
    assert all(finding.remedy for finding in found if finding.mark == "FAIL")


def test_a_transport_that_is_set_already_needs_no_word():
    found = list(robot.camera("/camera", CameraReport(**CAMERA | {"transport": "compressed"}), 10.0, "compressed"))
    assert [finding.mark for finding in found] == ["ok", "ok"]
