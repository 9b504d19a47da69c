"""Writes the sample bag: one simulated episode that training never saw, as a robot's camera would have recorded it.

python -m cosmos_ros.training.sample_bag data/sample_bag
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from cosmos_ros.training.scenes.arm_over_table import arm_over_table
from cosmos_ros.training.simulation import Film, simulate
from cosmos_ros.training.splits import Split, episode_stream

EPISODE = 141  # of the sample split: in its last 2.4 s the arm sweeps over the table and drags a block along
CAMERA = "camera1"
HEIGHT, WIDTH = 240, 320
FRAME_RATE = 20.0  # Hz
N_FRAMES = 129  # 6.4 s
FRAME_ID = "camera_optical_frame"  # REP 103: z forward, x right, y down

TYPESTORE = get_typestore(Stores.ROS2_JAZZY)
MESSAGE = TYPESTORE.types  # message class by name


def write_sample_bag(directory: Path, n_frames: int = N_FRAMES) -> None:
    """Simulates the sample episode and writes it as a rosbag2 (MCAP): image, camera_info and clock.

    Stamps are simulation time, exact to the nanosecond. Raises rosbags' WriterError where the directory exists.
    """
    scene = arm_over_table(episode_stream(Split.SAMPLE, EPISODE))
    writer = Writer(directory, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    recorder = None
    with writer:
        topics = {
            name: writer.add_connection(f"/{name}", kind, typestore=TYPESTORE)
            for name, kind in {
                "clock": "rosgraph_msgs/msg/Clock",
                "camera/image_raw": "sensor_msgs/msg/Image",
                "camera/camera_info": "sensor_msgs/msg/CameraInfo",
            }.items()
        }

        def write(topic: str, message: object, stamp_ns: int) -> None:
            connection = topics[topic]
            writer.write(connection, stamp_ns, TYPESTORE.serialize_cdr(message, connection.msgtype))

        for model, data in simulate(scene, n_frames, FRAME_RATE):
            recorder = recorder or Film(model, HEIGHT, WIDTH)
            stamp_ns = round(data.time * 1e9)
            time = MESSAGE["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
            header = MESSAGE["std_msgs/msg/Header"](time, FRAME_ID)
            write("clock", MESSAGE["rosgraph_msgs/msg/Clock"](time), stamp_ns)
            write("camera/image_raw", image_message(header, recorder.frame(data, CAMERA)), stamp_ns)
            fovy_deg = float(model.camera(CAMERA).fovy[0])
            write("camera/camera_info", camera_info(header, fovy_deg), stamp_ns)


def image_message(header: Any, frame: np.ndarray) -> Any:
    """sensor_msgs/Image, rgb8."""
    height, width, _channels = frame.shape
    return MESSAGE["sensor_msgs/msg/Image"](header, height, width, "rgb8", 0, 3 * width, frame.reshape(-1))


def camera_info(header: Any, fovy_deg: float) -> Any:
    """The pinhole that MuJoCo renders: square pixels, no distortion, the optical axis through the image's middle."""
    focal = HEIGHT / 2 / math.tan(math.radians(fovy_deg) / 2)
    # Pixel (0, 0) is a pixel's centre, so the middle of the image lies half a pixel before width / 2.
    cx, cy = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    k = np.array([focal, 0, cx, 0, focal, cy, 0, 0, 1], np.float64)
    p = np.array([focal, 0, cx, 0, 0, focal, cy, 0, 0, 0, 1, 0], np.float64)
    roi = MESSAGE["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return MESSAGE["sensor_msgs/msg/CameraInfo"](
        header, HEIGHT, WIDTH, "plumb_bob", np.zeros(5), k, np.eye(3).reshape(-1), p, 0, 0, roi
    )


if __name__ == "__main__":
    write_sample_bag(Path(sys.argv[1]))
