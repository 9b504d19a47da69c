"""What a checkpoint is follows from its tensors' shapes; config.json only adds what shapes cannot say."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosmos_ros.world_model import TransformerConfig, Yarn
from cosmos_ros.world_model.config import (
    PUBLISHED_KINDS,
    config_from_shapes,
    published_kind,
    published_shard,
    transformer_shapes,
)

PARAMETERS = {"4B": 4_014_088_192, "5B": 4_584_845_312, "12B": 11_560_975_360, "13B": 13_323_125_760}

sizes = st.integers(1, 6)
configs = st.builds(
    lambda groups, text, extra, **sizes: TransformerConfig(
        n_heads=groups * sizes["n_kv_heads"], vocab_in=sizes["vocab_out"] + extra + (text is not None),
        context_dim=text, **sizes
    ),
    groups=sizes,
    text=st.none() | sizes,
    extra=st.integers(0, 3),
    n_layers=sizes,
    dim=sizes,
    n_kv_heads=sizes,
    head_dim=st.integers(3, 6).map(lambda n: 2 * n),
    ffn_hidden=sizes,
    vocab_out=sizes,
)


@given(configs)
def test_shapes_tell_every_size(config):
    assert config_from_shapes(transformer_shapes(config)) == config


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_the_published_kinds_are_known_by_their_shapes(kind):
    shapes = transformer_shapes(PUBLISHED_KINDS[kind].config)
    config = config_from_shapes(shapes)
    assert config == PUBLISHED_KINDS[kind].config
    assert published_kind(config) == kind
    assert sum(map(math.prod, shapes.values())) == PARAMETERS[kind]
    assert config.position_rows == (12864 if config.has_text else 12800)


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_post_training_for_another_video_size_leaves_the_kind(kind):
    known = PUBLISHED_KINDS[kind].config
    config = config_from_shapes(transformer_shapes(known), {"latent_shape": [5, 24, 40]})
    assert config == replace(known, latent_shape=(5, 24, 40))
    assert published_kind(config) == kind


def test_config_json_cannot_outrank_shapes_or_kind():
    lies = {"n_layers": 3, "dim": 7, "vocab_size": 1, "apply_abs_pos_emb": True, "insert_cross_attn": True,
            "rope_theta": 1.0, "apply_yarn": True, "yarn_scale": 9, "yarn_beta_fast": 4, "yarn_beta_slow": 1,
            "original_latent_shape": [3, 40, 64], "norm_eps": 0.5}
    known = PUBLISHED_KINDS["4B"].config
    assert config_from_shapes(transformer_shapes(known), lies) == known


SMALL = TransformerConfig(
    n_layers=2, dim=12, n_heads=2, n_kv_heads=1, head_dim=6, ffn_hidden=8, vocab_in=20, vocab_out=20
)
STRETCHED = replace(SMALL, latent_shape=(5, 3, 4), rope_theta=1e4, norm_eps=1e-6, yarn=Yarn(2, 4, 1, (3, 3, 4)))


@pytest.mark.parametrize("settings", [
    {"latent_shape": [5, 3, 4], "rope_theta": 1e4, "norm_eps": 1e-6,
     "yarn": {"scale": 2, "beta_fast": 4, "beta_slow": 1, "original_latent_shape": [3, 3, 4]}},
    {"video_latent_shape": [5, 3, 4], "rope_theta": 1e4, "norm_eps": 1e-6, "apply_yarn": True, "yarn_scale": 2,
     "yarn_beta_fast": 4, "yarn_beta_slow": 1, "original_latent_shape": [3, 3, 4]},
], ids=["our names", "published names"])
def test_config_json_adds_what_shapes_cannot_say(settings):
    assert config_from_shapes(transformer_shapes(SMALL), settings) == STRETCHED


@pytest.mark.parametrize("settings", [
    {"latent_shape": [5, 40]}, {"latent_shape": "5x40x64"}, {"latent_shape": [5, 0, 64]}, {"latent_shape": 7},
    {"rope_theta": "large"}, {"rope_theta": -1}, {"norm_eps": None, "rope_theta": float("nan")},
    {"yarn": {"scale": 2}}, {"yarn": 3}, {"apply_yarn": True}, {"norm_eps": [1]},
    {"yarn": {"scale": 0, "beta_fast": 4, "beta_slow": 1, "original_latent_shape": [3, 3, 4]}},
    {"yarn": {"scale": 2, "beta_fast": 4, "beta_slow": "1", "original_latent_shape": [3, 3, 4]}},
])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="latent_shape|rope_theta|norm_eps|YaRN"):
        config_from_shapes(transformer_shapes(SMALL), settings)


def test_a_damaged_layer_is_outvoted():
    config = replace(SMALL, n_layers=3)
    shapes = transformer_shapes(config) | {"layers.0.attention.wq.weight": (99, 12)}
    assert config_from_shapes(shapes) == config


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_shard_of_a_published_model_is_known(ranks):
    whole = PUBLISHED_KINDS["12B"].config
    part = replace(whole, n_heads=32 // ranks, n_kv_heads=8 // ranks, ffn_hidden=14336 // ranks)
    assert published_shard(part) == ("12B", ranks)
    assert published_shard(whole) is None


@pytest.mark.parametrize("wrong", [
    {"n_layers": 0}, {"dim": -4}, {"n_heads": 3, "n_kv_heads": 2}, {"head_dim": 7}, {"head_dim": 4},
    {"vocab_in": 19}, {"context_dim": 8}, {"latent_shape": (5, 3)}, {"ffn_hidden": 2.5},
])
def test_sizes_that_do_not_fit_together_are_refused(wrong):
    with pytest.raises(ValueError):
        replace(SMALL, **wrong)


def test_the_positions_of_a_model_with_text_are_padded_with_bov_counted():
    config = replace(SMALL, latent_shape=(4, 4, 4), vocab_in=84, context_dim=8)
    assert (config.n_tokens, config.sequence_length, config.position_rows, config.bov) == (64, 65, 128, 20)
    config = replace(config, context_dim=None)
    assert (config.n_tokens, config.sequence_length, config.position_rows, config.bov) == (64, 64, 64, None)
