"""How long one rollout takes from clip to guarded frames, stage by stage, on this machine.

    python bench/rollout_time.py [--sizes 480x640 240x320] [--threads 1 2] [--device cpu] [--dtype float32]
                                 [--checkpoint DIR] [--goals 6] [--out bench/results/rollout_time.json]

The clip is the sample bag's, at the model's rate. The first goal loads the model and is left out; each of the others
has its own seed, as the number of decoding passes depends on it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
from camera_rate import machine

from cosmos_ros.device.host_memory import keep_freed_memory
from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.foresight import Foresight
from cosmos_ros.paths import share_directory
from cosmos_ros.recordings.bag import Bag
from cosmos_ros.rollout import NANOSECONDS, Clip
from cosmos_ros.settings import ForesightConfig

BEGINS_S = 1.0  # of the clip in the bag: the arm moves by then


def clip_of(bag: Bag, foresight: Foresight, height: int, width: int) -> Clip:
    """Consecutive frames of the bag at the model's rate, in this size."""
    frame_rate, n_frames = foresight.spec.frame_rate, max(foresight.spec.conditioning_lengths)
    wanted, frames, stamps = None, [], []
    for frame in bag.frames(bag.image_topic()):
        wanted = wanted or frame.stamp_ns + round(BEGINS_S * NANOSECONDS)
        if frame.stamp_ns >= wanted and len(frames) < n_frames:
            frames.append(cv2.resize(frame.load(), (width, height), interpolation=cv2.INTER_AREA))
            stamps.append(frame.stamp_ns)
            wanted += round(NANOSECONDS / frame_rate)
    return Clip(np.stack(frames), tuple(stamps), frame_rate)


def measure(foresight: Foresight, clip: Clip, goals: int) -> dict:
    """Seconds of wall clock and of all cores in the median of the goals, and their stages."""
    wall, cpu, stages = [], [], []
    for seed in range(goals + 1):
        began, computed = time.perf_counter(), time.process_time()
        rollout = foresight.predict(clip, seed=seed)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - computed)
        stages.append({each.stage.name.lower(): each.seconds for each in rollout.timing})
    wall, cpu, stages = wall[1:], cpu[1:], stages[1:]
    return {
        "frames": len(rollout.frames),
        "seconds": round(statistics.median(wall), 3),
        "seconds_least_and_most": [round(min(wall), 3), round(max(wall), 3)],
        "cpu_seconds": round(statistics.median(cpu), 3),
        "stages": {name: round(statistics.median(each[name] for each in stages), 3) for name in stages[0]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["480x640", "240x320"], help="of the camera, height x width")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of the CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--goals", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    bag, results = Bag(share_directory() / "data" / "sample_bag"), []
    for size, threads in itertools.product(options.sizes, options.threads):
        set_cpu_threads(threads)
        foresight = Foresight(
            ForesightConfig(device=options.device, dtype=options.dtype, checkpoint=options.checkpoint)
        )
        height, width = map(int, size.split("x"))
        results.append(
            {"size": size, "threads": threads}
            | measure(foresight, clip_of(bag, foresight, height, width), options.goals)
        )
        print(json.dumps(results[-1]), flush=True)
    names = ("device", "dtype", "checkpoint", "goals")
    result = machine() | {name: getattr(options, name) for name in names} | {"rollouts": results}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
