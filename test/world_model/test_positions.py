"""Position tables of the published models, against numbers known from the reference."""

import math

import pytest
import torch

from cosmos_ros.world_model.config import PUBLISHED_KINDS
from cosmos_ros.world_model.positions import absolute_table, rope_table

PLAIN, STRETCHED, TEXT = (PUBLISHED_KINDS[kind].config for kind in ("4B", "12B", "13B"))
LAST = 12799  # t 4, h 39, w 63
TIME, HEIGHT, WIDTH = slice(0, 22), slice(22, 43), slice(43, 64)


@pytest.fixture(scope="module")
def plain():
    return rope_table(PLAIN)


@pytest.fixture(scope="module")
def stretched():
    return rope_table(STRETCHED)


def angles(table, row, channels):
    """In (-pi, pi], of the first half of the channels."""
    cos, sin = table
    return torch.atan2(sin[row, channels].double(), cos[row, channels].double())


def wrapped(angle):
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def test_channels_are_time_height_width_given_twice(plain):
    cos, sin = plain
    assert cos.shape == sin.shape == (12800, 128)
    assert torch.equal(cos[:, :64], cos[:, 64:]) and torch.equal(sin[:, :64], sin[:, 64:])
    spatial = 500000.0 ** (-torch.arange(21).double() * 2 / 42)
    temporal = 500000.0 ** (-torch.arange(22).double() * 2 / 44)
    for channels, at, frequencies in [(TIME, 4, temporal), (HEIGHT, 39, spatial), (WIDTH, 63, spatial)]:
        torch.testing.assert_close(angles(plain, LAST, channels), wrapped(at * frequencies), atol=1e-5, rtol=0)


def test_rows_run_through_width_first(plain):
    cos, _ = plain
    assert torch.equal(cos[1, WIDTH], cos[65, WIDTH])  # w 1 in rows h 0 and h 1
    assert torch.equal(cos[64, HEIGHT], cos[2560 + 64, HEIGHT])  # h 1 in frames t 0 and t 1
    assert not torch.equal(cos[0, TIME], cos[2560, TIME])


def test_yarn_halves_time_and_bends_space_by_the_height_alone(plain, stretched):
    one_frame_one_row_one_column = 2560 + 64 + 1  # every coordinate 1: angles are the frequencies
    ratio = angles(stretched, one_frame_one_row_one_column, slice(0, 64)) / angles(
        plain, one_frame_one_row_one_column, slice(0, 64)
    )
    torch.testing.assert_close(ratio[TIME], torch.full((22,), 0.5, dtype=torch.double), atol=1e-4, rtol=0)
    expected = torch.tensor([1.0, 0.9013, 0.6374] + [0.5] * 18, dtype=torch.double)
    for channels in (HEIGHT, WIDTH):
        torch.testing.assert_close(ratio[channels][:12], expected[:12], atol=1e-4, rtol=0)


def test_bov_and_the_padding_are_not_rotated():
    cos, sin = rope_table(TEXT)
    assert len(cos) == 12864
    for neutral in (0, *range(12801, 12864)):
        assert cos[neutral].eq(1).all() and sin[neutral].eq(0).all()
    bare_cos, _ = rope_table(STRETCHED)
    assert torch.equal(cos[1:12801], bare_cos)


def test_absolute_positions_are_rounded_sines_and_cosines():
    table = absolute_table(TEXT)
    assert table.shape == (12864, 5120) and table.dtype == torch.bfloat16
    assert table[0].eq(0).all() and table[12801:].eq(0).all()
    row = table[1 + LAST]
    for start, dim, at, j in [(0, 1708, 4, 100), (1708, 1706, 39, 7), (3414, 1706, 63, 852)]:
        angle = at * 10000.0 ** (-j / (dim / 2))
        assert row[start + j] == torch.tensor(math.sin(angle)).bfloat16()
        assert row[start + dim // 2 + j] == torch.tensor(math.cos(angle)).bfloat16()
