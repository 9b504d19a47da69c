"""Decoding in windows gives exactly the tokens of decoding one by one, which gives those of the transformer alone."""

import sys
from contextlib import closing
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from cosmos_ros.errors import NotFinite
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig
from cosmos_ros.world_model.config import Yarn
from cosmos_ros.world_model.decoding import engine
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed
from cosmos_ros.world_model.decoding.noise import gumbel, words_of
from cosmos_ros.world_model.decoding.sampling import draw
from cosmos_ros.world_model.decoding.window import ROWS_AT_A_TIME

SAMPLING = Sampling(seed=3, temperature=1.0, top_p=0.9)
KINDS = {  # as the four published models differ: with YaRN or without, with text or without
    "4B": {},
    "5B": {"context_dim": 24},
    "12B": {"yarn": Yarn(2, 4, 1, (3, 4, 4))},
    "13B": {"yarn": Yarn(2, 4, 1, (3, 4, 4)), "context_dim": 24},
}


def transformer(context_dim: int | None = None, yarn: Yarn | None = None) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(
        n_layers=2,
        dim=48,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        ffn_hidden=96,
        vocab_in=128 if context_dim else 64,
        vocab_out=64,
        latent_shape=(3, 4, 4),
        yarn=yarn,
        context_dim=context_dim,
    )
    return Transformer(config).eval().requires_grad_(False)


def prompts(seed: int = 1, n: int = 16, batch: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, (1, n), generator=torch.Generator().manual_seed(seed)).expand(batch, -1)


def context(seed: int, rows: int = 7) -> torch.Tensor:
    return torch.randn(1, rows, 24, generator=torch.Generator().manual_seed(seed))


def without_cache(model: Transformer, tokens: torch.Tensor, text: torch.Tensor | None) -> torch.Tensor:
    """Token by token, the whole sequence through the model each time."""
    words = words_of([SAMPLING.seed])
    sequence = ([model.config.bov] if text is not None else []) + tokens[0].tolist()
    with torch.no_grad():
        while len(sequence) < model.config.sequence_length:
            logits = model(torch.tensor([sequence]), torch.arange(len(sequence)), None, text)[:, -1:]
            noise = gumbel(words, torch.tensor([[len(sequence)]]), logits.shape[-1])
            sequence.append(int(draw(logits, SAMPLING, noise)))
    return torch.tensor([sequence[text is not None :]])


@pytest.mark.parametrize("text", [None, context(1)], ids=["base", "text"])
@pytest.mark.parametrize("prefill", [1, 5, 1024])
def test_tokens_do_not_depend_on_how_the_prompt_is_cut(text, prefill, monkeypatch):
    monkeypatch.setattr(engine, "PREFILL_TOKENS", prefill)
    model = transformer(24 if text is not None else None)
    tokens = completed(WindowDecoder(model).passes(prompts(), SAMPLING, text))
    assert torch.equal(tokens, without_cache(model, prompts(), text))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_give_the_tokens_of_one_by_one(kind, temperature, batch):
    """A sample of the grid in bench/decode_exactness.py."""
    model = transformer(**KINDS[kind])
    text = context(2) if "context_dim" in KINDS[kind] else None
    fast, slow = WindowDecoder(model, window=8), WindowDecoder(model, window=8, one_by_one=True)
    for seed, (top_p, n) in enumerate([(0.5, 16), (0.8, 32), (1.0, 16)]):
        sampling = Sampling(seed, temperature, top_p)
        passes = list(fast.passes(prompts(seed, n, batch), sampling, text))
        expected = list(slow.passes(prompts(seed, n, batch), sampling, text))
        assert torch.equal(passes[-1].tokens, expected[-1].tokens)
        assert len(expected) == 48 - n and len(passes) <= len(expected)


@pytest.mark.parametrize("text", [None, context(1)], ids=["base", "text"])
def test_a_sample_of_a_batch_is_the_goal_with_its_seed_alone(text):
    model = transformer(24 if text is not None else None)
    together = completed(WindowDecoder(model).passes(prompts(batch=4), SAMPLING, text))
    for sample, tokens in enumerate(together):
        alone = Sampling(SAMPLING.seed + sample, SAMPLING.temperature, SAMPLING.top_p)
        assert torch.equal(completed(WindowDecoder(model).passes(prompts(), alone, text))[0], tokens)
    assert len({tuple(tokens.tolist()) for tokens in together}) == 4


def test_videos_of_a_batch_may_have_prompts_and_texts_of_their_own():
    model = transformer(24)
    given = torch.cat([prompts(1), prompts(2), prompts(1)])
    texts = torch.cat([context(1), context(1), context(2)])
    together = completed(WindowDecoder(model).passes(given, Sampling(0, 0.0, 1.0), texts))
    for prompt, text, tokens in zip(given, texts, together, strict=True):
        alone = completed(WindowDecoder(model).passes(prompt[None], Sampling(0, 0.0, 1.0), text[None]))
        assert torch.equal(alone[0], tokens)
    assert not torch.equal(together[0], together[2])


@pytest.mark.parametrize("window", [1, 7, 31, 32, 33, 500])
def test_a_window_may_be_larger_than_what_is_left(window):
    model = transformer()
    tokens = completed(WindowDecoder(model, window=window).passes(prompts(), SAMPLING))
    assert torch.equal(tokens, without_cache(model, prompts(), None))


def test_without_triton_a_gpu_takes_the_plain_pass_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cosmos_ros.world_model.decoding.fused_pass", None)  # importing it fails
    taken = []
    monkeypatch.setattr(engine, "WindowPass", lambda *given: taken.append(given))
    weight = SimpleNamespace(device=torch.device("cuda"))
    on_gpu = SimpleNamespace(config=transformer().config, output=SimpleNamespace(weight=weight))
    engine.make_pass(on_gpu, 1, 128, one_by_one=False)
    assert taken == [(on_gpu, 1, 128, False)]
    assert "Triton is not installed: decoding takes several times as long" in caplog.text


def test_only_what_a_pass_may_see_is_read_and_no_bit_depends_on_it():
    """Of a video of several times the rows that attention takes at a time, in a batch whose samples differ in pace."""
    torch.manual_seed(0)
    config = TransformerConfig(1, 48, 4, 2, 16, 96, 64, 64, latent_shape=(3, 16, 24))
    model, prompt = Transformer(config).eval().requires_grad_(False), prompts(n=384)
    decoder = WindowDecoder(model, window=48)
    reaches = []
    for passed in decoder.passes(prompt.expand(2, -1), SAMPLING):
        assert decoder._pass.cache.reach >= 384 + max(passed.done)
        reaches.append(decoder._pass.cache.reach)
    assert reaches == sorted(reaches) and set(reaches) == {ROWS_AT_A_TIME, 2 * ROWS_AT_A_TIME, 1152 + 48}
    for sample, tokens in enumerate(passed.tokens):
        alone = WindowDecoder(model, window=48, one_by_one=True)
        decoded = completed(alone.passes(prompt, Sampling(SAMPLING.seed + sample, 1.0, 0.9)))
        assert torch.equal(decoded[0], tokens)


def test_a_video_may_end_early():
    model = transformer()
    whole = completed(WindowDecoder(model).passes(prompts(), SAMPLING))
    *_, last = WindowDecoder(model).passes(prompts(), SAMPLING, n_tokens=32)
    assert (last.done, last.total) == ((16,), 16)
    assert torch.equal(last.tokens[:, :32], whole[:, :32])
    assert not last.tokens[:, 32:].any()


def test_generations_share_their_tensors_and_not_their_contents():
    model = transformer(24)
    decoder = WindowDecoder(model)
    addresses = set()
    for seed in (1, 2, 1):
        tokens = completed(decoder.passes(prompts(seed), SAMPLING, context(seed)))
        assert torch.equal(tokens, without_cache(model, prompts(seed), context(seed)))
        addresses.add((decoder._pass.batch.sequence.data_ptr(), decoder._pass.context[0][0].data_ptr()))
    assert len(addresses) == 1


def test_a_context_of_another_length_is_taken_too():
    model = transformer(24)
    decoder = WindowDecoder(model)
    for rows in (7, 12):
        tokens = completed(decoder.passes(prompts(), SAMPLING, context(5, rows)))
        assert torch.equal(tokens, without_cache(model, prompts(), context(5, rows)))


def test_the_engine_is_fit_after_a_video_was_given_up_and_after_a_release():
    model = transformer()
    decoder = WindowDecoder(model, window=4)
    expected = completed(decoder.passes(prompts(), SAMPLING))
    with closing(decoder.passes(prompts(2), SAMPLING)) as passes:
        assert len(list(islice(passes, 5))) == 5
    assert torch.equal(completed(decoder.passes(prompts(), SAMPLING)), expected)
    decoder.release()
    assert torch.equal(completed(decoder.passes(prompts(), SAMPLING)), expected)


def test_every_pass_tells_what_stands_since():
    passes = list(WindowDecoder(transformer()).passes(prompts(batch=2), SAMPLING))
    assert [each.number for each in passes] == list(range(1, len(passes) + 1))
    before, rebuilt = (0, 0), [[], []]
    for each in WindowDecoder(transformer()).passes(prompts(batch=2), SAMPLING):
        for sample, fresh in enumerate(each.fresh(before)):
            rebuilt[sample] += fresh.tolist()
        assert all(new > old or new == 32 for new, old in zip(each.done, before, strict=True))
        assert each.total == 32 and each.complete == (each.done == (32, 32))
        before = each.done
    assert rebuilt == passes[-1].tokens[:, 16:].tolist()


def test_whoever_takes_passes_works_with_gradients_as_before():
    for _ in WindowDecoder(transformer()).passes(prompts(), SAMPLING):
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_end_the_goal(damage, temperature):
    model = transformer()
    decoder = WindowDecoder(model)
    expected = completed(decoder.passes(prompts(), SAMPLING))
    sound = model.output.weight.clone()
    model.output.weight[5, 3] = damage
    with pytest.raises(NotFinite, match="logits"):
        completed(decoder.passes(prompts(), Sampling(3, temperature, 0.9)))
    model.output.weight.copy_(sound)
    assert torch.equal(completed(decoder.passes(prompts(), SAMPLING)), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefill", [1024, 7])
def test_surprisal_is_that_of_the_transformer_alone(kind, prefill, monkeypatch):
    """In one pass or in pieces, after a rollout that left its own keys and values behind."""
    monkeypatch.setattr(engine, "PREFILL_TOKENS", prefill)
    monkeypatch.setattr(engine, "LOGIT_ROWS", 5)
    model = transformer(**KINDS[kind])
    text = context(1) if model.config.has_text else None
    decoder = WindowDecoder(model, window=4)
    completed(decoder.passes(prompts(seed=2), SAMPLING, text))
    video = prompts(seed=3, n=48)[0]
    nats, entropy, variance = decoder.surprisal(video, 16, text)

    bov = [model.config.bov] if model.config.has_text else []
    sequence = torch.tensor([bov + video.tolist()])
    with torch.no_grad():
        logs = model(sequence, torch.arange(sequence.shape[1]), None, text)[0, 16 + len(bov) - 1 : -1].log_softmax(-1)
    assert torch.allclose(nats, -logs.gather(1, video[16:, None])[:, 0], atol=1e-5)
    assert torch.allclose(entropy, -(logs.exp() * logs).sum(-1), atol=1e-5)
    assert torch.allclose(variance, (logs.exp() * (logs + entropy[:, None]) ** 2).sum(-1), atol=1e-5)


def test_surprisal_leaves_the_next_rollout_as_it_is():
    decoder = WindowDecoder(transformer(), window=4)
    before = completed(decoder.passes(prompts(batch=2), SAMPLING))
    decoder.surprisal(prompts(seed=3, n=48)[0], 16)
    assert torch.equal(completed(decoder.passes(prompts(batch=2), SAMPLING)), before)


def test_surprisal_of_damaged_weights_is_refused():
    model = transformer()
    model.output.weight[0, 0] = float("nan")
    with pytest.raises(NotFinite):
        WindowDecoder(model).surprisal(prompts(n=48)[0], 16)
