"""Temperature and top-p, in the published order: cut off, renormalise, race of exponential clocks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosmos_ros.world_model import Sampling
from cosmos_ros.world_model.decoding.sampling import sample, truncated_probabilities

logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40).map(torch.tensor)
temperatures = st.floats(0.05, 10)
top_ps = st.floats(0.01, 1)
seeds = st.integers(0, 2**63 - 1)


def noise(seed):
    return torch.Generator().manual_seed(seed)


@given(logits, temperatures, top_ps)
def test_the_fewest_likeliest_tokens_that_reach_top_p_are_kept(logits, temperature, top_p):
    probabilities, order = truncated_probabilities(logits, temperature, top_p)
    before = torch.softmax(logits / temperature, dim=-1)[order]
    kept = int((probabilities > 0).sum())
    assert sorted(order.tolist()) == list(range(len(logits)))
    assert (before[:-1] >= before[1:]).all()
    assert (probabilities[kept:] == 0).all()
    assert float(before[: kept - 1].sum()) <= top_p + 1e-5  # without the last kept, top_p is not passed
    if kept < len(logits) and before[kept] > 1e-6:
        assert float(before[:kept].sum()) > top_p - 1e-5  # with it, it is
    assert math.isclose(float(probabilities.sum()), 1.0, rel_tol=1e-5)


@given(logits, temperatures, top_ps, seeds)
def test_only_kept_tokens_are_drawn_and_the_seed_says_which(logits, temperature, top_p, seed):
    sampling = Sampling(seed, temperature, top_p)
    token = sample(logits, sampling, sampling.generator("cpu"))
    probabilities, order = truncated_probabilities(logits, temperature, top_p)
    assert int(token) in order[probabilities > 0].tolist()
    assert torch.equal(token, sample(logits, sampling, sampling.generator("cpu")))


@given(logits, top_ps, seeds)
def test_temperature_zero_is_greedy_and_draws_no_noise(logits, top_p, seed):
    generator = noise(seed)
    state = generator.get_state()
    assert int(sample(logits, Sampling(seed, 0.0, top_p), generator)) == int(logits.argmax())
    assert torch.equal(generator.get_state(), state)


@given(logits, temperatures, seeds)
def test_a_vanishing_top_p_leaves_the_likeliest(logits, temperature, seed):
    token = sample(logits, Sampling(seed, temperature, 1e-9), noise(seed))
    assert logits[token] == logits.max() or math.isclose(float(logits[token]), float(logits.max()), abs_tol=1e-4)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (1.0, [0.4, 0.3, 0.2, 0.1]),
        (0.8, [4 / 9, 3 / 9, 2 / 9, 0]),  # the third token crosses 0.8 and is kept
        (0.35, [1, 0, 0, 0]),
    ],
)
def test_tokens_come_as_often_as_their_probability(top_p, expected):
    n = 20_000
    row = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    tokens = sample(row.expand(n, 4), Sampling(0, 1.0, top_p), noise(5))
    frequencies = torch.bincount(tokens, minlength=4) / n
    assert (frequencies - torch.tensor(expected)).abs().max() < 4 * math.sqrt(0.25 / n)


@settings(max_examples=20)
@given(seeds)
def test_rows_of_a_batch_are_drawn_independently(seed):
    tokens = sample(torch.zeros(64, 50), Sampling(seed, 1.0, 1.0), noise(seed))
    assert tokens.shape == (64,) and len(set(tokens.tolist())) > 10


def test_the_race_is_run_in_the_models_precision():
    """With the same noise the published sampler, all bfloat16, draws the same: so must we round where it rounds."""
    row = torch.randn(500, generator=noise(0)).bfloat16()
    probabilities, order = torch.sort(torch.softmax(row / 0.9, dim=-1), descending=True)
    assert probabilities.dtype == torch.bfloat16
    probabilities[(torch.cumsum(probabilities, -1) - probabilities) > 0.8] = 0.0
    probabilities.div_(probabilities.sum(-1, keepdim=True))
    clocks = torch.empty_like(probabilities).exponential_(1, generator=noise(3))
    assert sample(row, Sampling(3, 0.9, 0.8), noise(3)) == order[torch.argmax(probabilities / clocks)]
