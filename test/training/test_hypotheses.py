"""How a refiner's hypotheses share windows out: who is shown what, who wins, and who learns."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cosmos_ros.training import hypotheses
from cosmos_ros.training.hypotheses import Competition
from cosmos_ros.training.loop import Recipe
from cosmos_ros.training.losses import frame_log_errors
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.rollouts import TRIP_SHARE, TRIPS, Chunk, RefinedRollout, refined_rollouts

SIZE, CAMERA = (32, 48), (48, 72)
RIVALS, SAMPLES = 3, 4
HYPOTHESES, TRUSTING = RIVALS + 2, RIVALS + 1
WINDOWS = 8
GROUPS = [1, 2, 3]
N = 9
GUESS, TRUE = 99, 55  # in place of a rollout's number: the tokens for the best guess, and true ones


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


def refiner_of(hypotheses: int = HYPOTHESES) -> Refiner:
    """Rivals have plans that differ."""
    torch.manual_seed(0)
    refiner = Refiner((4, 4, 4, 4), hypotheses)
    refiner.set_apart(seed=0)
    with torch.no_grad():
        refiner.exit.weight.normal_(std=0.3)
    return refiner


@pytest.fixture
def of_the_winner_alone(monkeypatch):
    monkeypatch.setattr(hypotheses, "ANY_RIVAL", 0.0)


@pytest.fixture
def of_each_rival_some(monkeypatch):
    """Each wins in its turn: finding out takes seconds."""

    def errors(_self: Competition, decoded: torch.Tensor, *_: object) -> torch.Tensor:
        return 1 - torch.eye(RIVALS)[:, torch.arange(len(decoded)) % RIVALS]

    monkeypatch.setattr(Competition, "errors", errors)


def step(refiner: Refiner, seed: int, predicted: torch.Tensor | None = None, windows: int = WINDOWS) -> tuple:
    """What is shown, who learns, and the truth."""
    if predicted is None:
        predicted = torch.stack([tokens_of(rollout) for rollout in range(SAMPLES)]).int()
    clean = at_camera_size([video(7000 + k) for k in range(windows)])
    competition = Competition(refiner, decode, SIZE)
    generator = torch.Generator().manual_seed(seed)
    shown, which = competition(tokens_of(GUESS, windows), predicted, clean, clean, N, GROUPS, generator)
    return shown, which, clean


def test_a_share_of_the_windows_are_the_best_guesses_and_the_others_show_one_of_their_rollouts():
    rollouts = set()
    for seed in range(4):
        shown, which, _ = step(refiner_of(), seed)
        assert (which == 0).sum() == WINDOWS * hypotheses.GUESS_SHARE, "compiled programs have fixed shapes"
        for k in range(WINDOWS):
            of = [rollout for rollout in (*range(SAMPLES), GUESS) if torch.equal(shown[k], video(100 * rollout + k))]
            assert len(of) == 1 and (of[0] == GUESS) == (which[k] == 0)
            rollouts |= set(of)
    assert rollouts == {*range(SAMPLES), GUESS}


def test_who_comes_nearest_learns_and_nobody_else_does(of_the_winner_alone, monkeypatch):
    errors = torch.tensor([[0.0, 3, 2, 9, 4, 5], [1, 2, 3, 8, 5, 6], [2, 1, 1, 7, 6, 4]])  # of rivals on windows
    monkeypatch.setattr(Competition, "errors", lambda *_: errors)
    refiner = refiner_of()
    shown, which, clean = step(refiner, seed=2)
    assert sorted(which[which > 0].tolist()) == [1, 1, 3, 3, 3, 3]
    RefinedRollout(refiner, SIZE, torch.device("cpu"))(shown, clean, clean, N, GROUPS, which).backward()
    assert [bool(row.any()) for row in refiner.vectors_in.grad] == [True, False, True, False]


def test_the_error_is_that_of_each_rival_over_all_groups():
    refiner, groups = refiner_of(), [1, 3]
    decoded, truth = torch.stack([video(1), video(2)]), torch.stack([video(5), video(6)])
    errors = Competition(refiner, decode, SIZE).errors(decoded, truth, truth, N, groups)
    last = truth[:, :, N - 1]
    for number in range(1, 1 + RIVALS):
        of_groups = []
        for group in groups:
            until = N + 8 * group
            look = refiner.look(decoded[:, :, :until], truth[:, :, :N])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                plan = refiner.plan(look, torch.full((2,), number))
            refined = refiner.compose(plan.float(), decoded[:, :, until - 8 : until], last, truth[:, :, 0])
            target = truth[:, :, until - 8 : until]
            of_groups.append(frame_log_errors(refined - target).mean(1))
        torch.testing.assert_close(errors[number - 1], torch.stack(of_groups).mean(0), rtol=1e-3, atol=1e-3)
    assert len(set(errors.flatten().tolist())) == errors.numel(), "every rival has a plan of its own"


def test_a_step_is_the_same_from_the_same_random_numbers():
    refiner, drawn = refiner_of(), []
    for seed in range(6):
        shown, which, _ = step(refiner, seed)
        again, same, _ = step(refiner, seed)
        assert torch.equal(shown, again) and torch.equal(which, same)
        drawn.append(tuple(which.tolist()))
    assert len(set(drawn)) > 3


def test_any_rival_may_learn_in_the_winners_place(monkeypatch):
    monkeypatch.setattr(hypotheses, "ANY_RIVAL", 1.0)
    found = torch.cat([step(refiner_of(), seed)[1] for seed in range(6)])
    assert set(found.tolist()) == set(range(RIVALS + 1)), "and never the one that trusts the tokens"


@pytest.mark.parametrize("number", [1, 2])
def test_where_nobody_competes_all_is_the_best_guesses(number):
    shown, which, _ = step(refiner_of(number), 0)
    assert torch.equal(shown, decode(tokens_of(GUESS))) and not which.any()


def test_a_window_alone_is_now_one_kind_now_the_other():
    predicted = torch.zeros(2, 1, 1, 1, 1, dtype=torch.int32)
    found = [step(refiner_of(), seed, predicted, windows=1)[1].item() for seed in range(12)]
    assert 0 in found and any(found)


def stage(refiner: Refiner, rolled_out: int, trips: int, windows: int = WINDOWS) -> Recipe:
    """Of so many chunks of each kind."""
    true, none = tokens_of(TRUE, windows).int(), torch.zeros(windows, dtype=torch.int64)
    predicted = torch.stack([tokens_of(rollout, windows) for rollout in range(SAMPLES)]).int()
    chunks = [Chunk(seed, true, predicted, none, N) for seed in range(rolled_out)]
    chunks += [Chunk(rolled_out + seed, true, predicted[:0], none, N) for seed in range(trips)]
    frames = at_camera_size([video(7000 + k) for k in range(windows)])
    clips = SimpleNamespace(device=torch.device("cpu"))
    of = SimpleNamespace(clips=clips, frame_size=SIZE, draw=lambda _seed: (frames, frames))
    return refined_rollouts(refiner, decode, chunks, of, steps=1, seed=5)


def learners(recipe: Recipe, seeds: int) -> list[tuple[bool, set[int]]]:
    """Of each draw whether it shows true tokens, and who learns."""
    found = []
    for seed in range(seeds):
        shown, *_, which = recipe.draw(torch.Generator().manual_seed(seed))
        true = [torch.equal(one, video(100 * TRUE + k)) for k, one in enumerate(shown)]
        assert all(true) or not any(true), "a chunk is of one kind"
        found.append((all(true), set(which.tolist())))
    return found


def test_from_round_trips_the_trusting_one_learns_and_from_rollouts_all_others(of_each_rival_some):
    found = learners(stage(refiner_of(), rolled_out=1, trips=4), seeds=80)
    trips, rollouts = ([who for is_true, who in found if is_true == kind] for kind in (True, False))
    assert set().union(*trips) == {TRUSTING} and set().union(*rollouts) == set(range(TRUSTING))
    assert len(trips) / len(found) == pytest.approx(TRIP_SHARE, abs=0.15), "however many chunks there are of each kind"


@pytest.mark.parametrize("windows", [WINDOWS, 1])
def test_without_rollouts_the_best_guess_learns_from_round_trips_as_the_trusting_one_does(windows):
    found = learners(stage(refiner_of(), rolled_out=0, trips=2, windows=windows), seeds=12)
    assert all(is_true for is_true, _ in found) and set().union(*(who for _, who in found)) == {0, TRUSTING}


def test_where_few_windows_are_rolled_out_the_best_guess_learns_from_round_trips_too():
    found = learners(stage(refiner_of(), rolled_out=1, trips=TRIPS + 1), seeds=40)
    assert set().union(*(who for is_true, who in found if is_true)) == {0, TRUSTING}


def test_without_round_trips_the_trusting_one_learns_nothing(of_each_rival_some):
    found = learners(stage(refiner_of(), rolled_out=2, trips=0), seeds=12)
    assert not any(is_true for is_true, _ in found) and set().union(*(who for _, who in found)) == set(range(TRUSTING))


@pytest.mark.parametrize(("number", "of_rollouts", "of_trips"), [(1, {0}, {0}), (2, {0}, {1})])
def test_of_one_hypothesis_it_learns_from_all_and_of_two_the_second_from_round_trips(number, of_rollouts, of_trips):
    found = learners(stage(refiner_of(number), rolled_out=1, trips=1), seeds=12)
    assert {frozenset(who) for is_true, who in found if is_true} == {frozenset(of_trips)}
    assert {frozenset(who) for is_true, who in found if not is_true} == {frozenset(of_rollouts)}


@pytest.mark.parametrize(("rolled_out", "trips"), [(1, 0), (0, 1)])
def test_each_weight_has_a_gradient_whoever_learns(rolled_out, trips):
    """As training on several devices expects it."""
    refiner = refiner_of()
    recipe = stage(refiner, rolled_out, trips)
    recipe.loss(*recipe.draw(torch.Generator().manual_seed(0))).backward()
    assert all(weight.grad is not None for weight in refiner.parameters())


@pytest.mark.parametrize("rolled_out", [0, 1])
def test_rivals_are_set_apart_where_there_are_rollouts_to_compete_on(rolled_out):
    refiner = Refiner((4, 4, 4, 4), HYPOTHESES)
    stage(refiner, rolled_out, trips=1)
    for vectors in (refiner.vectors_in, refiner.vectors_deep):
        assert [bool(each.any()) for each in vectors] == [rolled_out > 0] * RIVALS + [False]
