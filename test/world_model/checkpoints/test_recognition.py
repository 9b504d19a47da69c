"""What a checkpoint is follows from its tensors' shapes; config.json only adds what shapes cannot say."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosmos_ros.world_model import TransformerConfig, Yarn
from cosmos_ros.world_model.checkpoints.recognition import (
    TELLING,
    TELLING_OF_TEXT,
    config_from_shapes,
    is_of_layout,
)
from cosmos_ros.world_model.config import PUBLISHED_KINDS, transformer_shapes

SMALL = TransformerConfig(
    n_layers=2, dim=12, n_heads=2, n_kv_heads=1, head_dim=6, ffn_hidden=8, vocab_in=20, vocab_out=20
)
TEXT = replace(SMALL, vocab_in=84, context_dim=10)
SHAPES = {kind: transformer_shapes(known.config) for kind, known in PUBLISHED_KINDS.items()}

sizes = st.integers(1, 6)
configs = st.builds(
    lambda groups, text, vocab_out, **sizes: TransformerConfig(
        n_heads=groups * sizes["n_kv_heads"],
        vocab_in=vocab_out + 64 * (text is not None),
        vocab_out=vocab_out,
        context_dim=text,
        **sizes,
    ),
    groups=sizes,
    text=st.none() | sizes,
    n_layers=sizes,
    dim=sizes,
    n_kv_heads=sizes,
    head_dim=st.integers(3, 6).map(lambda n: 2 * n),
    ffn_hidden=sizes,
    vocab_out=sizes,
)


def refusal(shapes, settings=None):
    with pytest.raises(ValueError) as refused:
        config_from_shapes(shapes, settings)
    return str(refused.value)


@given(configs)
def test_shapes_tell_every_size(config):
    shapes = transformer_shapes(config)
    assert config_from_shapes(shapes) == config
    assert all(map(is_of_layout, shapes))


@pytest.mark.parametrize("name", ["layers.0.attention.wq", "layers.0.more.weight", "layers.1000.ffn_norm.weight", "x"])
def test_other_names_have_no_place_in_it(name):
    assert not is_of_layout(name)
    assert f"unexpected {name} [7]" in refusal(transformer_shapes(SMALL) | {name: (7,)})


# --- the published models --------------------------------------------------------------------------------------------

NONSENSE = {
    "n_layers": 99,
    "dim": 7,
    "vocab_size": 1,
    "apply_abs_pos_emb": True,
    "insert_cross_attn": True,
    "rope_theta": "x",
    "apply_yarn": True,
    "yarn_scale": -9,
    "yarn": 3,
    "norm_eps": 0,
    "video_latent_shape": [5, 40],
    "latent_shape": "5x40x64",
}


@pytest.mark.parametrize("settings", [{}, NONSENSE], ids=["no settings", "nonsense"])
@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_the_published_kinds_are_known_by_their_shapes_whatever_config_json_says(kind, settings):
    assert config_from_shapes(SHAPES[kind], settings) == PUBLISHED_KINDS[kind].config


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_post_training_for_another_video_size_leaves_the_kind(kind):
    config = config_from_shapes(SHAPES[kind], {"latent_shape": [5, 24, 40]})
    assert config == replace(PUBLISHED_KINDS[kind].config, latent_shape=(5, 24, 40))


def without(kind, pattern):
    return {name: shape for name, shape in SHAPES[kind].items() if not re.search(pattern, name)}


def changed(kind, pattern, axis, size):
    return {
        name: (*shape[:axis], size, *shape[axis + 1 :]) if re.search(pattern, name) else shape
        for name, shape in SHAPES[kind].items()
    }


INCOMPLETE = {
    "last layer": ("4B", without("4B", r"layers\.15\."), "missing layers.15.attention.wq.weight [4096, 4096]"),
    "30 of 40 layers": ("12B", without("12B", r"layers\.[123]\d\."), "missing layers.10.ffn_norm.weight [5120]"),
    "middle layer": ("13B", without("13B", r"layers\.7\."), "missing layers.7.cross_attention_norm.weight [5120]"),
    "5B's text": ("5B", without("5B", "cross_"), "missing layers.0.cross_attention.wk.weight [1024, 1024]"),
    "13B's text": ("13B", without("13B", "cross_"), "missing layers.0.cross_attention.wk.weight [1024, 1024]"),
    "embedding": ("4B", without("4B", "tok_embeddings"), "missing tok_embeddings.weight [64000, 4096]"),
    "output": ("5B", without("5B", "output"), "missing output.weight [64000, 4096]"),
    "all q_norm": ("12B", without("12B", "q_norm"), "missing layers.39.attention.q_norm.weight [128]"),
    "vocabulary": ("4B", changed("4B", "output", 0, 63999), "output.weight is [63999, 4096], expected [64000, 4096]"),
    "context": (
        "5B",
        changed("5B", r"cross_attention\.w[kv]", 1, 512),
        "layers.3.cross_attention.wv.weight is [1024, 512], expected [1024, 1024]",
    ),
    "heads": (
        "12B",
        changed("12B", r"attention\.wq", 0, 2048),
        "layers.0.attention.wq.weight is [2048, 5120], expected [4096, 5120]",
    ),
    "feed-forward": (
        "4B",
        changed("4B", r"feed_forward\.w[13]", 0, 11008),
        "layers.0.feed_forward.w3.weight is [11008, 4096], expected [14336, 4096]",
    ),
    "more layers": (
        "4B",
        transformer_shapes(replace(PUBLISHED_KINDS["4B"].config, n_layers=18)),
        "unexpected layers.17.attention.wo.weight [4096, 4096]",
    ),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_what_is_left_of_a_published_model_is_refused_and_never_taken_for_another(case):
    kind, shapes, problem = INCOMPLETE[case]
    said = refusal(shapes)
    known = PUBLISHED_KINDS[kind]
    assert f"incomplete or altered {known.names[0]} or {known.names[1]}," in said
    assert problem in said


def share(kind, k):
    """Shards for k of 8 ranks, merged."""
    whole = PUBLISHED_KINDS[kind].config
    sizes = ("n_heads", "n_kv_heads", "ffn_hidden", "vocab_in", "vocab_out")
    return replace(whole, **{size: getattr(whole, size) * k // 8 for size in sizes})


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_some_of_the_shards_of_a_published_model_are_refused(kind, k):
    said = refusal(transformer_shapes(share(kind, k)))
    assert f"part of the {kind} model, {k} of 8 shares of its heads" in said and "all its shards" in said


def test_somebodys_own_model_may_have_a_published_width():
    own = TransformerConfig(
        n_layers=16, dim=4096, n_heads=16, n_kv_heads=4, head_dim=128, ffn_hidden=11008, vocab_in=64000, vocab_out=64000
    )
    assert config_from_shapes(transformer_shapes(own)) == own


# --- any other model -------------------------------------------------------------------------------------------------


def tells_a_size(name):
    return name in {tensor for tensor, _ in (TELLING | TELLING_OF_TEXT).values()}


def test_a_damaged_tensor_is_named_with_what_was_expected():
    shapes = transformer_shapes(TEXT)
    for name in shapes:
        said = refusal(shapes | {name: (99, 98)})
        assert tells_a_size(name) or f"{name} is [99, 98], expected {list(shapes[name])}" in said


@pytest.mark.parametrize(
    "pattern",
    [
        "tok_embeddings",
        "k_norm",
        r"cross_attention\.q_norm",
        "w2",
        "ffn_norm",
        r"\.wo",
        r"layers\.0\.",
        "^",
    ],
)
def test_missing_tensors_are_listed(pattern):
    shapes = transformer_shapes(TEXT)
    absent = {name: shape for name, shape in shapes.items() if re.search(pattern, name)}
    said = refusal({name: shape for name, shape in shapes.items() if name not in absent})
    telling = [name for name in absent if tells_a_size(name) and not name.startswith("layers.0.cross")]
    assert all(name in said for name in telling)
    assert telling or all(f"missing {name} {list(shape)}" in said for name, shape in absent.items())


@pytest.mark.parametrize("pattern", ["[qk]_norm", r"cross_attention\.w[kv]", "feed_forward", r"^layers\.", ""])
def test_where_nothing_tells_a_size_the_tensors_that_would_are_listed(pattern):
    shapes = {name: shape for name, shape in transformer_shapes(TEXT).items() if not re.search(pattern, name)}
    assert re.search(r"does not hold the expected tensors.*missing.*\.weight", refusal(shapes))


@pytest.mark.parametrize(
    ("config", "vocab_in", "vocab_out", "said"),
    [
        (SMALL, 84, 20, "84 rows in tok_embeddings.weight and 20 in output.weight, as in a Video2World model"),
        (SMALL, 21, 20, "missing layers.*.cross_attention_norm.weight, "),
        (SMALL, 20, 21, "20 rows in tok_embeddings.weight and 21 in output.weight; expected as many"),
        (TEXT, 20, 20, "with cross-attention expected 64 more"),
        (TEXT, 85, 20, "with cross-attention expected 64 more"),
        (TEXT, 84, 21, "with cross-attention expected 64 more"),
    ],
)
def test_vocabularies_that_do_not_fit_together_are_refused(config, vocab_in, vocab_out, said):
    shapes = transformer_shapes(config)
    shapes |= {"tok_embeddings.weight": (vocab_in, 12), "output.weight": (vocab_out, 12)}
    assert said in refusal(shapes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"wq": (6, 12), "wo": (12, 6), "wk": (12, 12), "wv": (12, 12)},
        {"q_norm": (40,), "k_norm": (40,)},
    ],
    ids=["more key heads than query heads", "heads wider than all of them"],
)
def test_heads_that_do_not_fit_together_are_refused(wrong):
    wrong = {f"layers.{layer}.attention.{name}.weight": shape for layer in (0, 1) for name, shape in wrong.items()}
    assert re.search("do not fit together: .*n_heads", refusal(transformer_shapes(SMALL) | wrong))


# --- config.json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_layers": 3}, "n_layers is 3 in config.json and 2 by the tensors"),
        ({"n_heads": 4, "n_kv_heads": 2}, "n_heads is 4 in config.json and 2 by the tensors; n_kv_heads is 2"),
        ({"dim": 13}, "dim is 13"),
        ({"head_dim": 8}, "head_dim is 8"),
        ({"ffn_hidden_size": 9}, "ffn_hidden_size is 9"),
        ({"vocab_size": 21}, "vocab_size is 21 in config.json and 20 by the tensors"),
        ({"insert_cross_attn": True}, "there is no layers.*.cross_attention"),
    ],
)
def test_a_config_json_that_speaks_of_more_than_there_is_is_not_passed_over(settings, said):
    refused = refusal(transformer_shapes(SMALL), settings)
    assert "holds less than its config.json says: " in refused and said in refused


def test_a_config_json_that_speaks_of_less_counts_for_nothing():
    less = {"n_layers": 1, "dim": 7, "n_heads": 1, "head_dim": None, "vocab_size": "20", "context_dim": 32}
    assert config_from_shapes(transformer_shapes(SMALL), less) == SMALL


STRETCHED = replace(SMALL, latent_shape=(5, 3, 4), rope_theta=1e4, norm_eps=1e-6, yarn=Yarn(2, 4, 1, (3, 3, 4)))


@pytest.mark.parametrize(
    "settings",
    [
        {
            "latent_shape": [5, 3, 4],
            "rope_theta": 1e4,
            "norm_eps": 1e-6,
            "yarn": {"scale": 2, "beta_fast": 4, "beta_slow": 1, "original_latent_shape": [3, 3, 4]},
        },
        {
            "video_latent_shape": [5, 3, 4],
            "rope_theta": 1e4,
            "norm_eps": 1e-6,
            "apply_yarn": True,
            "yarn_scale": 2,
            "yarn_beta_fast": 4,
            "yarn_beta_slow": 1,
            "original_latent_shape": [3, 3, 4],
        },
    ],
    ids=["our names", "published names"],
)
def test_config_json_adds_what_shapes_cannot_say(settings):
    assert config_from_shapes(transformer_shapes(SMALL), settings) == STRETCHED


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("latent_shape", {"latent_shape": [5, 40]}),
        ("latent_shape", {"latent_shape": "5x40x64"}),
        ("video_latent_shape", {"video_latent_shape": [5, 0, 64]}),
        ("latent_shape", {"latent_shape": 7}),
        ("rope_theta", {"rope_theta": "large"}),
        ("rope_theta", {"rope_theta": -1}),
        ("norm_eps", {"norm_eps": [1]}),
        ("rope_theta", {"norm_eps": None, "rope_theta": float("nan")}),
        ("yarn", {"yarn": {"scale": 2}}),
        ("yarn", {"yarn": 3}),
        ("apply_yarn", {"apply_yarn": True}),
        ("apply_yarn", {"apply_yarn": True, "yarn_scale": 2, "yarn_beta_fast": 4, "yarn_beta_slow": 1}),
        ("yarn", {"yarn": {"scale": 0, "beta_fast": 4, "beta_slow": 1, "original_latent_shape": [3, 3, 4]}}),
        ("yarn", {"yarn": {"scale": 2, "beta_fast": 4, "beta_slow": "1", "original_latent_shape": [3, 3, 4]}}),
    ],
)
def test_settings_that_make_no_sense_are_blamed_on_config_json_and_their_key(key, settings):
    assert f"has a config.json that makes no sense: {key}: " in refusal(transformer_shapes(SMALL), settings)
