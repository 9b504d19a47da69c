"""How a refiner's hypotheses share windows out: who is shown what, who wins, and who learns."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cosmos_ros.training import hypotheses
from cosmos_ros.training.hypotheses import Competition
from cosmos_ros.training.losses import log_errors
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.rollouts import Chunk, RefinedRollout, refined_rollouts

SIZE, CAMERA = (32, 48), (48, 72)
OTHERS, SAMPLES = 3, 4
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


def at_camera_size(videos: list[torch.Tensor]) -> torch.Tensor:
    frames = torch.stack(videos).flatten(0, 1)
    return torch.nn.functional.interpolate(frames, size=CAMERA, mode="nearest").view(len(videos), 3, 33, *CAMERA)


def refiner_of(others: int = OTHERS) -> Refiner:
    """Number 0 hardly changes the camera's last frame; the other hypotheses have plans that differ."""
    torch.manual_seed(0)
    refiner = Refiner((4, 4, 4, 4), 1 + others)
    refiner.set_apart(seed=0)
    with torch.no_grad():
        refiner.exit.weight.normal_(std=0.3)
    return refiner


@pytest.fixture
def of_the_winner_alone(monkeypatch):
    monkeypatch.setattr(hypotheses, "ANY_HYPOTHESIS", 0.0)


def step(refiner: Refiner, seed: int, predicted: torch.Tensor | None = None, windows: int = WINDOWS) -> tuple:
    """What is shown, who learns, and the truth."""
    if predicted is None:
        predicted = torch.stack([tokens_of(rollout) for rollout in range(SAMPLES)]).int()
    clean = at_camera_size([video(7000 + k) for k in range(windows)])
    competition = Competition(refiner, decode, SIZE)
    generator = torch.Generator().manual_seed(seed)
    shown, which = competition(tokens_of(GUESS, windows), predicted, clean, clean, N, GROUPS, generator)
    return shown, which, clean


def test_half_of_the_windows_are_the_best_guesses_and_the_others_show_one_of_their_rollouts():
    rollouts = set()
    for seed in range(4):
        shown, which, _ = step(refiner_of(), seed)
        assert (which == 0).sum() == WINDOWS / 2, "compiled programs have fixed shapes"
        for k in range(WINDOWS):
            of = [rollout for rollout in (*range(SAMPLES), GUESS) if torch.equal(shown[k], video(100 * rollout + k))]
            assert len(of) == 1 and (of[0] == GUESS) == (which[k] == 0)
            rollouts |= set(of)
    assert rollouts == {*range(SAMPLES), GUESS}


def test_who_comes_nearest_learns_and_nobody_else_does(of_the_winner_alone, monkeypatch):
    errors = torch.tensor([[0.0, 3, 2, 9], [1, 2, 3, 8], [2, 1, 1, 7]])  # of each hypothesis on each window
    monkeypatch.setattr(Competition, "errors", lambda *_: errors)
    refiner = refiner_of()
    shown, which, clean = step(refiner, seed=2)
    assert sorted(which[which > 0].tolist()) == [1, 3, 3, 3]
    RefinedRollout(refiner, SIZE, torch.device("cpu"))(shown, clean, clean, N, GROUPS, which).backward()
    assert [bool(row.any()) for row in refiner.vectors_in.grad] == [True, False, True]


def test_the_error_is_that_of_each_hypothesis_over_all_groups():
    refiner, groups = refiner_of(), [1, 3]
    decoded, truth = torch.stack([video(1), video(2)]), torch.stack([video(5), video(6)])
    errors = Competition(refiner, decode, SIZE).errors(decoded, truth, truth, N, groups)
    last = truth[:, :, N - 1]
    for number in range(1, 1 + OTHERS):
        of_groups = []
        for group in groups:
            until = N + 8 * group
            look = refiner.look(decoded[:, :, :until], truth[:, :, :N])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                plan = refiner.plan(look, torch.full((2,), number))
            refined = refiner.compose(plan.float(), decoded[:, :, until - 8 : until], last, truth[:, :, 0])
            target = truth[:, :, until - 8 : until]
            of_groups.append(log_errors(refined - target, target, last[:, :, None]).mean(1))
        torch.testing.assert_close(errors[number - 1], torch.stack(of_groups).mean(0), rtol=1e-3, atol=1e-3)
    assert len(set(errors.flatten().tolist())) == errors.numel(), "every hypothesis has a plan of its own"


def test_a_step_is_the_same_from_the_same_random_numbers():
    refiner, drawn = refiner_of(), []
    for seed in range(6):
        shown, which, _ = step(refiner, seed)
        again, same, _ = step(refiner, seed)
        assert torch.equal(shown, again) and torch.equal(which, same)
        drawn.append(tuple(which.tolist()))
    assert len(set(drawn)) > 3


def test_any_other_may_learn_in_the_winners_place(monkeypatch):
    monkeypatch.setattr(hypotheses, "ANY_HYPOTHESIS", 1.0)
    found = torch.cat([step(refiner_of(), seed)[1] for seed in range(6)])
    assert set(found.tolist()) == set(range(OTHERS + 1))


@pytest.mark.parametrize(("others", "samples"), [(0, SAMPLES), (OTHERS, 0)])
def test_a_single_hypothesis_or_no_rollouts_leave_all_to_the_best_guess(others, samples):
    predicted = torch.zeros(samples, WINDOWS, 1, 1, 1, dtype=torch.int32)
    shown, which, _ = step(refiner_of(others), 0, predicted)
    assert torch.equal(shown, decode(tokens_of(GUESS))) and not which.any()


def test_a_window_alone_is_now_one_kind_now_the_other():
    predicted = torch.zeros(2, 1, 1, 1, 1, dtype=torch.int32)
    found = [step(refiner_of(), seed, predicted, windows=1)[1].item() for seed in range(12)]
    assert 0 in found and any(found)


@pytest.mark.parametrize("rollouts", [0, SAMPLES])
def test_hypotheses_are_set_apart_where_there_are_rollouts_to_compete_on(rollouts):
    refiner, true = Refiner((4, 4, 4, 4), 1 + OTHERS), tokens_of(0).expand(-1, 5, 2, 3).int()
    chunk = Chunk(0, true, true.expand(rollouts, -1, -1, -1, -1), torch.zeros(WINDOWS, dtype=torch.int64), N)
    windows = SimpleNamespace(clips=SimpleNamespace(device=torch.device("cpu")), frame_size=SIZE)
    refined_rollouts(refiner, decode, [chunk], windows, steps=1, seed=5)
    assert bool(refiner.vectors_in.any()) == bool(refiner.vectors_deep.any()) == (rollouts > 0)
