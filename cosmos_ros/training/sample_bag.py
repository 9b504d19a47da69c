"""Writes the sample bag: one simulated episode that training never saw, as a robot's camera would have recorded it.

python -m cosmos_ros.training.sample_bag data/sample_bag
"""

from __future__ import annotations

import math
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from cosmos_ros.training.scenes.work_cell import work_cell
from cosmos_ros.training.simulation import Film, simulate
from cosmos_ros.training.splits import Split, episode_stream

EPISODE = 5  # of the sample split: the arm lays a block down, picks up another one and stacks it on the first
CAMERA = "camera1"
HEIGHT, WIDTH = 480, 640
FRAME_RATE = 30.0  # Hz
PHYSICS_STEP_S = 1 / 240
SKIPPED = 198  # frames, 6.6 s: until the arm lays the first block down
N_FRAMES = 243  # 8.1 s, the last of them with the second block in its place
JPEG_QUALITY = 80
FRAME_ID = "camera_optical_frame"  # REP 103: z forward, x right, y down
IMAGE_TOPIC = "camera/image_raw/compressed"  # as image_transport names it

TYPESTORE = get_typestore(Stores.ROS2_JAZZY)
MESSAGE = TYPESTORE.types  # message class by name


def write_sample_bag(directory: Path, n_frames: int = N_FRAMES) -> None:
    """Simulates the sample episode and writes it as a rosbag2 (MCAP): compressed image, camera_info and clock.

    Stamps are simulation time, exact to the nanosecond. Raises rosbags' WriterError where the directory exists.
    """
    scene = work_cell(episode_stream(Split.SAMPLE, EPISODE))
    writer = Writer(directory, version=9, storage_plugin=StoragePlugin.MCAP)
    recorder = None
    with writer:
        topics = {
            name: writer.add_connection(f"/{name}", kind, typestore=TYPESTORE)
            for name, kind in {
                "clock": "rosgraph_msgs/msg/Clock",
                IMAGE_TOPIC: "sensor_msgs/msg/CompressedImage",
                "camera/camera_info": "sensor_msgs/msg/CameraInfo",
            }.items()
        }

        def write(topic: str, message: object, stamp_ns: int) -> None:
            connection = topics[topic]
            writer.write(connection, stamp_ns, TYPESTORE.serialize_cdr(message, connection.msgtype))

        worlds = simulate(scene, SKIPPED + n_frames, FRAME_RATE, PHYSICS_STEP_S)
        for model, data in islice(worlds, SKIPPED, None):
            recorder = recorder or Film(model, HEIGHT, WIDTH)
            stamp_ns = round(data.time * 1e9)
            time = MESSAGE["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
            header = MESSAGE["std_msgs/msg/Header"](time, FRAME_ID)
            write("clock", MESSAGE["rosgraph_msgs/msg/Clock"](time), stamp_ns)
            write(IMAGE_TOPIC, compressed_image(header, recorder.frame(data, CAMERA)), stamp_ns)
            fovy_deg = float(model.camera(CAMERA).fovy[0])
            write("camera/camera_info", camera_info(header, fovy_deg), stamp_ns)


def compressed_image(header: Any, frame: np.ndarray) -> Any:
    """sensor_msgs/CompressedImage, a JPEG as image_transport's compressed plugin writes it."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1]
    return MESSAGE["sensor_msgs/msg/CompressedImage"](header, "rgb8; jpeg compressed bgr8", data)


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
