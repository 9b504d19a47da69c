"""What a driver sees over a slow link: the delayed camera image and ~/image_now, against what is there at that moment.

    python bench/latency_compensation.py [--links 0.2 0.5] [--rate 5] [--latencies 0.1 0.25 0.5 1.0] [--bag BAG]
                                         [--checkpoint DIR] [--device cpu] [--out FILE.json]

The bag is gone through by its stamps. A prediction is made of every clip that `continuous_rate` makes due, and counts
as released `latency` seconds after its clip's last frame. How long that takes depends on the machine: several values
are tried, with the very same predictions. At every camera frame, which is the true present at the link's far end, two
pictures are held against it: the newest that the camera had taken a link's delay before, and the frame that the node's
own rule (planning/frame_for_now.py) chose at that moment for the end of the delay. Where no prediction covers it there
is none; that share is reported, and both pictures are measured where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from cosmos_ros import Foresight
from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.errors import UnevenFrames
from cosmos_ros.evaluation.results import hardware, versions
from cosmos_ros.frame_buffer import FrameBuffer, StampedFrame
from cosmos_ros.metrics import fidelity
from cosmos_ros.paths import share_directory
from cosmos_ros.planning.frame_for_now import FrameForNow, NothingToShow, Shown
from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.rollout import NANOSECONDS, GuardedRollout


def predictions(
    foresight: Foresight, frames: list[StampedFrame], rate: float, horizon_s: float, seed: int
) -> list[GuardedRollout]:
    """Of every clip that is due, as the continuous mode picks them; as many frames as the horizon needs."""
    spec = foresight.spec
    buffer = FrameBuffer(spec.frame_rate, 0.0, 3600.0, conditioning_lengths=spec.conditioning_lengths)
    for frame in frames:
        buffer.add(frame)
    made, due_ns = [], frames[0].stamp_ns
    for frame in frames:
        if frame.stamp_ns < due_ns:
            continue
        due_ns += round(NANOSECONDS / rate)
        try:
            clip = buffer.clip(max(spec.conditioning_lengths), until_ns=frame.stamp_ns)
        except UnevenFrames:  # the recording's first frames
            continue
        made.append(foresight.predict(clip, seed=seed, frames=math.ceil(horizon_s * spec.frame_rate)))
        print(f"predicted from {clip.stamps_ns[-1]} ns", flush=True)
    return made


def shown_at(
    rollouts: list[GuardedRollout], times_ns: list[int], link_s: float, latency_s: float
) -> list[Shown | None]:
    """What ~/image_now showed `link_s` before each of these rising times."""
    frames, waiting, shown = FrameForNow(), list(rollouts), []
    for time_ns in times_ns:
        now_ns = time_ns - round(link_s * NANOSECONDS)
        while waiting and waiting[0].conditioning_stamps_ns[-1] + round(latency_s * NANOSECONDS) <= now_ns:
            frames.add(waiting.pop(0), frames.epoch(now_ns), now_ns)
        try:
            shown.append(frames.at(now_ns, link_s))
        except NothingToShow:
            shown.append(None)
    return shown


def measured(pictures: np.ndarray, truth: np.ndarray, moved: np.ndarray) -> dict[str, float]:
    """Means over pictures uint8 [n, H, W, 3]; `moved` [n, H, W]: what differs from the delayed camera image."""
    errors = np.abs(pictures.astype(np.int16) - truth).mean(axis=-1)
    moving = [psnr for psnr in fidelity.moving_psnr(pictures, truth, moved) if psnr is not None]
    return {
        "psnr_db": round(float(np.mean(fidelity.psnr(pictures, truth))), 3),
        "mae_levels": round(float(errors.mean()), 3),
        "moving_psnr_db": round(float(np.mean(moving)), 3),
        "moving_mae_levels": round(float(errors[moved].mean()), 3),
        "ssim": round(float(np.mean(fidelity.ssim(pictures, truth))), 4),
    }


def compare(
    rollouts: list[GuardedRollout], frames: list[StampedFrame], link_s: float, latency_s: float
) -> dict[str, object]:
    """Both pictures against the truth, at every camera frame from the first that any prediction could have shown."""
    first_ns = rollouts[0].conditioning_stamps_ns[-1] + round((latency_s + link_s) * NANOSECONDS)
    present = [frame for frame in frames if frame.stamp_ns >= first_ns]
    shown = shown_at(rollouts, [frame.stamp_ns for frame in present], link_s, latency_s)
    covered = [(frame, one) for frame, one in zip(present, shown, strict=True) if one is not None]
    crop = rollouts[0].crop
    sent_ns = [frame.stamp_ns - round(link_s * NANOSECONDS) for frame, _ in covered]
    late = [max((f for f in frames if f.stamp_ns <= sent), key=lambda f: f.stamp_ns) for sent in sent_ns]
    truth = np.stack([crop.of(frame.load()) for frame, _ in covered])
    delayed = np.stack([crop.of(frame.load()) for frame in late])
    compensated = np.stack([one.rollout.frames[one.index] for _, one in covered])
    moved = np.stack([fidelity.moving(a, b[None])[0] for a, b in zip(delayed, truth, strict=True)])
    ahead = [one.stamp_ns - one.rollout.conditioning_stamps_ns[-1] for _, one in covered]
    return {
        "link_s": link_s,
        "latency_s": latency_s,
        "moments": len(present),
        "covered": round(len(covered) / len(present), 4),
        "mean_horizon_s": round(float(np.mean(ahead)) / NANOSECONDS, 3),
        "moving_share": round(float(moved.mean()), 4),
        "delayed_camera": measured(delayed, truth, moved),
        "image_now": measured(compensated, truth, moved),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bag", type=Path, default=share_directory() / "data" / "sample_bag")
    parser.add_argument("--image-topic", default="")
    parser.add_argument("--links", type=float, nargs="+", default=[0.2], metavar="S", help="delays of links, one way")
    parser.add_argument("--rate", type=float, default=5.0, metavar="HZ", help="continuous_rate")
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0], metavar="S")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cpu-threads", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    set_cpu_threads(args.cpu_threads)
    foresight = Foresight.from_config({"checkpoint": args.checkpoint, "device": args.device})
    recording = open_recording(args.bag)
    frames = list(recording.frames(recording.image_topic(args.image_topic)))
    horizon_s = max(args.links) + max(args.latencies) + 1 / args.rate + 1 / foresight.spec.frame_rate
    rollouts = predictions(foresight, frames, args.rate, horizon_s, args.seed)
    results = {
        "bag": args.bag.name,
        "model": foresight.spec.name,
        "continuous_rate_hz": args.rate,
        "seed": args.seed,
        "predictions": len(rollouts),
        "hardware": hardware(),
        "versions": versions(),
        "comparisons": [compare(rollouts, frames, link, latency) for link in args.links for latency in args.latencies],
    }
    text = json.dumps(results, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
