"""The Triton kernels against their definitions: on a GPU, or by Triton's interpreter on the CPU."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip(
    "triton", reason="Triton comes with PyTorch's CUDA builds, and is not worth 285 MB of every install for this file"
)

from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig
from cosmos_ros.world_model.config import Yarn
from cosmos_ros.world_model.decoding import products, sampling_kernels
from cosmos_ros.world_model.decoding.cache_attention import attend_to_cache
from cosmos_ros.world_model.decoding.fused_pass import FusedPass
from cosmos_ros.world_model.decoding.noise import gumbel, words_of
from cosmos_ros.world_model.decoding.projections import side_by_side
from cosmos_ros.world_model.decoding.sampling import NOT_FINITE, draw
from cosmos_ros.world_model.decoding.window import WindowPass
from cosmos_ros.world_model.transformer import attend_grouped

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def short_rows(monkeypatch):
    """The interpreter takes its time over what a row is long."""
    monkeypatch.setattr(sampling_kernels, "SPLIT", 64)
    monkeypatch.setattr(sampling_kernels, "SWEEP", 64)
    monkeypatch.setattr(sampling_kernels, "GROUP", 8)


@pytest.mark.parametrize(("window", "filled"), [(1, (1, 1)), (1, (255, 256)), (5, (300, 7)), (40, (600, 64))])
def test_every_query_sees_the_rows_up_to_its_own_and_reads_no_other(window, filled):
    torch.manual_seed(0)
    queries = torch.randn(2, 4, window, 16, device=DEVICE)
    keys, values = torch.randn(2, 2, 2, 700, 16, device=DEVICE)
    before = torch.tensor(filled, device=DEVICE)
    places = before[:, None] - 1 + torch.arange(window, device=DEVICE)
    mask = (torch.arange(700, device=DEVICE) <= places[..., None])[:, None]
    expected = attend_grouped(queries.double(), keys.double(), values.double(), mask)
    for sample, last in enumerate(places[:, -1].tolist()):
        keys[sample, :, last + 1 :] = values[sample, :, last + 1 :] = float("nan")
    seen = attend_to_cache(queries, keys, values, before).view(2, window, 4, 16).transpose(1, 2)
    assert (seen - expected).abs().max() < 1e-5


def test_a_query_gets_the_same_bits_wherever_it_stands_in_the_window():
    torch.manual_seed(0)
    queries = torch.randn(1, 2, 8, 16, device=DEVICE)
    keys, values = torch.randn(2, 1, 1, 400, 16, device=DEVICE)
    early = attend_to_cache(queries, keys, values, torch.tensor([190], device=DEVICE))
    late = attend_to_cache(queries.roll(-5, dims=2).contiguous(), keys, values, torch.tensor([195], device=DEVICE))
    assert torch.equal(early[5:], late[:3])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(7, 1.0, 0.9),
        Sampling(7, 1.0, 1.0),
        Sampling(2**62, 0.5, 0.5),
        Sampling(5, 1.0, 0.1),
        Sampling(7, 0.0, 1.0),
    ],
    ids=["top-p", "all", "sharp", "narrow", "greedy"],
)
def test_draws_are_those_of_the_definition(sampling):
    torch.manual_seed(1)
    logits = torch.randn(6, 150, device=DEVICE) * 3
    words = words_of([sampling.seed, sampling.seed + 1]).to(DEVICE)
    filled = torch.tensor([20, 33], device=DEVICE)
    settings = [sampling.divisor, 1.0 if sampling.greedy else sampling.top_p, float(not sampling.greedy)]
    draws = sampling_kernels.Draws(6, 150, torch.tensor(settings, device=DEVICE), words, filled)
    noise = gumbel(words, filled[:, None] + torch.arange(3, device=DEVICE), 150)
    expected = draw(logits.view(2, 3, 150), sampling, noise).flatten()
    assert torch.equal(draws.draw(logits, 3), expected)
    logits[1, 5] = float("nan")
    assert (draws.draw(logits, 3) == NOT_FINITE).tolist() == [False, True, False, False, False, False]


@pytest.mark.parametrize("gate", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("rows", [5, 70])
def test_a_product_is_pytorchs_and_a_gated_one_is_gated(rows, gate):
    torch.manual_seed(0)
    x, weight = (torch.randn(n, 512, device=DEVICE) for n in (rows, 256))
    expected = x @ weight.t()
    if gate:
        opening, value = expected.split(128, dim=1)
        expected = torch.nn.functional.silu(opening) * value
    found = products.multiply(x, weight, gate=gate).float()
    assert ((found - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("text", [False, True], ids=["base", "text"])
def test_a_fused_pass_decides_what_a_plain_one_decides(text):
    torch.manual_seed(0)
    config = TransformerConfig(
        n_layers=1,
        dim=32,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        ffn_hidden=64,
        vocab_in=128 if text else 64,
        vocab_out=64,
        latent_shape=(3, 2, 4),
        yarn=Yarn(2, 4, 1, (3, 2, 4)),
        context_dim=24 if text else None,
    )
    with DEVICE:
        model = Transformer(config).eval().requires_grad_(False)
    context = torch.randn(1, 5, 24) if text else None
    prompts = torch.randint(0, 64, (2, 16))
    passes = [kind(model, 2, 4, one_by_one=False) for kind in (WindowPass, FusedPass)]
    with torch.inference_mode():
        for each in passes:
            each.begin(prompts, Sampling(3, 1.0, 0.9), config.sequence_length, context)
        for _ in range(3):
            found = []
            for each in passes:
                each.run()
                found.append([(one.filled, one.failed, one.drawn.tolist()) for one in each.report()()])
            assert found[0] == found[1]


def test_weights_are_laid_side_by_side_once_and_stay_what_they_are():
    layers = [torch.nn.Linear(8, n, bias=False).requires_grad_(False) for n in (3, 5, 2)]
    before = [layer.weight.clone() for layer in layers]
    together = side_by_side([layer.weight for layer in layers])
    assert torch.equal(together, torch.cat(before))
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, before, strict=True))
    assert (
        side_by_side([layer.weight for layer in layers]).data_ptr()
        == together.data_ptr()
        == layers[0].weight.data_ptr()
    )
