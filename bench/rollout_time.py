"""How long one rollout takes from clip to guarded frames, stage by stage, and the model from configure to active.

    python bench/rollout_time.py [--sizes 480x640 240x320] [--threads 1 2] [--device cpu] [--dtype float32]
                                 [--checkpoint DIR] [--goals 6] [--out bench/results/rollout_time.json]

The clip is the sample bag's, at the model's rate. The first goal is left out; each of the others has its own seed, as
the number of decoding passes depends on it. What configuring and activating take the first time on a machine shows in
the first line where the caches of compiled kernels are empty (TRITON_CACHE_DIR); the lines after it find them filled,
and a second process shows the start that later ones have. Threads 0: as many as the node takes by itself.
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
import torch
from machine import machine

from cosmos_ros.device.host_memory import keep_freed_memory
from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.foresight import Foresight
from cosmos_ros.frame_buffer import FrameBuffer
from cosmos_ros.paths import share_directory
from cosmos_ros.progress import Stage
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


def start(config: ForesightConfig) -> tuple[Foresight, dict]:
    """Configured and activated as the node does it, and the seconds of both."""
    began = time.perf_counter()
    foresight = Foresight(config)
    configured = time.perf_counter()
    foresight.load()
    took = {"configure": configured - began, "activate": time.perf_counter() - configured}
    return foresight, {f"{name}_seconds": round(seconds, 3) for name, seconds in took.items()}


def measure(foresight: Foresight, clip: Clip, goals: int) -> dict:
    """Seconds of wall clock and of all cores in the median of the goals, and their stages."""
    wall, cpu, after, passes, stages = [], [], [], [], []
    for seed in range(goals + 1):
        began, computed = time.perf_counter(), time.process_time()
        rollout = foresight.predict(clip, seed=seed)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - computed)
        passes.append(rollout.decoding.passes)
        stages.append({each.stage.name.lower(): each.seconds for each in rollout.timing})
        named = [each.stage for each in rollout.timing]
        after.append(sum(each.seconds for each in rollout.timing[named.index(Stage.GENERATING) + 1 :]))
    wall, cpu, after, passes, stages = wall[1:], cpu[1:], after[1:], passes[1:], stages[1:]
    return {
        "frames": len(rollout.frames),
        "dtype": rollout.decoding.dtype,
        "window": rollout.decoding.window,
        "passes": statistics.median(passes),
        "seconds": round(statistics.median(wall), 3),
        "seconds_least_and_most": [round(min(wall), 3), round(max(wall), 3)],
        "cpu_seconds": round(statistics.median(cpu), 3),
        "seconds_after_the_last_token": round(statistics.median(after), 3),
        "stages": {name: round(statistics.median(each[name] for each in stages), 3) for name in stages[0]},
        "guards": {each.guard: round(each.seconds, 3) for each in rollout.guardrail.decisions},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["480x640", "240x320"], help="of the camera, height x width")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of the CPU; 0: the node's own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--goals", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    bag, results = Bag(share_directory() / "data" / "sample_bag"), []
    names = ("device", "dtype", "checkpoint", "goals")
    about = machine() | {"torch": torch.__version__} | {name: getattr(options, name) for name in names}
    if torch.cuda.is_available():
        about |= {"gpu": torch.cuda.get_device_name()}
    for size, threads in itertools.product(options.sizes, options.threads):
        set_cpu_threads(threads)
        config = ForesightConfig(device=options.device, dtype=options.dtype, checkpoint=options.checkpoint)
        foresight, started = start(config)
        height, width = map(int, size.split("x"))
        clip = clip_of(bag, foresight, height, width)
        results.append({"size": size, "threads": threads} | started | measure(foresight, clip, options.goals))
        foresight.unload()
        print(json.dumps(results[-1]), flush=True)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(about | {"rollouts": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
