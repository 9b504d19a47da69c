"""`cosmos_ros evaluate BAG...`: how good is this foresight on these recordings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from cosmos_ros.commands.flags import add_flags, add_prediction_flags, add_workers, config_of, require
from cosmos_ros.commands.watching import evaluate_surprise
from cosmos_ros.errors import ForesightError, SettingError
from cosmos_ros.evaluation.cluster import connected
from cosmos_ros.evaluation.measure import Outcome, Settings, WindowEvaluator
from cosmos_ros.evaluation.recorded import Choice, RecordedWindows
from cosmos_ros.evaluation.results import SCHEMA, Results, describe_bag, describe_model, summed_up
from cosmos_ros.evaluation.running import Spread, measure_all
from cosmos_ros.evaluation.store import OtherEvaluation, Store
from cosmos_ros.files import check_folder
from cosmos_ros.foresight import Foresight
from cosmos_ros.metrics.perceptual import FVD_CLIPS, FVD_FILE, LPIPS_FILE, BadWeights, Perceptual
from cosmos_ros.progress_bar import ProgressBar
from cosmos_ros.recordings.windows import Plan
from cosmos_ros.settings import ClipConfig, ForesightConfig, SamplingConfig, SurpriseConfig, settings_of
from cosmos_ros.world_model.checkpoints.weight_files import fingerprint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = "(default: %(default)s)"
    parser.add_argument("bags", nargs="+", metavar="BAG", help="rosbag2 recordings (folders, .mcap, .db3), videos")
    parser.add_argument("--image-topic", default="", help="image topic of the bags; default: the only one of each")
    parser.add_argument(
        "--every", type=float, default=1.0, metavar="S", help=f"seconds from one window to the next {default}"
    )
    parser.add_argument(
        "--min-motion",
        type=float,
        default=0.0,
        metavar="SHARE",
        help=f"leave out windows in which a smaller share of the pixels changes, such as 0.02 {default}",
    )
    parser.add_argument("--samples", type=int, default=1, metavar="N", help=f"rollouts per window {default}")
    parser.add_argument(
        "--frames",
        type=int,
        default=0,
        metavar="N",
        help="predicted frames per rollout, rounded up to whole latent frames; more than the model predicts at once "
        "come in stretches (default: as many as it predicts at once)",
    )
    parser.add_argument("--seed", type=int, default=0, help=f"seed of the first sample {default}")
    parser.add_argument("--prompt", default="", help="text prompt, for models that take one")
    parser.add_argument(
        "--out", type=Path, default=Path("evaluation"), help=f"folder for the report and its numbers {default}"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted evaluation in --out")
    add_workers(parser, "windows")
    group = parser.add_argument_group("surprise instead of fidelity")
    group.add_argument(
        "--labels", metavar="CSV", help="recording,start,end,label: how soon an alarm notices what happens there"
    )
    add_flags(parser, "surprise, with --labels", settings_of(SurpriseConfig))
    group = parser.add_argument_group("metrics that need trained networks, which are not part of this package")
    group.add_argument(
        "--lpips-weights",
        default="",
        metavar="FILE",
        help=f"adds LPIPS; {LPIPS_FILE}",
    )
    group.add_argument(
        "--fvd-weights",
        default="",
        metavar="FILE",
        help=f"adds FVD, which means little below about {FVD_CLIPS:,} windows; {FVD_FILE}: a program, so take it "
        "only from somebody you trust",
    )
    add_prediction_flags(parser)


def run(args: argparse.Namespace) -> int:
    try:
        _check(args)
        check_folder(args.out)
        with connected(args.ray):
            return evaluate_surprise(args) if args.labels else Evaluation(args).run()
    except (ForesightError, BadWeights, OtherEvaluation, OSError) as error:
        return _failed(str(error))


class Evaluation:
    """One run over all bags. Raises ForesightError, BadWeights, OtherEvaluation, OSError."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        model, clips = config_of(args, ForesightConfig), config_of(args, ClipConfig)
        sampling = config_of(args, SamplingConfig).chosen()
        self._settings = Settings(
            model,
            seed=args.seed,
            samples=args.samples,
            frames=args.frames or None,
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            prompt=args.prompt,
            lpips_weights=args.lpips_weights,
            fvd_weights=args.fvd_weights,
        )
        Perceptual(args.lpips_weights, args.fvd_weights, "cpu")  # a wrong file is told before anything runs
        foresight = Foresight(self._settings.foresight)
        spec = foresight.spec
        drawn = self._settings.sampling(spec)
        n_conditioning = max(spec.conditioning_lengths)
        n_frames = sum(foresight.stretch_lengths(n_conditioning, args.frames or None))
        self._plan = Plan(
            frame_rate=clips.frame_rate or spec.frame_rate,
            n_conditioning=n_conditioning,
            n_future=max(n_frames, spec.new_frames(n_conditioning)),  # the round trip takes whole chunks
            every_s=args.every,
            max_age_s=clips.max_age,
        )
        described = describe_model(foresight)
        self._model_bytes = described["bytes"]
        settings = {
            "schema": SCHEMA,
            "model": described,
            "plan": asdict(self._plan),
            "bags": [describe_bag(Path(bag)) for bag in args.bags],
            "image_topic": args.image_topic,
            **{name: getattr(args, name) for name in ("seed", "samples", "frames", "prompt", "min_motion")},
            "temperature": drawn.temperature,
            "top_p": drawn.top_p,
            **{each.name: getattr(model, each.name) for each in settings_of(ForesightConfig) if each.decides},
            **{
                name: fingerprint(Path(getattr(args, name)))
                for name in ("lpips_weights", "fvd_weights")
                if getattr(args, name)
            },
        }
        self._store = Store(args.out, settings, args.resume, summarise=summed_up)
        self._results = Results(args.out, settings, datetime.now(timezone.utc))
        self._done = self._store.keys()
        self._recorded = RecordedWindows(
            args.bags,
            self._plan,
            self._done,
            Choice(args.image_topic, clips.max_pixels, args.min_motion, spec.frame_size),
            self._results.bags,
            self._results.skipped,
        )

    def run(self) -> int:
        """Evaluate, then write the report: of what is there, where the run is interrupted or fails."""
        with ProgressBar(unit=" windows", initial=len(self._done), desc="evaluating") as bar:
            status, trouble = measure_all(
                self._recorded.windows(),
                WindowEvaluator,
                self._settings,
                Spread(self._args.workers, self._args.ray is not None, self._model_bytes),
                self._keep(bar),
            )
        summary = self._results.write(self._store, trouble)
        print("\n".join(summary["verdict"]), f"{self._args.out / 'report.html'}", sep="\n")
        if trouble:
            _failed(trouble)
        elif not summary["windows"]:
            _failed(_all_refused(summary["refused"]) if summary["refused"] else self._recorded.why_none())
        return status or int(not summary["windows"])

    def _keep(self, bar: ProgressBar) -> Callable[[Outcome], None]:
        def keep(outcome: Outcome) -> None:
            self._store.keep(outcome)
            self._results.seconds[outcome.key] = outcome.seconds
            bar.total = self._recorded.expected
            bar.update()

        return keep


def _check(args: argparse.Namespace) -> None:
    """Raises SettingError."""
    require(args, steps=("every",), positive=("samples",), not_negative=("frames", "workers"))
    if not 0 <= args.min_motion <= 1:
        raise SettingError(f"--min-motion is a share, from 0 to 1; got {args.min_motion}")


def _all_refused(n: int) -> str:
    return f"nothing could be measured: the guardrail refused all {n} windows; the report lists why"


def _failed(message: str) -> int:
    print(f"cosmos_ros evaluate: {message}", file=sys.stderr)
    return 1
