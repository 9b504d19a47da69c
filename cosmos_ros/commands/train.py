"""`cosmos_ros train`: a world model of your own, from recordings of your robot's cameras, from simulated ones, or both.

What comes out is a directory in the published layout, which the node loads as it is. `cosmos_ros train all --out DIR
--episodes 4 --max-steps 2` runs on any CPU, to see that everything works.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cosmos_ros.commands.flags import add_flags, config_of, require
from cosmos_ros.device.devices import resolve_device
from cosmos_ros.errors import ForesightError, SettingError
from cosmos_ros.files import write_whole
from cosmos_ros.scratch import scratch_folder
from cosmos_ros.settings import SETTINGS, ForesightConfig
from cosmos_ros.torchscript import load_program
from cosmos_ros.training.average import Average
from cosmos_ros.training.datasets import recorded
from cosmos_ros.training.datasets.clips import STORED_TIMES_THE_MODEL, ClipStore, Views, resampled
from cosmos_ros.training.datasets.simulated import CAMERAS_PER_EPISODE, EPISODE_FRAMES, FilmCrew
from cosmos_ros.training.evaluation import evaluate
from cosmos_ros.training.export import (
    check_directory,
    export_refiner,
    export_tokenizer,
    export_transformer,
    load_exported,
)
from cosmos_ros.training.pictures import true_clips, write_pictures
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.rollouts import CHUNK, Windows, roll_out, train_on_rollouts
from cosmos_ros.training.round_trips import train_round_trips
from cosmos_ros.training.schedule import Journal, TrainingDiverged
from cosmos_ros.training.sizes import CLIP_FRAMES, Sizes
from cosmos_ros.training.splits import Split
from cosmos_ros.training.tokenizer_network import VideoTokenizer
from cosmos_ros.training.transformer import initialise, token_corpus, tokenize, train_transformer
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig, load_transformer

STAGES = ("tokenizer", "world-model", "refiner", "all")
SIMULATED_EPISODES = 1000  # where nothing recorded is given
SIMULATED_SHARE = 0.4  # of a batch, where both are given
VALIDATION_EPISODES = 24
VALIDATION_WINDOWS_PER_FILM = 1
VALIDATION_WINDOWS = 96  # at most
CHECKPOINT_SECONDS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", choices=STAGES, help="what to train; a later stage alone goes on from --init")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write the model to")
    parser.add_argument("--bags", type=Path, nargs="+", default=[], metavar="BAG", help="recordings: bags or videos")
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="of the bags (default: the only one)")
    parser.add_argument("--init", type=Path, metavar="DIR", help="directory of an exported model to go on from")
    parser.add_argument("--config", type=Path, metavar="YAML", help="sizes, compression and frame rate; see docs")
    parser.add_argument("--episodes", type=int, help="simulated, at most (default: none with --bags, else 1000)")
    parser.add_argument("--film-minutes", type=float, default=2.0, help="train on what is filmed by then (default: 2)")
    parser.add_argument("--tokenizer-minutes", type=float, default=7.0, help="of training (default: 7)")
    parser.add_argument("--world-model-minutes", type=float, default=1.5, help="of training (default: 1.5)")
    parser.add_argument("--refiner-minutes", type=float, default=3.0, help="of training (default: 3)")
    parser.add_argument("--tokenizer-batch", type=int, default=32, help="clips per step (default: 32)")
    parser.add_argument("--world-model-batch", type=int, default=64, help="clips per step (default: 64)")
    parser.add_argument("--windows", type=int, default=50000, help="tokenized for the world model (default: 50000)")
    parser.add_argument("--rollouts", type=int, default=3072, help="for the refiner to learn from (default: 3072)")
    parser.add_argument("--max-steps", type=int, default=10**9, help="of each stage, at most")
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, (os.cpu_count() or 1) - 2),
        help="simulator processes (default: %(default)s)",
    )
    add_flags(parser, "device", [SETTINGS["device"]])


def run(args: argparse.Namespace) -> int:
    """Train as the arguments say. The output directory always holds the newest whole part of each stage.

    Raises SettingError.
    """
    check(args)
    sizes, device = Sizes.of(args.config), resolve_device(config_of(args, ForesightConfig).device)
    try:
        check_directory(args.out)
        if args.episodes and importlib.util.find_spec("mujoco") is None:
            return _failed("simulates robot cameras with MuJoCo, and it is missing: pip install mujoco")
        args.out.mkdir(parents=True, exist_ok=True)
        return Training(args, sizes, device).run()
    except (OSError, ForesightError, recorded.BadFootage, TrainingDiverged) as error:
        return _failed(str(error))


def _failed(message: str) -> int:
    print(f"cosmos_ros train: {message}", file=sys.stderr)
    return 1


def check(args: argparse.Namespace) -> None:
    """Fill in what depends on others, and raise SettingError for numbers with which nothing could be trained."""
    if args.episodes is None:
        args.episodes = 0 if args.bags else SIMULATED_EPISODES
    batches = ("tokenizer_batch", "world_model_batch", "windows", "rollouts", "max_steps", "workers")
    minutes = ("tokenizer_minutes", "world_model_minutes", "refiner_minutes")
    require(args, positive=(*batches, *minutes), not_negative=("episodes", "film_minutes"))
    if not args.bags and not args.episodes:
        raise SettingError("there is nothing to train on: give --bags, or a positive --episodes")
    if args.stage in ("world-model", "refiner") and args.init is None:
        raise SettingError(f"'train {args.stage}' goes on from a tokenizer; name its model with --init")
    if args.init is not None and not (args.init / "encoder.jit").is_file():
        raise SettingError(f"--init {args.init} holds no exported model: there is no encoder.jit in it")


class Training:
    """One run: what it trains on, the networks, and the stages."""

    def __init__(self, args: argparse.Namespace, sizes: Sizes, device: torch.device) -> None:
        self.args, self.sizes, self.device = args, sizes, device
        self.journal = Journal(args.out / "training.jsonl")
        torch.set_float32_matmul_precision("high")
        self.tokenizer = VideoTokenizer(sizes.tokenizer)
        self.transformer = Transformer(transformer_config(sizes))
        initialise(self.transformer)
        self.refiner = Refiner(sizes.refiner_channels)
        if args.init is not None:
            load_exported(args.init, self.tokenizer, self.transformer, self.refiner)
        for network in (self.tokenizer, self.transformer, self.refiner):
            network.to(device)
        height, width = sizes.frame_size
        self.stored_size = STORED_TIMES_THE_MODEL * height, STORED_TIMES_THE_MODEL * width
        both = bool(args.bags) and bool(args.episodes)
        share = SIMULATED_SHARE if both else float(not args.bags)
        self.shares = {"recorded": 1 - share, "simulated": share}
        self.sampling = Sampling(0, sizes.temperature, sizes.top_p)

    def run(self) -> int:
        """The stages, one after the other. Raises OSError where the disk refuses; the newest whole model then stays."""
        args, out = self.args, self.args.out
        clips, validation = self.clips()
        if args.stage in ("tokenizer", "all"):
            self._train_tokenizer(clips)
        # Everything that the node loads is there from now on, whatever stage comes next.
        export_tokenizer(self.tokenizer, out)
        export_refiner(self.refiner, out)
        export_transformer(self.transformer, out, self.sizes)
        self.tokenizer.eval().requires_grad_(False)
        if args.stage in ("world-model", "all"):
            self._train_world_model(clips, validation)
        if args.stage in ("refiner", "all"):
            self._train_refiner(clips)
        self.measure(validation)
        try:
            pictured = true_clips(validation, self.sizes.frame_rate)
            write_pictures(out, pictured, out / "pictures", str(self.device))
        except ForesightError as error:
            return _failed(f"no pictures: {error}")
        return 0

    def _train_tokenizer(self, clips: ClipStore) -> None:
        args = self.args

        def save(tokenizer: Average[VideoTokenizer], refiner: Average[Refiner]) -> None:
            export_tokenizer(tokenizer.network, args.out)
            export_refiner(refiner.network, args.out)

        tokenizer, refiner = train_round_trips(
            self.tokenizer,
            self.refiner,
            clips,
            self.sizes.frame_size,
            self.shares,
            self.journal,
            args.tokenizer_minutes * 60,
            args.tokenizer_batch,
            args.max_steps,
            on_progress=once_a_minute(save),
        )
        self.tokenizer, self.refiner = tokenizer.network, refiner.network

    def _train_world_model(self, clips: ClipStore, validation: torch.Tensor) -> None:
        args = self.args
        corpus = token_corpus(self.tokenizer, clips, self.sizes.frame_size, self.shares, args.windows)
        held_out = tokenize(self.tokenizer, as_seen(validation, self.sizes.frame_size))
        self.journal.note(stage="tokenized", windows=len(corpus))
        average = train_transformer(
            self.transformer,
            corpus,
            held_out,
            self.journal,
            args.world_model_minutes * 60,
            args.world_model_batch,
            args.max_steps,
            on_progress=once_a_minute(lambda average: export_transformer(average.network, args.out, self.sizes)),
        )
        self.transformer = average.network
        export_transformer(self.transformer, args.out, self.sizes)

    def _train_refiner(self, clips: ClipStore) -> None:
        args = self.args
        windows = Windows(clips, self.sizes, self.shares)
        # In the precision in which it ships, so that the rollouts are those that it will make.
        transformer = load_transformer(
            args.out, device=self.device, dtype=torch.bfloat16 if self.device.type == "cuda" else torch.float32
        )
        seeds = range(max(1, args.rollouts // CHUNK))
        chunks = roll_out(self.tokenizer, transformer, windows, seeds, self.sampling)
        self.journal.note(stage="rolled out", windows=CHUNK * len(chunks))
        average = train_on_rollouts(
            self.refiner,
            self.tokenizer,
            chunks,
            windows,
            self.journal,
            args.refiner_minutes * 60,
            args.max_steps,
            on_progress=once_a_minute(lambda average: export_refiner(average.network, args.out)),
        )
        self.refiner = average.network
        export_refiner(self.refiner, args.out)

    def clips(self) -> tuple[ClipStore, torch.Tensor]:
        """What to train on, and clips uint8 [N, 33, H, W, 3] on the device that training never sees."""
        args = self.args
        to_train, to_validate = recorded.split(args.bags) if args.bags else ([], [])
        films = [(film, "recorded") for bag in to_train for film in self._recorded(bag)]
        held_out = [(film, "recorded") for bag in to_validate for film in self._recorded(bag)]
        if to_train == to_validate and films:  # a single recording: its end, and nothing that overlaps it
            cut = max(1, len(films) - max(1, len(films) // recorded.HELD_OUT_OF))
            held_out, films = films[cut:], films[: max(1, cut - CLIP_FRAMES // recorded.EVERY)]
        n_frames = sum(len(film) for film, _ in films) + args.episodes * CAMERAS_PER_EPISODE * EPISODE_FRAMES
        store = ClipStore(self.stored_size, n_frames, self.device)
        for film, kind in films:
            store.add(film, kind)
        if args.episodes:
            held_out += [(film, "simulated") for film in self._filmed(Split.VALIDATION, VALIDATION_EPISODES, 1e9)]
            for film in self._filmed(Split.TRAINING, args.episodes, args.film_minutes * 60):
                store.add(film, "simulated")
        validation = ClipStore(self.stored_size, sum(len(film) for film, _ in held_out), self.device)
        for film, kind in held_out:
            validation.add(film, kind)
        self.journal.note(stage="filmed", films=len(store), frames=store.n_frames, held_out=len(validation))
        windows = validation.spread_windows(VALIDATION_WINDOWS_PER_FILM)
        some = torch.linspace(0, len(windows) - 1, min(len(windows), VALIDATION_WINDOWS)).round().long()
        return store, validation.take(windows[some])

    def _recorded(self, bag: Path) -> list:
        return list(recorded.films(bag, self.stored_size, self.sizes.frame_rate, self.args.image_topic))

    def _filmed(self, split: Split, episodes: int, seconds: float) -> list:
        until = time.monotonic() + seconds
        episodes = min(episodes, self.args.episodes)
        with scratch_folder("films", scratch_directory()) as scratch:
            crew = FilmCrew(split, range(episodes), self.stored_size, scratch / "films", self.args.workers)
            with crew:
                return list(crew.films(until))

    def measure(self, validation: torch.Tensor) -> None:
        """Measure the exported files themselves, and write evaluation.json into the same folder."""
        out, device = self.args.out, self.device
        files = (out / f"{name}.jit" for name in ("encoder", "decoder", "refiner"))
        encode, decode, refine = (load_program(file, device).to(torch.float32) for file in files)
        transformer = load_transformer(out, device=device, dtype=torch.float32)
        figures = {"clips": len(validation), "sizes": dataclasses.asdict(self.sizes)}
        figures |= evaluate(encode, decode, refine, transformer, validation, self.sizes.frame_size, self.sampling)
        write_whole(out / "evaluation.json", json.dumps(figures, indent=2) + "\n")
        self.journal.note(stage="evaluation", **{key: value for key, value in figures.items() if key != "sizes"})


def as_seen(clips: torch.Tensor, frame_size: tuple[int, int]) -> torch.Tensor:
    """Stored clips uint8 [N, 33, H, W, 3] as the model sees them, float [N, 3, 33, h, w]."""
    return resampled(clips, Views.whole(len(clips), (clips.shape[2], clips.shape[3])), frame_size)


def transformer_config(sizes: Sizes) -> TransformerConfig:
    return TransformerConfig(
        n_layers=sizes.layers,
        dim=sizes.width,
        n_heads=sizes.heads,
        n_kv_heads=sizes.key_value_heads,
        head_dim=sizes.width // sizes.heads,
        ffn_hidden=sizes.ffn_hidden,
        vocab_in=sizes.tokenizer.vocabulary,
        vocab_out=sizes.tokenizer.vocabulary,
        latent_shape=sizes.latent_shape,
    )


def scratch_directory() -> str | None:
    """Shared memory where there is some: films are large and read once."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def once_a_minute(save: Callable[..., None]) -> Callable[..., None]:
    """Calls `save` when it is called and a minute has passed."""
    last = time.monotonic()

    def on_progress(*networks: object) -> None:
        nonlocal last
        if time.monotonic() - last > CHECKPOINT_SECONDS:
            save(*networks)
            last = time.monotonic()

    return on_progress
