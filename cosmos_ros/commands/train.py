"""`cosmos_ros train`: simulate robot cameras, train a tokenizer and a transformer on them, export, and measure.

The model that ships with this package was made by this command on one GPU; with `--max-steps 2 --episodes 4` it runs
on any CPU, to see that everything works.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cosmos_ros.commands.flags import add_flags, config_of, require
from cosmos_ros.device.devices import resolve_device
from cosmos_ros.errors import ForesightError, SettingError
from cosmos_ros.files import scratch_folder, write_whole
from cosmos_ros.settings import SETTINGS, ForesightConfig
from cosmos_ros.torchscript import load_program
from cosmos_ros.training.datasets.simulated import CLIP_FRAMES, HEIGHT, WIDTH, EpisodeStore, FilmCrew
from cosmos_ros.training.evaluation import evaluate
from cosmos_ros.training.export import check_directory, export_tokenizer, export_transformer, load_exported_tokenizer
from cosmos_ros.training.pictures import true_clips, write_pictures
from cosmos_ros.training.schedule import Journal
from cosmos_ros.training.splits import Split
from cosmos_ros.training.tokenizer import train_tokenizer
from cosmos_ros.training.tokenizer_network import SPACE_COMPRESSION, TokenizerConfig, VideoTokenizer
from cosmos_ros.training.transformer import initialise, train_transformer
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig, load_transformer
from cosmos_ros.world_model.tokenizer import programs

CAMERAS_PER_EPISODE = 2
SAMPLING = Sampling(seed=0, temperature=1.0, top_p=0.8)
CHECKPOINT_SECONDS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, help="directory to write the model to")
    parser.add_argument("--start-from", type=Path, help="directory of an exported model to go on from")
    parser.add_argument("--episodes", type=int, default=3000, help="at most; each takes 12 MB (default: 3000)")
    parser.add_argument("--first-episode", type=int, default=0, help="number of the first of them (default: 0)")
    parser.add_argument("--film-minutes", type=float, default=2.0, help="train on what is filmed by then (default: 2)")
    parser.add_argument("--validation-episodes", type=int, default=48, help="episodes to measure on (default: 48)")
    parser.add_argument("--tokenizer-minutes", type=float, default=6.0, help="0: keep --start-from's (default: 6)")
    parser.add_argument("--transformer-minutes", type=float, default=1.5, help="of training (default: 1.5)")
    parser.add_argument("--tokenizer-batch", type=int, default=16, help="clips per step (default: 16)")
    parser.add_argument("--transformer-batch", type=int, default=64, help="clips per step (default: 64)")
    parser.add_argument("--max-steps", type=int, default=10**9, help="of each stage, at most")
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, (os.cpu_count() or 1) - 2),
        help="simulator processes (default: %(default)s)",
    )
    add_flags(parser, "device", [SETTINGS["device"]])


def run(args: argparse.Namespace) -> int:
    """Train as the arguments say. The output directory always holds the newest model of each stage.

    Raises SettingError.
    """
    check(args)
    device = resolve_device(config_of(args, ForesightConfig).device)
    try:
        check_directory(args.output)
        if args.start_from is not None:
            programs.check(args.start_from, args.start_from)
        if importlib.util.find_spec("mujoco") is None:
            return _failed("simulates robot cameras with MuJoCo, and it is missing: pip install mujoco")
        args.output.mkdir(parents=True, exist_ok=True)
        return train(args, device)
    except (OSError, ForesightError) as error:
        return _failed(str(error))


def _failed(message: str) -> int:
    print(f"cosmos_ros train: {message}", file=sys.stderr)
    return 1


def check(args: argparse.Namespace) -> None:
    """Raises SettingError for numbers with which nothing could be trained."""
    counts = ("episodes", "validation_episodes", "tokenizer_batch", "transformer_batch", "max_steps", "workers")
    require(
        args,
        positive=(*counts, "transformer_minutes"),
        not_negative=("first_episode", "film_minutes", "tokenizer_minutes"),
    )
    if args.tokenizer_minutes == 0 and args.start_from is None:
        raise SettingError("--tokenizer-minutes 0 keeps the tokenizer of --start-from, which is not given")


def train(args: argparse.Namespace, device: torch.device) -> int:
    """The stages, one after the other. Raises OSError where the disk refuses; the newest whole model then stays."""
    journal = Journal(args.output / "training.jsonl")
    torch.set_float32_matmul_precision("high")
    tokenizer, transformer = first_models(args.start_from)
    tokenizer.to(device)
    transformer.to(device)
    with scratch_folder("cosmos_ros_", scratch_directory()) as scratch:
        validation = film_validation(args, scratch / "validation", device)
        journal.note(stage="validation filmed", clips=len(validation))
        films = range(args.first_episode, args.first_episode + args.episodes)
        crew = FilmCrew(Split.TRAINING, films, scratch / "training", args.workers)
        with crew, EpisodeStore(scratch / "training", len(films) * CAMERAS_PER_EPISODE, device) as episodes:
            filmed_by = time.monotonic() + args.film_minutes * 60
            reconstruct, predict = training_programs(tokenizer, transformer, args, device)
            await_episodes(crew, episodes, filmed_by)
    # Filming has stopped: a GPU that renders as well trains five times slower.
    journal.note(stage="filmed", views=len(episodes))
    if args.tokenizer_minutes:
        train_tokenizer(
            tokenizer,
            reconstruct,
            episodes,
            validation,
            journal,
            args.tokenizer_minutes * 60,
            args.tokenizer_batch,
            args.max_steps,
            on_progress=once_a_minute(lambda: export_tokenizer(tokenizer, args.output)),
        )
    export_tokenizer(tokenizer, args.output)
    train_transformer(
        transformer,
        predict,
        tokenizer,
        episodes,
        validation,
        journal,
        args.transformer_minutes * 60,
        args.transformer_batch,
        args.max_steps,
        on_progress=once_a_minute(lambda: export_transformer(transformer, args.output, SAMPLING)),
    )
    export_transformer(transformer, args.output, SAMPLING)
    measure(args.output, validation, journal)
    try:
        write_pictures(args.output, true_clips(validation), args.output / "pictures", str(device))
    except ForesightError as error:
        return _failed(f"no pictures: {error}")
    return 0


def first_models(start_from: Path | None) -> tuple[VideoTokenizer, Transformer]:
    """With random weights, or those of an exported model."""
    tokenizer = VideoTokenizer(TokenizerConfig())
    if start_from is None:
        transformer = Transformer(small_config(tokenizer.config))
        initialise(transformer)
        return tokenizer, transformer
    load_exported_tokenizer(tokenizer, start_from)
    trained = load_transformer(start_from, device="cpu", dtype=torch.float32)
    transformer = Transformer(trained.config)
    transformer.load_state_dict(trained.state_dict())
    return tokenizer, transformer


def scratch_directory() -> str | None:
    """Shared memory where there is some: episodes are large and read once."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def film_validation(args: argparse.Namespace, folder: Path, device: torch.device) -> Tensor:
    """One clip per camera of every validation episode, uint8 [N, 33, H, W, 3]."""
    crew = FilmCrew(Split.VALIDATION, range(args.validation_episodes), folder, args.workers)
    with crew, EpisodeStore(folder, args.validation_episodes * CAMERAS_PER_EPISODE, device) as store:
        await_episodes(crew, store)
        return store.first_clips()


def await_episodes(crew: FilmCrew, episodes: EpisodeStore, until: float = float("inf")) -> None:
    """Until the store is full, or the monotonic clock says `until` and there is something to train on."""
    while not episodes.full and (time.monotonic() < until or not len(episodes)):
        crew.check()
        time.sleep(0.05)


def training_programs(
    tokenizer: VideoTokenizer, transformer: Transformer, args: argparse.Namespace, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Both models as training calls them: on CUDA compiled, with the compilation behind them."""
    if device.type != "cuda":
        return tokenizer, transformer
    video = torch.zeros(args.tokenizer_batch, 3, CLIP_FRAMES, HEIGHT, WIDTH, device=device)
    tokens = torch.zeros(args.transformer_batch, transformer.config.n_tokens, dtype=torch.int64, device=device)[:, :-1]
    positions = torch.arange(tokens.shape[1], device=device)
    return compiled(tokenizer, video), compiled(transformer, tokens, positions)


def compiled(model: torch.nn.Module, *example: Tensor) -> Callable:
    model.train()
    program = torch.compile(model)
    with torch.autocast(example[0].device.type, dtype=torch.bfloat16):
        output = program(*example)
    output.float().mean().backward()
    model.zero_grad(set_to_none=True)
    return program


def small_config(tokenizer: TokenizerConfig) -> TransformerConfig:
    """With the tokenizer just under 40 MB."""
    return TransformerConfig(
        n_layers=6,
        dim=384,
        n_heads=6,
        n_kv_heads=2,
        head_dim=64,
        ffn_hidden=960,
        vocab_in=tokenizer.vocabulary,
        vocab_out=tokenizer.vocabulary,
        latent_shape=(5, HEIGHT // SPACE_COMPRESSION, WIDTH // SPACE_COMPRESSION),
    )


def once_a_minute(save: Callable[[], None]) -> Callable[[], None]:
    """Calls `save` when it is called and a minute has passed."""
    last = time.monotonic()

    def on_progress() -> None:
        nonlocal last
        if time.monotonic() - last > CHECKPOINT_SECONDS:
            save()
            last = time.monotonic()

    return on_progress


def measure(directory: Path, validation: Tensor, journal: Journal) -> None:
    """Measure the exported files themselves, and write evaluation.json into the same folder."""
    device = validation.device
    files = (directory / "encoder.jit", directory / "decoder.jit")
    encode, decode = (load_program(file, device).to(torch.float32) for file in files)
    transformer = load_transformer(directory, device=device, dtype=torch.float32)
    figures = {"clips": len(validation)} | evaluate(encode, decode, transformer, validation, SAMPLING)
    write_whole(directory / "evaluation.json", json.dumps(figures, indent=2) + "\n")
    journal.note(stage="evaluation", **figures)
