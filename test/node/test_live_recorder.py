"""The recorder of `cosmos_ros demo --live`, beside a live node: an MCAP that explains itself, and the rollouts."""

from __future__ import annotations

import json
import threading

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rosbags.highlevel import AnyReader

from cosmos_ros.node.live_recorder import TYPES, LiveRecorder
from cosmos_ros.recordings.rollout_writer import PublishedRollout
from cosmos_ros.rollout import Crop


@pytest.fixture
def recorder(domain, node, tmp_path):
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    recorder = LiveRecorder(tmp_path, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(recorder)
    recorder.listen()
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield recorder
    executor.shutdown()
    recorder.destroy_node()
    rclpy.try_shutdown(context=context)
    thread.join()


def test_what_the_node_says_is_recorded_with_its_meaning(robot, node, recorder, wait_for, tmp_path):
    robot.film(node)
    rollout = robot.predict(seed=3, samples=2).rollout
    folder = tmp_path / "rollouts" / "0000"
    wait_for((folder / "rollout.json").is_file, "the rollout's folder")
    published = PublishedRollout(folder, Crop(0, 0, 96, 48))
    assert published.frames.shape == (24, 48, 96, 3) and published.summary["seed"] == 3
    assert published.stamps_ns[0] > published.conditioning_stamps_ns[-1]
    recorder.close()
    assert rollout.sample == 0 and len(list((tmp_path / "rollouts").iterdir())) == 1, "sample 0 alone is kept"
    with AnyReader([tmp_path / "loop"]) as reader:  # no type store: the recording brings its own definitions
        kinds = {connection.topic: connection.msgtype for connection in reader.connections}
        assert kinds.keys() == TYPES.keys()
        assert kinds["/foresight/surprise"] == "cosmos_ros/msg/Surprise"
        definition = next(c.msgdef.data for c in reader.connections if c.topic == "/foresight/surprise")
        assert "float32 floor_psnr" in definition and "builtin_interfaces/Time" in definition
    assert json.loads((folder / "rollout.json").read_text())["frame_rate"] == 10


@pytest.mark.parametrize("held", ["loop", "rollouts", "surprise.jsonl"])
def test_a_folder_that_holds_a_recording_is_refused_and_nothing_in_it_changed(held, tmp_path):
    (tmp_path / held).write_text("from before")
    with pytest.raises(FileExistsError, match=rf"holds a recording already \({held}\): name another folder"):
        LiveRecorder(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [held] and (tmp_path / held).read_text() == "from before"


def test_what_comes_while_the_recording_ends_is_not_recorded_and_ends_nothing(tmp_path):
    """An executor's thread has a message in its hands already when another thread closes the recording."""
    context = Context()
    rclpy.init(context=context)
    recorder = LiveRecorder(tmp_path, context=context)
    recorder.listen()
    (late,) = [each.callback for each in recorder.subscriptions if each.topic_name == "/foresight/camera_info"]
    late(b"\0" * 8)
    recorder.close()
    late(b"\0" * 8)
    with AnyReader([tmp_path / "loop"]) as reader:
        assert [connection.topic for connection, *_ in reader.messages()] == ["/foresight/camera_info"]
    recorder.destroy_node()
    rclpy.try_shutdown(context=context)
