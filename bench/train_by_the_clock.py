"""Trains a model of our own in so many seconds a stage, where GPUs are lent for half an hour.

    PYTHONPATH=. torchrun --nproc-per-node 2 bench/train_by_the_clock.py --out DIRECTORY --init models/foresight-small \
        --bags recordings/* --held-out others/* --episodes 2000 --film-seconds 110 --seconds 320 175 340

The stages of `cosmos_ros train all`, each of as many steps as fit its seconds at the speed that its first ones have.
While recordings are read and scenes filmed, a process beside every rank has all stages compiled, into the compiler's
cache. DIRECTORY gets the model, training.jsonl, and in clock.json what each stage took and how many films a rank had.
`--tiny` shows, also without a GPU, that the script works. The model that ships was trained by this program before it
was tidied up; as it is here it has run on CPUs alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from cosmos_ros.commands.train import STAGES
from cosmos_ros.training.checkpoint import Unfinished
from cosmos_ros.training.datasets.clips import STORED_TIMES_THE_MODEL, ClipStore
from cosmos_ros.training.datasets.corpus import Corpus
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.loop import Recipe, keyed, train
from cosmos_ros.training.own_model import OwnModel
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.robots.models import robot_models
from cosmos_ros.training.run import Options
from cosmos_ros.training.sizes import Sizes, TokenizerSizes

TIMED = 30  # steps
COMPILED = 24  # steps, of which some begin from an image and some are round trips
COMPILED_ROLLOUTS = 640
TINY = Sizes(
    frame_size=(32, 48),
    tokenizer=TokenizerSizes(channels=(16, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1)),
    layers=1,
    width=64,
    heads=2,
    key_value_heads=1,
    ffn_hidden=64,
    refiner_channels=(8, 8, 8, 8),
    refiner_hypotheses=4,
)


def own_model(
    out: Path, sizes: Sizes, options: Options, ranks: Ranks, speaks: bool = False
) -> tuple[OwnModel, Journal]:
    """Without a run that could be gone on with."""
    journal = Journal(out, speaks and ranks.is_first)
    model = OwnModel(out, sizes, options, ranks, Unfinished(out, {}, False, ranks), journal)
    model.export()
    ranks.wait()
    return model, journal


def compile_stages(sizes: Sizes, options: Options, device: str) -> None:
    """A few steps of each stage, on noise."""
    ranks = Ranks(0, 1, torch.device(device))
    height, width = (STORED_TIMES_THE_MODEL * side for side in sizes.frame_size)
    store = ClipStore((height, width), ranks.device)
    for _ in range(4):
        store.add(torch.randint(256, (50, height, width, 3), dtype=torch.uint8), "recorded")
    films = SimpleNamespace(store=store, shares={"recorded": 1.0}, held_out=store.take(store.spread_windows(1)).cpu())
    n_steps, n_rollouts = (COMPILED, COMPILED_ROLLOUTS) if ranks.device.type == "cuda" else (1, 1)
    few = replace(options, init=None, windows=options.batches["world-model"], rollouts=n_rollouts)
    with tempfile.TemporaryDirectory() as folder:
        model, _ = own_model(Path(folder), sizes, few, ranks)
        for stage in STAGES:
            recipe = model.recipe(stage, films)  # type: ignore[arg-type]
            for step in range(n_steps):
                recipe.loss(*recipe.draw(keyed(0, stage, step, 0))).backward()


def seconds_per_step(recipe: Recipe, ranks: Ranks, folder: Path, n: int) -> float:
    """Of the second n steps, on the slowest rank's clock; the weights stay as they are."""
    parameters: list[Tensor] = [parameter for group in recipe.parameters for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    for _ in range(2):
        ranks.wait()
        began = time.monotonic()
        train(replace(recipe, steps=n), ranks, Journal(folder, speaks=False), 0, lambda *_: None)
        ranks.wait()
    with torch.no_grad():
        for parameter, kept in zip(parameters, before, strict=True):
            parameter.copy_(kept)
    return ranks.mean(time.monotonic() - began) / n


def train_stage(model: OwnModel, journal: Journal, stage: str, corpus: Corpus, seconds: float, seed: int) -> dict:
    """As many steps as fit; exported at the end. What it took."""
    ranks, began = model.ranks, time.monotonic()
    recipe = model.recipe(stage, corpus)
    prepared = time.monotonic() - began
    timed = TIMED if ranks.device.type == "cuda" else 2
    each = seconds_per_step(recipe, ranks, model.out, timed)
    steps = max(2, int(seconds / each))
    began = time.monotonic()
    train(replace(recipe, steps=steps), ranks, journal, seed, lambda *_: None)
    model.export(stage)
    ranks.wait()
    return {
        "stage": stage,
        "steps": steps,
        "seconds": round(time.monotonic() - began, 1),
        "seconds_before": round(prepared, 1),
        "seconds_per_step": round(each, 4),
        "loss": journal.last_loss,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--bags", type=Path, nargs="*", default=[])
    parser.add_argument("--held-out", type=Path, nargs="*", default=[])
    parser.add_argument("--episodes", type=int, default=2000, help="simulated, at most")
    parser.add_argument("--robots", nargs="*", default=[])
    parser.add_argument("--film-seconds", type=float, default=110)
    parser.add_argument("--seconds", type=float, nargs=3, default=(320, 175, 340), help="of each stage")
    parser.add_argument("--windows", type=int, default=66000, help="tokenized, on each rank")
    parser.add_argument("--rollouts", type=int, default=11500, help="on each rank")
    parser.add_argument("--workers", type=int, default=12, help="on each rank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="a small model")
    parser.add_argument("--compile", action="store_true", help="on noise, and no more: what each rank starts beside it")
    args = parser.parse_args(argv)
    sizes = TINY if args.tiny else Sizes()
    batches = {"tokenizer": 2, "world-model": 2} if args.tiny else {"tokenizer": 32, "world-model": 64}
    steps = dict.fromkeys(STAGES, 1)  # of each stage the clock says how many
    options = Options(steps, batches, args.windows, args.rollouts, args.init, args.seed, pictures=0)
    if args.compile:
        compile_stages(sizes, options, args.device)
        return 0
    ranks = Ranks.join(args.device)
    tiny = ["--tiny"] if args.tiny else []
    compiling = subprocess.Popen([sys.executable, __file__, "--compile", "--device", str(ranks.device), *tiny])
    corpus = Corpus(
        args.bags,
        args.held_out,
        "",
        args.episodes,
        args.film_seconds,
        sizes,
        ranks,
        args.workers,
        robots=robot_models(args.robots),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    model, journal = own_model(args.out, sizes, options, ranks, speaks=True)
    journal.note("films", **corpus.counts)
    if compiling.wait():
        return compiling.returncode
    stages = []
    for stage, seconds in zip(STAGES, args.seconds, strict=True):
        stages.append(train_stage(model, journal, stage, corpus, seconds, args.seed))
        if ranks.is_first:
            facts = {"processes": ranks.size, "films": corpus.counts, "stages": stages, "seed": args.seed}
            (args.out / "clock.json").write_text(json.dumps(facts, indent=2) + "\n")
    model.unfinished.remove()
    ranks.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
