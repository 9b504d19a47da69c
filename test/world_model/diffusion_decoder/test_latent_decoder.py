"""Latents to pixels: un-normalisation as published, and what is no CV8x8x8 tokenizer."""

import numpy as np
import pytest
import torch
from torch import nn

from cosmos_ros.errors import ModelUnavailable, NotFinite
from cosmos_ros.world_model.diffusion_decoder.files import FAMILIES
from cosmos_ros.world_model.diffusion_decoder.latent_decoder import load_latent_decoder
from cosmos_ros.world_model.tokenizer.video_tokenizer import to_levels


@pytest.fixture
def tokenizer(write_diffusion_decoder, tmp_path):
    write_diffusion_decoder(tmp_path)
    return tmp_path / FAMILIES[0].tokenizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_are_those_of_the_description_within_one_grey_level(tokenizer, dtype):
    latents = torch.randn(16, 8, 4, 6, generator=torch.Generator().manual_seed(0)) / 2
    decoder = load_latent_decoder(tokenizer, 16, dtype=dtype)
    found = to_levels(decoder.pixels(latents, dtype)).permute(1, 2, 3, 0).numpy()

    mean, deviation = torch.load(tokenizer / "mean_std.pt", weights_only=True)
    expected = np.zeros((57, 32, 48, 3))
    for frame in range(57):
        place = 0 if frame == 0 else 1 + (frame - 1) // 8
        for channel in range(3):
            at = channel * 16 + place  # the table has 16 places, of which a chunk of 8 takes the first
            scale, shift = float(deviation[at].bfloat16()), float(mean[at].bfloat16())
            colour = np.tanh(latents[channel, place].double().numpy() / 0.5 * scale + shift)
            expected[frame, :, :, channel] = np.kron(np.floor((1 + colour) / 2 * 255), np.ones((8, 8)))
    assert found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).max() <= 1


class OfAnotherKind(nn.Module):
    """A tokenizer's decoder that makes 4 frames of a latent frame."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        n = 1 + (latents.shape[2] - 1) * 4
        return torch.zeros(1, 3, n, latents.shape[3] * 8, latents.shape[4] * 8)


class Discrete(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(64, 3)[tokens]


class Endless(nn.Module):
    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 3, 57, latents.shape[3] * 8, latents.shape[4] * 8), float("inf"))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (OfAnotherKind(), r"\[1, 3, 29, 64, 64\], and floating-point \[1, 3, 57, 64, 64\] was expected, as CV8x8x8"),
        (Discrete(), "is no decoder of the continuous tokenizer CV8x8x8"),
        (Endless(), "no finite numbers"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(tokenizer, program, message):
    torch.jit.script(program).save(str(tokenizer / "decoder.jit"))
    with pytest.raises((ModelUnavailable, NotFinite), match=message) as refusal:
        load_latent_decoder(tokenizer, 16)
    assert refusal.value.code == "MODEL_UNAVAILABLE"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"mean": torch.zeros(256)}, "must hold two tensors"),
        ((torch.zeros(256), torch.ones(256), torch.ones(256)), "must hold two tensors"),
        ((torch.zeros(100), torch.ones(100)), r"holds torch.float32 \[100\], expected floating-point numbers for 16"),
        ((torch.zeros(16 * 7), torch.ones(16 * 7)), "for 16 channels at 8 or more places"),
        ((torch.zeros(256, dtype=torch.int64), torch.ones(256)), "torch.int64"),
        ((torch.zeros(256), torch.ones(256, device="meta")), r"holds torch.float32 \[256\], expected"),
        ((torch.zeros(256), torch.ones(1).expand(16, 10**12)), "expected floating-point numbers for 16"),
        ((torch.zeros(256), torch.zeros(256)), "can be no mean or standard deviation"),
        ((torch.full((256,), float("nan")), torch.ones(256)), "can be no mean or standard deviation"),
    ],
)
def test_statistics_of_something_else_are_refused(tokenizer, entries, message):
    torch.save(entries, tokenizer / "mean_std.pt")
    with pytest.raises(ModelUnavailable, match=message) as refusal:
        load_latent_decoder(tokenizer, 16)
    assert "mean_std.pt" in str(refusal.value) and "hf download" in str(refusal.value)


@pytest.mark.parametrize("name", ["decoder.jit", "mean_std.pt"])
def test_a_missing_or_cut_file_is_named(tokenizer, name):
    whole = (tokenizer / name).read_bytes()
    (tokenizer / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelUnavailable, match=name):
        load_latent_decoder(tokenizer, 16)
    (tokenizer / name).unlink()
    with pytest.raises(ModelUnavailable, match=f"{name} does not exist"):
        load_latent_decoder(tokenizer, 16)


def test_statistics_that_were_saved_as_parameters_are_read(tokenizer):
    latents = torch.ones(16, 8, 4, 6)
    expected = load_latent_decoder(tokenizer, 16).pixels(latents, torch.float32)
    tables = torch.load(tokenizer / "mean_std.pt", weights_only=True)
    torch.save([nn.Parameter(table) for table in tables], tokenizer / "mean_std.pt")
    found = load_latent_decoder(tokenizer, 16).pixels(latents, torch.float32)
    assert torch.equal(found, expected) and not found.requires_grad
