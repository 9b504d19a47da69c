"""One run of `cosmos_ros train`: its clips, its networks and its stages, one after the other."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosmos_ros.errors import ForesightError
from cosmos_ros.files import write_whole
from cosmos_ros.torchscript import load_program
from cosmos_ros.training.card import card
from cosmos_ros.training.checkpoint import Unfinished
from cosmos_ros.training.datasets.clips import Views, resampled
from cosmos_ros.training.datasets.corpus import Corpus
from cosmos_ros.training.evaluation import evaluate
from cosmos_ros.training.export import export_refiner, export_tokenizer, export_transformer, load_exported
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.loop import Recipe, train
from cosmos_ros.training.pictures import true_clips, write_pictures
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.rollouts import CHUNK, SAMPLES, Chunk, Windows, refined_rollouts, roll_out
from cosmos_ros.training.round_trips import round_trips
from cosmos_ros.training.sizes import Sizes
from cosmos_ros.training.tokenizer_network import VideoTokenizer
from cosmos_ros.training.transformer import initialise, next_token, token_corpus, tokenize
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig, load_transformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How much of each stage.

    steps     of "tokenizer", "world-model" and "refiner"
    batches   clips in a step, of "tokenizer" and "world-model", on each rank
    windows   that are tokenized for the transformer, on each rank
    rollouts  for the refiner to learn from, on each rank
    init      directory of an exported model to go on from, or None
    pictures  how often in a stage to draw what is predicted
    """

    steps: dict[str, int]
    batches: dict[str, int]
    windows: int
    rollouts: int
    init: Path | None
    seed: int
    pictures: int


class Run:
    """Trains into `out`, which holds the newest whole part of each stage at any time."""

    def __init__(
        self, out: Path, sizes: Sizes, options: Options, ranks: Ranks, unfinished: Unfinished, journal: Journal
    ) -> None:
        self.out, self.sizes, self.options = out, sizes, options
        self.ranks, self.unfinished, self.journal = ranks, unfinished, journal
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(options.seed)
        self.tokenizer = VideoTokenizer(sizes.tokenizer)
        self.transformer = Transformer(transformer_config(sizes))
        initialise(self.transformer)
        self.refiner = Refiner(sizes.refiner_channels)
        if options.init is not None:
            load_exported(options.init, self.tokenizer, self.transformer, self.refiner)
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
        self._stages: list[dict[str, Any]] = list(unfinished.state.get("stages", []))  # that are over

    def train(self, stages: Sequence[str], corpus: Corpus) -> None:
        """The stages that are not over yet.

        Raises OSError where the disk refuses, TrainingDiverged: the newest whole model and checkpoint then stay.
        """
        makers: dict[str, Callable[[Corpus], Recipe]] = {
            "tokenizer": self._tokenizer,
            "world-model": self._world_model,
            "refiner": self._refiner,
        }
        self._episodes = self.ranks.gather(corpus.episodes)
        self.export()  # everything that the node loads is there from now on, whatever stage comes next
        if not self.unfinished.state:
            self._keep()
        over = {each["stage"] for each in self._stages}
        for stage in stages:
            if stage not in over and self.options.steps[stage]:
                self._train(makers[stage](corpus), corpus)
        self._finish(corpus)

    def _train(self, recipe: Recipe, corpus: Corpus) -> None:
        began, name = time.monotonic(), recipe.name
        shown = 0

        def on_checkpoint(step: int, state: Callable[[], dict]) -> None:
            nonlocal shown
            if self.ranks.is_first:
                self.export(name)
                self._keep({"stage": name, **state()})
                if (part := self.options.pictures * step // recipe.steps) > shown:
                    shown = part
                    self.show(corpus.held_out, f"{name}-{step:06d}")
            self.ranks.wait()

        state = self.unfinished.state.get("stage") == name and self.unfinished.state or None
        train(recipe, self.ranks, self.journal, self.options.seed, on_checkpoint, state)
        self._stages.append(
            {
                "stage": name,
                "steps": recipe.steps,
                "tokens": recipe.steps * recipe.tokens * self.ranks.size,
                "seconds": time.monotonic() - began,
                "loss": self.journal.last_loss,
            }
        )
        if self.ranks.is_first:
            self._keep()

    def _keep(self, of_stage: dict[str, Any] | None = None) -> None:
        """A checkpoint: all networks as they are exported, and what the stage in hand adds."""
        if self.ranks.is_first:
            weights = {name: {k: v.cpu() for k, v in net.state_dict().items()} for name, net in self.networks.items()}
            self.unfinished.keep(
                {"networks": weights, "stages": self._stages, "episodes": self._episodes, **(of_stage or {})}
            )

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
                self.tokenizer,
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
        windows = Windows(corpus.store, self.sizes, corpus.shares)

        def make() -> list[tuple]:
            # In the precision in which it ships, so that the rollouts are those that it will make.
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
            transformer = load_transformer(self.out, device=device, dtype=dtype)
            n = max(1, options.rollouts // (CHUNK * SAMPLES))
            seeds = range(self.ranks.rank * n, (self.ranks.rank + 1) * n)
            made = roll_out(self.tokenizer, transformer, windows, seeds, self.sampling)
            return [(c.seed, c.true.cpu(), c.predicted.cpu(), c.best.cpu(), c.n_conditioning) for c in made]

        self.ranks.wait()  # for what the first one exported
        kept = self.unfinished.cached(f"rollouts-{self.ranks.rank}", make)
        chunks = [
            Chunk(seed, true.to(device), predicted.to(device), best.to(device), n)
            for seed, true, predicted, best, n in kept
        ]
        self.journal.note("rolled out", windows=CHUNK * len(chunks), of_each=SAMPLES)
        return refined_rollouts(self.refiner, self.tokenizer, chunks, windows, options.steps["refiner"])

    def export(self, stage: str = "") -> None:
        """What a stage trains, or everything, to where the node finds it."""
        if not self.ranks.is_first:
            return
        if stage in ("", "tokenizer"):
            export_tokenizer(self.tokenizer, self.out)
        if stage in ("", "tokenizer", "refiner"):
            export_refiner(self.refiner, self.out)
        if stage in ("", "world-model"):
            export_transformer(self.transformer, self.out, self.sizes)

    def show(self, held_out: Tensor, name: str) -> None:
        """Pictures of what is exported; training goes on where the guardrail or the device has none to give."""
        try:
            pictured = true_clips(held_out, self.sizes.frame_rate)
            write_pictures(self.out, pictured, self.out / "pictures" / name, str(self.ranks.device))
        except ForesightError as error:
            logger.warning("no pictures of %s: %s", name, error)

    def _finish(self, corpus: Corpus) -> None:
        """Measures the exported files themselves; writes evaluation.json, the card and the last pictures."""
        self.ranks.wait()
        if self.ranks.is_first:
            figures = self.measure(corpus.held_out)
            facts = {"clips": len(corpus.held_out), "sizes": dataclasses.asdict(self.sizes)} | figures
            write_whole(self.out / "evaluation.json", json.dumps(facts, indent=2) + "\n")
            rounded: dict[str, Any] = {name: round(value, 3) for name, value in figures.items()}
            self.journal.note("evaluation", **rounded)
            write_whole(self.out / "MODEL_CARD.md", self.card(corpus, figures))
            self.show(corpus.held_out, "end")
            self.unfinished.remove()
        self.ranks.wait()

    def measure(self, held_out: Tensor) -> dict[str, float]:
        device, sizes = self.ranks.device, self.sizes
        files = (self.out / f"{name}.jit" for name in ("encoder", "decoder", "refiner"))
        encode, decode, refine = (load_program(file, device).to(torch.float32) for file in files)
        transformer = load_transformer(self.out, device=device, dtype=torch.float32)
        return evaluate(encode, decode, refine, transformer, held_out, sizes.frame_size, self.sampling)

    def card(self, corpus: Corpus, figures: dict[str, float]) -> str:
        device = self.ranks.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        init = self.options.init
        return card(
            self.out.name,
            self.sizes,
            {part: sum(p.numel() for p in net.parameters()) / 1e6 for part, net in self.networks.items()},
            corpus.names,
            corpus.counts,
            self._stages,
            figures,
            f"{self.ranks.size} x {name}",
            init.name if init else "",
        )


def as_seen(clips: Tensor, frame_size: tuple[int, int]) -> Tensor:
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
