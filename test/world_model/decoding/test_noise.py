"""Noise keyed by seed, position and token: the same however it is asked for, and noise by every test of it."""

import math

import pytest
import torch

from cosmos_ros.world_model.decoding.noise import NoiseRows, bits, gumbel, words_of

ONE = words_of([1])


def reference_bits(seed: int, position: int, token: int) -> int:
    """The definition in plain whole numbers."""
    mask = 0xFFFFFFFF

    def mix(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D & mask
        x = (x ^ x >> 15) * 0x846CA68B & mask
        return x ^ x >> 16

    z = (seed + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    z ^= z >> 31
    first, second = z & mask, z >> 32
    key = mix(mix(position ^ first) + second & mask)
    other = mix(mix(position + second & mask) ^ (first + 0x9E3779B9 & mask))
    return mix(mix(token * 0x9E3779B9 + key & mask) ^ other)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1])
def test_the_bits_are_those_of_the_definition(seed):
    positions = torch.tensor([[0, 1, 12799, 2**31 - 1]])
    found = bits(words_of([seed]), positions, 5)[0].long() & 0xFFFFFFFF
    expected = [[reference_bits(seed, position, token) for token in range(5)] for position in positions[0].tolist()]
    assert found.tolist() == expected


def test_noise_is_finite_even_at_the_ends():
    noise = gumbel(words_of(range(8)), torch.arange(64).expand(8, -1), 4096)
    assert noise.isfinite().all()


def test_noise_has_the_gumbel_distribution():
    """Kolmogorov-Smirnov over 2^20 draws: at this size a shift of 0.003 deviations would be seen nine times in ten."""
    noise = gumbel(ONE, torch.arange(1024)[None], 1024).flatten().double().sort().values
    n = len(noise)
    distance = ((-(-noise).exp()).exp() - torch.arange(1, n + 1, dtype=torch.float64) / n).abs().max()
    assert distance < 1.95 / math.sqrt(n)  # one false alarm in a thousand, and the seed is fixed


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["seed", "position", "token"])
def test_neighbours_are_independent(axis):
    """Every pair of bits of neighbours agrees half of the time: 2^20 pairs, 1024 bit pairs, 5.5 deviations."""
    words = words_of(range(65)) if axis == "seed" else words_of(range(64))
    positions = torch.arange(129 if axis == "position" else 128).expand(len(words), -1)
    found = bits(words, positions, 129 if axis == "token" else 128)
    dim = {"seed": 0, "position": 1, "token": 2}[axis]
    n = found.shape[dim] - 1
    one, other = (found.narrow(dim, begin, n).flatten() for begin in (0, 1))
    signs = [((x[:, None] >> torch.arange(32)) & 1).float() * 2 - 1 for x in (one, other)]
    correlation = signs[0].T @ signs[1] / math.sqrt(len(one))
    assert correlation.abs().max() < 5.5


def test_a_row_has_the_same_bits_in_every_window():
    window, vocabulary = 24, 1003  # no multiple of a vector's width
    rows = NoiseRows(2, window, vocabulary)
    words = words_of([5, 2**62])
    rows.begin(words)
    seen: dict[tuple[int, int], torch.Tensor] = {}
    starts = [(0, 3), (1, 3), (9, 40), (30, 41), (31, 300), (200, 301)]
    for start in starts:
        positions = torch.tensor(start)[:, None] + torch.arange(window)
        found = rows.of(positions)
        torch.testing.assert_close(found, gumbel(words, positions, vocabulary), rtol=1e-5, atol=1e-6)
        for sample in range(2):
            for row, position in zip(found[sample], positions[sample].tolist(), strict=True):
                assert torch.equal(seen.setdefault((sample, position), row.clone()), row)


def test_other_seeds_begin_anew():
    rows, positions = NoiseRows(1, 8, 16), torch.arange(8)[None]
    rows.begin(words_of([1]))
    first = rows.of(positions)
    rows.begin(words_of([2]))
    assert not torch.equal(rows.of(positions), first)
    rows.begin(words_of([1]))
    assert torch.equal(rows.of(positions), first)
