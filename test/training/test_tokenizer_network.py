"""The tokenizer network: strictly causal, invertible wavelets, the published quantisation, programs that travel."""

import io

import pytest
import torch

from cosmos_ros.training.sizes import TokenizerSizes
from cosmos_ros.training.tokenizer_network import (
    FiniteScalarQuantiser,
    HaarPatches,
    IndicesToPixels,
    PixelsToIndices,
    VideoTokenizer,
)

SMALL = TokenizerSizes(channels=(8, 12, 16), encoder_blocks=(1, 1, 2), decoder_blocks=(1, 1, 2))


@pytest.fixture(scope="module")
def tokenizer() -> VideoTokenizer:
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(SMALL).eval()
    for parameter in tokenizer.parameters():  # beyond the zeros that blocks begin with
        parameter.data += 0.1 * torch.randn_like(parameter)
    return tokenizer


def clip(n_frames: int = 33, height: int = 32, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, n_frames, 4, 6, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(n_frames, height, width), mode="trilinear")


def encoding(tokenizer):
    """Video -> indices, as encoder.jit gives them beside their codes."""
    return lambda video: PixelsToIndices(tokenizer)(video)[0]


@pytest.mark.parametrize(("n_frames", "n_latent"), [(1, 1), (9, 2), (17, 3)])
def test_a_clip_alone_has_the_tokens_it_has_at_the_head_of_a_longer_one(tokenizer, n_frames, n_latent):
    encode = encoding(tokenizer)
    whole = encode(clip())
    assert whole.shape == (2, 5, 2, 3)
    assert whole.unique().numel() > 10  # or causality would be easy
    assert torch.equal(encode(clip()[:, :, :n_frames]), whole[:, :n_latent])


def test_what_moves_elsewhere_changes_no_token_of_a_still_place(tokenizer):
    """Beyond what convolutions reach: a still background keeps its tokens while an arm moves before another."""
    encode = encoding(tokenizer)
    video = clip(height=32, width=32 * 8)
    other = video.clone()
    other[:, :, :, :, :32] *= -1
    assert torch.equal(encode(other)[..., -2:], encode(video)[..., -2:])


@pytest.mark.parametrize("n_levels", [2, 3])
def test_levels_set_the_compression_in_space(n_levels):
    sizes = TokenizerSizes((8,) * n_levels, (1,) * n_levels, (1,) * n_levels, (4, 3))
    step = sizes.space_compression
    assert step == {2: 8, 3: 16}[n_levels]
    tokenizer = VideoTokenizer(sizes).eval()
    indices = encoding(tokenizer)(clip())
    assert indices.shape == (2, 5, 32 // step, 48 // step)
    assert IndicesToPixels(tokenizer)(indices).shape == (2, 3, 33, 32, 48)


def test_later_frames_change_later_tokens(tokenizer):
    encode = encoding(tokenizer)
    other = clip()
    other[:, :, 9:] *= -1
    assert not torch.equal(encode(other)[:, 2], encode(clip())[:, 2])


def test_the_first_tokens_alone_give_the_first_frames(tokenizer):
    decode = IndicesToPixels(tokenizer)
    indices = encoding(tokenizer)(clip())
    whole = decode(indices)
    assert whole.shape == (2, 3, 33, 32, 48)
    torch.testing.assert_close(decode(indices[:, :2]), whole[:, :, :9], atol=1e-5, rtol=0)


def test_wavelet_patches_are_orthonormal_up_to_scale_and_invert():
    patches, video = HaarPatches(), clip()
    coefficients = patches(video)
    assert coefficients.shape == (2, 9, 192, 8, 12)
    torch.testing.assert_close(patches.inverse(coefficients), video, atol=1e-5, rtol=0)
    padded = video.square().sum() + 3 * video[:, :, 0].square().sum()  # the first frame stands four times
    torch.testing.assert_close(16 * coefficients.square().sum(), padded)


@pytest.mark.parametrize("levels", [(7, 5, 5, 5, 5), (8, 8, 8, 5, 5, 5)])
def test_every_index_is_a_code_and_back(levels):
    quantiser = FiniteScalarQuantiser(levels)
    indices = torch.arange(int(torch.tensor(levels).prod())).view(1, 1, 1, -1)
    codes = quantiser.codes(indices)
    assert torch.equal(quantiser.indices(codes), indices)
    assert codes.min() == -1 and codes.max() <= 1


def test_quantisation_follows_the_published_formula():
    # facts: half = (L - 1)(1 + 1e-3) / 2, offset 1/2 for even L, tanh(z + atanh(offset / half)) half - offset, rounded
    z = torch.linspace(-4, 4, 81)
    for n_levels in (5, 8):
        half, offset = (n_levels - 1) * 1.001 / 2, 0.5 * (n_levels % 2 == 0)
        shift = torch.atanh(torch.tensor(offset / half))
        expected = (torch.tanh(z + shift) * half - offset).round() / (n_levels // 2)
        codes = FiniteScalarQuantiser((n_levels,))(z.view(1, 1, 1, 1, -1))
        torch.testing.assert_close(codes.flatten(), expected)
        assert codes.unique().numel() == n_levels


def test_gradients_pass_the_rounding(tokenizer):
    video = clip().requires_grad_()
    tokenizer(video).square().mean().backward()
    assert video.grad.abs().sum() > 0


def test_programs_stored_in_half_run_in_float32(tokenizer):
    stored = VideoTokenizer(SMALL)
    stored.load_state_dict(tokenizer.state_dict())
    stored.half().eval()
    programs = []
    for program in (PixelsToIndices(stored), IndicesToPixels(stored)):
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(program), file)
        file.seek(0)
        programs.append(torch.jit.load(file).to("cpu", torch.float32).eval())
    rounded = stored.float()  # the same weights after their way through half precision
    indices, codes = programs[0](clip())
    assert indices.dtype == torch.int64
    assert torch.equal(indices, encoding(rounded)(clip()))
    assert torch.equal(codes.transpose(1, 2), rounded.quantiser.codes(indices))
    torch.testing.assert_close(programs[1](indices), IndicesToPixels(rounded)(indices), atol=1e-5, rtol=0)
    assert programs[1](indices).dtype == torch.float32
