"""`DiffusionDecoder.denoise` in Python: what it refuses, rather than give latents of something else."""

import pytest
import torch

from cosmos_ros.world_model import load_diffusion_decoder

TOKENS, NOISE, CONTEXT = torch.zeros(8, 2, 3, dtype=torch.long), torch.zeros(16, 8, 4, 6), torch.zeros(1, 5, 16)


@pytest.fixture(scope="module")
def decoder(diffusion_decoder):
    return load_diffusion_decoder(diffusion_decoder, steps=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": TOKENS[:5]}, r"tokens must be whole numbers \[8, h, w\]; got torch.int64 \[5, 2, 3\]"),
        ({"tokens": TOKENS[None]}, "tokens must be whole numbers"),
        ({"tokens": TOKENS[:, :0]}, "tokens must be whole numbers"),
        ({"tokens": TOKENS.float()}, "tokens must be whole numbers"),
        ({"tokens": TOKENS + 64}, r"tokens must lie in 0..63; got 64..64"),
        ({"tokens": TOKENS - 1}, r"tokens must lie in 0..63; got -1..-1"),
        ({"noise": NOISE[:, :5]}, r"noise must be floating-point \[16, 8, 4, 6\]; got torch.float32 \[16, 5, 4, 6\]"),
        ({"noise": NOISE[:, :, :2]}, "noise must be floating-point"),
        ({"noise": NOISE.long()}, "noise must be floating-point"),
        ({"noise": NOISE / 0}, "noise must be finite numbers"),
        ({"context": CONTEXT[0]}, r"context must be floating-point \[1, positions, 16\]; got torch.float32 \[5, 16\]"),
        ({"context": CONTEXT.expand(2, -1, -1)}, "context must be floating-point"),
        ({"context": CONTEXT[:, :0]}, "context must be floating-point"),
        ({"context": CONTEXT[..., :15]}, "context must be floating-point"),
        ({"context": CONTEXT.long()}, "context must be floating-point"),
        ({"steps": 0}, "at least one step; got 0"),
        ({"steps": -1}, "at least one step; got -1"),
    ],
)
def test_what_has_other_sizes_or_asks_for_no_step_is_refused(given, message, decoder):
    with pytest.raises(ValueError, match=message):
        decoder.denoise(**{"tokens": TOKENS, "noise": NOISE, "context": CONTEXT} | given)


def test_a_decoder_that_would_take_no_step_is_refused_when_it_is_loaded(diffusion_decoder):
    with pytest.raises(ValueError, match="at least one step; got 0"):
        load_diffusion_decoder(diffusion_decoder, steps=0)


def test_tokens_of_any_whole_numbers_and_noise_of_any_precision_are_taken(decoder):
    noise = torch.randn(NOISE.shape, generator=torch.Generator().manual_seed(0))
    expected = decoder.denoise(TOKENS, noise, CONTEXT)
    assert torch.equal(decoder.denoise(TOKENS.to(torch.uint8), noise.double(), CONTEXT.double(), steps=2), expected)
