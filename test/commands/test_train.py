"""The way from filmed episodes to a model directory that the world model loads, with tiny networks and few steps."""

import time

import numpy as np
import pytest
import torch

from cosmos_ros.commands import cli
from cosmos_ros.training.datasets import simulated
from cosmos_ros.training.datasets.simulated import (
    CLIP_FRAMES,
    EPISODE_FRAMES,
    HEIGHT,
    WIDTH,
    EpisodeStore,
    as_video,
    vary,
)
from cosmos_ros.training.evaluation import evaluate, frame_psnr
from cosmos_ros.training.export import export_tokenizer, export_transformer, load_exported_tokenizer
from cosmos_ros.training.schedule import Journal, Schedule
from cosmos_ros.training.tokenizer import train_tokenizer
from cosmos_ros.training.tokenizer_network import IndicesToPixels, PixelsToIndices, TokenizerConfig, VideoTokenizer
from cosmos_ros.training.transformer import initialise, token_loss, train_transformer
from cosmos_ros.world_model import ModelSpec, Sampling, Transformer, TransformerConfig, WorldModel
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed

CPU = torch.device("cpu")
TINY = TokenizerConfig(channels=(4, 6, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), levels=(4, 3))
TINY_TRANSFORMER = TransformerConfig(
    n_layers=1,
    dim=16,
    n_heads=2,
    n_kv_heads=1,
    head_dim=8,
    ffn_hidden=16,
    vocab_in=12,
    vocab_out=12,
    latent_shape=(5, 10, 16),
)
SAMPLING = Sampling(seed=3, temperature=0.9, top_p=0.7)


def film_moving_square(path, seed: int) -> None:
    frames = np.full((EPISODE_FRAMES, HEIGHT, WIDTH, 3), 40 + 20 * seed, np.uint8)
    for t in range(EPISODE_FRAMES):
        frames[t, 40:90, 3 * t : 3 * t + 50] = (220, 30 * seed, 60)
    frames.tofile(path)


@pytest.fixture
def episodes(tmp_path) -> EpisodeStore:
    for seed in range(2):
        film_moving_square(tmp_path / f"{seed}.rgb", seed)
    with EpisodeStore(tmp_path, capacity=2, device=CPU) as store:
        deadline = time.monotonic() + 60
        while not store.full:
            assert time.monotonic() < deadline, "the store took in no film"
            time.sleep(0.01)
    assert not list(tmp_path.glob("*.rgb"))
    return store


def test_clips_are_cut_from_the_films(episodes):
    clips = episodes.clips(torch.tensor([1, 0]), torch.tensor([0, 15]))
    assert clips.shape == (2, CLIP_FRAMES, HEIGHT, WIDTH, 3)
    assert clips[0, 10, 60, 3 * 10].tolist() == [220, 30, 60]
    assert clips[0, 10, 60, 3 * 10 - 1].tolist() == [60, 60, 60]
    assert clips[1, 0, 60, 3 * 15].tolist() == [220, 0, 60]


def test_variation_treats_all_frames_of_a_clip_alike(episodes):
    video = as_video(episodes.first_clips())
    torch.manual_seed(0)
    varied = vary(video)
    assert varied.abs().max() <= 1
    background = varied[:, :, :, 0, 0]
    assert torch.equal(background, background[:, :, :1].expand_as(background))


@pytest.mark.slow
def test_from_films_to_a_model_that_loads(episodes, tmp_path, monkeypatch):
    monkeypatch.setattr("cosmos_ros.training.transformer.VARIANTS", 2)
    torch.manual_seed(0)
    journal = Journal(tmp_path / "training.jsonl")
    validation = episodes.first_clips()
    tokenizer, transformer = VideoTokenizer(TINY), Transformer(TINY_TRANSFORMER)
    initialise(transformer)
    before = [next(m.parameters()).clone() for m in (tokenizer, transformer)]
    saved = []
    train_tokenizer(
        tokenizer,
        tokenizer,
        episodes,
        validation,
        journal,
        seconds=60,
        batch=1,
        max_steps=2,
        on_progress=lambda: saved.append("tokenizer"),
    )
    train_transformer(
        transformer,
        transformer,
        tokenizer,
        episodes,
        validation,
        journal,
        seconds=60,
        batch=1,
        max_steps=2,
        on_progress=lambda: saved.append("transformer"),
    )
    assert saved == ["tokenizer", "transformer"]
    for old, model in zip(before, (tokenizer, transformer), strict=True):
        assert not torch.equal(old, next(model.parameters()))

    directory = tmp_path / "tiny"
    export_tokenizer(tokenizer, directory)
    export_transformer(transformer, directory, SAMPLING)
    spec = ModelSpec.of_checkpoint(directory)
    assert (spec.name, spec.config, spec.frame_rate, spec.frame_size) == ("tiny", TINY_TRANSFORMER, 10.0, (160, 256))
    assert (spec.temperature, spec.top_p, spec.published, spec.takes_prompt) == (0.9, 0.7, False, False)
    model = WorldModel.from_checkpoint(directory, device="cpu")
    tokens = model.tokenize(validation[0, :9].numpy())
    assert tokens.shape == (2 * 160,)

    again = VideoTokenizer(TINY)
    load_exported_tokenizer(again, directory)
    assert torch.equal(PixelsToIndices(again.eval())(as_video(validation[:1, :9])).flatten(), tokens)


def test_first_latent_frame_counts_in_the_prompt_not_in_the_loss():
    torch.manual_seed(0)
    transformer = Transformer(TINY_TRANSFORMER)
    tokens = torch.randint(12, (2, 800))
    logits = transformer(tokens[:, :-1], torch.arange(799))
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    loss, z_loss = token_loss(transformer, transformer, tokens)
    torch.testing.assert_close(loss, losses[:, 159:].mean(), atol=1e-3, rtol=1e-3)  # under autocast
    torch.testing.assert_close(z_loss, logits[:, 159:].logsumexp(-1).square().mean(), atol=1e-2, rtol=1e-3)


def test_generating_many_at_a_time_continues_as_the_decode_engine_does():
    torch.manual_seed(0)
    transformer = Transformer(TINY_TRANSFORMER).eval()
    prompts = torch.randint(12, (2, 640))
    greedy = Sampling(seed=0, temperature=0, top_p=1)
    together = completed(WindowDecoder(transformer).passes(prompts, greedy))
    for prompt, tokens in zip(prompts, together, strict=True):
        assert torch.equal(completed(WindowDecoder(transformer).passes(prompt[None], greedy))[0], tokens)


def test_psnr_is_of_8_bit_frames():
    video = torch.zeros(1, 3, 2, 4, 4)
    other = video.clone()
    other[:, :, 1] += 10 / 127.5
    psnr = frame_psnr(other, video)
    assert psnr[0, 1] == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)
    assert psnr[0, 0] > 70


def test_evaluation_knows_repeating_the_last_frame(episodes):
    torch.manual_seed(0)
    tokenizer, transformer = VideoTokenizer(TINY).eval(), Transformer(TINY_TRANSFORMER).eval()
    clips = episodes.first_clips()[:1]
    figures = evaluate(PixelsToIndices(tokenizer), IndicesToPixels(tokenizer), transformer, clips, SAMPLING)
    still = np.repeat(clips[:, 8:9].numpy(), 24, axis=1).astype(float)
    error = ((still - clips[:, 9:].numpy()) ** 2).mean(axis=(2, 3, 4))
    assert figures["repeat_last"] == pytest.approx((10 * np.log10(255**2 / error)).mean(), abs=0.01)


def test_the_schedule_warms_up_then_falls_and_ends():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter])
    rates = [optimizer.param_groups[0]["lr"] for _ in Schedule(optimizer, 1.0, 3600, max_steps=100, warmup_steps=10)]
    assert len(rates) == 100
    assert rates[:10] == sorted(rates[:10]) and rates[0] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] == pytest.approx(0.01, abs=0.01)


@pytest.mark.processes
def test_a_failed_film_worker_is_an_error(tmp_path, monkeypatch):
    crew = simulated.FilmCrew(simulated.Split.TRAINING, range(1), tmp_path / "gone" / "films", n_workers=1)
    (tmp_path / "gone" / "films").rmdir()  # the worker finds nowhere to put its film
    with crew, pytest.raises(RuntimeError, match="film worker ended"):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            crew.check()
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--episodes", "0"), "--episodes must be positive; got 0"),
        (("--workers", "0"), "--workers must be positive; got 0"),
        (("--film-minutes", "nan"), "--film-minutes must not be negative; got nan"),
        (("--tokenizer-minutes", "0"), "keeps the tokenizer of --start-from, which is not given"),
        (("--device", "banana"), "device must be auto, cpu, cuda or cuda:N; got 'banana'"),
        (("--start-from", "/nowhere"), "no encoder.jit and decoder.jit"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(tmp_path, capsys, options, said):
    assert cli.main(["train", str(tmp_path / "model"), *options]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("cosmos_ros train: ") and said in errors and errors.count("\n") == 1
    assert not list((tmp_path / "model").glob("*"))
