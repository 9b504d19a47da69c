"""The evaluation on a recording sees and predicts exactly what the live node did: same clips, same rollouts."""

from __future__ import annotations

import copy
import json
import random
import time
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from cosmos_ros.msg import Rollout, Surprise
from lifecycle_msgs.msg import Transition
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from cosmos_ros import images
from cosmos_ros.commands import cli
from cosmos_ros.evaluation.surprise import RecordingWatcher, Task, WatchSettings
from cosmos_ros.foresight import Foresight
from cosmos_ros.metrics import fidelity
from cosmos_ros.node.diagnostics import ERROR, OK, surprise_status
from cosmos_ros.planning.calibration import Calibration, Nominal, Scale, Validity, Way
from cosmos_ros.recordings.bag import Bag
from cosmos_ros.recordings.windows import Plan, Window, WindowMaker
from cosmos_ros.settings import ForesightConfig
from cosmos_ros.world_model.preprocessing import camera_view

SEED = 41
TOPIC = "/camera/image_raw"


def jittered_stamps(n: int, rate: float = 30.0, last_ns: int | None = None) -> list[int]:
    """A camera's: not quite even, a frame lost now and then, the last of them now."""
    draw = random.Random(7)
    times = [i / rate + draw.uniform(-0.008, 0.008) for i in range(n) if draw.random() > 0.05]
    last_ns = last_ns or time.time_ns()
    return [last_ns - round((times[-1] - t) * 1e9) for t in times]


def record(path, stamped_messages) -> None:
    """stamped_messages: pairs of when a message came, and it"""
    types = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, "sensor_msgs/msg/Image", typestore=types)
        for stamp, message in stamped_messages:
            writer.write(connection, stamp, serialize_message(message))


def picture(i: int, stamp: int, template: Image) -> Image:
    """Noise, another one each time, that fades."""
    pixels = np.random.default_rng(i).integers(0, 255 - i, (48, 100, 3), dtype=np.uint8)
    message = copy.deepcopy(template)
    message.data = pixels.tobytes()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    message.header.frame_id = "camera_optical"
    return message


def calibrated_by(comparisons: list[dict], checkpoint: Path, path: Path) -> Nominal:
    """A calibration by which half of these are surprising."""
    foresight = Foresight.from_config({"checkpoint": str(checkpoint), "device": "cpu"})
    middle = float(np.median([each["model"]["whole"] for each in comparisons]))
    scales = {"whole": Scale(tuple(range(1, 25)), (0.0,) * 24, (1.0,) * 24)}
    nominal = Nominal(scales, ((middle - 1, 0.0), (middle + 1, 0.9)), (middle,) * 50)
    validity = Validity("tiny", foresight.fingerprint, foresight.spec.frame_size, 10.0)
    Calibration(validity, Way.of(foresight.spec, 9, None, None), nominal, nominal, 1, 100, {}).save(path)
    return nominal


def test_the_same_bag_seed_and_stamps_give_the_same_surprise(
    rig, ready, wait_for, listening, tmp_path, tiny_checkpoint
):
    template = Image(height=48, width=100, encoding="rgb8", step=300)
    recorded = [(stamp, picture(i, stamp, template)) for i, stamp in enumerate(jittered_stamps(160))]
    record(tmp_path / "bag", recorded)
    settings = WatchSettings(
        ForesightConfig(checkpoint=str(tiny_checkpoint), device="cpu", dtype="float32"),
        seed=SEED,
        frame_rate=10.0,
        every_s=1.0,
    )
    offline = RecordingWatcher(settings)(Task(0, str(tmp_path / "bag"))).record["comparisons"]
    nominal = calibrated_by(offline, tiny_checkpoint, tmp_path / "calibration.json")
    robot, node = rig(
        checkpoint=str(tiny_checkpoint),
        device="cpu",
        dtype="float32",
        max_age=0.0,
        continuous_rate=1.0,
        continuous_seed=SEED,
        surprise_calibration=str(tmp_path / "calibration.json"),
    )
    ready(node, robot)
    heard, maps, rollouts = [], [], []
    with (
        listening(robot, node, Surprise, f"{node.get_fully_qualified_name()}/surprise", heard.append, 200),
        listening(robot, node, Image, f"{node.get_fully_qualified_name()}/surprise/map", maps.append, 200),
        listening(robot, node, Rollout, f"{node.get_fully_qualified_name()}/rollout", rollouts.append),
    ):
        for stamp, message in recorded:
            robot.images.publish(message)
            wait_for(lambda stamp=stamp: node._configured.buffer.state().newest_ns == stamp, "a frame in the buffer")
            wait_for(lambda: node._queue.idle, "the prediction")
        wait_for(lambda: len(heard) >= len(offline) and len(maps) >= len(offline), "every comparison")
    watch = node._configured.surprise
    status = surprise_status(watch)
    assert watch.alarm.standing and status.level == ERROR
    assert status.values["last alarm ended at"] == "not yet" and status.values["frames compared"] == len(offline)
    assert robot.change_state(Transition.TRANSITION_DEACTIVATE) and not watch.alarm.standing
    assert surprise_status(watch).level == OK
    assert len(heard) == len(offline) > 30
    for live, each in zip(heard, offline, strict=True):
        assert (live.step, stamps_of([live.header.stamp, live.predicted_from]), live.seed) == (
            each["step"],
            [each["stamp_ns"], each["from_ns"]],
            SEED,
        )
        for name in ("psnr", "ssim", "floor_psnr", "floor_ssim"):
            assert getattr(live, name) == pytest.approx(each[name], abs=1e-4)
        value = nominal.on_scale(each["step"], each["model"])
        assert live.calibrated and live.score == np.float32(nominal.score(value))
        assert live.surprising == (value > nominal.limit(0.02))
        assert live.nats_per_token == pytest.approx(each["nats_per_token"] or np.nan, abs=1e-4, nan_ok=True)
    assert {live.surprising for live in heard} == {True, False}
    assert any(each["nats_per_token"] for each in offline)
    # The map is the error against the published, guarded frame, at its pixels.
    live, drawn = heard[3], maps[3]
    rollout = next(each for each in rollouts if each.header.stamp == live.predicted_from)
    predicted = images.to_rgb(rollout.frames[live.step - 1])
    camera = images.to_rgb(next(message for _, message in recorded if message.header.stamp == live.header.stamp))
    seen = camera_view(camera.shape[:2], (32, 64)).of(camera)
    expected = np.sqrt(np.square(predicted.astype(np.float32) - seen).mean(axis=-1))
    assert drawn.encoding == "32FC1" and drawn.header == live.header
    assert np.frombuffer(bytes(drawn.data), np.float32).reshape(expected.shape) == pytest.approx(expected, abs=1e-3)


def in_another_order(film: list[tuple[int, Image]]) -> list[tuple[int, Image]]:
    """(clock, image) as they come: now and then the next frame first, each time by less than a period of the model.

    Frames that make a prediction due stay where they are: it would have another clip.
    """
    order = [*range(len(film))]
    for i in (5, 17, 29):
        assert film[i + 1][0] - film[i][0] < 100_000_000
        order[i : i + 2] = i + 1, i
    newest = accumulate((film[i][0] for i in order), max)
    return [(stamp, film[i][1]) for stamp, i in zip(newest, order, strict=True)]


def test_on_a_simulated_clock_a_recording_that_loops_gives_the_surprise_that_it_gives_offline(
    rig, ready, wait_for, listening, tmp_path, tiny_checkpoint
):
    """Whichever jumps back first, the clock or the images, and though some frames come late; the node says so, and goes
    on."""
    start = 1_700_000_000 * 10**9
    template = Image(height=48, width=100, encoding="rgb8", step=300)
    stamps = jittered_stamps(36, rate=15.0, last_ns=start)
    once = [picture(i, stamp, template) for i, stamp in enumerate(stamps)]
    record(tmp_path / "bag", [(start + i, message) for i, message in enumerate(3 * once)])
    played = in_another_order([*zip(stamps, once, strict=True)])
    every_s = 0.8  # the second prediction of each round needs the round's very first frame
    settings = WatchSettings(
        ForesightConfig(checkpoint=str(tiny_checkpoint), device="cpu", dtype="float32"),
        seed=SEED,
        frame_rate=10.0,
        every_s=every_s,
        likelihood=False,
    )
    offline = RecordingWatcher(settings)(Task(0, str(tmp_path / "bag"))).record["comparisons"]
    robot, node = rig(
        checkpoint=str(tiny_checkpoint),
        device="cpu",
        dtype="float32",
        use_sim_time=True,
        max_age=0.5,
        continuous_rate=1 / every_s,
        continuous_seed=SEED,
        surprise_likelihood=False,
    )
    clock = robot.ros.create_publisher(Clock, "/clock", 10)
    ready(node, robot)
    wait_for(clock.get_subscription_count, "the node's clock")

    def see(message: Image) -> None:
        before = node._configured.camera.counts.total()
        robot.images.publish(message)
        wait_for(lambda: node._configured.camera.counts.total() > before, "the frame")
        wait_for(lambda: node._queue.idle, "the prediction")

    with listening(robot, node, Surprise, f"{node.get_fully_qualified_name()}/surprise", (heard := []).append, 200):
        for images_first in (False, False, True):
            for stamp, message in played:
                acts = [partial(robot.set_clock, clock, node, stamp), partial(see, message)]
                for act in reversed(acts) if images_first else acts:
                    act()
        wait_for(lambda: len(heard) >= len(offline), "every comparison")
    assert len({(each["from_ns"], each["step"]) for each in offline}) == len(offline) / 3 > 8
    for live, each in zip(heard, offline, strict=True):
        assert stamps_of([live.header.stamp, live.predicted_from]) == [each["stamp_ns"], each["from_ns"]]
        for name in ("step", "psnr", "ssim", "floor_psnr", "floor_ssim"):
            assert getattr(live, name) == pytest.approx(each[name], abs=1e-4)
    assert node._configured.camera.counts["late"] == 9
    assert robot.warnings(node, "the clock was set back or exchanged: the frame buffer starts afresh")
    assert node.state == "active"


def test_a_calibration_of_another_model_keeps_the_node_from_being_configured(
    rig, wait_for, tmp_path, tiny_checkpoint, tiny_text_checkpoint
):
    calibrated_by([{"model": {"whole": 0.0}}], tiny_text_checkpoint, tmp_path / "calibration.json")
    _, node = rig(
        None,
        checkpoint=str(tiny_checkpoint),
        device="cpu",
        surprise_calibration=str(tmp_path / "calibration.json"),
    )
    wait_for(lambda: "this calibration was made for the model" in node._trouble, "the reason")
    wait_for(lambda: node.state == "unconfigured", "the end of the transition")
    assert "make one with cosmos_ros calibrate" in node._trouble


def stamps_of(times) -> list[int]:
    return [each.sec * 10**9 + each.nanosec for each in times]


def test_the_same_bag_seed_and_goal_time_give_the_same_clip_and_the_same_rollout(
    rig, ready, wait_for, tmp_path, tiny_checkpoint, capsys
):
    robot, node = rig(checkpoint=str(tiny_checkpoint), device="cpu", dtype="float32", history=20.0)
    ready(node, robot)
    recorded = [(stamp, robot.image(stamp)) for stamp in jittered_stamps(160)]
    record(tmp_path / "bag", recorded)
    for stamp, message in recorded:
        robot.images.publish(message)
        wait_for(lambda stamp=stamp: node._configured.buffer.state().newest_ns == stamp, "a frame in the buffer")

    arguments = [
        "--checkpoint",
        str(tiny_checkpoint),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--seed",
        str(SEED),
        "--workers",
        "1",
    ]
    assert cli.main(["evaluate", str(tmp_path / "bag"), "--out", str(tmp_path / "out"), *arguments]) == 0
    evaluated = json.loads((tmp_path / "out" / "metrics.json").read_text())["windows"]
    assert len(evaluated) == 3

    foresight = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu", "dtype": "float32"})
    maker = WindowMaker("bag", 0, Plan(10.0, 9, 24, every_s=1.0, max_age_s=1.0))
    windows = [each for each in maker.windows(Bag(tmp_path / "bag").frames(TOPIC)) if isinstance(each, Window)]
    for window, offline in zip(windows, evaluated, strict=True):
        result = robot.predict(seed=SEED, until=robot.time(offline["time_ns"]), include_frames=True)
        assert result.error_code == 0, result.error_msg
        assert stamps_of(result.rollout.conditioning_stamps) == offline["conditioning_stamps_ns"]
        live = np.stack([images.to_rgb(frame) for frame in result.rollout.frames])
        rollout = foresight.predict(window.clip, seed=SEED)
        assert np.array_equal(live, rollout.frames)
        # And it was this very rollout that the evaluation measured, in another process.
        psnr = fidelity.psnr(live, rollout.crop.of(window.truth.frames))
        assert [round(value, 5) for value in psnr] == offline["samples"][0]["psnr"]
