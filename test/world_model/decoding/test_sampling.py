"""Temperature and top-p: what is kept, that the noise says which, and as often as the published sampler."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cosmos_ros.world_model import Sampling
from cosmos_ros.world_model.decoding.noise import gumbel, words_of
from cosmos_ros.world_model.decoding.sampling import NOT_FINITE, draw

logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40).map(torch.tensor)
temperatures = st.floats(0.05, 10)
top_ps = st.floats(0.01, 1)
seeds = st.integers(0, 2**63 - 1)


def noise(seed: int, vocabulary: int, n: int = 1) -> torch.Tensor:
    return gumbel(words_of([seed]), torch.arange(n)[None], vocabulary)[0]


def drawn(row: torch.Tensor, temperature: float, top_p: float, seed: int, n: int = 1) -> torch.Tensor:
    return draw(row.expand(n, -1), Sampling(seed, temperature, top_p), noise(seed, len(row), n))


@given(logits, temperatures, top_ps, seeds)
def test_only_the_fewest_likeliest_tokens_that_reach_top_p_are_drawn(logits, temperature, top_p, seed):
    token = drawn(logits, temperature, top_p, seed)
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    likelier = float(probabilities[logits > logits[token]].sum())
    assert likelier <= top_p + 1e-5
    assert torch.equal(token, drawn(logits, temperature, top_p, seed))


@given(logits, temperatures, top_ps, seeds)
def test_of_what_is_kept_the_noise_says_which(logits, temperature, top_p, seed):
    token = int(drawn(logits, temperature, top_p, seed))
    scaled = (logits - logits.max()) / temperature
    scores = scaled + noise(seed, len(logits))[0]
    probabilities = torch.softmax(scaled, dim=-1)
    before = torch.stack([probabilities[scaled > level].sum() for level in scaled])
    for other in torch.nonzero(before <= top_p - 1e-5).flatten().tolist():
        assert scores[other] <= scores[token]


@given(logits, top_ps, seeds)
def test_temperature_zero_is_greedy_and_reads_no_noise(logits, top_p, seed):
    token = draw(logits[None], Sampling(seed, 0.0, top_p), None)
    assert int(token) == int((logits == logits.max()).nonzero()[0])


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-40, 1e-30])
def test_a_temperature_that_overflows_is_greedy(temperature):
    row = torch.tensor([1.0, 3.0, 2.0, -400.0])
    assert drawn(row, temperature, 0.9, seed=4, n=50).unique().tolist() == [1]
    assert drawn(row, temperature, 1.0, seed=4, n=50).unique().tolist() == [1]


@given(logits, temperatures, seeds)
def test_a_vanishing_top_p_leaves_the_likeliest(logits, temperature, seed):
    token = drawn(logits, temperature, 1e-9, seed)
    assert math.isclose(float(logits[token]), float(logits.max()), abs_tol=2e-4)


@pytest.mark.parametrize("top_p", [0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_told(bad, temperature, top_p):
    rows = torch.zeros(3, 7)
    rows[1, 4] = bad
    found = draw(rows, Sampling(0, temperature, top_p), noise(0, 7, 3))
    assert (found == NOT_FINITE).tolist() == [False, True, False]


def test_tokens_of_equal_probability_are_kept_together():
    row = torch.tensor([2.0, 0.0, 0.0, 0.0, -5.0])
    assert drawn(row, 1.0, 0.8, seed=0, n=2000).unique().tolist() == [0, 1, 2, 3]  # token 1 alone would cross 0.8


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.35, 0.8, 1.0])
def test_tokens_come_as_often_as_from_the_published_sampler(temperature, top_p, published_sampler):
    """Chi-square against the published probabilities, 40,000 draws over positions and seeds.

    At a level of 0.001, a sampler whose probabilities were off by 5 % of themselves (some up, some down) would fail
    here with a probability above 0.99.
    """
    n, vocabulary = 40_000, 60
    row = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 2
    probabilities, order = published_sampler.truncated_probabilities(row.double(), temperature, top_p)
    expected = torch.zeros(vocabulary, dtype=torch.float64).scatter(0, order, probabilities)
    sampling = Sampling(0, temperature, top_p)
    positions = torch.arange(400).expand(100, -1)
    tokens = draw(row.expand(100, 400, -1), sampling, gumbel(words_of(range(100)), positions, vocabulary)).flatten()
    counts = torch.bincount(tokens, minlength=vocabulary).double()
    assert not counts[expected == 0].any()
    often = expected * n >= 10  # rarer ones are taken together
    observed, wanted = (torch.cat([x[often], x[~often].sum(0, keepdim=True)]) for x in (counts, expected * n))
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    limit = stats.chi2.ppf(0.999, freedom) if freedom else 1e-9
    assert statistic <= limit
    if freedom:
        assert stats.ncx2.sf(limit, freedom, n * 0.05**2) > 0.99, "the power"


@given(seeds)
def test_positions_are_drawn_independently(seed):
    tokens = drawn(torch.zeros(50), 1.0, 1.0, seed, n=64)
    assert tokens.shape == (64,) and len(set(tokens.tolist())) > 10


def test_a_stretchs_noise_is_that_of_the_samples_seed_and_of_no_other_stretch():
    first = Sampling(7, 1.0, 0.9)
    assert [first.noise_seed(sample) for sample in range(3)] == [7, 8, 9]
    later = first.of_stretch(2)
    assert later.seed == 7 and later.noise_seed(1) == Sampling(8, 1.0, 0.9).of_stretch(2).noise_seed(0)
    keys = {
        Sampling(2**64 - 2, 1.0, 0.9).of_stretch(number).noise_seed(sample)
        for number in range(8)
        for sample in range(8)
    }
    assert len(keys) == 64 and all(0 <= key < 2**64 for key in keys)
