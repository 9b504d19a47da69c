"""`cosmos_ros demo`: the whole road on this machine, with the bag and the model that ship.

Three processes over real DDS: the node, a player that replays the bag at its recorded rate, and a client that asks for
one prediction. What came back is set beside what the bag shows really happened.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosmos_ros.paths import share_directory
from cosmos_ros.rollout import NANOSECONDS
from cosmos_ros.ros_processes import Processes, ProcessFailed

IMAGE_TOPIC, CAMERA_INFO_TOPIC = "/camera/image_raw", "/camera/camera_info"
DEADLINE_S = 180.0      # after which a demo that still has no rollout is given up
HISTORY_S = 60.0        # the node keeps the whole bag: its model may still be loading at the goal's time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo_output"), metavar="DIR",
                        help="where rollout.mp4, contact_sheet.png and rollout.json go (default: demo_output)")
    parser.add_argument("--seed", type=int, default=0, help="same seed: same rollout (default: 0)")


def run(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    try:
        outcome = predict_over_ros(share_directory() / "data" / "sample_bag", args.seed)
        files = write(outcome, args.out)
    except ProcessFailed as failure:
        print(f"{failure.log}cosmos_ros demo: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cosmos_ros demo: {error}", file=sys.stderr)
        return 1
    print(table(outcome))
    print(f"\nwritten after {time.monotonic() - began:.0f} s: {', '.join(map(str, files))}")
    return 0


@dataclass(frozen=True)
class Outcome:
    """A prediction and what really happened. Frames are uint8 [n, H, W, 3] RGB, cropped to what the model saw.

    summary  of the rollout, as predict_client writes it: stamps, stage times, guardrail
    """

    summary: dict
    seen: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray

    def psnr_db(self) -> dict[str, list[float]]:
        """Frame by frame against the truth: the prediction's, and the last seen frame's if it were the prediction."""
        from cosmos_ros.replay.metrics import psnr

        repeated = np.broadcast_to(self.seen[-1], self.truth.shape)
        return {"predicted": psnr(self.predicted, self.truth), "last frame repeated": psnr(repeated, self.truth)}


def predict_over_ros(bag: Path, seed: int) -> Outcome:
    """Run the three processes until the client has its rollout. Raises ProcessFailed."""
    deadline = time.monotonic() + DEADLINE_S
    with tempfile.TemporaryDirectory(prefix="cosmos_ros_") as name, Processes(folder := Path(name)) as processes:
        on_bag_time = ("--ros-args", "-p", "use_sim_time:=true")
        processes.start("foresight_node", *on_bag_time, "-p", f"history:={HISTORY_S}",
                        "-r", f"image:={IMAGE_TOPIC}", "-r", f"camera_info:={CAMERA_INFO_TOPIC}")
        processes.start("bag_player", str(bag), "--wait-for", IMAGE_TOPIC)
        print(f"replaying {bag.name} into the node, in ROS domain {processes.domain}", flush=True)
        film = Film(bag)
        processes.start("predict_client", "--until", str(film.goal_ns), "--seed", str(seed),
                        "--patience", str(DEADLINE_S), "--out", name, *on_bag_time, shows_progress=True)
        processes.wait_for("predict_client", deadline)
        summary = json.loads((folder / "rollout.json").read_text())
        predicted = np.load(folder / "frames.npy")
    return Outcome(summary, film.at(summary["conditioning_stamps_ns"]), predicted, film.at(summary["stamps_ns"]))


class Film:
    """The bag's images, as the model sees them.

    goal_ns  the latest time of a goal whose whole future is in the bag: just before the frame after the goal's last
    """

    def __init__(self, bag: Path) -> None:
        # Loaded here, while the node starts: torch takes its seconds.
        from cosmos_ros.replay.bag import Recording
        from cosmos_ros.world_model import ModelSpec
        from cosmos_ros.world_model.preprocessing import camera_view

        self._frames = list(Recording(bag).frames(IMAGE_TOPIC))
        spec = ModelSpec.of_checkpoint()
        future_s = spec.new_frames(max(spec.conditioning_lengths)) / spec.frame_rate
        latest_ns = self._frames[-1].stamp_ns - round(future_s * NANOSECONDS)
        # Between two frames, so that no rounding decides which is the goal's last: every run sees the same.
        self.goal_ns = next(frame.stamp_ns for frame in self._frames if frame.stamp_ns > latest_ns) - 1
        self._view = camera_view((self._frames[0].height, self._frames[0].width), spec.frame_size)

    def at(self, stamps_ns: Iterable[int]) -> np.ndarray:
        """The images nearest to these times, cropped to what the model sees: uint8 [n, H, W, 3] RGB."""
        nearest = [min(self._frames, key=lambda frame: abs(frame.stamp_ns - stamp)) for stamp in stamps_ns]
        return self._view.of(np.stack([frame.load() for frame in nearest]))


def write(outcome: Outcome, out: Path) -> list[Path]:
    """rollout.mp4, contact_sheet.png and rollout.json. Raises OSError where the disk refuses."""
    from cosmos_ros.replay.files import write_whole
    from cosmos_ros.replay.rollout_writer import encode_contact_sheet, encode_mp4, marked_frames

    summary = outcome.summary
    psnr = {name: [round(value, 3) for value in values] for name, values in outcome.psnr_db().items()}
    frames = marked_frames(outcome.seen, summary["conditioning_stamps_ns"], outcome.predicted, summary["stamps_ns"])
    contents = {
        "rollout.mp4": encode_mp4(frames, summary["frame_rate"]),
        "contact_sheet.png": encode_contact_sheet(frames),
        "rollout.json": json.dumps(summary | {"psnr_db_per_frame": psnr}, indent=2) + "\n",
    }
    for name, content in contents.items():
        write_whole(out / name, content)
    return [out / name for name in contents]


def table(outcome: Outcome) -> str:
    """Stage times, and how near the prediction came."""
    times = outcome.summary["timing_s"]
    n = len(outcome.predicted)
    lines = [
        "",
        f"{'stage':<22}{'seconds':>9}",
        *(f"{stage.replace('_', ' '):<22}{seconds:>9.2f}" for stage, seconds in times.items()),
        f"{'all':<22}{sum(times.values()):>9.2f}",
        "",
        f"{f'{n} frames to come':<22}{'PSNR dB':>9}   (RGB, each frame against the bag's; mean over the frames)",
        *(f"{name:<22}{np.mean(values):>9.2f}" for name, values in outcome.psnr_db().items()),
    ]
    return "\n".join(lines)
