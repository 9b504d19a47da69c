"""The small model that ships: small enough, causal, and its future of the sample bag is that scene, moving."""

import numpy as np
import pytest
import torch
from rosbags.highlevel import AnyReader

from cosmos_ros.paths import embedded_model, share_directory
from cosmos_ros.world_model import ModelSpec, Sampling, WorldModel
from cosmos_ros.world_model.preprocessing import to_model_input

pytestmark = pytest.mark.slow

CONDITIONING = 9


def psnr(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Per frame, dB."""
    return 10 * np.log10(255**2 / np.square(frames.astype(float) - truth).mean(axis=(1, 2, 3)))


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return WorldModel.from_checkpoint(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """The last 33 frames of the sample bag at 10 Hz, uint8 [33, 240, 320, 3]."""
    with AnyReader([share_directory() / "data" / "sample_bag"]) as reader:
        images = [c for c in reader.connections if c.topic == "/camera/image_raw"]
        messages = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections=images)]
    return np.stack([m.data.reshape(m.height, m.width, 3) for m in messages[-65::2]])


@pytest.fixture(scope="module")
def truth(model, frames) -> np.ndarray:
    """The same as the model sees it, float [33, 160, 256, 3] in 0..255."""
    return ((to_model_input(frames, model.spec.frame_size)[0] + 1) * 127.5).permute(1, 2, 3, 0).numpy()


def test_it_takes_at_most_40_mb():
    assert sum(file.stat().st_size for file in embedded_model().rglob("*") if file.is_file()) <= 40_000_000


def test_it_is_a_model_of_our_own_at_10_hz():
    spec = ModelSpec.of_checkpoint("")
    assert (spec.name, spec.published, spec.takes_prompt) == ("foresight-small", False, False)
    assert (spec.frame_rate, spec.frame_size, spec.config.latent_shape) == (10.0, (160, 256), (5, 10, 16))


def test_its_card_says_what_it_is():
    card = (embedded_model() / "MODEL_CARD.md").read_text().lower()
    for word in ("apache-2.0", "simulated", "psnr", " db", "cannot do"):
        assert word in card


def test_its_tokenizer_is_strictly_causal_and_reconstructs_what_it_never_saw(model, frames, truth):
    tokens = model.tokenize(frames)
    assert tokens.shape == (5 * 10 * 16,)
    assert torch.equal(model.tokenize(frames[:CONDITIONING]), tokens[: 2 * 10 * 16])
    assert torch.equal(model.tokenize(frames[:1]), tokens[: 10 * 16])
    reconstruction = np.concatenate(list(model.decode(tokens, 0)))
    assert psnr(reconstruction, truth).mean() > 24


def test_its_future_of_the_sample_bag_is_that_scene_and_moves(model, frames, truth):
    tokens = model.tokenize(frames[:CONDITIONING])
    sampling = Sampling(seed=0, temperature=model.spec.temperature, top_p=model.spec.top_p)
    steps = model.roll_out(tokens, None, sampling, CONDITIONING, n_frames=24)
    future = np.concatenate([some.pixels for step in steps for some in step.frames])
    assert future.shape == (24, 160, 256, 3)
    other_scene = psnr(truth[CONDITIONING:, ::-1, ::-1], truth[CONDITIONING:])
    assert (psnr(future, truth[CONDITIONING:]) > other_scene + 4).all()
    assert np.abs(future[0].astype(float) - future[-1]).max() > 60, "nothing moved"
