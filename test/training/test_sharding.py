"""A transformer of a published size, cut over ranks: what it needs, what it computes, and what it is filled with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from cosmos_ros.errors import ModelUnavailable, OutOfMemory
from cosmos_ros.training import sharding
from cosmos_ros.training.average import local
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.sharding import fill, need_per_rank, require_fit, rows_of, sharded
from cosmos_ros.training.transformer import Z_LOSS
from cosmos_ros.world_model import load_transformer
from cosmos_ros.world_model.checkpoints.transformer_weights import open_checkpoint
from cosmos_ros.world_model.config import PUBLISHED_KINDS

CPU = torch.device("cpu")
GIGA = 10**9


@pytest.fixture
def alone():
    ranks = Ranks(0, 1, CPU)
    yield ranks
    ranks.leave()


@pytest.mark.parametrize("name", ["tiny_checkpoint", "tiny_text_checkpoint"])
def test_the_loss_is_the_published_one_and_so_are_its_gradients(name, alone, request):
    """Against plain autograd over the same network, whole, in the same precision, logits and all at once."""
    source = open_checkpoint(request.getfixturevalue(name))
    plain = load_transformer(source.path, device="cpu", dtype=torch.bfloat16).requires_grad_(True)
    config = plain.config
    torch.manual_seed(1)
    tokens = torch.randint(config.vocab_out, (2, config.n_tokens))
    context = torch.randn(1, 12, config.context_dim).bfloat16() if config.has_text else None
    loss = sharded(config, alone, context)
    fill(loss.transformer, source, alone)
    found = loss(tokens)
    found.backward()

    given = tokens if config.bov is None else F.pad(tokens, (1, 0), value=config.bov)
    logits = plain(given[:, :-1], torch.arange(given.shape[1] - 1), context=context)
    n = config.tokens_per_latent_frame
    logits, wanted = logits[:, n - tokens.shape[1] :].float().flatten(0, 1), tokens[:, n:].flatten()
    expected = F.cross_entropy(logits, wanted) + Z_LOSS * logits.logsumexp(-1).square().mean()
    expected.backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = {name: weight.grad for name, weight in plain.named_parameters()}
    for name, weight in loss.transformer.named_parameters():
        mine = local(weight.grad)
        assert mine.dtype == torch.float32, "master weights and their gradients"
        torch.testing.assert_close(mine, gradients[name].float(), atol=2e-3, rtol=3e-2)
    with torch.no_grad():
        assert loss(tokens, with_z_loss=False).item() < found.item()
    assert all(local(weight).dtype == torch.float32 for weight in loss.parameters()), "also after it was measured"


def test_a_rank_holds_its_rows_also_where_there_are_fewer_rows_than_ranks():
    whole = torch.arange(10).view(5, 2)
    pieces = [rows_of(whole, Ranks(rank, 4, CPU)) for rank in range(4)]
    assert [len(piece) for piece in pieces] == [2, 2, 1, 0] and torch.equal(torch.cat(pieces), whole)


def test_weights_that_are_not_finite_are_refused(tiny_checkpoint, alone, monkeypatch):
    source = open_checkpoint(tiny_checkpoint)
    loss = sharded(load_transformer(source.path).config, alone)
    monkeypatch.setattr(sharding, "rows_of", lambda whole, _ranks: whole * float("inf"))
    with pytest.raises(ModelUnavailable, match="holds weights that are not finite: tok_embeddings.weight"):
        fill(loss.transformer, source, alone)


def test_more_gpus_take_less_of_each_and_the_largest_model_fits_eight():
    four, thirteen = (PUBLISHED_KINDS[kind].config for kind in ("4B", "13B"))
    assert need_per_rank(four, 1) > 64 * GIGA > 50 * GIGA > need_per_rank(four, 2)
    assert need_per_rank(thirteen, 8) < 79 * GIGA < need_per_rank(thirteen, 2)
    smaller = replace(four, latent_shape=(5, 20, 32))
    assert need_per_rank(smaller, 2) < need_per_rank(four, 2)


def test_what_does_not_fit_is_refused_with_how_many_gpus_would_do(monkeypatch):
    monkeypatch.setattr(sharding, "free_memory", lambda _device: 79 * GIGA)
    monkeypatch.setattr(Ranks, "gather", lambda _ranks, mine: [mine, mine - GIGA])
    config = PUBLISHED_KINDS["12B"].config
    said = (
        r"training it takes 1\d\d\.\d GB of each of 2 GPUs, and 78\.0 GB are free on the fullest; \d such GPUs would do"
    )
    with pytest.raises(OutOfMemory, match=said) as refusal:
        require_fit(config, Ranks(0, 2, torch.device("cuda")), "it")
    n = int(str(refusal.value).split("; ")[1].split()[0])
    assert need_per_rank(config, n) <= 78 * GIGA < need_per_rank(config, n - 1)
    require_fit(config, Ranks(0, n, torch.device("cuda")), "it")
    require_fit(config, Ranks(0, 1, CPU), "it")
    monkeypatch.setattr(sharding, "free_memory", lambda _device: 2 * GIGA)
    with pytest.raises(OutOfMemory, match="not even 64 such GPUs would do"):
        require_fit(config, Ranks(0, 2, torch.device("cuda")), "it")
