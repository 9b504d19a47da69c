"""Films recordings for the surprise: nominal ones to calibrate by, and others in which something unforeseen happens.

python -m cosmos_ros.training.labelled_recordings DIRECTORY

writes rosbag2 recordings of arms at work, DIRECTORY/calibration/* and DIRECTORY/test/*, and DIRECTORY/labels.csv, which
says when in the latter something happens. The same numbers of recordings and seed give the same pixels.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from cosmos_ros.child_processes import end_with_parent
from cosmos_ros.files import write_whole
from cosmos_ros.training.scenes.arm_over_table import arm_over_table
from cosmos_ros.training.scenes.incidents import Incident, with_incident
from cosmos_ros.training.scenes.surroundings import Scene
from cosmos_ros.training.scenes.work_cell import work_cell
from cosmos_ros.training.simulation import Film, simulate
from cosmos_ros.training.splits import Split

SCENES = (arm_over_table, work_cell)  # they take turns
CAMERA = "camera0"
HEIGHT, WIDTH = 240, 320
FRAME_RATE = 10.0  # Hz
SECONDS = 7.0
BEGINS_S = (3.0, 5.0)  # of a recording, in which an incident begins
NOISE = 1.5  # standard deviation of the sensor's noise, levels of 255
QUALITY = 92  # JPEG
VISIBLE_LEVELS, VISIBLE_SHARE = 10, 0.002  # an incident is seen once so many pixels differ by more than so many levels
TOPIC = "/camera/image_raw/compressed"
TYPES = get_typestore(Stores.ROS2_JAZZY)


@dataclass(frozen=True)
class Shot:
    """One recording to film. seed, purpose and number decide the scene and everything else that is drawn."""

    path: Path
    seed: int
    purpose: int
    number: int
    incident: Incident | None = None

    def stream(self, *more: int) -> np.random.Generator:
        return np.random.default_rng([Split.LABELLED, self.seed, self.purpose, self.number, *more])


def shots(directory: Path, seed: int, calibration: int, nominal: int, per_incident: int) -> list[Shot]:
    """What there is to film. More of one purpose leave the others as they are."""
    purposes: list[tuple[str, int, Incident | None]] = [
        ("test/nominal", nominal, None),
        *((f"test/{incident.value}", per_incident, incident) for incident in Incident),
        ("calibration/nominal", calibration, None),
    ]
    return [
        Shot(directory / f"{name}_{number:03d}", seed, purpose, number, incident)
        for purpose, (name, n, incident) in enumerate(purposes)
        for number in range(n)
    ]


def record(shot: Shot, seconds: float = SECONDS) -> float | None:
    """Film it and write the bag. Seconds after the first frame at which its incident is first seen; None without one.

    Raises rosbags' WriterError where the directory exists.
    """
    rng = shot.stream(1)
    at_s, begins = rng.uniform(*BEGINS_S), None
    quiet = _film(_scene(shot), seconds)
    if shot.incident is None:
        frames = quiet
    elif shot.incident is Incident.FROZEN_CAMERA:
        frames, begins = quiet, round(at_s * FRAME_RATE)
    else:
        frames = _film(with_incident(_scene(shot), shot.incident, CAMERA, at_s, rng), seconds)
        begins = _first_seen(quiet, frames)
    frames = _noisy(frames, rng)
    if shot.incident is Incident.FROZEN_CAMERA and begins is not None:
        frames[begins:] = frames[begins - 1]
    _write(shot.path, frames)
    return None if begins is None else begins / FRAME_RATE


def labels_csv(rows: list[tuple[str, float, float, str]]) -> str:
    """recording, start, end, label; times in seconds after the recording's first frame."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["recording", "start", "end", "label"])
    writer.writerows(rows)
    return text.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Film labelled recordings for the surprise.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calibration", type=int, default=60, metavar="N", help="nominal recordings to calibrate by")
    parser.add_argument("--nominal", type=int, default=30, metavar="N", help="nominal recordings to test with")
    parser.add_argument("--per-incident", type=int, default=6, metavar="N", help="recordings of each incident")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    args = parser.parse_args(argv)
    todo = shots(args.directory, args.seed, args.calibration, args.nominal, args.per_incident)
    rows = []
    # Spawned, not forked: OpenGL does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, context, initializer=_start) as pool:
        for shot, begins_s in zip(todo, pool.map(record, todo), strict=True):
            if shot.incident is not None and begins_s is not None:
                rows.append((shot.path.name, begins_s, SECONDS, shot.incident.value))
    write_whole(args.directory / "labels.csv", labels_csv(rows))
    return 0


def _start() -> None:
    end_with_parent()
    cv2.setNumThreads(1)


def _scene(shot: Shot) -> Scene:
    return SCENES[shot.number % len(SCENES)](shot.stream())


def _film(scene: Scene, seconds: float) -> np.ndarray:
    """uint8 [n, HEIGHT, WIDTH, 3]."""
    n_frames = round(seconds * FRAME_RATE)
    frames = np.empty((n_frames, HEIGHT, WIDTH, 3), np.uint8)
    for i, frame in enumerate(_pictures(scene, n_frames)):
        frames[i] = frame
    return frames


def _pictures(scene: Scene, n_frames: int) -> Iterator[np.ndarray]:
    recorder = None
    try:
        for model, data in simulate(scene, n_frames, FRAME_RATE):
            recorder = recorder or Film(model, HEIGHT, WIDTH)
            yield recorder.frame(data, CAMERA)
    finally:
        if recorder:
            recorder.__exit__()


def _first_seen(quiet: np.ndarray, frames: np.ndarray) -> int | None:
    """The first frame that differs visibly from the same scene without the incident."""
    for i, (expected, frame) in enumerate(zip(quiet, frames, strict=True)):
        if (cv2.absdiff(expected, frame).max(axis=-1) > VISIBLE_LEVELS).mean() > VISIBLE_SHARE:
            return i
    return None


def _noisy(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noisy = np.empty_like(frames)
    for frame, place in zip(frames, noisy, strict=True):
        place[:] = np.clip(np.rint(frame + NOISE * rng.standard_normal(frame.shape, np.float32)), 0, 255)
    return noisy


def _write(path: Path, frames: np.ndarray) -> None:
    """A rosbag2 recording (MCAP) of sensor_msgs/CompressedImage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, types = "sensor_msgs/msg/CompressedImage", TYPES.types
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, kind, typestore=TYPES)
        for i, frame in enumerate(frames):
            stamp_ns = 1_000_000_000 + round(i * 1_000_000_000 / FRAME_RATE)
            time = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
            header = types["std_msgs/msg/Header"](time, "camera_optical_frame")
            coded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
            message = types[kind](header, "rgb8; jpeg compressed bgr8", coded)
            writer.write(connection, stamp_ns, TYPES.serialize_cdr(message, kind))


if __name__ == "__main__":
    sys.exit(main())
