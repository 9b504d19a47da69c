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
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from camera_rate import machine

from cosmos_ros.device.host_memory import keep_freed_memory
from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.foresight import Foresight
from cosmos_ros.frame_buffer import FrameBuffer
from cosmos_ros.paths import share_directory
from cosmos_ros.recordings.bag import Bag
from cosmos_ros.rollout import Clip
from cosmos_ros.settings import ForesightConfig

UNTIL_NS = 1_800_000_000  # after the bag's first frame the clip ends: the arm moves by then


def clip_of(bag: Bag, foresight: Foresight, height: int, width: int) -> Clip:
    """A clip of the bag as the node's buffer picks it, in this size."""
    spec, frames = foresight.spec, list(bag.frames(bag.image_topic()))
    until_ns = frames[0].stamp_ns + UNTIL_NS
    buffer = FrameBuffer(spec.frame_rate, 0.0, 3600.0, conditioning_lengths=spec.conditioning_lengths)
    for frame in frames:
        buffer.add(frame)
    clip = buffer.clip(max(spec.conditioning_lengths), until_ns=until_ns)
    resized = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in clip.frames]
    return replace(clip, frames=np.stack(resized))


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
