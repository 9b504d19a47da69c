"""The small model that ships: small enough, causal, and its future of the sample bag is that scene, moving."""

import numpy as np
import pytest
import torch

from cosmos_ros.paths import embedded_model, share_directory
from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.world_model import ModelSpec, Sampling, WorldModel
from cosmos_ros.world_model.preprocessing import camera_view, to_model_input

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
    """The last 33 frames of the sample bag at 10 Hz, uint8 [33, 480, 640, 3]."""
    recording = open_recording(share_directory() / "data" / "sample_bag")
    frames = list(recording.frames("/camera/image_raw/compressed"))
    return np.stack([frame.load() for frame in frames[-97::3]])


@pytest.fixture(scope="module")
def truth(model, frames) -> np.ndarray:
    """The same as the model sees it, float [33, 112, 192, 3] in 0..255."""
    return ((to_model_input(frames, model.spec.frame_size)[0] + 1) * 127.5).permute(1, 2, 3, 0).numpy()


def test_it_takes_at_most_44_mb():
    assert sum(file.stat().st_size for file in embedded_model().rglob("*") if file.is_file()) <= 44_000_000


def test_it_is_a_model_of_our_own_at_10_hz():
    spec = ModelSpec.of_checkpoint("")
    assert (spec.name, spec.published, spec.takes_prompt) == ("foresight-small", False, False)
    assert (spec.frame_rate, spec.frame_size, spec.config.latent_shape) == (10.0, (112, 192), (5, 14, 24))


def test_its_card_says_what_it_is():
    card = (embedded_model() / "MODEL_CARD.md").read_text().lower()
    for word in ("apache-2.0", "cc by 4.0", "droid", "simulated", "psnr", " db", "cannot do"):
        assert word in card


def test_its_tokenizer_is_strictly_causal_and_reconstructs_what_it_never_saw(model, frames, truth):
    tokens = model.tokenize(frames)
    latent_frame = 14 * 24
    assert tokens.shape == (5 * latent_frame,)
    assert torch.equal(model.tokenize(frames[:CONDITIONING]), tokens[: 2 * latent_frame])
    assert torch.equal(model.tokenize(frames[:1]), tokens[:latent_frame])
    reconstruction = np.concatenate(list(model.decode(tokens, 0)))
    assert psnr(reconstruction, truth).mean() > 24


def test_its_future_of_the_sample_bag_is_that_scene_and_better_than_standing_still(model, frames):
    """As it leaves: refined, at the camera's own resolution, of what the model sees of the camera."""
    tokens = model.tokenize(frames[:CONDITIONING])
    sampling = Sampling(seed=0, temperature=model.spec.temperature, top_p=model.spec.top_p)
    steps = model.roll_out(tokens, None, sampling, CONDITIONING, n_frames=24, camera=frames[:CONDITIONING])
    future = np.concatenate([some.pixels for step in steps for some in step.frames])
    seen = camera_view(frames.shape[1:3], model.spec.frame_size).of(frames)
    assert future.shape == seen[CONDITIONING:].shape
    still = psnr(np.repeat(seen[CONDITIONING - 1 : CONDITIONING], 24, axis=0), seen[CONDITIONING:])
    assert psnr(future, seen[CONDITIONING:]).mean() > still.mean()
    assert np.abs(future[0].astype(float) - future[-1]).max() > 60, "nothing moved"


def test_what_stands_still_is_as_sharp_as_the_camera(model, frames):
    """A camera that shows the same picture nine times is predicted to go on showing it."""
    still = np.repeat(frames[:1], CONDITIONING, axis=0)
    sampling = Sampling(seed=0, temperature=model.spec.temperature, top_p=model.spec.top_p)
    steps = model.roll_out(model.tokenize(still), None, sampling, CONDITIONING, n_frames=8, camera=still)
    future = np.concatenate([some.pixels for step in steps for some in step.frames])
    seen = camera_view(frames.shape[1:3], model.spec.frame_size).of(still)
    assert psnr(future, seen[:8]).min() > 30
