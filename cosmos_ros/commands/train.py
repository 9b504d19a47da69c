"""`cosmos_ros train`: a world model of your own, from recordings of your robot's cameras, from simulated ones, or both.

What comes out is a directory in the published layout, which the node loads as it is. From a model on that was made
elsewhere, one of NVIDIA's above all, the world model and a refiner can be trained (docs/training.md). `cosmos_ros train
all --out DIR --episodes 4 --tokenizer-steps 2 --world-model-steps 2 --refiner-steps 2` runs on any CPU, to see that
everything works.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cosmos_ros.commands.flags import add_flags, config_of, require
from cosmos_ros.device.out_of_memory import out_of_memory_as_error
from cosmos_ros.errors import ForesightError, ModelUnavailable, SettingError
from cosmos_ros.goal_checks import MAX_SEED
from cosmos_ros.recordings.folders import recordings_in
from cosmos_ros.recordings.inputs import Identity, identities
from cosmos_ros.settings import SETTINGS, ForesightConfig
from cosmos_ros.training.checkpoint import Unfinished, alone_in, require_unused
from cosmos_ros.training.datasets.corpus import Corpus, Framing, Storage
from cosmos_ros.training.datasets.loading import WorkerLost
from cosmos_ros.training.datasets.recorded import BadFootage
from cosmos_ros.training.export import check_directory, is_ours
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.loop import TrainingDiverged
from cosmos_ros.training.opengl import load_mujoco
from cosmos_ros.training.own_model import OwnModel, is_sayable
from cosmos_ros.training.published_model import PublishedModel
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.robots.catalogue import ROBOTS
from cosmos_ros.training.robots.models import ALL, INSTALL, RobotModel, robot_models
from cosmos_ros.training.run import Options, Run, Trainee
from cosmos_ros.training.sizes import PublishedSizes, Sizes
from cosmos_ros.world_model import ModelSpec
from cosmos_ros.world_model.checkpoints.transformer_weights import WEIGHTS_FILES, holds_weights
from cosmos_ros.world_model.refiner import PROGRAM as REFINER
from cosmos_ros.world_model.tokenizer.programs import DECODER, ENCODER
from cosmos_ros.world_model.tokenizer.programs import check as check_tokenizer

STAGES = ("tokenizer", "world-model", "refiner")
PUBLISHED_STAGES = STAGES[1:]
# How much is trained: of a model of our own sizes, and from one made elsewhere on. NVIDIA's clips have 12,800 tokens.
AMOUNTS = {
    "world_model_steps": (2800, 1000),
    "refiner_steps": (2200, 1000),
    "world_model_batch": (64, 4),
    "windows": (50000, 1000),
    "rollouts": (8192, 64),
}
SIMULATED_EPISODES = 1000  # where nothing recorded is given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = "(default: %(default)s)"
    parser.add_argument("stage", choices=(*STAGES, "all"), help="a later stage alone goes on from --init")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write the model to")
    parser.add_argument(
        "--bags", type=Path, nargs="+", default=[], metavar="BAG", help="bags, videos, folders of these"
    )
    parser.add_argument(
        "--held-out", type=Path, nargs="+", default=[], metavar="BAG", help="to measure on (default: one bag in eight)"
    )
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="of the bags (default: the only one)")
    parser.add_argument("--init", type=Path, metavar="DIR", help="directory of an exported model to go on from")
    parser.add_argument("--config", type=Path, metavar="YAML", help="sizes, compression and frame rate; see docs")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out that was broken off")
    parser.add_argument("--episodes", type=int, help="simulated, at most (default: none with --bags, else 1000)")
    parser.add_argument(
        "--robots",
        nargs="+",
        default=[],
        choices=(ALL, *sorted(ROBOTS)),
        metavar="NAME",
        help=f"show these robots' own models in half of the simulated episodes: {', '.join((ALL, *sorted(ROBOTS)))}",
    )
    parser.add_argument("--film-minutes", type=float, default=2.0, help=f"train on what is simulated by then {default}")
    parser.add_argument("--prompt", default="", help="what all recordings show, for a model that reads a prompt")
    parser.add_argument("--tokenizer-steps", type=int, default=6300, metavar="N", help=f"0: keep that part {default}")
    parser.add_argument("--tokenizer-batch", type=int, default=32, metavar="N", help=f"clips per step {default}")
    meant = ("0: keep that part", "0: keep that part", "clips per step", "that are tokenized")
    for (name, (own, published)), help_line in zip(AMOUNTS.items(), (*meant, "for the refiner"), strict=True):
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            metavar="N",
            help=f"{help_line} (default: {own}; {published} where --init was made elsewhere, as NVIDIA's models)",
        )
    parser.add_argument("--seed", type=int, default=0, help=f"of everything that is random {default}")
    parser.add_argument("--pictures", type=int, default=4, metavar="N", help=f"how often in a stage {default}")
    parser.add_argument("--tensorboard", action="store_true", help="write for TensorBoard into DIR/tensorboard")
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, (os.cpu_count() or 1) - 2),
        metavar="N",
        help=f"processes that read recordings and film scenes {default}",
    )
    add_flags(parser, "device", [SETTINGS["device"]])


def run(args: argparse.Namespace) -> int:
    """Train as the arguments say. The output directory always holds the newest whole part of each stage."""
    try:
        sizes = PublishedSizes.of(args.config) if check(args) else Sizes.of(args.config)
        check_directory(args.out)
        if args.episodes and importlib.util.find_spec("mujoco") is None:
            return _failed("simulates robot cameras with MuJoCo, and it is missing: pip install mujoco")
        if args.episodes:
            load_mujoco()
        robots = robot_models(args.robots)
        ranks = Ranks.join(config_of(args, ForesightConfig).device)
        try:
            with alone_in(args.out, ranks), out_of_memory_as_error("training"):
                train(args, sizes, ranks, robots)
        finally:
            ranks.leave()
    except (OSError, ForesightError, BadFootage, WorkerLost, TrainingDiverged) as error:
        return _failed(str(error))
    return 0


def train(args: argparse.Namespace, sizes: Sizes | PublishedSizes, ranks: Ranks, robots: Sequence[RobotModel]) -> None:
    unfinished = Unfinished(args.out, deciding(args, sizes, ranks, robots), args.resume, ranks)
    if not unfinished.state:
        require_unused(args.out, args.init)
    journal = Journal(args.out, ranks.is_first, args.tensorboard)
    if args.episodes and not robots and ranks.is_first:
        print(
            f"The simulated robots are made of simple shapes. To see real ones' models too: {INSTALL}, and --robots all"
        )
    options = Options(
        steps={stage: getattr(args, f"{_name(stage)}_steps") for stage in STAGES},
        batches={"tokenizer": args.tokenizer_batch, "world-model": args.world_model_batch},
        windows=args.windows,
        rollouts=args.rollouts,
        init=args.init,
        seed=args.seed,
        pictures=args.pictures,
        prompt=args.prompt,
    )
    model: Trainee
    framing: Framing
    if isinstance(sizes, PublishedSizes):
        model = published = PublishedModel(args.out, args.stage, sizes, options, ranks, unfinished, journal)
        framing, storage = published.spec, published.storage
    else:
        model, framing, storage = OwnModel(args.out, sizes, options, ranks, unfinished, journal), sizes, Storage()
    corpus = Corpus(
        args.bags,
        args.held_out,
        args.image_topic,
        args.episodes,
        args.film_minutes * 60,
        framing,
        ranks,
        args.workers,
        unfinished.state.get("episodes", ()),
        storage,
        robots,
    )
    journal.note("films", **corpus.counts)
    this_run = Run(args.out, model, options, ranks, unfinished, journal)
    this_run.train(STAGES if args.stage == "all" else [args.stage], corpus)
    journal.close()


def deciding(
    args: argparse.Namespace, sizes: Sizes | PublishedSizes, ranks: Ranks, robots: Sequence[RobotModel]
) -> dict[str, Any]:
    """What decides a run's losses."""
    names = ["stage", "image_topic", "episodes", "film_minutes", "windows", "rollouts", "seed", "prompt"]
    names += [f"{_name(stage)}_steps" for stage in STAGES] + ["tokenizer_batch", "world_model_batch"]
    return {
        **{name: getattr(args, name) for name in names},
        "bags": sorted(map(str, args.bags)),
        "held_out": sorted(map(str, args.held_out)),
        "init": str(args.init or ""),
        "config": dataclasses.asdict(sizes),
        "processes": ranks.size,
        "robots": {model.robot.name: model.digest for model in robots},
    }


def is_made_elsewhere(init: Path | None) -> bool:
    """Whether a checkpoint is to be trained as it was published: its tokenizer or its transformer is none of ours.

    Raises SettingError where it holds a transformer that is none of this family, or that is not whole, and where there
    is a tokenizer from elsewhere without one; ModelUnavailable where a tokenizer's program is damaged.
    """
    if init is None:
        return False
    if holds_weights(init):
        try:
            spec = ModelSpec.of_checkpoint(init)
        except ModelUnavailable as error:
            raise SettingError(f"--init: {error}") from error
        return spec.published or not (is_sayable(spec.config) and is_ours(init))
    if (init / ENCODER).is_file() and not is_ours(init):
        raise SettingError(
            f"--init {init} holds a tokenizer that was made elsewhere, which can only be trained with the transformer "
            f"that knows its tokens, and no transformer: expected {' or '.join(WEIGHTS_FILES)} beside it"
        )
    return False


def _each(paths: Sequence[Path]) -> list[Path]:
    """Recordings, in place of the folders that hold them."""
    return [each for path in paths for each in ((path.is_dir() and recordings_in(path)) or [path])]


def _files(recordings: Iterable[Path]) -> set[Identity]:
    """Of recordings: a bag is its folder, and each file in it, which can be named by itself."""
    return identities(file for each in recordings for file in (each, *(each.iterdir() if each.is_dir() else ())))


def _named_again(paths: Sequence[Path]) -> list[str]:
    """Those that were there before, under whatever name: one of the two might be held out, the other not."""
    seen: set[Identity] = set()
    again = []
    for path in paths:
        own = _files([path])
        again += [str(path)] if own & seen else []
        seen |= own
    return again


def _name(stage: str) -> str:
    return stage.replace("-", "_")


def _failed(message: str) -> int:
    print(f"cosmos_ros train: {message}", file=sys.stderr)
    return 1


def check(args: argparse.Namespace) -> bool:
    """Fill in what depends on others; returns whether --init is a model that was made elsewhere.

    Raises SettingError for numbers with which nothing could be trained, ModelUnavailable where --init cannot be used.
    """
    if args.episodes is None:
        args.episodes = 0 if args.bags else SIMULATED_EPISODES
    made_elsewhere = is_made_elsewhere(args.init)
    for name, amounts in AMOUNTS.items():
        if getattr(args, name) is None:
            setattr(args, name, amounts[made_elsewhere])
    positive = ["tokenizer_batch", "world_model_batch", "windows", "workers"]
    not_negative = ["episodes", "film_minutes", "seed", "pictures", *(f"{_name(stage)}_steps" for stage in STAGES)]
    # From a model made elsewhere on, round trips alone can do.
    (not_negative if made_elsewhere else positive).append("rollouts")
    require(args, positive=positive, not_negative=not_negative)
    if args.seed > MAX_SEED:
        raise SettingError(f"--seed must lie in 0..{MAX_SEED}; got {args.seed}")
    if not args.bags and not args.episodes:
        raise SettingError("there is nothing to train on: give --bags, or a positive --episodes")
    if args.robots and not args.episodes:
        raise SettingError("--robots are seen in simulated episodes: give a positive --episodes")
    if args.robots and ALL not in args.robots and all(ROBOTS[name].held_out for name in args.robots):
        raise SettingError(f"--robots {' '.join(args.robots)}: training never sees them, only validation; name another")
    args.bags, args.held_out = _each(args.bags), _each(args.held_out)
    trained = _files(args.bags)
    if twice := [str(bag) for bag in args.held_out if _files([bag]) & trained]:  # under whatever name
        raise SettingError(f"--held-out must not name what is trained on: {', '.join(twice)}")
    if twice := _named_again(args.bags):
        raise SettingError(f"--bags must name each recording once; named again: {', '.join(twice)}")
    if args.stage in ("world-model", "refiner") and args.init is None:
        raise SettingError(f"'train {args.stage}' goes on from a tokenizer; name its model with --init")
    if made_elsewhere:
        if args.stage not in PUBLISHED_STAGES:
            raise SettingError(
                f"--init {args.init} was not made by cosmos_ros train, and its tokenizer is a finished program that "
                "cannot be trained: its transformer knows no other tokens. Give the stage "
                f"{' or '.join(PUBLISHED_STAGES)}"
            )
        check_tokenizer(args.init)
        return True
    if args.prompt:
        raise SettingError("--prompt is for a model that reads a prompt, as two of NVIDIA's; name it with --init")
    if args.init is not None:
        _require_parts(args)
    return False


def _require_parts(args: argparse.Namespace) -> None:
    """Raises SettingError where --init lacks what the run needs and does not train: that would be random weights."""
    kept = {stage for stage in STAGES if args.stage not in (stage, "all") or not getattr(args, f"{_name(stage)}_steps")}
    for name in (ENCODER, DECODER) if "tokenizer" in kept else (ENCODER,):
        if not (args.init / name).is_file():
            raise SettingError(f"--init {args.init} holds no exported model: there is no {name} in it")
    if "world-model" in kept and "refiner" not in kept and not holds_weights(args.init):
        raise SettingError(
            f"--init {args.init} holds no transformer, of which the refiner learns: expected "
            f"{' or '.join(WEIGHTS_FILES)} beside {ENCODER}"
        )
    if {"tokenizer", "refiner"} <= kept and not (args.init / REFINER).is_file():
        raise SettingError(
            f"--init {args.init} holds no {REFINER}, and this run trains none: what is predicted would be refined by "
            "random weights. Give the stage all with --tokenizer-steps 0, which trains a refiner too"
        )
