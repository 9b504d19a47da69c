"""How a refiner's hypotheses share windows out: who is shown what, who wins, and who learns."""

from __future__ import annotations

import pytest
import torch

from cosmos_ros.training import hypotheses
from cosmos_ros.training.hypotheses import Competition
from cosmos_ros.training.refiner_network import FLOWS, PER_FRAME, Refiner
from cosmos_ros.training.rollouts import RefinedRollout

SIZE, CAMERA = (32, 48), (48, 72)
OTHERS = 3
WINDOWS = 8
GROUPS = [1, 2, 3]
N = 9
GUESS = 99  # in place of a rollout's number: the tokens for the best guess


def video(tokens: int) -> torch.Tensor:
    """What the stand-in for a decoder shows of these tokens: [3, 33, h, w], each another."""
    shades = torch.rand(3, 1, *SIZE, generator=torch.Generator().manual_seed(tokens)) * 2 - 1
    return shades.expand(-1, 33, -1, -1)


def decode(tokens: torch.Tensor) -> torch.Tensor:
    return torch.stack([video(int(each)) for each in tokens[:, 0, 0, 0]])


def tokens_of(rollout: int, windows: int = WINDOWS) -> torch.Tensor:
    """Each window's own."""
    return (100 * rollout + torch.arange(windows)).view(-1, 1, 1, 1)


def trusting(others: int = OTHERS) -> Refiner:
    """Takes decoded frames for what they are, nearly."""
    torch.manual_seed(0)
    refiner = Refiner((4, 4, 4, 4), 1 + others)
    with torch.no_grad():
        refiner.exit.bias.view(8, PER_FRAME, 4)[:, 2 * FLOWS + 5] = 12.0
    return refiner


@pytest.fixture
def of_the_winner_alone(monkeypatch):
    monkeypatch.setattr(hypotheses, "ANY_HYPOTHESIS", 0.0)


def step(refiner: Refiner, true: torch.Tensor, seed: int, predicted: torch.Tensor | None = None) -> tuple:
    """What is shown, who learns, and the truth, which is each window's rollout of the number that `true` [B] gives."""
    if predicted is None:
        predicted = torch.stack([tokens_of(rollout) for rollout in range(OTHERS)]).int()
    clean = torch.nn.functional.interpolate(
        torch.stack([video(100 * int(each) + k) for k, each in enumerate(true)]).flatten(0, 1),
        size=CAMERA,
        mode="nearest",
    ).view(len(true), 3, 33, *CAMERA)
    competition = Competition(refiner, decode, SIZE)
    generator = torch.Generator().manual_seed(seed)
    shown, which = competition(tokens_of(GUESS, len(true)), predicted, clean, clean, N, GROUPS, generator)
    return shown, which, clean


def test_who_comes_nearest_learns_from_its_own_rollout_and_nobody_else_does(of_the_winner_alone):
    refiner = trusting()
    true = torch.tensor([0, 2] * 4)  # so that one of the three never wins
    shown, which, clean = step(refiner, true, seed=1)
    guessed, opened = (which == 0).nonzero().flatten().tolist(), which.nonzero().flatten().tolist()
    assert len(guessed) == len(opened) == WINDOWS / 2
    assert all(torch.equal(shown[k], video(100 * GUESS + k)) for k in guessed)
    assert all(torch.equal(shown[k], video(100 * int(true[k]) + k)) for k in opened)
    firsts = {(int(true[k]) - int(which[k])) % OTHERS for k in opened}
    assert len(firsts) == 1, "each has a rollout of its own, the same for all windows of a step"
    RefinedRollout(refiner, SIZE, torch.device("cpu"))(shown, clean, clean, N, GROUPS, which).backward()
    learned = {1 + row for row in range(OTHERS) if refiner.vectors_in.grad[row].any()}
    assert learned == set(which[opened].tolist()) and len(learned) < OTHERS


def test_a_step_is_the_same_from_the_same_random_numbers_and_pairs_hypotheses_and_rollouts_anew_in_others():
    refiner, true, drawn = trusting(), torch.tensor([0, 1] * 4), []
    for seed in range(6):
        shown, which, _ = step(refiner, true, seed)
        again, same, _ = step(refiner, true, seed)
        assert torch.equal(shown, again) and torch.equal(which, same)
        assert (which == 0).sum() == WINDOWS / 2, "compiled programs have fixed shapes"
        drawn.append(tuple(which.tolist()))
    assert len(set(drawn)) > 3


def test_any_other_may_learn_in_the_winners_place(monkeypatch):
    monkeypatch.setattr(hypotheses, "ANY_HYPOTHESIS", 1.0)
    found = torch.cat([step(trusting(), torch.zeros(WINDOWS), seed)[1] for seed in range(6)])
    assert set(found.tolist()) == set(range(OTHERS + 1))


def test_a_rollout_that_is_right_only_at_first_loses_to_one_that_is_nearly_right_to_the_end():
    competition = Competition(trusting(2), decode, SIZE)
    truth = video(5)[None]
    at_first, throughout = truth.clone(), truth + 0.05
    at_first[:, :, N + 8 :] = video(6)[:, N + 8 :]
    decoded = [at_first, throughout]
    errors = [competition.errors(decoded, truth, truth, N, groups) for groups in ([1], GROUPS)]
    assert [each.argmin(0).tolist() for each in errors] == [[0], [1]]


@pytest.mark.parametrize(("others", "samples"), [(0, OTHERS), (OTHERS, 0)])
def test_a_single_hypothesis_or_no_rollouts_leave_all_to_the_best_guess(others, samples):
    predicted = torch.zeros(samples, WINDOWS, 1, 1, 1, dtype=torch.int32)
    shown, which, _ = step(trusting(others), torch.zeros(WINDOWS), 0, predicted)
    assert torch.equal(shown, decode(tokens_of(GUESS))) and not which.any()


def test_fewer_rollouts_than_hypotheses_are_shared_and_a_window_alone_is_now_one_kind_now_the_other():
    predicted = torch.zeros(2, 1, 1, 1, 1, dtype=torch.int32)
    found = [step(trusting(), torch.zeros(1), seed, predicted)[1].item() for seed in range(12)]
    assert 0 in found and any(found)
