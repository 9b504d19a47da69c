"""The loop that all stages share: AdamW by a schedule, clipped gradients, a running average, checkpoints.

What a step computes is a function of the seed, the stage, the step and the rank, and of the weights before it: its
random numbers are keyed by these. So a run that goes on from a checkpoint has the losses of one that never stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cosmos_ros.training.average import Average, local
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.schedule import learning_rate

CLIP = 1.0  # of the gradient's norm
NOTE_EVERY = 20  # steps
CHECKPOINT_SECONDS = 60
CHECKPOINT_SHARE = 0.05  # of the time, at most, goes into checkpoints
NEVER = 2**62
Draw = Callable[[torch.Generator], tuple[Any, ...]]


class TrainingDiverged(Exception):
    """A loss or its gradient is no finite number any more: nothing sound can come of further steps."""


@dataclass(frozen=True)
class Recipe:
    """What is peculiar to a stage.

    parameters  as AdamW takes groups of them
    loss        module whose forward takes what `draw` gives, and returns the loss of this rank's windows
    tokens      that a step's windows hold, on one rank
    decay       of the running average of the weights; None: there is none, which saves 4 bytes of a weight
    parts       in which a step's windows are drawn and computed, their gradients added up
    measure     figures on clips that training never sees, of the averaged weights
    """

    name: str
    steps: int
    parameters: list[dict[str, Any]]
    loss: nn.Module
    draw: Draw
    tokens: int
    rate: float
    betas: tuple[float, float]
    decay: float | None
    warmup_steps: int = 200
    parts: int = 1
    measure: Callable[[], Mapping[str, float]] = field(default=dict)


def train(
    recipe: Recipe,
    ranks: Ranks,
    journal: Journal,
    seed: int,
    on_checkpoint: Callable[[int, Callable[[], dict]], None],
    state: dict | None = None,
) -> None:
    """Carry out the steps; the networks then hold their averages.

    on_checkpoint  called now and then by every rank, inside of it the networks hold their averages; it gets the number
                   of steps done and a function that gives the state to go on from
    state          what such a function gave, of a run that was broken off

    Raises TrainingDiverged where a loss or its gradient is no finite number; the last checkpoint then stays.
    """
    parameters = [parameter for group in recipe.parameters for parameter in group["params"]]
    optimizer = torch.optim.AdamW(
        recipe.parameters, lr=recipe.rate, betas=recipe.betas, fused=ranks.device.type == "cuda"
    )
    average = Average(parameters, recipe.decay)
    first = 0
    if state is not None:
        first = state["step"]
        _restore(optimizer, state["optimizer"])
        average.load_state(state["average"])
        average.exchange()  # what was kept beside it are the averages, as they were exported
    loss_of = ranks.wrap(recipe.loss)
    watch = Watch(recipe.name, ranks, *(state or {}).get("losses", ()))
    with journal.progress(recipe.name, first, recipe.steps) as bar:
        began = time.monotonic()
        for step in range(first, recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe.rate, step, recipe.steps, recipe.warmup_steps)
            optimizer.zero_grad(set_to_none=True)
            loss = _backward(recipe, loss_of, keyed(seed, recipe.name, step, ranks.rank))
            norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            watch.look(loss, norm, step)
            optimizer.step()
            average.update()
            done = step + 1
            bar.update()
            if noted := done % NOTE_EVERY == 0 or done == recipe.steps:
                value = watch.mean()
                rate = (done - first) * recipe.tokens * ranks.size / (time.monotonic() - began)
                bar.set_postfix_str(f"loss {value:.4f}, {rate:,.0f} tokens/s", refresh=False)
                journal.note(recipe.name, step=done, loss=round(value, 6), tokens_per_s=round(rate))
            # A CPU alone may take minutes for as many steps as are noted together; several ranks would have to agree
            # in every step, and have GPUs.
            if (noted or ranks.size == 1) and watch.is_due(done == recipe.steps):
                with average.in_place():
                    if figures := dict(recipe.measure()):
                        journal.note(recipe.name, step=done, **{name: round(v, 4) for name, v in figures.items()})
                    on_checkpoint(done, partial(_state, done, optimizer, average, watch))
                watch.rest()
    average.exchange()


def _backward(recipe: Recipe, loss_of: nn.Module, generator: torch.Generator) -> Tensor:
    """Adds a step's gradients up and gives its loss."""
    losses = []
    for _ in range(recipe.parts):
        loss = loss_of(*recipe.draw(generator)) / recipe.parts
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _state(step: int, optimizer: torch.optim.Optimizer, average: Average, watch: Watch) -> dict:
    """What to go on from; of sharded parameters, what this rank has of it."""
    of_optimizer = optimizer.state_dict()
    of_optimizer["state"] = {
        number: {name: local(value) for name, value in values.items()}
        for number, values in of_optimizer["state"].items()
    }
    return {"step": step, "optimizer": of_optimizer, "average": average.state(), "losses": watch.losses}


def _restore(optimizer: torch.optim.Optimizer, state: dict) -> None:
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        if isinstance(parameter, DTensor):
            values |= {name: _cut_like(parameter, value) for name, value in values.items() if value.ndim}


def _cut_like(parameter: DTensor, mine: Tensor) -> DTensor:
    """A tensor of which this rank holds `mine`, cut as the parameter is."""
    return DTensor.from_local(
        mine,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def keyed(seed: int, stage: str, step: int, rank: int) -> torch.Generator:
    """The random numbers of one step: seeds the device's too."""
    key = hashlib.blake2b(f"{seed} {stage} {step} {rank}".encode(), digest_size=7).digest()
    number = int.from_bytes(key, "big")
    torch.manual_seed(number)
    return torch.Generator().manual_seed(number)


class Watch:
    """Watches a stage's losses without waiting for the device in every step, and says when a checkpoint is due.

    total, n  of losses that are not noted yet, of a run that goes on
    """

    def __init__(self, stage: str, ranks: Ranks, total: float = 0.0, n: int = 0) -> None:
        self._stage, self._ranks = stage, ranks
        self._first_bad = torch.full((), NEVER, dtype=torch.int64, device=ranks.device)
        self._sum = torch.full((), total, dtype=torch.float64, device=ranks.device)
        self._n = n
        self._next = time.monotonic() + CHECKPOINT_SECONDS
        self._begun = 0.0

    def look(self, loss: Tensor, norm: Tensor, step: int) -> None:
        """At a step's loss, and at its gradient's norm: one that is no finite number spoils the weights at once."""
        loss = loss.detach()
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        bad = torch.where(loss.isfinite() & norm.isfinite(), NEVER, step)
        self._first_bad = torch.minimum(self._first_bad, bad)
        self._sum += loss
        self._n += 1

    @property
    def losses(self) -> tuple[float, int]:
        """The sum of those that are not noted yet, and how many they are."""
        return self._sum.item(), self._n

    def mean(self) -> float:
        """Of the losses since the last call, over all ranks. Raises TrainingDiverged."""
        self.require_finite()
        mean = self._ranks.mean(self._sum.item() / max(1, self._n))
        self._sum.zero_()
        self._n = 0
        return mean

    def require_finite(self) -> None:
        bad = int(self._first_bad.item())
        if self._ranks.any(bad != NEVER):
            where = f"at step {bad}" if bad != NEVER else "on another rank"
            raise TrainingDiverged(
                f"{self._stage}: the loss or its gradient is no finite number {where}; the last checkpoint before it "
                "stays. Check the recordings for broken frames, or go on from the last export with --init"
            )

    def is_due(self, is_last: bool) -> bool:
        """Whether to keep a checkpoint now; all ranks agree. Raises TrainingDiverged before a bad one is kept."""
        due = is_last or self._ranks.agree(time.monotonic() >= self._next)
        if due:
            self.require_finite()
            self._begun = time.monotonic()
        return due

    def rest(self) -> None:
        """A checkpoint is kept: not soon again, the less so the longer it took."""
        took = time.monotonic() - self._begun
        self._next = time.monotonic() + max(CHECKPOINT_SECONDS, took / CHECKPOINT_SHARE)
