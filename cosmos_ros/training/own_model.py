"""A model of our own sizes in training: tokenizer, transformer and refiner, whole on every rank."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosmos_ros.torchscript import load_program
from cosmos_ros.training.checkpoint import Unfinished
from cosmos_ros.training.datasets.clips import as_seen
from cosmos_ros.training.datasets.corpus import Corpus
from cosmos_ros.training.evaluation import HeldOutRollouts, evaluate
from cosmos_ros.training.export import export, load_exported, refiner_files, tokenizer_files, transformer_files
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.loop import Recipe
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.rollouts import (
    CHUNK,
    SAMPLES,
    TEMPERATURE,
    TOP_P,
    TRIPS,
    Chunk,
    Windows,
    decode,
    kept_chunks,
    refined_rollouts,
    roll_out,
    round_trips_of,
    times_shown,
)
from cosmos_ros.training.round_trips import compiled, round_trips
from cosmos_ros.training.run import Options
from cosmos_ros.training.sizes import Sizes
from cosmos_ros.training.tokenizer_network import VideoTokenizer
from cosmos_ros.training.transformer import initialise, next_token, token_corpus, tokenize
from cosmos_ros.world_model import ModelSpec, Sampling, Transformer, TransformerConfig, load_transformer
from cosmos_ros.world_model.checkpoints.transformer_weights import holds_weights, read_settings

logger = logging.getLogger(__name__)
MEASURED = 16  # held-out clips that the refiner is measured by while it learns


class OwnModel:
    """Networks of these sizes, their weights random, from `options.init`, or from the run that is gone on with."""

    pictured = True

    def __init__(
        self, out: Path, sizes: Sizes, options: Options, ranks: Ranks, unfinished: Unfinished, journal: Journal
    ) -> None:
        self.out, self.sizes, self.options = out, sizes, options
        self.ranks, self.unfinished, self.journal = ranks, unfinished, journal
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(options.seed)
        self.tokenizer = VideoTokenizer(sizes.tokenizer)
        self.transformer = Transformer(sizes.transformer)
        initialise(self.transformer)
        self.refiner = Refiner(sizes.refiner_channels, sizes.refiner_hypotheses)
        if options.init is not None:
            load_exported(options.init, self.tokenizer, self.transformer, self.refiner)
            if ranks.is_first:
                tell_of_other_frames(options.init, sizes)
        self.networks: dict[str, nn.Module] = {
            "tokenizer": self.tokenizer,
            "transformer": self.transformer,
            "refiner": self.refiner,
        }
        for name, weights in unfinished.state.get("networks", {}).items():
            self.networks[name].load_state_dict(weights)
        for network in self.networks.values():
            network.to(ranks.device)
        self.sampling = Sampling(options.seed, sizes.temperature, sizes.top_p)

    def recipe(self, stage: str, corpus: Corpus) -> Recipe:
        makers = {"tokenizer": self._tokenizer, "world-model": self._world_model, "refiner": self._refiner}
        return makers[stage](corpus)

    def state(self) -> dict[str, Any]:
        """The networks as they are exported."""
        weights = {name: {k: v.cpu() for k, v in net.state_dict().items()} for name, net in self.networks.items()}
        return {"networks": weights}

    def part(self) -> None:
        """All ranks hold the same."""

    def millions(self) -> dict[str, float]:
        return {part: sum(p.numel() for p in net.parameters()) / 1e6 for part, net in self.networks.items()}

    def _tokenizer(self, corpus: Corpus) -> Recipe:
        options = self.options
        return round_trips(
            self.tokenizer,
            self.refiner,
            corpus.store,
            self.sizes,
            corpus.shares,
            options.steps["tokenizer"],
            options.batches["tokenizer"],
        )

    def _world_model(self, corpus: Corpus) -> Recipe:
        options, sizes = self.options, self.sizes
        self.tokenizer.eval().requires_grad_(False)

        def make() -> Tensor:
            return token_corpus(
                partial(tokenize, self.tokenizer),
                corpus.store,
                sizes.frame_size,
                corpus.shares,
                options.windows,
                options.seed,
                self.ranks.rank,
            ).cpu()

        tokens = self.unfinished.cached(f"tokens-{self.ranks.rank}", make).to(self.ranks.device)
        self.journal.note("tokenized", windows=len(tokens))
        held_out = tokenize(self.tokenizer, as_seen(corpus.held_out, sizes.frame_size))
        steps, batch = options.steps["world-model"], options.batches["world-model"]
        return next_token(self.transformer, tokens, held_out, steps, batch)

    def _refiner(self, corpus: Corpus) -> Recipe:
        options, device = self.options, self.ranks.device
        self.tokenizer.eval().requires_grad_(False)
        windows = Windows(corpus.store, self.sizes.frame_size, corpus.shares)
        self.ranks.wait()  # for what the first one exported
        # In the precision in which it ships, so that the rollouts are those that it will make.
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        transformer = load_transformer(self.out, device=device, dtype=dtype)
        to_tokens, to_frames = partial(tokenize, self.tokenizer), partial(decode, self.tokenizer)

        def make() -> list[Chunk]:
            n = max(1, options.rollouts // (CHUNK * SAMPLES))
            first = self.ranks.rank * n * (1 + TRIPS)
            trips = range(first + n, first + n * (1 + TRIPS))
            return round_trips_of(to_tokens, windows, trips, self.sizes.latent_shape) + roll_out(
                to_tokens,
                to_frames,
                transformer,
                windows,
                range(first, first + n),
                Sampling(options.seed, TEMPERATURE, TOP_P),
            )

        chunks = kept_chunks(self.unfinished, self.ranks, make)
        rolled_out = sum(chunk.is_rolled_out for chunk in chunks)
        trips = len(chunks) - rolled_out
        steps = options.steps["refiner"]
        self.journal.note(
            "rolled out",
            windows=CHUNK * rolled_out,
            of_each=SAMPLES,
            round_trips=CHUNK * trips,
            each_shown=times_shown(chunks, steps),
        )
        held_out = HeldOutRollouts.of(
            to_tokens, to_frames, transformer, corpus.held_out[:MEASURED], self.sizes.frame_size, self.sampling
        )
        decoder = compiled(lambda tokens: decode(self.tokenizer, tokens), device)
        recipe = refined_rollouts(self.refiner, decoder, chunks, windows, steps, options.seed)
        return replace(recipe, measure=partial(held_out.gains, self.refiner, device))

    def export(self, stage: str = "") -> None:
        """What a stage trains, or everything, to where the node finds it."""
        if not self.ranks.is_first:
            return
        parts = []
        if stage in ("", "tokenizer"):
            parts.append(tokenizer_files(self.tokenizer))
        if stage in ("", "tokenizer", "refiner"):
            parts.append(refiner_files(self.refiner))
        if stage in ("", "world-model"):
            parts.append(transformer_files(self.transformer, self.out.name, self.sizes))
        export(self.out, *parts)

    def measure(self, held_out: Tensor) -> dict[str, float]:
        device, sizes = self.ranks.device, self.sizes
        files = (self.out / f"{name}.jit" for name in ("encoder", "decoder", "refiner"))
        encode, decoder, refine = (load_program(file, device).to(torch.float32) for file in files)
        transformer = load_transformer(self.out, device=device, dtype=torch.float32)
        return evaluate(
            lambda video: encode(video)[0], decoder, refine, transformer, held_out, sizes.frame_size, self.sampling
        )


def tell_of_other_frames(init: Path, sizes: Sizes) -> None:
    """Warns where a model is gone on from at another frame size: its weights fit, and were made for other frames."""
    if not (holds_weights(init) and "latent_shape" in read_settings(init)):
        return
    there = ModelSpec.of_checkpoint(init).frame_size
    if there != sizes.frame_size:
        before, now = ("x".join(map(str, size)) for size in (there, sizes.frame_size))
        logger.warning(
            "%s was trained on frames of %s, and this run is for %s: what it does not train again gets worse; to keep "
            "to them, set frame_size: %s in --config",
            init,
            before,
            now,
            list(there),
        )


def is_sayable(config: TransformerConfig) -> bool:
    """Whether there are Sizes that make this transformer: none make one that reads text, for one."""
    plain = TransformerConfig(
        n_layers=config.n_layers,
        dim=config.dim,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        ffn_hidden=config.ffn_hidden,
        vocab_in=config.vocab_out,
        vocab_out=config.vocab_out,
        latent_shape=config.latent_shape,
    )
    return config == plain and config.dim == config.n_heads * config.head_dim
