"""The transformer's contract, beyond what the reference's fixtures show."""

import pytest
import torch

from cosmos_ros.world_model import Transformer, TransformerConfig, Yarn
from cosmos_ros.world_model.config import transformer_shapes
from cosmos_ros.world_model.decoding.kv_cache import KVCache

KINDS = {
    "4B": {},
    "5B": {"context_dim": 24, "vocab_in": 64},
    "12B": {"yarn": Yarn(2, 4, 1, (2, 3, 4)), "dim": 40},
    "13B": {"yarn": Yarn(2, 4, 1, (2, 3, 4)), "dim": 40, "context_dim": 24, "vocab_in": 64},
}


def make(kind: str) -> Transformer:
    torch.manual_seed(0)
    sizes = {
        "n_layers": 2,
        "dim": 36,
        "n_heads": 6,
        "n_kv_heads": 2,
        "head_dim": 12,
        "ffn_hidden": 50,
        "vocab_in": 48,
        "vocab_out": 48,
        "latent_shape": (3, 3, 4),
    }
    return Transformer(TransformerConfig(**sizes | KINDS[kind])).eval().requires_grad_(False)


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return make(request.param)


def inputs(model, batch=1):
    noise = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 48, (batch, model.config.sequence_length), generator=noise)
    if not model.config.has_text:
        return tokens, None
    tokens[:, 0] = model.config.bov
    return tokens, torch.randn(batch, 7, 24, generator=noise)


def test_the_state_dict_is_the_published_keys_and_nothing_else(model):
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == transformer_shapes(model.config)


@pytest.mark.parametrize("cut", [[36], [1] * 36, [12, 1, 1, 22], [5, 7, 11, 13]], ids=str)
@pytest.mark.parametrize("bounded", [True, False], ids=["filled rows", "all rows"])
def test_a_cache_changes_nothing_however_the_tokens_are_cut(model, cut, bounded):
    tokens, context = inputs(model)
    expected = model(tokens, torch.arange(tokens.shape[1]), context=context)
    cache = KVCache(model.config)
    cache.keys.fill_(50.0)  # what an earlier video left behind
    cache.values.fill_(50.0)
    logits, begin = [], 0
    for n in cut:
        cache.reach = begin + n if bounded else len(cache.rows)
        logits.append(model(tokens[:, begin : begin + n], torch.arange(begin, begin + n), cache, context))
        begin += n
    torch.testing.assert_close(torch.cat(logits, dim=1), expected[:, :begin], atol=1e-4, rtol=1e-4)


def test_logits_know_nothing_of_later_tokens(model):
    tokens, context = inputs(model)
    positions = torch.arange(tokens.shape[1])
    before = model(tokens, positions, context=context)[:, :20]
    tokens[:, 20:] = (tokens[:, 20:] + 1) % 48
    torch.testing.assert_close(model(tokens, positions, context=context)[:, :20], before, atol=1e-5, rtol=1e-5)


def test_videos_of_a_batch_do_not_see_each_other(model):
    tokens, context = inputs(model, batch=2)
    positions = torch.arange(tokens.shape[1])
    together = model(tokens, positions, KVCache(model.config, batch=2), context)
    for i in range(2):
        alone = model(tokens[i : i + 1], positions, context=None if context is None else context[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_text_is_projected_once_with_the_same_result(model):
    tokens, context = inputs(model)
    if context is None:
        with pytest.raises(ValueError, match="takes no text"):
            model(tokens, torch.arange(tokens.shape[1]), context=torch.zeros(1, 7, 24))
        return
    positions = torch.arange(tokens.shape[1])
    expected = model(tokens, positions, context=context)
    assert torch.equal(model(tokens, positions, context=model.project_context(context)), expected)
    assert not torch.allclose(model(tokens, positions, context=context + 1), expected)
    with pytest.raises(ValueError, match="needs a text context"):
        model(tokens, positions)


def test_text_beyond_the_prompt_is_zero_and_still_seen():
    """As published: each of the padding rows weighs in the softmax like a word that says nothing."""
    model = make("5B")
    tokens, context = inputs(model)
    padded = torch.nn.functional.pad(context, (0, 0, 0, 9))
    positions = torch.arange(tokens.shape[1])
    assert not torch.allclose(model(tokens, positions, context=padded), model(tokens, positions, context=context))
    for keys, values in model.project_context(padded):
        assert keys[:, :, 7:].eq(0).all() and values[:, :, 7:].eq(0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind):
    """Gradients reach every weight: what trains it and what runs it is one and the same network."""
    model = make(kind).requires_grad_(True)
    tokens, context = inputs(model)
    logits = model(tokens, torch.arange(tokens.shape[1]), context=context)
    torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:].clamp(max=47)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_position_tables_follow_the_precision_but_absolute_positions_stay_as_published():
    model = make("5B")
    cos = model.rope_cos.clone()
    model.bfloat16()
    assert torch.equal(model.rope_cos, cos.bfloat16())
    assert model.absolute_positions.dtype == torch.bfloat16
    tokens, context = inputs(model)
    assert model(tokens, torch.arange(tokens.shape[1]), context=context).dtype == torch.bfloat16
