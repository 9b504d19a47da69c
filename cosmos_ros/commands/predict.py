"""`cosmos_ros predict IN... --out DIR`: the same Foresight on files, without ROS."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from cosmos_ros.commands.arguments import add_model_arguments, foresight_config
from cosmos_ros.errors import ForesightError, GuardrailUnavailable, ModelUnavailable
from cosmos_ros.files import write_whole
from cosmos_ros.foresight import Foresight
from cosmos_ros.recordings.bag import BadRecording
from cosmos_ros.recordings.inputs import BadInput, Job, free_name, jobs, read_clip
from cosmos_ros.recordings.rollout_writer import write_contact_sheet, write_mp4
from cosmos_ros.rollout import Clip, GuardedRollout, Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IN",
        help='videos, images, rosbag2 recordings, or .jsonl files of {"visual_input": FILE, "prompt": "..."} lines',
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="NAME.mp4, .png and .json per input")
    parser.add_argument("--prompt", default="", help="for models that take text")
    parser.add_argument("--image-topic", default="", help="of recordings; default: their only image topic")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="over how many the model is cut")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    try:
        foresight = Foresight(replace(foresight_config(args), gpus=args.gpus))
        foresight.load()
    except (ForesightError, ValueError) as error:
        return _complain(str(error))
    todo = list(jobs(args.inputs, args.prompt))
    taken: set[str] = set()
    status = 0
    with tqdm(total=len(todo), unit="input", bar_format="{l_bar}{bar}| {n:.2f}/{total} [{elapsed}<{remaining}]") as bar:
        for done, job in enumerate(todo):
            try:
                name = _predict(job, args, foresight, taken, lambda progress, done=done: _show(bar, done, progress))
                tqdm.write(f"{job.origin} -> {args.out / name}.mp4")
            except (ModelUnavailable, GuardrailUnavailable) as error:
                return _complain(str(error))  # the next input would fare no better
            except (BadInput, BadRecording, ForesightError, OSError) as error:
                status = _complain(f"{getattr(job, 'origin', '')}: {error}".removeprefix(": "))
            bar.update(done + 1 - bar.n)
    return status


def _predict(job: Job | BadInput, args: argparse.Namespace, foresight: Foresight, taken: set[str], on_progress) -> str:
    """Predict from one input and write what came; the name of the outputs."""
    if isinstance(job, BadInput):
        raise job
    rate = args.frame_rate or foresight.spec.frame_rate
    clip = read_clip(job.path, rate, max(foresight.spec.conditioning_lengths), args.image_topic)
    rollout = foresight.predict(
        clip,
        job.prompt,
        seed=args.seed,
        temperature=args.temperature,
        top_p=args.top_p,
        on_progress=on_progress,
    )
    name = free_name(job.path, args.out, taken)
    write_mp4(args.out / f"{name}.mp4", clip, rollout)
    write_contact_sheet(args.out / f"{name}.png", clip, rollout)
    write_whole(args.out / f"{name}.json", json.dumps(_facts(job, clip, rollout), indent=1))
    return name


def _facts(job: Job, clip: Clip, rollout: GuardedRollout) -> dict:
    """What the rollout is, for whoever finds the video later."""
    return {
        "input": str(job.path),
        "prompt": rollout.prompt,
        "model": rollout.model,
        "seed": rollout.seed,
        "frame_rate": rollout.frame_rate,
        "camera_size": list(clip.frames.shape[1:3]),
        "crop": asdict(rollout.crop),
        "conditioning_stamps_ns": list(rollout.conditioning_stamps_ns),
        "stamps_ns": list(rollout.stamps_ns),
        "guardrail": asdict(rollout.guardrail),
        "seconds": {time.stage.name.lower(): round(time.seconds, 3) for time in rollout.timing},
    }


def _show(bar: tqdm, done: int, progress: Progress) -> None:
    bar.update(done + progress.fraction - bar.n)


def _complain(message: str) -> int:
    tqdm.write(f"cosmos_ros predict: {message}", file=sys.stderr)
    return 1
