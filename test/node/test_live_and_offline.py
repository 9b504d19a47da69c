"""The evaluation on a recording sees and predicts exactly what the live node did: same clips, same rollouts."""

from __future__ import annotations

import json
import random
import time

import numpy as np
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from cosmos_ros import images
from cosmos_ros.commands import cli
from cosmos_ros.foresight import Foresight
from cosmos_ros.metrics import fidelity
from cosmos_ros.recordings.bag import Bag
from cosmos_ros.recordings.windows import Plan, Window, WindowMaker

SEED = 41
TOPIC = "/camera/image_raw"


def jittered_stamps(n: int, rate: float = 30.0) -> list[int]:
    """A camera's: not quite even, a frame lost now and then, the last of them now."""
    draw = random.Random(7)
    times = [i / rate + draw.uniform(-0.008, 0.008) for i in range(n) if draw.random() > 0.05]
    now_ns = time.time_ns()
    return [now_ns - round((times[-1] - t) * 1e9) for t in times]


def record(path, stamped_messages) -> None:
    types = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, "sensor_msgs/msg/Image", typestore=types)
        for stamp, message in stamped_messages:
            writer.write(connection, stamp, serialize_message(message))


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
