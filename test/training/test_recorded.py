"""Bags as films for training, picked as the live node picks its clips."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cosmos_ros.paths import share_directory
from cosmos_ros.training.datasets.corpus import Corpus
from cosmos_ros.training.datasets.recorded import BadFootage, Recordings, films, split, split_single
from cosmos_ros.training.ranks import Ranks

BAG = share_directory() / "data" / "sample_bag"
SIZE = (48, 80)


def test_a_bag_becomes_films_at_the_models_rate():
    (film,) = films(BAG, SIZE, 10.0)
    assert film.shape == (81, *SIZE, 3) and film.dtype == np.uint8, "what overlaps is there once"
    (faster,) = films(BAG, SIZE, 30.0)
    assert len(faster) > 2 * len(film) and np.array_equal(faster[::3][:60], film[:60])


def test_the_end_of_a_single_recording_is_kept_for_validation_and_its_future_never_trained_on():
    film = torch.arange(65).view(65, 1, 1, 1)
    (train,), (held_out,) = split_single([film])
    assert held_out.flatten().tolist() == list(range(32, 65)) and train.flatten().tolist() == list(range(41))
    long = torch.arange(800).view(800, 1, 1, 1)
    trained, (held_out,) = split_single([film, long])
    assert [len(each) for each in trained] == [65, 709] and held_out.flatten().tolist() == list(range(700, 800))
    windows = [torch.arange(first, first + 33).view(33, 1, 1, 1) for first in range(0, 72, 8)]  # no two joined
    trained, (held_out,) = split_single(windows)
    assert held_out.min() == 64 and max(int(film.max()) for film in trained[:-1]) < 64
    stretches = [torch.arange(first, first + n).view(n, 1, 1, 1) for first, n in ((0, 300), (500, 57), (600, 40))]
    trained, (held_out,) = split_single(stretches)
    assert [len(each) for each in trained] == [290, 39, 16] and held_out.min() == 607, "pauses cost little"
    with pytest.raises(BadFootage, match="a single recording of 56 frames .* that takes 57"):
        split_single([film[:56]])


def test_a_rate_at_which_the_bag_is_too_short_is_said():
    with pytest.raises(BadFootage, match=r"gives nothing to train on: it is shorter than 16.0 s"):
        list(films(BAG, SIZE, 2.0))


def test_a_recording_that_is_in_pieces_says_what_cuts_it(tmp_path, write_bag, moving_scene):
    """Two cameras on one topic."""
    pairs = zip(moving_scene(40, 32, 48), moving_scene(40, 48, 64), strict=True)
    frames = [frame for pair in pairs for frame in pair]
    bag = write_bag(tmp_path / "bag", frames, [1_700_000_000_000_000_000 + i * 50_000_000 for i in range(80)])
    with pytest.raises(BadFootage, match=r"each stretch of it is shorter than 3.2 s.*: the camera changes .*, and 78"):
        films(bag, SIZE, 10.0)


def test_what_is_lost_of_a_damaged_recording_is_said(tmp_path, caplog):
    whole = (BAG / "sample_bag.mcap").read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[: len(whole) * 3 // 4])
    (film,) = films(cut, SIZE, 10.0)
    assert 40 < len(film) < 81
    assert f"{cut}: cut.mcap is damaged or cut off" in caplog.text


def test_a_topic_that_is_not_there_is_said():
    with pytest.raises(BadFootage, match="/nothing"):
        list(films(BAG, SIZE, 10.0, image_topic="/nothing"))


def test_a_recording_that_gives_nothing_says_why():
    recordings = Recordings([BAG, Path("/nowhere")], SIZE, 10.0)
    assert [film.shape for film in recordings[0]] == [(81, *SIZE, 3)]
    bad = recordings[1]
    assert isinstance(bad, BadFootage) and "/nowhere does not exist" in str(bad)


def corpus(bags: list[Path], held_out: list[Path]) -> Corpus:
    framing, ranks = SimpleNamespace(frame_size=SIZE, frame_rate=10.0), Ranks(0, 1, torch.device("cpu"))
    return Corpus(bags, held_out, "", 0, 0.0, framing, ranks, n_workers=1)


def test_all_recordings_that_give_nothing_are_named_at_once(tmp_path, write_bag, moving_scene):
    stamps = [1_700_000_000_000_000_000 + i * 100_000_000 for i in range(20)]
    short = [write_bag(tmp_path / name, moving_scene(20, 32, 48), stamps) for name in ("short0", "short1", "short2")]
    with pytest.raises(BadFootage) as refusal:
        corpus([short[0], BAG, short[1]], held_out=[short[2]])
    why = "gives nothing to train on: it is shorter than 3.2 s, what 33 frames at 10 Hz take"
    assert str(refusal.value) == "; ".join(f"{bag} {why}" for bag in short)


def test_of_very_many_recordings_that_give_nothing_the_first_are_named_and_the_others_counted():
    bags = [Path(f"/nowhere/{i:02d}") for i in range(13)]
    with pytest.raises(BadFootage) as refusal:
        corpus(bags[:-1], held_out=bags[-1:])
    assert re.findall(r"/nowhere/\d\d", str(refusal.value)) == list(map(str, bags[:10]))
    assert str(refusal.value).endswith("; and 3 more")


def test_recordings_are_split_whole_and_always_in_the_same_way():
    bags = [Path(f"bag{i:02d}") for i in range(20)]
    train, held_out = split(bags)
    assert split(bags[::-1]) == (train, held_out)
    assert len(held_out) == 2 and not set(train) & set(held_out) and len(train) == 18
    assert split(bags[:2]) == (bags[:1], bags[1:2])
    assert split(bags[:1]) == (bags[:1], bags[:1]), "whose end is then held out"
