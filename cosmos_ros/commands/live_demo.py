"""`cosmos_ros demo --live`: the node predicts without end from the sample bag, and a film shows how that went.

The bag is played slowly, so that it lasts LIVE_S: on a CPU a rollout takes seconds, and what is predicted must come
before the future it shows. The film is in the bag's own time.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from cosmos_ros.commands.recorded_images import CAMERA_INFO_TOPIC, HISTORY_S, IMAGE_TOPIC, RecordedImages
from cosmos_ros.commands.ros_processes import Processes, ProcessFailed
from cosmos_ros.files import check_place, write_whole
from cosmos_ros.recordings.live_film import Compared, write_live_film
from cosmos_ros.recordings.rollout_writer import PublishedRollout
from cosmos_ros.rollout import NANOSECONDS
from cosmos_ros.scratch import scratch_folder

LIVE_S = 30.0
DEADLINE_S = LIVE_S + 180.0  # the node has to start first
OUTPUTS = ("live.mp4", "live.mcap")
LOOP = {"continuous_rate": 10.0, "continuous_samples": 2, "continuous_frames": 16}


def run_live(bag: Path, out: Path, seed: int) -> None:
    """Write OUTPUTS. Raises ProcessFailed, OSError."""
    for name in OUTPUTS:
        check_place(out / name)
    deadline = time.monotonic() + DEADLINE_S
    with scratch_folder("cosmos_ros_") as folder:
        camera = RecordedImages(bag)
        seconds = (camera.frames[-1].stamp_ns - camera.frames[0].stamp_ns) / NANOSECONDS
        with Processes(folder) as processes:
            on_bag_time = ("--ros-args", "-p", "use_sim_time:=true")
            settings = LOOP | {"continuous_seed": seed, "history": HISTORY_S, "image_transport": "compressed"}
            parameters = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
            remaps = ("-r", f"image:={IMAGE_TOPIC}", "-r", f"camera_info:={CAMERA_INFO_TOPIC}")
            processes.start("foresight_node", *on_bag_time, *parameters, *remaps)
            processes.start("live_recorder", str(folder), *on_bag_time)
            # The recorder listens once the node is active, and the player begins once both do.
            listeners = [word for topic in (CAMERA_INFO_TOPIC, "/clock") for word in 2 * ("--wait-for", topic)]
            processes.start("bag_player", str(bag), "--rate", f"{seconds / LIVE_S:.4f}", *listeners)
            print(f"predicting without end for {LIVE_S:.0f} s from {bag.name}, played at {seconds / LIVE_S:.2f} times")
            print(f"its speed, in ROS domain {processes.domain}", flush=True)
            processes.wait_for("bag_player", deadline)
        rollouts = [PublishedRollout(each, camera.crop) for each in sorted((folder / "rollouts").glob("*"))]
        if not rollouts:
            raise ProcessFailed(f"not one rollout came in {LIVE_S:.0f} s: this machine is too slow or too busy for it")
        compared = _surprises(folder / "surprise.jsonl")
        write_live_film(out / OUTPUTS[0], camera.frames, rollouts, compared)
        write_whole(out / OUTPUTS[1], next((folder / "loop").glob("*.mcap")).read_bytes())
    print(summary(rollouts, compared, seconds))
    print(f"written: {', '.join(str(out / name) for name in OUTPUTS)}")


def summary(rollouts: list[PublishedRollout], compared: list[Compared], seconds: float) -> str:
    """What came of the loop, in a few lines."""
    took = np.mean([sum(rollout.summary["timing_s"].values()) for rollout in rollouts])
    lines = [
        f"{len(rollouts)} predictions of {len(rollouts[0].frames)} frames, {took:.1f} s each on this machine, in "
        f"{seconds:.1f} s of the bag's time"
    ]
    if compared:
        ours, floor = (np.mean([getattr(each, name) for each in compared]) for name in ("psnr", "floor_psnr"))
        lines.append(
            f"{len(compared)} camera frames compared with what was predicted: {ours:.2f} dB, the last frame repeated "
            f"{floor:.2f} dB"
        )
    return "\n".join(lines)


def _surprises(file: Path) -> list[Compared]:
    if not file.is_file():
        return []
    return [Compared(**json.loads(line)) for line in file.read_text().splitlines()]
