"""Bags as films for training, picked as the live node picks its clips."""

from pathlib import Path

import numpy as np
import pytest

from cosmos_ros.paths import share_directory
from cosmos_ros.training.datasets.recorded import BadFootage, films, split

BAG = share_directory() / "data" / "sample_bag"
SIZE = (48, 80)


def test_a_bag_becomes_films_at_the_models_rate():
    some = list(films(BAG, SIZE, 10.0))
    assert len(some) == 7 and all(film.shape == (33, *SIZE, 3) and film.dtype == np.uint8 for film in some)
    assert np.array_equal(some[0][8:], some[1][:-8]), "0.8 s later the same frames stand eight places earlier"
    faster = list(films(BAG, SIZE, 30.0))
    assert len(faster) > len(some)
    assert np.array_equal(faster[0][::3][:11], some[0][:11])


def test_a_rate_at_which_the_bag_is_too_short_is_said():
    with pytest.raises(BadFootage, match=r"gives nothing to train on: it is shorter than 16.0 s"):
        list(films(BAG, SIZE, 2.0))


def test_a_topic_that_is_not_there_is_said():
    with pytest.raises(BadFootage, match="/nothing"):
        list(films(BAG, SIZE, 10.0, image_topic="/nothing"))


def test_recordings_are_split_whole_and_always_in_the_same_way():
    bags = [Path(f"bag{i:02d}") for i in range(20)]
    train, held_out = split(bags)
    assert split(bags[::-1]) == (train, held_out)
    assert len(held_out) == 2 and not set(train) & set(held_out) and len(train) == 18
    assert split(bags[:2]) == (bags[:1], bags[1:2])
    assert split(bags[:1]) == (bags[:1], bags[:1]), "whose end is then held out"
