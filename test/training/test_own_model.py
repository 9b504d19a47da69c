"""What the refiner of a model of our own sizes is trained on: few windows rolled out, many more as round trips."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cosmos_ros.paths import embedded_model
from cosmos_ros.training import own_model
from cosmos_ros.training.loop import Recipe
from cosmos_ros.training.own_model import OwnModel, tell_of_other_frames
from cosmos_ros.training.rollouts import CHUNK, SAMPLES, TRIP_SHARE, TRIPS, Chunk
from cosmos_ros.training.run import Options
from cosmos_ros.training.sizes import Sizes, TokenizerSizes

SIZES = Sizes(
    frame_size=(32, 48),
    tokenizer=TokenizerSizes((4, 6), (1, 1), (1, 1), (4, 3)),
    layers=1,
    width=16,
    heads=2,
    key_value_heads=1,
    ffn_hidden=16,
    refiner_channels=(4, 4, 4, 4),
)

RECIPE = Recipe("refiner", 1, [], nn.Identity(), lambda _: (), 1, 1e-3, (0.9, 0.98), None)


def chunk_of(seed: int, samples: int) -> Chunk:
    true = torch.zeros(CHUNK, *SIZES.latent_shape, dtype=torch.int32)
    return Chunk(seed, true, true.expand(samples, *true.shape), torch.zeros(CHUNK, dtype=torch.int64), 9)


@pytest.mark.parametrize("n_rolled_out", [1, 3])
def test_each_rank_has_windows_of_its_own_and_more_of_them_for_round_trips(monkeypatch, n_rolled_out):
    found: list[list[Chunk]] = []
    monkeypatch.setattr(own_model, "load_transformer", lambda *_, **__: None)
    monkeypatch.setattr(own_model, "roll_out", lambda *args: [chunk_of(seed, SAMPLES) for seed in args[4]])
    monkeypatch.setattr(own_model, "round_trips_of", lambda *args: [chunk_of(seed, 0) for seed in args[2]])
    monkeypatch.setattr(own_model, "refined_rollouts", lambda *args: found.append(args[2]) or RECIPE)
    monkeypatch.setattr(own_model.HeldOutRollouts, "of", lambda *_: SimpleNamespace(gains=dict))
    told: list[dict] = []
    journal = SimpleNamespace(note=lambda _stage, **figures: told.append(figures))
    unfinished = SimpleNamespace(state={}, cached=lambda _name, make: make())
    corpus = SimpleNamespace(store=None, shares={}, held_out=[])
    options = Options({"refiner": 1}, {}, 0, n_rolled_out * CHUNK * SAMPLES, None, 0, 0)
    for rank in range(2):
        ranks = SimpleNamespace(rank=rank, device=torch.device("cpu"), wait=lambda: None)
        OwnModel(Path("unused"), SIZES, options, ranks, unfinished, journal).recipe("refiner", corpus)
    for chunks in found:
        assert [chunk.is_rolled_out for chunk in chunks].count(True) == n_rolled_out
        assert len(chunks) == n_rolled_out * (1 + TRIPS)
    seeds = [chunk.seed for chunks in found for chunk in chunks]
    assert len(set(seeds)) == len(seeds) == 2 * n_rolled_out * (1 + TRIPS)
    windows, trips = n_rolled_out * CHUNK, n_rolled_out * CHUNK * TRIPS
    assert [each.pop("each_shown") for each in told] == [pytest.approx((1 - TRIP_SHARE) / n_rolled_out, abs=0.05)] * 2
    assert told == [{"windows": windows, "of_each": SAMPLES, "round_trips": trips}] * 2


@pytest.mark.parametrize(("frame_size", "told"), [((96, 160), True), ((112, 192), False)])
def test_going_on_at_another_frame_size_is_told(tmp_path, caplog, frame_size, told):
    """The weights fit frames of any size, and an older release's defaults were others."""
    (tmp_path / "model.safetensors").symlink_to(embedded_model() / "model.safetensors")
    settings = json.loads((embedded_model() / "config.json").read_text())
    tell_of_other_frames(tmp_path, Sizes())  # where nothing says for what it was trained
    (tmp_path / "config.json").write_text(json.dumps(settings | {"latent_shape": [5, *(n // 8 for n in frame_size)]}))
    tell_of_other_frames(tmp_path, Sizes())
    words = f"{tmp_path} was trained on frames of 96x160, and this run is for 112x192: "
    assert [record.message.startswith(words) for record in caplog.records] == [True] * told
