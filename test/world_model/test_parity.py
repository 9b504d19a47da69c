"""Against the reference implementation: every fixture test/data/ar_*_f32.pt, whatever its kind, seed and shapes.

A fixture holds a random model's `state_dict` in the on-disk key format, the reference's `config`, a prompt, and what
the reference computed from them in float32 on the CPU.
"""

import json
from pathlib import Path

import pytest
import torch

from cosmos_ros.world_model import Sampling, load_transformer
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed
from cosmos_ros.world_model.decoding.kv_cache import KVCache
from cosmos_ros.world_model.positions import absolute_table, rope_table

FIXTURES = sorted((Path(__file__).parents[1] / "data").glob("ar_*_f32.pt"))
LOGITS = 1e-4
TABLES = 1e-6


@pytest.fixture(scope="module", params=FIXTURES, ids=lambda path: path.stem)
def reference(request):
    return torch.load(request.param, weights_only=True)


@pytest.fixture(scope="module")
def model(reference, tmp_path_factory):
    """Loaded as a user would: model.pt and the published keys of config.json."""
    directory = tmp_path_factory.mktemp("fixture")
    torch.save(reference["state_dict"], directory / "model.pt")
    (directory / "config.json").write_text(json.dumps(reference["config"]))
    return load_transformer(directory)


def largest_difference(ours, theirs):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def video_tokens(reference, name):
    """Without BOV."""
    return reference[name][0, reference["context"] is not None :]


def test_both_kinds_of_fixture_are_there():
    assert {path.stem for path in FIXTURES} >= {"ar_base4b_f32", "ar_v2w13b_f32"}


def test_rope_tables(model, reference):
    for ours, theirs in zip(rope_table(model.config), (reference["rope_cos"], reference["rope_sin"]), strict=True):
        assert largest_difference(ours, theirs[0, :, 0]) <= TABLES


def test_absolute_positions_are_exact(model, reference):
    if reference["abs_pos_emb"] is None:
        assert model.absolute_positions is None
    else:
        assert torch.equal(absolute_table(model.config), reference["abs_pos_emb"][0])


@torch.inference_mode()
def test_logits_without_a_cache(model, reference):
    for tokens, theirs in [
        (reference["prompt_tokens"], reference["prefill_logits"]),
        (reference["greedy_tokens"][:, :-1], reference["teacher_forced_logits"]),
    ]:
        ours = model(tokens, torch.arange(tokens.shape[1]), context=reference["context"])
        assert largest_difference(ours, theirs) <= LOGITS


@torch.inference_mode()
@pytest.mark.parametrize("bounded", [True, False], ids=["filled rows", "all rows"])
@pytest.mark.parametrize("kind", ["greedy", "sampled"])
def test_logits_token_by_token_over_a_cache(model, reference, kind, bounded):
    tokens, context = reference[f"{kind}_tokens"], model_context(model, reference)
    first, cache = reference["prompt_tokens"].shape[1], KVCache(model.config)
    logits, begin = [], 0
    for end in range(first, tokens.shape[1]):
        cache.reach = end if bounded else len(cache.rows)
        logits.append(model(tokens[:, begin:end], torch.arange(begin, end), cache, context)[:, -1])
        begin = end
    assert largest_difference(torch.cat(logits), reference[f"{kind}_step_logits"]) <= LOGITS


def model_context(model, reference):
    return None if reference["context"] is None else model.project_context(reference["context"])


def test_probabilities_after_top_p(reference, published_sampler):
    meta = reference["meta"]
    ours, order = published_sampler.truncated_probabilities(
        reference["sampled_step_logits"], meta["temperature"], meta["top_p"]
    )
    in_token_order = torch.zeros_like(ours).scatter(-1, order, ours)
    assert largest_difference(in_token_order, reference["sampled_step_probs"]) <= 1e-6


@pytest.fixture(params=["greedy", "sampled"])
def drawn(request, reference):
    made_with, here = (version.split(".")[:2] for version in (reference["meta"]["torch"], torch.__version__))
    if request.param == "sampled" and made_with != here:
        pytest.skip("from one seed every PyTorch draws noise of its own; the fixture is of " + ".".join(made_with))
    return request.param


@pytest.mark.parametrize("one_by_one", [False, True], ids=["window", "one by one"])
def test_the_engine_finds_the_same_likeliest_tokens(model, reference, one_by_one):
    prompt = video_tokens(reference, "prompt_tokens")[None]
    engine = WindowDecoder(model, one_by_one=one_by_one)
    tokens = completed(engine.passes(prompt, Sampling(0, 0.0, 1.0), reference["context"]))
    assert torch.equal(tokens[0], video_tokens(reference, "greedy_tokens"))


@torch.inference_mode()
def test_with_the_published_noise_the_tokens_are_the_published_ones(model, reference, drawn, published_sampler):
    """The engine's own noise goes by position and token, and draws others, as often: see test_sampling."""
    meta = reference["meta"]
    temperature = meta["temperature"] if drawn == "sampled" else 0.0
    generator, tokens = torch.Generator().manual_seed(meta["seed"]), reference["prompt_tokens"]
    for _ in range(reference["num_new_tokens"]):
        logits = model(tokens, torch.arange(tokens.shape[1]), context=reference["context"])
        drawn_token = published_sampler.sample(logits[:, -1], temperature, meta["top_p"], generator)
        tokens = torch.cat([tokens, drawn_token[:, None]], dim=1)
    assert torch.equal(tokens, reference[f"{drawn}_tokens"])


@torch.inference_mode()
def test_bfloat16_stays_near_float32(model, reference):
    """Our own bound, not the reference's: bfloat16 keeps 8 bits, and errors add up over the layers."""
    tokens = reference["prompt_tokens"]
    rounded = type(model)(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.bfloat16()
    logits = rounded(tokens, torch.arange(tokens.shape[1]), context=reference["context"])
    error = logits.float() - reference["prefill_logits"]
    assert error.pow(2).mean().sqrt() <= 0.03 * reference["prefill_logits"].std()
