"""What the token-by-token decoder shares between generations, and that its passes could be replayed as a graph."""

import pytest
import torch

from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig
from cosmos_ros.world_model.decoding import engine
from cosmos_ros.world_model.decoding.engine import SequentialDecoder
from cosmos_ros.world_model.decoding.sampling import sample

SAMPLING = Sampling(seed=3, temperature=1.0, top_p=0.9)


def transformer(context_dim: int | None = None) -> Transformer:
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
        context_dim=context_dim,
    )
    return Transformer(config).eval().requires_grad_(False)


def prompt(seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, (16,), generator=torch.Generator().manual_seed(seed))


def context(seed: int, rows: int = 7) -> torch.Tensor:
    return torch.randn(1, rows, 24, generator=torch.Generator().manual_seed(seed))


def without_cache(model: Transformer, tokens: torch.Tensor, text: torch.Tensor | None) -> torch.Tensor:
    """Token by token, the whole sequence through the model each time."""
    generator = torch.Generator().manual_seed(SAMPLING.seed)
    sequence = ([model.config.bov] if text is not None else []) + tokens.tolist()
    with torch.no_grad():
        while len(sequence) < model.config.sequence_length:
            logits = model(torch.tensor([sequence]), torch.arange(len(sequence)), None, text)
            sequence.append(int(sample(logits[:, -1], SAMPLING, generator)))
    return torch.tensor(sequence[text is not None :])


@pytest.mark.parametrize("text", [None, context(1)], ids=["base", "text"])
@pytest.mark.parametrize("prefill", [1, 5, 1024])
def test_tokens_do_not_depend_on_how_the_prompt_is_cut(text, prefill, monkeypatch):
    monkeypatch.setattr(engine, "PREFILL_TOKENS", prefill)
    model = transformer(24 if text is not None else None)
    tokens = SequentialDecoder(model).generate(prompt(), SAMPLING, text, lambda *_: None)
    assert torch.equal(tokens, without_cache(model, prompt(), text))


def test_a_pass_that_could_read_every_row_draws_what_one_that_reads_the_filled_rows_draws(monkeypatch):
    """A captured graph cannot change what it reads: it looks at all rows, with what lies ahead out of sight."""
    model = transformer()
    expected = SequentialDecoder(model).generate(prompt(), SAMPLING, None, lambda *_: None)
    decoder = SequentialDecoder(model)

    def step_over_all_rows(state, sampling):
        def step(filled):
            state.cache.reach = len(state.cache.rows)
            decoder._step(state, sampling)

        return step

    monkeypatch.setattr(decoder, "_step_for", step_over_all_rows)
    decoder._state_for(None).cache.keys.fill_(1e4)  # leftovers of another video
    assert torch.equal(decoder.generate(prompt(), SAMPLING, None, lambda *_: None), expected)


def test_generations_share_their_tensors_and_not_their_contents():
    model = transformer(24)
    decoder = SequentialDecoder(model)
    addresses = set()
    for seed in (1, 2, 1):
        tokens = decoder.generate(prompt(seed), SAMPLING, context(seed), lambda *_: None)
        assert torch.equal(tokens, without_cache(model, prompt(seed), context(seed)))
        addresses.add((decoder._state.sequence.data_ptr(), decoder._state.context[0][0].data_ptr()))
    assert len(addresses) == 1


def test_a_context_of_another_length_is_taken_too():
    model = transformer(24)
    decoder = SequentialDecoder(model)
    for rows in (7, 12):
        tokens = decoder.generate(prompt(), SAMPLING, context(5, rows), lambda *_: None)
        assert torch.equal(tokens, without_cache(model, prompt(), context(5, rows)))


def test_the_engine_is_fit_after_a_pass_was_refused_and_after_a_release():
    model = transformer()
    decoder = SequentialDecoder(model)
    expected = decoder.generate(prompt(), SAMPLING, None, lambda *_: None)

    def stop(done, total, frames):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoder.generate(prompt(2), SAMPLING, None, stop)
    assert torch.equal(decoder.generate(prompt(), SAMPLING, None, lambda *_: None), expected)
    decoder.release()
    assert torch.equal(decoder.generate(prompt(), SAMPLING, None, lambda *_: None), expected)


def test_every_pass_is_reported_once_in_order():
    reports = []
    SequentialDecoder(transformer()).generate(prompt(), SAMPLING, None, lambda *report: reports.append(report))
    assert reports == [(done, 32, done // 16) for done in range(1, 33)]
