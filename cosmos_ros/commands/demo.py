"""`cosmos_ros demo`: the whole road on this machine, with the bag and the model that ship.

Three processes over real DDS: the node, a player that replays the bag at its recorded rate, and a client that asks for
one prediction. The prediction is then compared with what the bag shows really happened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosmos_ros.commands.recorded_images import CAMERA_INFO_TOPIC, HISTORY_S, IMAGE_TOPIC, RecordedImages
from cosmos_ros.commands.ros_processes import Processes, ProcessFailed
from cosmos_ros.files import check_place, write_together
from cosmos_ros.paths import share_directory
from cosmos_ros.recordings.rollout_writer import PublishedRollout, comparison_of, contact_sheet_of, mp4_of
from cosmos_ros.rollout import Clip
from cosmos_ros.scratch import scratch_folder

OUTPUTS = ("rollout.mp4", "contact_sheet.png", "comparison.webp", "rollout.json")
DEADLINE_S = 180.0  # after which a demo that still has no rollout is given up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo_output"),
        metavar="DIR",
        help="where rollout.mp4, contact_sheet.png, comparison.webp and rollout.json go (default: demo_output)",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="predict without end for 30 s instead of once: live.mp4, and live.mcap for Foxglove",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed: same rollout (default: 0)")


def run(args: argparse.Namespace) -> int:
    began = time.monotonic()
    bag = share_directory() / "data" / "sample_bag"
    try:
        if args.live:
            from cosmos_ros.commands.live_demo import run_live

            run_live(bag, args.out, args.seed)
            return 0
        for name in OUTPUTS:
            check_place(args.out / name)
        comparison = predict_over_ros(bag, args.seed)
        files = write(comparison, args.out)
    except ProcessFailed as failure:
        print(f"{failure.log}cosmos_ros demo: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cosmos_ros demo: {error}", file=sys.stderr)
        return 1
    print(table(comparison))
    print(f"\nwritten after {time.monotonic() - began:.0f} s: {', '.join(map(str, files))}")
    return 0


@dataclass(frozen=True)
class Comparison:
    """What the node published, what it saw, and what the camera saw at the times of the predicted frames."""

    rollout: PublishedRollout
    seen: Clip
    truth: Clip

    def psnr_db(self) -> dict[str, list[float]]:
        """Frame by frame against the truth: the prediction's, and the last seen frame's if it were the prediction."""
        from cosmos_ros.metrics.fidelity import psnr

        crop, predicted = self.rollout.crop, self.rollout.frames
        truth = crop.of(self.truth.frames)
        repeated = np.broadcast_to(crop.of(self.seen.frames)[-1], truth.shape)
        return {"predicted": psnr(predicted, truth), "last frame repeated": psnr(repeated, truth)}


def predict_over_ros(bag: Path, seed: int) -> Comparison:
    """Run the three processes until the client has its rollout. Raises ProcessFailed."""
    deadline = time.monotonic() + DEADLINE_S
    with scratch_folder("demo") as folder, Processes(folder) as processes:
        on_bag_time = ("--ros-args", "-p", "use_sim_time:=true")
        with _interrupts_held_back():
            processes.start(
                "foresight_node",
                *on_bag_time,
                "-p",
                f"history:={HISTORY_S}",
                "-p",
                "image_transport:=compressed",
                "-r",
                f"image:={IMAGE_TOPIC}",
                "-r",
                f"camera_info:={CAMERA_INFO_TOPIC}",
            )
            # The node and the client: one that finds the player only at the recording's end would miss its time.
            processes.start("bag_player", str(bag), "--wait-for", IMAGE_TOPIC, *2 * ("--wait-for", "/clock"))
            print(f"replaying {bag.name} into the node, in ROS domain {processes.domain}", flush=True)
            recorded = RecordedImages(bag)
        processes.start(
            "predict_client",
            "--until",
            str(recorded.goal_ns),
            "--seed",
            str(seed),
            "--patience",
            str(DEADLINE_S),
            "--out",
            str(folder),
            *on_bag_time,
            shows_progress=True,
        )
        processes.wait_for("predict_client", deadline)
        rollout = PublishedRollout(folder, recorded.crop)
    seen = recorded.clip(rollout.conditioning_stamps_ns, rollout.frame_rate)
    truth = recorded.clip(rollout.stamps_ns, rollout.frame_rate)
    return Comparison(rollout, seen, truth)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM act at the block's end: in an import they may be swallowed, or end us and leave the others."""
    heard: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if heard:
        signal.raise_signal(heard[0])


def write(comparison: Comparison, out: Path) -> list[Path]:
    """The files of OUTPUTS. Raises OSError where the disk refuses."""
    psnr = {name: [round(value, 3) for value in values] for name, values in comparison.psnr_db().items()}
    numbers = comparison.rollout.summary | {"psnr_db_per_frame": psnr}
    shown = comparison.seen, comparison.rollout
    contents = (
        mp4_of(*shown),
        contact_sheet_of(*shown),
        comparison_of(*shown, comparison.truth),
        json.dumps(numbers, indent=2) + "\n",
    )
    files = [out / name for name in OUTPUTS]
    write_together(dict(zip(files, contents, strict=True)))
    return files


def table(comparison: Comparison) -> str:
    """Stage times, and how near the prediction came."""
    times = comparison.rollout.summary["timing_s"]
    n = len(comparison.rollout.frames)
    lines = [
        "",
        f"{'stage':<22}{'seconds':>9}",
        *(f"{stage.replace('_', ' '):<22}{seconds:>9.2f}" for stage, seconds in times.items()),
        f"{'all':<22}{sum(times.values()):>9.2f}",
        "",
        f"{f'{n} frames to come':<22}{'PSNR dB':>9}   (RGB, each frame against the bag's; mean over the frames)",
        *(f"{name:<22}{np.mean(values):>9.2f}" for name, values in comparison.psnr_db().items()),
    ]
    return "\n".join(lines)
