"""The loop of all stages, its schedule, its running average and its guard against losses that are no numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch

from cosmos_ros.training import loop
from cosmos_ros.training.average import Average
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.loop import Recipe, TrainingDiverged, keyed, train
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.schedule import learning_rate

ALONE = Ranks(0, 1, torch.device("cpu"))


class Distance(torch.nn.Module):
    """Of a number from random targets."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))

    def forward(self, target: torch.Tensor) -> torch.Tensor:
        return (self.number - target).square().mean()


def recipe(module: Distance, steps: int, bad_step: int | None = None) -> Recipe:
    drawn = []

    def draw(generator: torch.Generator) -> tuple[torch.Tensor]:
        drawn.append(torch.rand(4, generator=generator) + (float("nan") if len(drawn) == bad_step else 0))
        return (drawn[-1],)

    return Recipe(
        name="distance",
        steps=steps,
        parameters=[{"params": [module.number]}],
        loss=module,
        draw=draw,
        tokens=4,
        rate=0.1,
        betas=(0.9, 0.98),
        decay=0.9,
        measure=lambda: {"number": module.number.item()},
    )


@pytest.fixture
def always_due(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))


def test_training_comes_near_what_there_is_to_learn_and_says_how_far_it_is(tmp_path, always_due):
    module, seen = Distance(), []
    train(recipe(module, 100), ALONE, Journal(tmp_path), 0, lambda step, state: seen.append((step, state()["step"])))
    assert module.number.item() == pytest.approx(0.5, abs=0.1)
    assert seen == [(n, n) for n in range(1, 101)], "a process alone does not wait for the next note"
    assert '"stage": "distance", "step": 100, "number": 0.' in (tmp_path / "training.jsonl").read_text()


@pytest.mark.parametrize("bad_step", [0, 33])
def test_a_loss_that_is_no_number_names_its_step_and_the_checkpoint_before_it_stays(tmp_path, always_due, bad_step):
    seen = []
    with pytest.raises(TrainingDiverged, match=rf"distance: the loss or its gradient is no .* at step {bad_step};"):
        train(recipe(Distance(), 100, bad_step), ALONE, Journal(tmp_path), 0, lambda step, _: seen.append(step))
    assert seen == list(range(1, bad_step + 1))


class Steep(torch.autograd.Function):
    """Zero, with an infinite slope."""

    @staticmethod
    def forward(_, number: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(number)

    @staticmethod
    def backward(_, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")


def test_a_gradient_that_is_no_number_is_noticed_before_a_checkpoint_holds_what_it_did(tmp_path, always_due):
    """In the last step no loss would tell any more."""

    class Cliff(Distance):
        def forward(self, target: torch.Tensor) -> torch.Tensor:
            cliff = Steep.apply(self.number) if len(seen) == 9 else 0
            return super().forward(target) + cliff

    seen: list[int] = []
    with pytest.raises(TrainingDiverged, match=r"distance: the loss or its gradient is no finite number at step 9;"):
        train(recipe(Cliff(), 10), ALONE, Journal(tmp_path), 0, lambda step, _: seen.append(step))
    assert seen == list(range(1, 10))


@pytest.mark.parametrize("broken_at", [33, 40])
def test_a_run_that_goes_on_between_two_notes_notes_what_one_that_never_stopped_does(tmp_path, always_due, broken_at):
    def notes(folder: str) -> list[tuple[int, float]]:
        lines = map(json.loads, (tmp_path / folder / "training.jsonl").read_text().splitlines())
        return [(line["step"], line["loss"]) for line in lines if "loss" in line]

    def until(step: int, state: Callable[[], dict]) -> None:
        if step == broken_at:
            kept.update(copy.deepcopy(state()), number=module.number.item())
            raise KeyboardInterrupt

    module, kept = Distance(), {}
    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
    train(recipe(Distance(), 60), ALONE, Journal(tmp_path / "whole"), 0, lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(module, 60), ALONE, Journal(tmp_path / "broken"), 0, until)
    module = Distance()
    module.number.data.fill_(kept.pop("number"))
    train(recipe(module, 60), ALONE, Journal(tmp_path / "broken"), 0, lambda *_: None, kept)
    assert notes("broken") == notes("whole") and [step for step, _ in notes("whole")] == [20, 40, 60]


def test_every_step_has_random_numbers_of_its_own_and_the_same_each_time():
    def numbers(*key) -> list[float]:
        generator = keyed(*key)
        return [torch.rand((), generator=generator).item(), torch.rand(()).item()]

    keys = [
        (0, "refiner", 7, 0),
        (0, "refiner", 7, 1),
        (0, "refiner", 8, 0),
        (0, "tokenizer", 7, 0),
        (1, "refiner", 7, 0),
    ]
    drawn = [numbers(*key) for key in keys]
    assert drawn == [numbers(*key) for key in keys]
    assert len({tuple(each) for each in drawn}) == len(keys)


def test_the_rate_warms_up_then_falls_to_a_hundredth():
    rates = [learning_rate(1.0, step, 100, 10) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[0] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] == pytest.approx(0.01, abs=0.01)
    assert learning_rate(1.0, 1, 2, 200) <= 1, "a stage may be shorter than its warm-up"


def test_the_average_follows_the_weights_and_takes_their_place_for_a_while():
    network = torch.nn.Linear(1, 1, bias=False)
    average = Average(network.parameters(), decay=0.5)
    with torch.no_grad():
        network.weight.fill_(10.0)
    for _ in range(3):
        average.update()
    with average.in_place():
        assert 0 < network.weight.item() < 10
    assert network.weight.item() == 10.0
    for _ in range(200):
        average.update()
    average.exchange()
    assert network.weight.item() == pytest.approx(10.0, abs=1e-3)
