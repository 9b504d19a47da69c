"""`cosmos_ros calibrate BAG...`: what surprise is nominal for this model, from recordings in which nothing happens."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cosmos_ros.commands.flags import add_flags, add_prediction_flags, add_workers, config_of
from cosmos_ros.commands.watching import Watching
from cosmos_ros.errors import ForesightError, SettingError
from cosmos_ros.evaluation.cluster import connected
from cosmos_ros.evaluation.measure import Outcome
from cosmos_ros.evaluation.results import versions
from cosmos_ros.evaluation.surprise import FLOOR, MODEL, predictions_of
from cosmos_ros.files import check_place
from cosmos_ros.planning.calibration import Calibration, fit
from cosmos_ros.settings import SurpriseConfig, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = "(default: %(default)s)"
    parser.add_argument(
        "bags", nargs="+", metavar="BAG", help="nominal rosbag2 recordings, videos: rather many than long"
    )
    parser.add_argument("--image-topic", default="", help="image topic of the bags; default: the only one of each")
    parser.add_argument(
        "--every", type=float, default=1.0, metavar="S", help=f"seconds from one prediction to the next {default}"
    )
    parser.add_argument("--frames", type=int, default=0, metavar="N", help="predicted frames; 0: the model's number")
    parser.add_argument("--seed", type=int, default=0, help=f"seed of every prediction {default}")
    parser.add_argument("--prompt", default="", help="text prompt, for models that take one")
    parser.add_argument(
        "--out", type=Path, default=Path("calibration.json"), metavar="FILE", help=f"the calibration {default}"
    )
    add_workers(parser, "recordings")
    likelihood = [
        each for each in settings_of(SurpriseConfig) if each.name in ("surprise_alpha", "surprise_likelihood")
    ]
    add_flags(parser, "surprise", likelihood)
    add_prediction_flags(parser)


def run(args: argparse.Namespace) -> int:
    try:
        check_place(args.out)
        with connected(args.ray):
            return _calibrate(args)
    except (ForesightError, OSError) as error:
        return _failed(str(error))


def _calibrate(args: argparse.Namespace) -> int:
    alpha = config_of(args, SurpriseConfig).surprise_alpha
    watching = Watching(args)
    outcomes: list[Outcome] = []
    status, trouble = watching.run(outcomes.append, set(), "calibrating")
    if trouble:
        return _failed(trouble.removesuffix("; go on with --resume")) and status
    records = [outcome.record for outcome in sorted(outcomes, key=lambda outcome: outcome.key)]
    predictions = {row: [predictions_of(record, row) for record in records] for row in (MODEL, FLOOR)}
    made = sum(map(len, predictions[MODEL]))
    if not made:
        reasons = sorted({f"{count} {what}" for record in records for what, count in record["counts"].items()})
        reasons += [record["error"] for record in records if record["error"]]
        raise SettingError(f"nothing was predicted from these recordings: {', '.join(reasons) or 'they hold no clip'}")
    calibration = Calibration(
        validity=watching.validity,
        way=watching.way,
        model=fit(predictions[MODEL]),
        floor=fit(predictions[FLOOR]),
        recordings=len(records),
        predictions=made,
        made_by={
            "versions": versions(),
            "every_s": args.every,
            "recordings": [record["bag"] for record in records],
        },
    )
    calibration.save(args.out)
    print(f"{args.out}: {made} predictions from {len(records)} recordings")
    try:
        calibration.model.limit(alpha)
    except SettingError as error:
        print(f"cosmos_ros calibrate: {error}", file=sys.stderr)
    return 0


def _failed(message: str) -> int:
    print(f"cosmos_ros calibrate: {message}", file=sys.stderr)
    return 1
