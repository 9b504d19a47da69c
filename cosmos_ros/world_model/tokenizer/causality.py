"""Whether encoder and decoder look only backwards in time: measured, not believed.

Then a clip's tokens need only the clip's frames, and frames can be decoded before later tokens are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_ros.device.out_of_memory import is_out_of_memory
from cosmos_ros.world_model.tokenizer.chunking import Chunking

SAME_PIXELS = 0.05  # on a scale of 2: rounding in bfloat16 stays below it, and another picture does not

Encode = Callable[[Tensor], Tensor]  # float [1, 3, n, h, w] in [-1, 1] -> int64 [t, h', w']
Decode = Callable[[Tensor], Tensor]  # int64 [t, h', w'] -> float [3, n, h, w] in [-1, 1]


def looks_only_backwards(encode: Encode, chunking: Chunking) -> bool:
    """Whether the frames of a clip alone give the tokens that they give at the head of any chunk."""
    smooth = smooth_chunk(chunking)
    return all(_same_alone(encode, chunk, chunking) for chunk in (smooth, *_contrasts(smooth, chunking)))


def decodes_by_groups(decode: Decode, chunking: Chunking, vocabulary: int) -> bool:
    """Whether the first latent frames can be decoded before the others are known.

    The head of a chunk is decoded with two different futures behind it, which must give the same bits, and alone,
    which must give the same pixels within rounding.
    """
    t, h, w = chunking.latent_shape
    n_head = t - 1
    tokens = torch.arange(t * h * w).remainder(vocabulary).view(t, h, w)
    other = tokens.clone()
    other[n_head:] = tokens[n_head:].flip(1, 2)
    frames = 1 + (n_head - 1) * chunking.compression[0]
    try:
        whole, contrast, alone = (decode(given)[:, :frames] for given in (tokens, other, tokens[:n_head]))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False  # a program that was traced for whole chunks takes nothing shorter
    return torch.equal(whole, contrast) and bool((whole - alone).abs().max() < SAME_PIXELS)


def smooth_chunk(chunking: Chunking) -> Tensor:
    """A chunk of smooth, moving colours, the same each time: float32 [1, 3, n, h, w] in [-1, 1]."""
    noise = torch.rand(1, 3, chunking.n_frames, 9, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(noise, size=(chunking.n_frames, *chunking.frame_size), mode="trilinear")


def filled(frames: Tensor, n: int) -> Tensor:
    """Repeat the last frame up to n frames."""
    last = frames[:, :, -1:]
    return torch.cat([frames, last.expand(-1, -1, n - frames.shape[2], -1, -1)], dim=2)


def _same_alone(encode: Encode, chunk: Tensor, chunking: Chunking) -> bool:
    """Whether the first frames of a chunk give, without the others, the first of its tokens."""
    tokens = encode(chunk)
    for latent_frames in (1, 2):
        clip = chunk[:, :, : 1 + (latent_frames - 1) * chunking.compression[0]]
        try:
            alone = encode(clip)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False  # a program that was traced for whole chunks takes nothing shorter
        if not torch.equal(alone, tokens[:latent_frames]):
            return False
    return True


def _contrasts(smooth: Tensor, chunking: Chunking) -> Iterator[Tensor]:
    """Chunks that begin with smooth frames, flat patches, noise and grey, each with a future that is very different.

    One of them repeats its last frame: that is how clips are filled up where the future does matter.
    """
    n = chunking.n_frames
    n_head = min(n, 1 + chunking.compression[0])
    random = torch.Generator().manual_seed(1)
    noise = torch.rand(smooth.shape, generator=random) * 2 - 1
    patches = torch.rand(1, 3, 1, *chunking.latent_shape[1:], generator=random) * 2 - 1
    patches = F.interpolate(patches, size=(n_head, *chunking.frame_size), mode="nearest")
    future = noise[:, :, n_head:]
    yield torch.cat([smooth[:, :, :n_head], torch.full_like(future, -1)], dim=2)
    yield torch.cat([patches, torch.ones_like(future)], dim=2)
    yield filled(noise[:, :, :n_head], n)
    yield torch.cat([torch.zeros_like(patches), future], dim=2)
