"""Rolling out windows for the refiner, and how often its steps show them."""

import pytest
import torch
import torch.nn.functional as F

from cosmos_ros.training.datasets.clips import ClipStore, shrunk
from cosmos_ros.training.rollouts import MOST_SHOWN, TRIP_SHARE, Chunk, Windows, nearest, roll_out, times_shown
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig

SIZE, SHAPE, CODES = (8, 12), (5, 2, 3), 16
WINDOWS, SAMPLES = 2, 3
SEEDS = [0, 1, 2, 3, 4, 5]
FROM_AN_IMAGE = [3]  # of these seeds


@pytest.fixture(scope="module")
def windows() -> Windows:
    clips = ClipStore((16, 24), torch.device("cpu"))
    for film in range(2):
        generator = torch.Generator().manual_seed(film)
        frames = torch.randint(0, 256, (50, 16, 24, 3), dtype=torch.uint8, generator=generator)
        clips.add(frames, "recorded")
    return Windows(clips, SIZE, {"recorded": 1.0}, chunk=WINDOWS)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    torch.manual_seed(0)
    sizes = {"n_layers": 1, "dim": 24, "n_heads": 2, "n_kv_heads": 1, "head_dim": 12, "ffn_hidden": 24}
    config = TransformerConfig(**sizes, vocab_in=CODES, vocab_out=CODES, latent_shape=SHAPE)
    return Transformer(config).eval().requires_grad_(False)


def tokenize(video: torch.Tensor) -> torch.Tensor:
    """Stands in for a tokenizer: how bright each part is."""
    bright = F.adaptive_avg_pool3d(video.mean(1, keepdim=True), SHAPE).flatten(1)
    return ((bright + 1) / 2 * CODES).long().clamp(0, CODES - 1)


def decode(tokens: torch.Tensor) -> torch.Tensor:
    shades = (tokens[:, None].float() + 0.5) / CODES * 2 - 1
    return F.interpolate(shades, size=(33, *SIZE)).expand(-1, 3, -1, -1, -1)


def test_a_rollout_goes_on_from_its_own_window(transformer, windows):
    chunks = roll_out(tokenize, decode, transformer, windows, SEEDS, Sampling(7, 1.0, 1.0), SAMPLES)
    assert [chunk.seed for chunk in chunks] == SEEDS
    for seed, chunk in zip(SEEDS, chunks, strict=True):
        clean, noisy = (shrunk(video, SIZE) for video in windows.draw(seed))
        assert torch.equal(chunk.true, tokenize(noisy).view(-1, *SHAPE).int())
        assert chunk.n_conditioning == (1 if seed in FROM_AN_IMAGE else 9)
        given = 1 if seed in FROM_AN_IMAGE else 2
        assert chunk.predicted.shape == (SAMPLES, WINDOWS, *SHAPE)
        assert torch.equal(chunk.predicted[:, :, :given], chunk.true[None, :, :given].expand(SAMPLES, -1, -1, -1, -1))
        assert torch.equal(chunk.best, nearest(decode, chunk.predicted, clean, chunk.n_conditioning))
        assert len({tuple(each.flatten().tolist()) for each in chunk.predicted[:, 0]}) == SAMPLES, "futures differ"
    assert len({tuple(chunk.true.flatten().tolist()) for chunk in chunks}) == len(SEEDS), "each shows another"


def chunks_of(rolled_out: int, trips: int) -> list[Chunk]:
    true, best = torch.zeros(WINDOWS, *SHAPE, dtype=torch.int32), torch.zeros(WINDOWS, dtype=torch.int64)
    samples = [SAMPLES] * rolled_out + [0] * trips
    return [Chunk(seed, true, true.expand(n, *true.shape), best, 9) for seed, n in enumerate(samples)]


@pytest.mark.parametrize(
    ("rolled_out", "trips", "steps", "shown"),
    [(4, 12, 40, (1 - TRIP_SHARE) * 10), (4, 0, 40, 10.0), (2, 1, 30, (1 - TRIP_SHARE) * 15), (0, 5, 99, 0.0)],
)
def test_how_often_steps_show_a_rolled_out_window(caplog, rolled_out, trips, steps, shown):
    assert times_shown(chunks_of(rolled_out, trips), steps) == pytest.approx(shown, abs=0.06)
    assert not caplog.records


def test_windows_that_are_shown_too_often_are_warned_of(caplog):
    chunks = chunks_of(rolled_out=2, trips=0)
    times_shown(chunks, steps=2 * MOST_SHOWN)
    assert not caplog.records
    times_shown(chunks, steps=2 * (MOST_SHOWN + 1))
    (record,) = caplog.records
    assert "every rolled-out window 11 times" in record.message and "--rollouts" in record.message
