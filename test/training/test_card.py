"""What the card of a model says that was trained here."""

from __future__ import annotations

import pytest

from cosmos_ros.paths import share_directory
from cosmos_ros.training.card import card
from cosmos_ros.world_model import ModelSpec


@pytest.mark.parametrize(
    ("stages", "fits"),
    [
        (["tokenizer"], False),
        (["tokenizer", "refiner"], False),
        (["tokenizer", "world-model"], True),
        (["refiner"], True),
    ],
)
def test_a_transformer_that_does_not_know_the_tokens_is_called_so(stages, fits):
    spec = ModelSpec.of_checkpoint(share_directory() / "models" / "foresight-small")
    text = card(
        "mine",
        spec,
        {"tokenizer": 1.0},
        {"trained": ["a.mcap"], "held_out": ["b.mcap"], "robots": []},
        {"films": 1, "frames": 99, "simulated": 0},
        [{"stage": name, "steps": 2, "tokens": 10, "seconds": 1.0, "loss": 0.5} for name in stages],
        {"clips": 1, "repeat_last": 20.0, "rollout": 21.0, "ceiling": 25.0},
        "the CPU",
        "",
        1,
    )
    assert ("does not know these tokens" in text) != fits
