"""Distances between tokens whose codes are known."""

import numpy as np
import pytest

from cosmos_ros.metrics.token_space import LEVELS, token_distance


def test_levels_make_up_the_vocabulary():
    assert all(np.prod(levels) == vocabulary for vocabulary, levels in LEVELS.items())


@pytest.mark.parametrize("vocabulary", LEVELS)
def test_opposite_ends_are_one_apart_and_neighbours_a_step(vocabulary):
    tokens = np.zeros((2, 3, 4), np.int64)
    assert token_distance(tokens, tokens, vocabulary) == 0
    assert token_distance(tokens, tokens + vocabulary - 1, vocabulary) == pytest.approx(1)
    levels = LEVELS[vocabulary]
    assert token_distance(tokens, tokens + 1, vocabulary) == pytest.approx(1 / (levels[0] - 1) / len(levels))
    # One step in the second dimension.
    assert token_distance(tokens, tokens + levels[0], vocabulary) == pytest.approx(1 / (levels[1] - 1) / len(levels))


def test_of_an_unknown_code_it_is_the_share_of_tokens_that_differ():
    assert token_distance(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 60]), 64) == 0.25
