"""One run of `cosmos_ros train`: the stages of a model, one after the other, so that each can be gone on with."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cosmos_ros.errors import ForesightError
from cosmos_ros.files import write_whole
from cosmos_ros.training.card import CARD, card
from cosmos_ros.training.checkpoint import Unfinished
from cosmos_ros.training.datasets.corpus import Corpus
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.loop import Recipe, train
from cosmos_ros.training.pictures import true_clips, write_pictures
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.sizes import PublishedSizes, Sizes
from cosmos_ros.world_model import ModelSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How much of each stage.

    steps     of "tokenizer", "world-model" and "refiner"
    batches   clips in a step, of "tokenizer" and "world-model", on each rank
    windows   that are tokenized, on each rank
    rollouts  for the refiner to learn from, on each rank
    init      directory of an exported model to go on from, or None
    pictures  how often in a stage to draw what is predicted
    prompt    what all recordings show, for a model that reads a prompt
    """

    steps: dict[str, int]
    batches: dict[str, int]
    windows: int
    rollouts: int
    init: Path | None
    seed: int
    pictures: int
    prompt: str = ""


class Trainee(Protocol):
    """What a run trains: a model of our own, or one made elsewhere. Every rank calls all of it, unless it says so.

    pictured  whether pictures are drawn during a stage too, and not at the end alone
    sizes     what --config said of it
    """

    pictured: bool

    @property
    def sizes(self) -> Sizes | PublishedSizes: ...

    def recipe(self, stage: str, corpus: Corpus) -> Recipe:
        """What is peculiar to a stage."""
        ...

    def export(self, stage: str = "") -> None:
        """What a stage trains, or everything, to where the node finds it. Raises OSError where the disk refuses."""
        ...

    def state(self) -> dict[str, Any]:
        """All that a run goes on from and that is the same on all ranks. The first one calls it."""
        ...

    def part(self) -> dict[str, Any] | None:
        """What this rank alone holds of what is trained; None where all hold the same."""
        ...

    def measure(self, held_out: Tensor) -> Mapping[str, float]:
        """How good the exported files are, as training.evaluation has it. The first rank calls it."""
        ...

    def millions(self) -> dict[str, float]:
        """Parameters of each part."""
        ...


class Run:
    """Trains into `out`, which holds the newest whole part of each stage at any time."""

    def __init__(
        self, out: Path, model: Trainee, options: Options, ranks: Ranks, unfinished: Unfinished, journal: Journal
    ) -> None:
        self.out, self.model, self.options = out, model, options
        self.ranks, self.unfinished, self.journal = ranks, unfinished, journal
        self._stages: list[dict[str, Any]] = list(unfinished.state.get("stages", []))  # that are over

    def train(self, stages: Sequence[str], corpus: Corpus) -> None:
        """The stages that are not over yet.

        Raises OSError where the disk refuses, TrainingDiverged: the newest whole model and checkpoint then stay.
        """
        self._episodes = self.ranks.gather(corpus.episodes)
        self.model.export()  # everything that the node loads is there from now on, whatever stage comes next
        if not self.unfinished.state:
            self._keep()
        over = {each["stage"] for each in self._stages}
        for stage in stages:
            if stage not in over and self.options.steps[stage]:
                self._train(self.model.recipe(stage, corpus), corpus)
        self._finish(corpus)

    def _train(self, recipe: Recipe, corpus: Corpus) -> None:
        name, shown = recipe.name, 0
        before = self.unfinished.state if self.unfinished.state.get("stage") == name else {}
        began = time.monotonic() - before.get("seconds", 0.0)
        self.journal.last_loss = before.get("loss", self.journal.last_loss)

        def on_checkpoint(step: int, state: Callable[[], dict]) -> None:
            nonlocal shown
            self.model.export(name)
            so_far = {"stage": name, "seconds": time.monotonic() - began, "loss": self.journal.last_loss}
            self._keep(so_far | state())
            part = self.options.pictures * step // recipe.steps
            if self.ranks.is_first and self.model.pictured and part > shown:
                shown = part
                self.show(corpus.held_out, f"{name}-{step:06d}")
            self.ranks.wait()

        train(recipe, self.ranks, self.journal, self.options.seed, on_checkpoint, before or None)
        self._stages.append(
            {
                "stage": name,
                "steps": recipe.steps,
                "tokens": recipe.steps * recipe.tokens * self.ranks.size,
                "seconds": time.monotonic() - began,
                "loss": self.journal.last_loss,
            }
        )
        self._keep()

    def _keep(self, of_stage: dict[str, Any] | None = None) -> None:
        """A checkpoint: the model as it is exported, and what the stage in hand adds."""
        of_stage, part = of_stage or {}, self.model.part() if of_stage else None
        state = {"stages": self._stages, "episodes": self._episodes}
        state |= self.model.state() if self.ranks.is_first else {}
        if part is None:
            self.unfinished.keep(state | of_stage)
        else:
            self.unfinished.keep(state, part | of_stage)

    def show(self, held_out: Tensor, name: str) -> None:
        """Pictures of what is exported; training goes on where the guardrail or the device has none to give."""
        try:
            pictured = true_clips(held_out, ModelSpec.of_checkpoint(self.out).frame_rate)
            write_pictures(self.out, pictured, self.out / "pictures" / name, str(self.ranks.device))
        except ForesightError as error:
            logger.warning("no pictures of %s: %s", name, error)

    def _finish(self, corpus: Corpus) -> None:
        """Measures the exported files themselves; writes evaluation.json, the card and the last pictures."""
        self.ranks.wait()
        if self.ranks.is_first:
            figures = dict(self.model.measure(corpus.held_out))
            facts = {"sizes": dataclasses.asdict(self.model.sizes)} | figures
            write_whole(self.out / "evaluation.json", json.dumps(facts, indent=2) + "\n")
            rounded: dict[str, Any] = {name: round(value, 3) for name, value in figures.items()}
            self.journal.note("evaluation", **rounded)
            write_whole(self.out / CARD, self.card(corpus, figures))
            self.show(corpus.held_out, "end")
            self.unfinished.remove()
        self.ranks.wait()

    def card(self, corpus: Corpus, figures: Mapping[str, float]) -> str:
        device = self.ranks.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        init = self.options.init
        return card(
            self.out.name,
            ModelSpec.of_checkpoint(self.out),
            self.model.millions(),
            corpus.names,
            corpus.counts,
            self._stages,
            figures,
            f"{self.ranks.size} x {name}",
            init.name if init else "",
            self.model.sizes.refiner_hypotheses,
        )
