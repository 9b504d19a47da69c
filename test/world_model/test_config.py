"""What a transformer's config says of it, and what the four published models are."""

import math
from dataclasses import replace

import pytest

from cosmos_ros.world_model import TransformerConfig
from cosmos_ros.world_model.config import PUBLISHED_KINDS, published_kind, transformer_shapes

PARAMETERS = {"4B": 4_014_088_192, "5B": 4_584_845_312, "12B": 11_560_975_360, "13B": 13_323_125_760}

SMALL = TransformerConfig(
    n_layers=2, dim=12, n_heads=2, n_kv_heads=1, head_dim=6, ffn_hidden=8, vocab_in=20, vocab_out=20
)


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_the_published_kinds_are_as_published(kind):
    known = PUBLISHED_KINDS[kind]
    assert sum(map(math.prod, transformer_shapes(known.config).values())) == PARAMETERS[kind]
    assert known.config.position_rows == (12864 if known.config.has_text else 12800)
    assert published_kind(replace(known.config, latent_shape=(5, 24, 40))) == kind
    assert published_kind(replace(known.config, ffn_hidden=14335)) is None
    assert kind in known.names[0] and kind in known.names[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_layers": 0},
        {"dim": -4},
        {"n_heads": 3, "n_kv_heads": 2},
        {"head_dim": 7},
        {"head_dim": 4},
        {"vocab_in": 19},
        {"context_dim": 8},
        {"latent_shape": (5, 3)},
        {"latent_shape": (5, True, 4)},
        {"ffn_hidden": 2.5},
        {"rope_theta": True},
        {"rope_theta": 10**400},
        {"norm_eps": math.inf},
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(wrong):
    with pytest.raises(ValueError):
        replace(SMALL, **wrong)


def test_the_positions_of_a_model_with_text_are_padded_with_bov_counted():
    config = replace(SMALL, latent_shape=(4, 4, 4), vocab_in=84, context_dim=8)
    assert (config.n_tokens, config.sequence_length, config.position_rows, config.bov) == (64, 65, 128, 20)
    config = replace(config, context_dim=None)
    assert (config.n_tokens, config.sequence_length, config.position_rows, config.bov) == (64, 64, 64, None)
