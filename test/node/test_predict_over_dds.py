"""Good goals over real DDS, and all that they put on the topics."""

from __future__ import annotations

import contextlib
import time

import cv2
import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from cosmos_ros.action import Predict
from cosmos_ros.msg import GuardDecision, Rollout
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from cosmos_ros import images
from cosmos_ros.node.diagnostics import rollout_status
from cosmos_ros.node.messages import nanoseconds_of
from cosmos_ros.progress import Stage
from cosmos_ros.world_model.preprocessing import camera_view

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PERIOD_NS = 100_000_000
CROP = camera_view((48, 100), (32, 64))  # what a model of 64x32 pixels sees of images of 100x48


@pytest.fixture
def ear(robot, listening):
    """ear(type, topic, node): listen on a topic of the node until the test's end; the list of what comes."""
    with contextlib.ExitStack() as cleanup:

        def listen(message_type, topic, node, qos=10):
            heard = []
            cleanup.enter_context(listening(robot, node, message_type, topic, heard.append, qos))
            return heard

        yield listen


def played(heard: list, rollout: Rollout) -> list:
    """What was heard of this rollout: an earlier one may still have been playing."""
    stamps = [nanoseconds_of(frame.header.stamp) for frame in rollout.frames]
    return [message for message in list(heard) if nanoseconds_of(message.header.stamp) in stamps]


def calibrate(robot, node, info: CameraInfo, wait_for) -> None:
    """Publish the calibration until the node, which listens at best effort, has it."""

    def has_come():
        robot.infos.publish(info)
        return node._configured.camera.info == info

    wait_for(has_come, "the camera's calibration")


def frames_of(rollout: Rollout) -> np.ndarray:
    return np.stack([images.to_rgb(frame) for frame in rollout.frames])


def test_a_video_goal_gives_24_guarded_frames_after_the_newest(robot, node):
    stamps = robot.film(node)
    answer = robot.result(robot.send(include_frames=True, seed=7))
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    assert answer.result.error_code == Predict.Result.NONE and answer.result.error_msg == ""
    rollout = answer.result.rollout
    assert [nanoseconds_of(stamp) for stamp in rollout.conditioning_stamps] == stamps
    assert nanoseconds_of(rollout.header.stamp) == stamps[-1]
    future = [stamps[-1] + k * PERIOD_NS for k in range(1, 25)]
    assert [nanoseconds_of(frame.header.stamp) for frame in rollout.frames] == future
    assert {f.header.frame_id for f in rollout.frames} | {rollout.header.frame_id} == {"camera_optical"}
    assert {(f.encoding, f.width, f.height) for f in rollout.frames} == {("rgb8", 96, 48)}
    assert (rollout.model, rollout.seed, rollout.prompt, rollout.frame_rate) == ("tiny", 7, "", 10.0)
    assert [time.stage for time in rollout.timing] == [
        "tokenizing",
        "prompt_guard",
        "text_encoding",
        "generating",
        "decoding",
        "video_guard",
    ]
    assert rollout.guardrail.profile == "embedded"
    assert [d.guard for d in rollout.guardrail.decisions] == ["degenerate_video", "face_blur"]
    assert all(d.verdict in (GuardDecision.PASSED, GuardDecision.MODIFIED) for d in rollout.guardrail.decisions)
    assert all(len(d.weights) == 64 for d in rollout.guardrail.decisions)


def test_an_image_goal_needs_one_frame_and_gives_32(robot, node):
    stamps = robot.film(node, n=1)
    rollout = robot.predict(condition=Predict.Goal.IMAGE, include_frames=True).rollout
    assert len(rollout.frames) == 32
    assert [nanoseconds_of(stamp) for stamp in rollout.conditioning_stamps] == stamps


def test_the_same_seed_and_clip_give_the_same_rollout_and_another_seed_another(robot, node):
    robot.film(node)
    drawn = {"include_frames": True, "temperature": 1.0, "top_p": 1.0}
    first, again, other = (frames_of(robot.predict(seed=seed, **drawn).rollout) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_negative_seed_is_drawn_and_reported(robot, node):
    robot.film(node)
    drawn = robot.predict(seed=-1, include_frames=True, temperature=1.0, top_p=1.0).rollout
    assert drawn.seed >= 0
    again = robot.predict(seed=drawn.seed, include_frames=True, temperature=1.0, top_p=1.0).rollout
    assert np.array_equal(frames_of(drawn), frames_of(again))


def test_a_negative_temperature_is_the_parameter_and_that_negative_is_the_models(robot, node, parameter):
    robot.film(node)
    greedy = [frames_of(robot.predict(include_frames=True, seed=s, temperature=0.0).rollout) for s in (1, 2)]
    assert np.array_equal(*greedy), "greedy ignores the seed"
    with parameter(node, "temperature", 0.0):
        by_parameter = frames_of(robot.predict(include_frames=True, seed=3, temperature=-1.0).rollout)
    assert np.array_equal(by_parameter, greedy[0])
    models = frames_of(robot.predict(include_frames=True, seed=3, temperature=-1.0, top_p=-1.0).rollout)
    asked = frames_of(robot.predict(include_frames=True, seed=3, temperature=1.0, top_p=0.8).rollout)
    assert np.array_equal(models, asked), "the tiny checkpoint recommends 1.0 and 0.8"


def test_until_picks_the_frames_before_it(robot, node):
    stamps = robot.film(node, n=15)
    until = stamps[11] + PERIOD_NS // 3
    rollout = robot.predict(until=robot.time(until)).rollout
    assert [nanoseconds_of(stamp) for stamp in rollout.conditioning_stamps] == stamps[3:12]


def test_feedback_goes_through_the_stages_and_forwards_only(robot, node, wait_for):
    robot.film(node)
    handle = robot.send()
    # Before the result is asked for: from then on the client may drop feedback that it has not read yet.
    wait_for(lambda: robot.feedback and robot.feedback[-1].stage == Stage.VIDEO_GUARD, "feedback of the last stage")
    assert robot.result(handle).status == GoalStatus.STATUS_SUCCEEDED
    stages = [feedback.stage for feedback in robot.feedback]
    progress = [feedback.progress for feedback in robot.feedback]
    assert stages == sorted(stages, key=list(dict.fromkeys(stages)).index)
    assert {Stage.TOKENIZING, Stage.GENERATING, Stage.VIDEO_GUARD} <= set(stages)
    assert progress == sorted(progress) and progress[0] >= 0 and progress[-1] <= 1
    assert robot.feedback[-1].frames_ready == 24


def test_the_result_leaves_the_frames_out_unless_asked(robot, node):
    robot.film(node)
    rollout = robot.predict().rollout
    assert rollout.frames == [] and rollout.model == "tiny" and len(rollout.timing) == 6


def test_who_listens_late_still_gets_the_last_rollout(robot, node, ear, wait_for):
    robot.film(node)
    handle = robot.send(include_frames=True)
    result = robot.result(handle).result
    heard = ear(Rollout, "/foresight/rollout", node, LATCHED)
    late = wait_for(lambda: heard and heard[0], "the latched rollout")
    assert bytes(late.goal_id.uuid) == bytes(handle.goal_id.uuid)
    assert np.array_equal(frames_of(late), frames_of(result.rollout))


def test_lead_says_how_far_the_last_frame_lies_ahead(robot, node):
    stamps = robot.film(node)
    for condition in (Predict.Goal.VIDEO, Predict.Goal.IMAGE):
        rollout = robot.predict(condition=condition, include_frames=True).rollout
        last_s = nanoseconds_of(rollout.frames[-1].header.stamp) / 1e9
        assert last_s - time.time() <= rollout.lead <= last_s - stamps[-1] / 1e9
    history = robot.film(node, last_ns=time.time_ns() - 10 * 10**9)
    assert robot.predict(until=robot.time(history[-1])).rollout.lead < 0


def test_diagnostics_warn_of_a_rollout_that_is_history(robot, node):
    history = robot.film(node, last_ns=time.time_ns() - 10 * 10**9)
    behind = -robot.predict(until=robot.time(history[-1])).rollout.lead
    (status,) = (status for status in node._statuses() if status.subject == "rollout")
    assert status.level == DiagnosticStatus.WARN
    assert f"was history: its last frame lay {behind:.1f} s before the clock" in status.summary
    ahead = rollout_status(1.25)
    assert (ahead.level, ahead.summary) == (DiagnosticStatus.OK, "the last one reached 1.2 s ahead")
    assert rollout_status(None).level == DiagnosticStatus.OK


def test_the_rollout_is_played_with_its_camera_info(robot, node, ear, wait_for):
    info = CameraInfo(height=48, width=100, k=[90.0, 0.0, 50.0, 0.0, 90.0, 24.0, 0.0, 0.0, 1.0])
    calibrate(robot, node, info, wait_for)
    robot.film(node)
    shown = ear(Image, "/foresight/image", node, 50)
    packed = ear(CompressedImage, "/foresight/image/compressed", node, 50)
    infos = ear(CameraInfo, "/foresight/camera_info", node, 50)
    sheets = ear(Image, "/foresight/contact_sheet", node, 50)
    rollout = robot.predict(include_frames=True).rollout
    wait_for(lambda: min(len(played(topic, rollout)) for topic in (shown, packed, infos)) == 24, "24 frames each")
    shown, packed, infos = (played(topic, rollout) for topic in (shown, packed, infos))
    assert shown == rollout.frames
    assert [i.header for i in infos] == [p.header for p in packed] == [f.header for f in rollout.frames]
    roi = infos[0].roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (CROP.x, CROP.y, CROP.width, CROP.height)
    assert CROP.width < 100 and roi.do_rectify
    assert (infos[0].width, infos[0].height, infos[0].k[2]) == (100, 48, 50.0)
    assert packed[0].format == "rgb8; jpeg compressed bgr8"
    assert images.to_rgb(packed[0]).shape == (48, 96, 3)
    sheet = images.to_rgb(wait_for(lambda: sheets and sheets[0], "the contact sheet"))
    assert sheet.shape == (4 * 48, 6 * 96, 3)
    assert np.array_equal(sheet[48:96, 96:192], cv2.resize(frames_of(rollout)[7], (96, 48)))


def test_a_camera_info_of_another_size_is_named_once_and_not_published(robot, node, ear, wait_for):
    calibrate(robot, node, CameraInfo(height=480, width=640), wait_for)
    shown, infos = ear(Image, "/foresight/image", node, 50), ear(CameraInfo, "/foresight/camera_info", node, 50)
    for _ in range(2):
        robot.film(node)
        rollout = robot.predict(include_frames=True).rollout
        wait_for(lambda rollout=rollout: len(played(shown, rollout)) == 24, "24 frames")
        assert played(infos, rollout) == []
    assert len(robot.warnings(node, "camera_info describes images of 640x480, the camera's are 100x48")) == 1


def test_compressed_images_serve_as_well(rig, ready, tiny_checkpoint):
    robot, node = rig(CompressedImage, checkpoint=str(tiny_checkpoint), image_transport="compressed")
    ready(node, robot)
    robot.film(node)
    rollout = robot.predict(include_frames=True).rollout
    assert frames_of(rollout).shape == (24, 48, 96, 3)
