"""`cosmos_ros predict IN... --out DIR`: the same Foresight on files, without ROS."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cosmos_ros.commands.flags import add_flags, config_of, require
from cosmos_ros.device.threads import set_cpu_threads
from cosmos_ros.errors import ForesightError, GuardrailUnavailable, ModelUnavailable
from cosmos_ros.files import check_folder, check_place, locked, write_together
from cosmos_ros.foresight import Foresight
from cosmos_ros.progress import Progress
from cosmos_ros.progress_bar import ProgressBar
from cosmos_ros.recordings.inputs import OUTPUTS, Identity, Job, free_name, identities, jobs, read_clip, stale_names
from cosmos_ros.recordings.recording import BadRecording
from cosmos_ros.recordings.rollout_json import RolloutFacts
from cosmos_ros.recordings.rollout_writer import contact_sheet_of, mp4_of
from cosmos_ros.rollout import Clip, GuardedRollout
from cosmos_ros.settings import SETTINGS, ClipConfig, ForesightConfig, NodeConfig, SamplingConfig, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IN",
        help='videos, images, rosbag2 recordings, or .jsonl files of {"visual_input": FILE, "prompt": "..."} lines',
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for NAME.mp4, NAME.png and NAME.json of each input; they replace all that was predicted from it "
        "into that folder before",
    )
    parser.add_argument("--prompt", default="", help="text prompt, for models that take one")
    parser.add_argument("--image-topic", default="", help="image topic of recordings; default: the only one of each")
    parser.add_argument("--seed", type=int, default=0, help="same seed: same rollout (default: 0)")
    parser.add_argument(
        "--samples",
        type=int,
        default=1,
        metavar="N",
        help="futures of each input, with seeds that follow each other; the later ones are written as NAME_2, NAME_3 "
        "and so on (default: 1)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=0,
        metavar="N",
        help="frames to predict, rounded up to whole latent frames; more than the model predicts at once come in "
        "stretches (default: as many as it predicts at once)",
    )
    add_flags(parser, "clips", [SETTINGS["frame_rate"], SETTINGS["max_pixels"]])
    add_flags(parser, "sampling", settings_of(SamplingConfig))
    add_flags(parser, "model", [*settings_of(ForesightConfig), SETTINGS["cpu_threads"]])


def run(args: argparse.Namespace) -> int:
    todo = list(jobs(args.inputs, args.prompt))
    try:
        check_folder(args.out)
        inputs = identities(job.path for job in todo if isinstance(job, Job))
        run = _Run(args, inputs)
        if inputs:  # some are there: a large model takes minutes, which a slip of the pen is not worth
            run.foresight.load()
    except (ForesightError, OSError) as error:
        return _complain(str(error))
    status = 0
    with ProgressBar(
        total=len(todo), unit="input", bar_format="{l_bar}{bar}| {n:.2f}/{total} [{elapsed}<{remaining}]"
    ) as bar:
        for done, job in enumerate(todo):
            try:
                if isinstance(job, BadRecording):
                    raise job
                for name in run.predict(job, partial(_show, bar, done)):
                    ProgressBar.write(f"{job.origin} -> {args.out / name}.mp4")
            except (ModelUnavailable, GuardrailUnavailable) as error:
                return _complain(str(error))  # the next input would fare no better
            except (BadRecording, ForesightError, OSError) as error:
                status = _complain(_of(job, str(error)))
            bar.update(done + 1 - bar.n)
    return status


class _Run:
    """What is the same for all inputs. Raises ForesightError."""

    def __init__(self, args: argparse.Namespace, inputs: set[Identity]) -> None:
        self._inputs = inputs
        self._out, self._image_topic = args.out, args.image_topic
        require(args, not_negative=("frames",))
        self._samples = args.samples
        self._asked = config_of(args, SamplingConfig).chosen() | {"seed": args.seed, "frames": args.frames or None}
        clips = config_of(args, ClipConfig)
        self._max_pixels = clips.max_pixels
        set_cpu_threads(config_of(args, NodeConfig).cpu_threads)
        self.foresight = Foresight(config_of(args, ForesightConfig))
        self._frame_rate = clips.frame_rate or self.foresight.spec.frame_rate
        self._taken: set[str] = set()

    def predict(self, job: Job, on_progress: Callable[[Progress], None]) -> list[str]:
        """Predict from one input and write what came; the name of each sample's outputs."""
        n_conditioning = max(self.foresight.spec.conditioning_lengths)
        clip, losses = read_clip(job.path, self._frame_rate, n_conditioning, self._image_topic, self._max_pixels)
        for loss in losses:
            ProgressBar.write(f"{job.origin}: {loss}", file=sys.stderr)
        self._free_names(job.path)  # what would refuse them is said before the work
        rollouts = self.foresight.predict_samples(
            clip, self._samples, job.prompt, **self._asked, on_progress=on_progress
        )
        contents = [_contents(job, clip, rollout) for rollout in rollouts]
        # The work takes minutes, in which another run may have taken the names that were free.
        with locked(self._out):
            names = self._free_names(job.path)
            self._taken.update(name.lower() for name in names)
            stale = stale_names(job.path, self._out, self._taken, self._inputs)
            written: dict[Path, bytes | str] = {}
            for name, content in zip(names, contents, strict=True):
                written |= zip(self._files(name), content, strict=True)
            write_together(written, obsolete=[file for name in stale for file in self._files(name)])
        if stale:
            ProgressBar.write(f"{job.origin}: removed {', '.join(stale)}, which an earlier run had predicted from it")
        return names

    def _files(self, name: str) -> list[Path]:
        return [self._out / f"{name}{suffix}" for suffix in OUTPUTS]

    def _free_names(self, path: Path) -> list[str]:
        """A name for each sample, all of which can be written as far as is known. Raises OSError."""
        names: list[str] = []
        for _ in range(self._samples):
            taken = self._taken | {name.lower() for name in names}
            names.append(free_name(path, self._out, taken, self._inputs))
            for file in self._files(names[-1]):
                check_place(file)
        return names


def _contents(job: Job, clip: Clip, rollout: GuardedRollout) -> tuple[bytes | str, ...]:
    """Of the files of OUTPUTS."""
    return mp4_of(clip, rollout), contact_sheet_of(clip, rollout), json.dumps(_facts(job, clip, rollout), indent=1)


def _facts(job: Job, clip: Clip, rollout: GuardedRollout) -> dict[str, Any]:
    """What the rollout is, for whoever finds the video later."""
    return {
        "input": str(job.path.absolute()),
        **RolloutFacts.of(rollout).as_json(),
        "camera_size": list(clip.frames.shape[1:3]),
        "crop": asdict(rollout.crop),
    }


def _of(job: Job | BadRecording, message: str) -> str:
    """The message with the input that it is about, where it does not begin with that itself."""
    if isinstance(job, BadRecording) or message.startswith(job.origin):
        return message
    return f"{job.origin}: {message}"


def _show(bar: ProgressBar, done: int, progress: Progress) -> None:
    bar.update(done + progress.fraction - bar.n)


def _complain(message: str) -> int:
    ProgressBar.write(f"cosmos_ros predict: {message}", file=sys.stderr)
    return 1
