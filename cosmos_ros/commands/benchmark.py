"""`cosmos_ros benchmark`: the Cosmos paper's benchmarks, for any checkpoint that the node can run."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import sys
from datetime import datetime, timezone
from pathlib import Path

from cosmos_ros.benchmarks.catalogue import BENCHMARKS, benchmark
from cosmos_ros.benchmarks.evaluator import BenchmarkSettings, ClipEvaluator
from cosmos_ros.benchmarks.results import RESULT_FILES, SCHEMA, BenchmarkResults, summed_up
from cosmos_ros.benchmarks.sam2 import WEIGHTS, Sam2
from cosmos_ros.benchmarks.simulated_set import Filming, SimulatedSet
from cosmos_ros.benchmarks.sources import Recorded, Simulated
from cosmos_ros.commands.flags import add_prediction_flags, add_workers, config_of, require
from cosmos_ros.errors import ForesightError, SettingError
from cosmos_ros.evaluation.cluster import connected
from cosmos_ros.evaluation.measure import Outcome
from cosmos_ros.evaluation.recorded import Choice, RecordedWindows
from cosmos_ros.evaluation.results import describe_model
from cosmos_ros.evaluation.running import Spread, measure_all
from cosmos_ros.evaluation.store import OtherEvaluation, Store
from cosmos_ros.files import check_folder
from cosmos_ros.foresight import Foresight
from cosmos_ros.metrics.perceptual import LPIPS_FILE, BadWeights, Perceptual
from cosmos_ros.progress_bar import ProgressBar
from cosmos_ros.recordings.windows import Plan
from cosmos_ros.settings import ClipConfig, ForesightConfig, SamplingConfig, settings_of
from cosmos_ros.training.opengl import load_mujoco
from cosmos_ros.world_model.checkpoints.weight_files import fingerprint
from cosmos_ros.world_model.refiner import MOST_TIMES_THE_MODEL
from cosmos_ros.world_model.refiner import PROGRAM as REFINER_PROGRAM

MOST_CLIPS = 10_000  # simulated: they would take days to predict and gigabytes of the cache; the paper has 800 at most
INSTALL = "python -m pip install -r requirements/benchmark.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = "(default: %(default)s)"
    names = "; ".join(f"{name}: {line}" for name, (_, line) in BENCHMARKS.items())
    parser.add_argument("name", choices=BENCHMARKS, help=names)
    parser.add_argument(
        "bags", nargs="*", metavar="BAG", help="recordings to take instead of simulated clips, for 3d and failures"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the report and its numbers (default: benchmark_ and the benchmark's name)"
    )
    parser.add_argument("--clips", type=int, metavar="N", help="simulated clips; default: as the benchmark has them")
    parser.add_argument("--seed", type=int, default=0, help=f"of every rollout {default}")
    parser.add_argument("--prompt", default="", help="text prompt, for models that take one")
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted benchmark in --out")
    add_workers(parser, "clips")
    parser.add_argument("--lpips-weights", default="", metavar="FILE", help=f"adds LPIPS; {LPIPS_FILE}")
    parser.add_argument(
        "--sam2",
        default="",
        metavar="DIR",
        help="physics: track the objects by SAM 2, from a local folder of its weights such as "
        "facebook/sam2.1-hiera-tiny (requirements/sam2.txt); default: find them by colour",
    )
    group = parser.add_argument_group("recordings")
    group.add_argument("--image-topic", default="", help="image topic of the bags; default: the only one of each")
    group.add_argument(
        "--every", type=float, default=5.0, metavar="S", help=f"seconds from one window to the next {default}"
    )
    group.add_argument(
        "--min-motion",
        type=float,
        default=0.02,
        metavar="SHARE",
        help=f"leave out windows in which a smaller share of the pixels changes {default}",
    )
    add_prediction_flags(parser)


def run(args: argparse.Namespace) -> int:
    args.out = args.out or Path(f"benchmark_{args.name}")
    try:
        _check(args)
        check_folder(args.out)
        with connected(args.ray):
            return BenchmarkRun(args).run()
    except (ForesightError, BadWeights, OtherEvaluation, OSError) as error:
        return _failed(str(error))


class BenchmarkRun:
    """One run. Raises ForesightError, BadWeights, OtherEvaluation, OSError.

    Where nothing can be run, that is before anything is written.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._benchmark = args, benchmark(args.name)
        model, self._picked = config_of(args, ForesightConfig), config_of(args, ClipConfig)
        sampling = config_of(args, SamplingConfig).chosen()
        self._settings = BenchmarkSettings(
            model,
            seed=args.seed,
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            prompt=args.prompt,
            lpips_weights=args.lpips_weights,
            metrics=self._benchmark.metrics,
            benchmark=args.name,
            sam2=args.sam2,
        )
        Perceptual(args.lpips_weights, "", "cpu")  # a wrong file is told before anything runs
        if args.sam2:
            Sam2(Path(args.sam2), "cpu")
        foresight = Foresight(model)
        drawn = self._settings.sampling(foresight.spec)
        self._spec, self._described = foresight.spec, describe_model(foresight)
        self._frame_rate = self._picked.frame_rate or self._spec.frame_rate
        lengths = dict(zip(("video", "image"), self._spec.conditioning_lengths, strict=True))
        self._lengths = [lengths[kind] for kind in self._benchmark.conditioning]
        self._bags: list[dict] = []
        self._skipped: list[dict] = []
        self._source: Recorded | Simulated = (
            self._recorded() if args.bags else self._simulated(camera_size(foresight, self._benchmark.least_width))
        )
        # The first is fetched before anything is written: where none can be had, nothing is left behind.
        tasks = self._source.tasks()
        self._tasks = itertools.chain([next(tasks)], tasks)
        settings = {
            "schema": SCHEMA,
            "benchmark": args.name,
            "model": self._described,
            "frame_rate": self._frame_rate,
            "conditioning": self._lengths,
            "samples": 1,
            "seed": args.seed,
            "prompt": args.prompt,
            "lpips_weights": fingerprint(Path(args.lpips_weights)) if args.lpips_weights else "",
            "sam2": fingerprint(Path(args.sam2) / WEIGHTS) if args.sam2 else "",
            **self._source.describe(),
            "temperature": drawn.temperature,
            "top_p": drawn.top_p,
            **{each.name: getattr(model, each.name) for each in settings_of(ForesightConfig) if each.decides},
        }
        self._store = Store(args.out, settings, args.resume, RESULT_FILES, summed_up)
        self._results = BenchmarkResults(
            args.out,
            self._benchmark,
            settings,
            datetime.now(timezone.utc),
            self._bags,
            self._skipped,
            self._source.of_these,
        )

    def _simulated(self, size: tuple[int, int]) -> Simulated:
        filming = Filming(self._spec.new_frames(0), self._frame_rate, size)
        n = self._args.clips or self._benchmark.n_clips
        return Simulated(SimulatedSet(self._args.name, self._benchmark.stages(), n, filming), self._lengths)

    def _recorded(self) -> Recorded:
        args, longest = self._args, max(self._spec.conditioning_lengths)
        plan = Plan(
            frame_rate=self._frame_rate,
            n_conditioning=longest,
            n_future=self._spec.new_frames(longest),
            every_s=args.every,
            max_age_s=self._picked.max_age,
        )
        choice = Choice(args.image_topic, self._picked.max_pixels, args.min_motion, self._spec.frame_size)
        windows = RecordedWindows(args.bags, plan, (), choice, self._bags, self._skipped)
        return Recorded(windows, args.bags, plan, choice, self._lengths)

    def run(self) -> int:
        """Measure, then write the report: of what is there, where the run is interrupted or fails."""
        done = self._source.of_these(self._store.keys())
        spread = Spread(self._args.workers, self._args.ray is not None, self._described["bytes"])
        with ProgressBar(unit=" rollouts", desc=self._args.name, initial=len(done), total=self._source.expected) as bar:

            def keep(outcome: Outcome) -> None:
                self._store.keep(outcome)
                self._results.seconds[outcome.key] = outcome.seconds
                bar.total = self._source.expected
                bar.update()

            new = (task for task in self._tasks if task.window.key not in done)
            status, trouble = measure_all(new, ClipEvaluator, self._settings, spread, keep)
        summary = self._results.write(self._store, trouble)
        for line in (*self._results.verdict(summary), self._source.said, str(self._args.out / "report.html")):
            print(line)
        if trouble:
            _failed(trouble)
        elif refused := sum(part["evaluation"]["refused"] for part in summary.values()):
            measured = sum(part["evaluation"]["windows"] for part in summary.values())
            status = int(not measured)
            print(f"{refused} of {refused + measured} rollouts were refused; the report lists why", file=sys.stderr)
        return status


def camera_size(foresight: Foresight, least_width: int) -> tuple[int, int]:
    """(height, width) of what is filmed: the model's frames, or with a refiner, which gives frames at the camera's
    resolution, the whole multiple of them that is wide enough."""
    height, width = foresight.spec.frame_size
    times = 1
    if (foresight.spec.directory / REFINER_PROGRAM).is_file():
        times = min(MOST_TIMES_THE_MODEL, max(1, math.ceil(least_width / width)))
    return times * height, times * width


def _check(args: argparse.Namespace) -> None:
    """Raises SettingError."""
    require(args, steps=("every",), not_negative=("workers", "seed"))
    if args.clips is not None and not 1 <= args.clips <= MOST_CLIPS:
        raise SettingError(f"--clips must be from 1 to {MOST_CLIPS}; got {args.clips}")
    if args.clips is not None and args.bags:
        raise SettingError("--clips counts simulated clips; of recordings --every says how many windows are taken")
    if not 0 <= args.min_motion <= 1:
        raise SettingError(f"--min-motion is a share, from 0 to 1; got {args.min_motion}")
    declared = benchmark(args.name)
    if args.bags and not declared.takes_recordings:
        others = " and ".join(name for name in BENCHMARKS if benchmark(name).takes_recordings)
        raise SettingError(
            f"{args.name} needs to know what truly moved, and takes no recordings; {others} do, and cosmos_ros evaluate"
        )
    if args.sam2 and not declared.tracks_objects:
        raise SettingError(f"--sam2 tracks objects for the physics benchmark; {args.name} looks at none")
    if args.sam2:
        _require_package("transformers", "SAM 2", args.name, "python -m pip install -r requirements/sam2.txt")
    if not args.bags:
        _require_package("mujoco", "simulated scenes", args.name)
        load_mujoco()
    for package, purpose in declared.needs.items():
        _require_package(package, purpose, args.name)


def _require_package(package: str, purpose: str, name: str, install: str = INSTALL) -> None:
    if importlib.util.find_spec(package) is None:
        raise SettingError(f"{name} needs {package} ({purpose}), which is not installed: {install}")


def _failed(message: str) -> int:
    print(f"cosmos_ros benchmark: {message}", file=sys.stderr)
    return 1
