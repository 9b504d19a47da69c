"""Records a running loop, where `ros2 bag` is not: its topics into an MCAP, the frames of its rollouts into folders.

The MCAP holds the definitions of its messages, so that Foxglove opens it without ROS. It begins once the node is
active, and ends with SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from cosmos_ros.files import append
from cosmos_ros.msg import Rollout, Surprise
from cosmos_ros.node.messages import nanoseconds_of
from cosmos_ros.node.predict_client import write
from cosmos_ros.node.stop_signals import on_stop
from cosmos_ros.paths import share_directory

NODE = "/foresight"
TYPES = {
    "/camera/image_raw/compressed": CompressedImage,
    "/camera/camera_info": CameraInfo,
    f"{NODE}/image/compressed": CompressedImage,
    f"{NODE}/camera_info": CameraInfo,
    f"{NODE}/uncertainty": Image,
    f"{NODE}/surprise": Surprise,
    f"{NODE}/surprise/map": Image,
    "/diagnostics": DiagnosticArray,
}
MAPS_HZ = 10.0  # of the robot's time: a map of every camera frame would be most of the recording
QUEUE = 200
BAG, ROLLOUTS, SURPRISES = "loop", "rollouts", "surprise.jsonl"


class LiveRecorder(Node):
    """Writes into `folder`: loop/loop.mcap, rollouts/0000/..., surprise.jsonl.

    Raises FileExistsError where the folder holds a recording already, OSError in `spin`.
    """

    def __init__(self, folder: Path, **kwargs: Any) -> None:
        if held := [name for name in (BAG, ROLLOUTS, SURPRISES) if (folder / name).exists()]:
            raise FileExistsError(f"{folder} holds a recording already ({', '.join(held)}): name another folder")
        super().__init__("live_recorder", **kwargs)
        self._folder, self._n_rollouts, self._last_map_ns = folder, 0, 0
        self._bag = Writer(folder / BAG, version=9, storage_plugin=StoragePlugin.MCAP)
        self._bag.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._recording, self._lock = False, threading.Lock()
        self._state = self.create_client(GetState, f"{NODE}/get_state")

    def wait_until_active(self, stop: threading.Event) -> None:
        """Until the node says that it is, or until `stop` is set."""
        while not stop.is_set():
            if not self._state.wait_for_service(timeout_sec=0.1):
                continue
            answer = self._state.call_async(GetState.Request())
            rclpy.spin_until_future_complete(self, answer, timeout_sec=1.0)
            if answer.done() and answer.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
                return

    def listen(self) -> None:
        """Record from now on."""
        self._bag.open()
        self._recording = True
        store = get_typestore(Stores.ROS2_JAZZY)
        for file in sorted((share_directory() / "msg").glob("*.msg")):
            store.register(get_types_from_msg(file.read_text(), f"cosmos_ros/msg/{file.stem}"))
        for topic, kind in TYPES.items():
            name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
            connection = self._bag.add_connection(topic, name, typestore=store)
            keep = partial(self._keep_map if topic.endswith("/map") else self._keep, connection)
            self.create_subscription(kind, topic, keep, QUEUE, raw=True)
        latched = QoSProfile(depth=QUEUE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Rollout, f"{NODE}/rollout", self._keep_rollout, latched)
        self.create_subscription(Surprise, f"{NODE}/surprise", self._keep_surprise, QUEUE)

    def close(self) -> None:
        """Finish the MCAP. What an executor still hands over then is not recorded any more."""
        with self._lock:
            self._recording = False
            self._bag.close()

    def _keep(self, connection: Connection, message: bytes) -> None:
        with self._lock:
            if self._recording:
                self._bag.write(connection, self.get_clock().now().nanoseconds, message)

    def _keep_map(self, connection: Connection, message: bytes) -> None:
        now_ns = self.get_clock().now().nanoseconds
        if abs(now_ns - self._last_map_ns) >= 1e9 / MAPS_HZ:
            self._last_map_ns = now_ns
            self._keep(connection, message)

    def _keep_rollout(self, rollout: Rollout) -> None:
        if rollout.sample == 0:
            write(rollout, self._folder / ROLLOUTS / f"{self._n_rollouts:04d}")
            self._n_rollouts += 1

    def _keep_surprise(self, message: Surprise) -> None:
        facts = {name: getattr(message, name) for name in ("psnr", "floor_psnr", "score", "surprising")}
        stamped = {"stamp_ns": nanoseconds_of(message.header.stamp)} | facts
        append(self._folder / SURPRISES, json.dumps(stamped) + "\n")


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="live_recorder", description="Record a running foresight loop.")
    parser.add_argument("folder", type=Path, help="a folder for what is recorded; it must not hold a recording yet")
    options = parser.parse_args(remove_ros_args(args if args is not None else sys.argv)[1:])
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    on_stop(lambda *_: stop.set())
    recorder = None
    try:
        recorder = LiveRecorder(options.folder)
        recorder.wait_until_active(stop)
        recorder.listen()
        while not stop.is_set():
            rclpy.spin_once(recorder, timeout_sec=0.1)
        recorder.close()
    except OSError as error:
        print(f"live_recorder: {error}", file=sys.stderr)
        return 1
    finally:
        if recorder is not None:
            recorder.destroy_node()
        rclpy.try_shutdown()
    return 0
