"""A small causal video tokenizer in the manner of Cosmos DV8x16x16: pixels <-> one code per 8 frames x 8 x 8 pixels.

3-D Haar wavelet patches of 4 with the first frame repeated in front, factorised space and time convolutions that never
look ahead, attention in the middle, norms over the channels of each place, and finite scalar quantisation (Mentzer et
al. 2023, arXiv:2309.15505). Causality is strict: the codes of a clip's first 9 frames are those of the 9 frames alone.

Features are [B, T, C, H, W] throughout; everything here can be scripted with torch.jit.script, which does not read the
annotations of buffers as texts: hence no `from __future__ import annotations`.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.training.sizes import PATCH, TokenizerSizes

WAVELET_CHANNELS = 3 * PATCH**3


class VideoTokenizer(nn.Module):
    """Encoder, quantiser and decoder for training; `PixelsToIndices` and `IndicesToPixels` are what gets exported."""

    def __init__(self, sizes: TokenizerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = Encoder(sizes)
        self.quantiser = FiniteScalarQuantiser(sizes.levels)
        self.decoder = Decoder(sizes)

    def forward(self, video: Tensor) -> Tensor:
        """Reconstruction of video [B, 3, 1 + 8k, H, W] in [-1, 1]; gradients pass straight through the rounding."""
        return self.decoder(self.quantiser(self.encoder(video)))


class PixelsToIndices(nn.Module):
    """encoder.jit: video [B, 3, 1 + 8k, H, W] in [-1, 1] -> indices int64 [B, 1 + k, h, w] and their codes.

    The codes are float32 [B, D, 1 + k, h, w], as published: what lies near in them looks alike.
    """

    def __init__(self, tokenizer: VideoTokenizer) -> None:
        super().__init__()
        self.encoder, self.quantiser = tokenizer.encoder, tokenizer.quantiser

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.quantiser(self.encoder(video))
        return self.quantiser.indices(codes), codes.transpose(1, 2)


class IndicesToPixels(nn.Module):
    """decoder.jit: integer indices [B, t, h, w] -> video [B, 3, 1 + 8 (t - 1), H, W] in [-1, 1]."""

    def __init__(self, tokenizer: VideoTokenizer) -> None:
        super().__init__()
        self.quantiser, self.decoder = tokenizer.quantiser, tokenizer.decoder

    def forward(self, indices: Tensor) -> Tensor:
        codes = self.quantiser.codes(indices).to(self.decoder.entrance.weight.dtype)
        return self.decoder(codes).clamp(-1.0, 1.0)


class FiniteScalarQuantiser(nn.Module):
    """Rounds every channel of [B, T, D, H, W] to one of levels[d] values in [-1, 1]."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        sizes = torch.tensor(levels)
        basis = torch.cat([torch.ones(1, dtype=torch.int64), sizes[:-1]]).cumprod(0)
        # Whole numbers, so that no .half() or .to(bfloat16) of the module can blur them.
        self.register_buffer("levels", sizes.view(-1, 1, 1))
        self.register_buffer("basis", basis.view(-1, 1, 1))

    def forward(self, latent: Tensor) -> Tensor:
        """Codes: whole steps divided by levels // 2; the gradient is that of the bounding tanh."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = (self.levels % 2 == 0) * 0.5
        latent = latent.float()
        bounded = torch.tanh(latent + torch.atanh(offset / half)) * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.levels // 2)

    def indices(self, codes: Tensor) -> Tensor:
        """int64 [B, T, H, W] in 0 .. vocabulary - 1."""
        steps = self.levels // 2
        return (((codes * steps).round().to(torch.int64) + steps) * self.basis).sum(2)

    def codes(self, indices: Tensor) -> Tensor:
        """The inverse of `indices`, float32 [B, T, D, H, W]."""
        steps = self.levels // 2
        digits = indices.to(torch.int64).unsqueeze(2) // self.basis % self.levels
        return (digits - steps).float() / steps


class HaarPatches(nn.Module):
    """Two levels of the 3-D Haar wavelet packet: every 4 x 4 x 4 pixel cube becomes 64 coefficients, orthonormally.

    The first frame stands four times in front, so that it makes a patch of its own and frames 1-4, 5-8, ... the others.
    """

    transform: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.size = PATCH
        haar = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
        along_axis = torch.kron(haar, haar)
        transform = torch.kron(torch.kron(along_axis, along_axis), along_axis)
        self.register_buffer("transform", transform / 4)  # for coefficients of about the pixels' size

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, 1 + 4k, H, W] -> [B, 1 + k, 192, H / 4, W / 4]."""
        n = self.size
        video = torch.cat([video[:, :, :1].expand(-1, -1, n - 1, -1, -1), video], dim=2)
        batch, colours, time, height, width = video.shape
        cubes = video.view(batch, colours, time // n, n, height // n, n, width // n, n)
        cubes = cubes.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(5)
        return (cubes @ self.transform.to(video.dtype).t()).flatten(4).permute(0, 1, 4, 2, 3)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """[B, 1 + k, 192, H / 4, W / 4] -> [B, 3, 1 + 4k, H, W]."""
        n = self.size
        batch, time, _, height, width = coefficients.shape
        cubes = coefficients.permute(0, 1, 3, 4, 2).reshape(batch, time, height, width, 3, n * n * n)
        cubes = (cubes @ (self.transform * 16).to(coefficients.dtype)).unflatten(5, (n, n, n))
        video = cubes.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, 3, time * n, height * n, width * n)
        return video[:, :, n - 1 :]


class Encoder(nn.Module):
    """Video in [-1, 1] -> latent [B, t, D, h, w], not yet quantised."""

    def __init__(self, sizes: TokenizerSizes) -> None:
        super().__init__()
        channels, n_blocks = sizes.channels, sizes.encoder_blocks
        self.patches = HaarPatches()
        self.entrance = SpaceConv(WAVELET_CHANNELS, channels[0])
        self.fine = blocks(channels[0], n_blocks[0])
        self.shrink_time = TimeConv(channels[0], channels[0], stride=2)
        coarser: list[nn.Module] = []
        for level in range(1, len(channels)):
            coarser.append(SpaceConv(channels[level - 1], channels[level], stride=2))
            # Places see their own past alone: what moves elsewhere does not change a still place's tokens.
            last = level == len(channels) - 1
            coarser.append(blocks(channels[level], n_blocks[level], [TimeAttention(channels[level])] if last else []))
        self.coarser = nn.Sequential(*coarser)
        self.exit = Exit(channels[-1], len(sizes.levels))

    def forward(self, video: Tensor) -> Tensor:
        x = self.fine(self.entrance(self.patches(video)))
        return self.exit(self.coarser(self.shrink_time(x)))


class Decoder(nn.Module):
    """Codes [B, t, D, h, w] -> video."""

    def __init__(self, sizes: TokenizerSizes) -> None:
        super().__init__()
        channels, n_blocks = sizes.channels, sizes.decoder_blocks
        self.entrance = SpaceConv(len(sizes.levels), channels[-1])
        coarser: list[nn.Module] = []
        for level in range(len(channels) - 1, 0, -1):
            last = level == len(channels) - 1
            attention = [SpaceAttention(channels[level]), TimeAttention(channels[level])] if last else []
            coarser.append(blocks(channels[level], n_blocks[level], attention))
            coarser.append(Grow(channels[level], channels[level - 1]))
        self.coarser = nn.Sequential(*coarser)
        self.grow_time = TimeConv(channels[0], channels[0])
        self.fine = blocks(channels[0], n_blocks[0])
        self.exit = Exit(channels[0], WAVELET_CHANNELS)
        nn.init.normal_(self.exit.conv.weight, std=1e-3)  # begins as a grey picture
        self.patches = HaarPatches()

    def forward(self, codes: Tensor) -> Tensor:
        x = self.coarser(self.entrance(codes))
        # The first latent frame is one wavelet patch long, every other two.
        x = self.fine(self.grow_time(x.repeat_interleave(2, dim=1)[:, 1:]))
        return self.patches.inverse(self.exit(x))


def blocks(channels: int, n: int, after_the_first: Sequence[nn.Module] = ()) -> nn.Sequential:
    """Residual blocks, and what stands after the first of them."""
    first, *others = (ResidualBlock(channels) for _ in range(n))
    return nn.Sequential(first, *after_the_first, *others)


class Grow(nn.Module):
    """Twice the height and width."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = SpaceConv(channels_in, 4 * channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


class SpaceConv(nn.Conv2d):
    """3 x 3 within each frame."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self._conv_forward(x.flatten(0, 1), self.weight, self.bias)
        return y.unflatten(0, (x.shape[0], x.shape[1]))


class TimeConv(nn.Module):
    """Over a frame and the two before it; in front of the first frame stand copies of it."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.mix = nn.Conv2d(3 * channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, ceil(T / stride), C', H, W]."""
        first = x[:, :1]
        padded = torch.cat([first, first, x], dim=1)
        time = x.shape[1]
        last = time + 2
        window = torch.cat(
            [padded[:, 0 : last - 2 : self.stride], padded[:, 1 : last - 1 : self.stride], padded[:, 2 :: self.stride]],
            dim=2,
        )
        return self.mix(window.flatten(0, 1)).unflatten(0, (window.shape[0], window.shape[1]))


class ChannelNorm(nn.Module):
    """RMS over the channels of each place: no place's statistics touch another's. Takes [..., C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-3, keepdim=True) + 1e-6).to(x.dtype)
        return x * scale * self.weight.to(x.dtype) + self.bias.to(x.dtype)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.space_norm = ChannelNorm(channels)
        self.space = SpaceConv(channels, channels)
        self.time_norm = ChannelNorm(channels)
        self.time = TimeConv(channels, channels)
        nothing(self.time.mix)  # a block begins as the identity

    def forward(self, x: Tensor) -> Tensor:
        y = self.space(F.silu(self.space_norm(x)))
        return x + self.time(F.silu(self.time_norm(y)))


def nothing(convolution: nn.Conv2d) -> None:
    """Let a convolution begin by giving zeros."""
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)


class Exit(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels_in)
        self.conv = SpaceConv(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(x)))


class Attention(nn.Module):
    """What the two attentions share: one head over tokens [N, L, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.project_in = nn.Linear(channels, 3 * channels, bias=False)
        self.project_out = nn.Linear(channels, channels, bias=False)
        nn.init.zeros_(self.project_out.weight)

    def attend(self, tokens: Tensor, causal: bool) -> Tensor:
        queries, keys, values = self.project_in(tokens).chunk(3, dim=-1)
        scores = (queries @ keys.transpose(1, 2)).float() / math.sqrt(tokens.shape[2])
        if causal:
            length = tokens.shape[1]
            ahead = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
            scores = scores.masked_fill(ahead, float("-inf"))
        return self.project_out(scores.softmax(-1).to(values.dtype) @ values)


class SpaceAttention(Attention):
    """Among the places of one frame."""

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _, height, width = x.shape
        tokens = self.norm(x).flatten(0, 1).flatten(2).transpose(1, 2)
        y = self.attend(tokens, causal=False)
        return x + y.transpose(1, 2).unflatten(2, (height, width)).unflatten(0, (batch, time))


class TimeAttention(Attention):
    """From one place to the same place in earlier frames."""

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, height, width = x.shape
        tokens = self.norm(x).permute(0, 3, 4, 1, 2).flatten(0, 2)
        y = self.attend(tokens, causal=True)
        return x + y.unflatten(0, (batch, height, width)).permute(0, 3, 4, 1, 2)
