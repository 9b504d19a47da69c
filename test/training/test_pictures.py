"""The pictures of `cosmos_ros train` show the film, and of the model's frames what the guardrail let out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cosmos_ros.foresight import Foresight, ForesightConfig
from cosmos_ros.guardrail.embedded.haar_faces import CascadeFaceDetector
from cosmos_ros.rollout import Clip
from cosmos_ros.training.export import export, tokenizer_files, transformer_files
from cosmos_ros.training.pictures import SEED, true_clips, write_picture, write_pictures
from cosmos_ros.training.sizes import Sizes, TokenizerSizes
from cosmos_ros.training.tokenizer_network import VideoTokenizer
from cosmos_ros.world_model import Transformer, TransformerConfig

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 160, 256
TINY = TokenizerSizes(channels=(4, 6, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), levels=(4, 3))
SIZES = Sizes(frame_size=(HEIGHT, WIDTH), tokenizer=TINY, temperature=1.0, top_p=1.0)
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
COLUMNS = 6  # of 24 predicted frames, every fourth


@pytest.fixture(scope="module")
def clip() -> Clip:
    """A square that moves right over noise: 33 frames."""
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8), 33, axis=0)
    for t in range(33):
        frames[t, 40:90, 4 * t : 4 * t + 60] = (220, 90, 60)
    return true_clips(torch.from_numpy(frames)[None], 10.0)[0]


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """Random weights, exported as training does."""
    torch.manual_seed(0)
    transformer = transformer_files(Transformer(TINY_TRANSFORMER), "tiny", SIZES)
    export(tmp_path / "tiny", tokenizer_files(VideoTokenizer(TINY)), transformer)
    return tmp_path / "tiny"


def rows(folder: Path) -> np.ndarray:
    """The one picture there: uint8 [3 rows, HEIGHT, COLUMNS * WIDTH, 3] RGB."""
    (file,) = folder.iterdir()
    return cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB).reshape(3, HEIGHT, COLUMNS * WIDTH, 3)


def side_by_side(frames: np.ndarray) -> np.ndarray:
    return np.concatenate(list(frames[-24:][3::4]), axis=1)


def test_the_rows_are_the_film_and_what_the_guardrail_let_out(checkpoint, clip, tmp_path, monkeypatch):
    # A face in every frame: what was not pixelated there did not pass the guards.
    everywhere = [np.array([[0, 0, 250, 150]], np.float32)]
    monkeypatch.setattr(CascadeFaceDetector, "detect", lambda self, frames: everywhere * len(frames))
    write_pictures(checkpoint, [clip], tmp_path / "pictures", "cpu")
    film, round_trip, rollout = rows(tmp_path / "pictures")
    assert np.array_equal(film, side_by_side(clip.frames))
    foresight = Foresight(ForesightConfig(checkpoint=str(checkpoint), device="cpu", dtype="float32"))
    seen = Clip(clip.frames[:9], clip.stamps_ns[:9], clip.frame_rate)
    assert np.array_equal(round_trip, side_by_side(foresight.reconstruct(clip).frames))
    assert np.array_equal(rollout, side_by_side(foresight.predict(seen, seed=SEED).frames))
    for row in (round_trip, rollout):
        assert (row[:30, :50] == row[0, 0]).all(), "the block that the face filter makes of its box"


def test_a_refused_row_shows_no_pixel_but_the_reason(checkpoint, clip, tmp_path):
    decoder = torch.jit.load(str(checkpoint / "decoder.jit"))
    for parameter in decoder.parameters():
        parameter.data.zero_()  # one grey for every pixel
    decoder.save(str(checkpoint / "decoder.jit"))
    write_pictures(checkpoint, [clip], tmp_path / "pictures", "cpu")
    film, *below = rows(tmp_path / "pictures")
    assert np.array_equal(film, side_by_side(clip.frames))
    for row in below:
        words = row.any(axis=-1)
        assert 0 < words.mean() < 0.05 and not words[: HEIGHT // 2 - 20].any() and not words[HEIGHT // 2 + 20 :].any()


def test_frames_of_anything_but_a_guarded_rollout_are_not_drawn(clip, tmp_path):
    for impostor in (clip, clip.frames):
        with pytest.raises(TypeError, match="only a GuardedRollout"):
            write_picture(tmp_path / "picture.png", clip, 9, [impostor])
    assert not list(tmp_path.iterdir())
