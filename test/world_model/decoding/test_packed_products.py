"""Packed layers give what plain ones give, and a row of the result does not depend on the other rows."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed
from cosmos_ros.world_model.decoding.packed_products import PackedLinear, pack
from cosmos_ros.world_model.transformer import FeedForward, SelfAttention

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")

# The shipped model's, and an odd one.
SHAPES = [(640, 384), (384, 384), (2048, 384), (384, 1024), (4375, 384), (80, 48)]


def rows(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def layer(out: int, width: int) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(width, out, bias=False).requires_grad_(False)


@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_the_product_is_that_of_the_plain_weights(out, width):
    plain = layer(out, width)
    given = rows(64, width).view(2, 32, width)
    assert torch.allclose(PackedLinear(plain)(given), plain(given), atol=1e-5)


@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_a_row_depends_neither_on_its_place_nor_on_the_others(out, width):
    packed, given = PackedLinear(layer(out, width)), rows(32, width)
    expected = packed(given)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(2))
    assert torch.equal(packed(given[order]), expected[order])
    for n in (33, 64, 96, 160):
        among_others = torch.cat([rows(n - 32, width, seed=3), given])
        assert torch.equal(packed(among_others)[-32:], expected)


def test_layers_of_one_input_stand_side_by_side():
    first, second = layer(80, 48), nn.Linear(48, 32, bias=False).requires_grad_(False)
    given = rows(64, 48).view(2, 32, 48)
    expected = torch.cat([first(given), second(given)], dim=-1)
    assert torch.allclose(PackedLinear(first, second)(given), expected, atol=1e-5)


@pytest.fixture(scope="module")
def models():
    """The same transformer, plain and packed; with text, whose projections are packed too."""
    config = TransformerConfig(
        n_layers=2,
        dim=48,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        ffn_hidden=96,
        vocab_in=128,
        vocab_out=64,
        latent_shape=(3, 4, 4),
        context_dim=24,
    )
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(Transformer(config).eval().requires_grad_(False))
    pack(made[1])
    return made


def test_a_packed_transformer_decodes_exactly_too(models):
    _, packed = models
    prompt, text = torch.arange(16)[None], rows(7, 24)[None]
    together = completed(WindowDecoder(packed, window=8).passes(prompt.expand(3, -1), Sampling(3, 1.0, 0.9), text))
    slow = WindowDecoder(packed, window=8, one_by_one=True)
    assert torch.equal(together, completed(slow.passes(prompt.expand(3, -1), Sampling(3, 1.0, 0.9), text)))
    for sample, tokens in enumerate(together):
        alone = WindowDecoder(packed, window=8).passes(prompt, Sampling(3 + sample, 1.0, 0.9), text)
        assert torch.equal(completed(alone)[0], tokens)


def test_a_packed_transformer_gives_the_plain_ones_logits_and_holds_no_plain_weights(models):
    plain, packed = models
    tokens, positions, text = torch.arange(20)[None], torch.arange(20), rows(7, 24)[None]
    assert torch.allclose(packed(tokens, positions, None, text), plain(tokens, positions, None, text), atol=1e-5)
    assert not any(type(part) in (nn.Linear, SelfAttention, FeedForward) for part in packed.modules())
    assert {name for name, _ in packed.named_parameters()} <= {name for name, _ in plain.named_parameters()}
    held = [sum(each.numel() for each in (*model.parameters(), *model.buffers())) for model in models]
    norms = 2 * (4 + 2) * 16  # of each layer's queries and keys, once more: each head has its own row
    assert held[1] <= held[0] + norms


def test_each_weight_is_packed_once_and_a_layers_plain_ones_are_gone_by_the_next(monkeypatch):
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(2, 32, 2, 1, 16, 32, 16, 16, latent_shape=(3, 2, 2)))
    plain = [weakref.ref(part) for part in model.modules() if type(part) is nn.Linear]
    packed, alive, make = [], [], PackedLinear.__init__

    def watched(self, *layers):
        packed.extend(map(id, layers))
        alive.append(sum(each() is not None for each in plain))
        make(self, *layers)

    monkeypatch.setattr(PackedLinear, "__init__", watched)
    pack(model)
    assert len(packed) == len(set(packed)) == len(plain) == 2 * 7 + 1
    assert [alive[k] for k in (0, 4, 8)] == [15, 8, 1], "as the layers and the head begin"


def test_another_precision_stays_as_it_is():
    torch.manual_seed(0)
    config = TransformerConfig(1, 32, 2, 1, 16, 32, 16, 16, latent_shape=(3, 2, 2))
    model = Transformer(config).to(torch.bfloat16)
    pack(model)
    assert type(model.output) is nn.Linear
