"""The video tokenizer: frames to tokens and back, through the published TorchScript programs.

A chunk is 33 frames at the published compression: its first frame is a latent frame of its own, then every 8 frames
are one (Cosmos Tokenizer DV8x16x16, arXiv:2501.03575, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from cosmos_ros.device.plan import Need
from cosmos_ros.errors import ModelUnavailable, NotFinite
from cosmos_ros.world_model.tokenizer.causality import decodes_by_groups, filled, looks_only_backwards, smooth_chunk
from cosmos_ros.world_model.tokenizer.chunking import Chunking
from cosmos_ros.world_model.tokenizer.programs import load_programs, program_files, run_program, trying_out

TOKEN_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
OUTPUT_FRAMES = 8  # at a time
TOKENIZER = "tokenizer"  # the part's name in a memory plan
# Activations at their peak, in bfloat16, for each pixel of a chunk of frames. Measured with bench/published_models.py.
WORK_BYTES_PER_PIXEL = 75


class VideoTokenizer:
    """Encoder and decoder on a device.

    Published encoders look only backwards in time, so that a clip's tokens need only the clip's frames; whether this
    one does is measured when it is loaded, and if not, clips are filled up to a whole chunk with their last frame, as
    published.

    encoder     float [1, 3, n, h, w] in [-1, 1] -> whole numbers [1, t, h', w'], alone or among other tensors
    decoder     int64 [1, t, h', w'] -> float [1, 3, n, h, w] in [-1, 1]
    vocabulary  number of tokens that the model knows

    Raises ModelUnavailable where the programs do not fit the vocabulary, latent shape and compression of the model.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        chunking: Chunking,
        vocabulary: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.encoder, self.decoder = encoder, decoder
        self.chunking, self.vocabulary = chunking, vocabulary
        self.device, self.dtype = device, dtype
        with trying_out(f"the tokenizer cannot take a {[3, chunking.n_frames, *chunking.frame_size]} chunk"):
            self._require_fit()
            self.looks_only_backwards = looks_only_backwards(self._encode, chunking)

    @classmethod
    def load(
        cls, directory: str | Path, chunking: Chunking, vocabulary: int, device: torch.device, dtype: torch.dtype
    ) -> VideoTokenizer:
        """From a directory with encoder.jit and decoder.jit, or with autoencoder.jit alone. Raises ModelUnavailable."""
        encoder, decoder = load_programs(Path(directory), device, dtype)
        try:
            return cls(encoder, decoder, chunking, vocabulary, device, dtype)
        except ModelUnavailable as error:
            raise ModelUnavailable(f"{directory}: {error}") from error

    def encode(self, frames: Tensor) -> Tensor:
        """Tokens of a clip: float [1, 3, n, h, w] in [-1, 1] -> int64 [latent frames * h' * w'], raster order.

        n is 1 + 8k, at most a chunk. Raises ValueError for another n, ModelUnavailable for a token that the model
        does not know.
        """
        latent_frames = self.chunking.latent_frames(frames.shape[2])
        if not self.looks_only_backwards:
            frames = filled(frames, self.chunking.n_frames)
        return self._encode(frames)[:latent_frames].flatten()

    def codes(self, frames: Tensor) -> Tensor:
        """What the quantiser makes of each frame as a video of its own, in which near means that it looks alike.

        float [1, 3, n, h, w] in [-1, 1] -> float32 [n, codes, h', w'] on the CPU

        Raises ModelUnavailable where the encoder gives tokens without codes, or codes that are not finite.
        """
        stills = frames.transpose(0, 2)  # [n, 3, 1, h, w]
        return torch.stack([self._codes(still[None]) for still in stills])

    @cached_property
    def by_groups(self) -> bool:
        """Whether the decoder, too, looks only backwards: measured once, when somebody asks."""
        return decodes_by_groups(self._decode, self.chunking, self.vocabulary)

    def decode(self, tokens: Tensor, first: int) -> Iterator[Tensor]:
        """Frames after the first ones: uint8 [k, h, w, 3] on the CPU, in order.

        tokens  int64 [latent frames * h' * w'], of a whole chunk or, `by_groups`, of its first latent frames

        Raises NotFinite where a pixel is no finite number: as uint8, in which guards see it, it would be one.
        """
        for some in self.pixels(tokens)[:, first:].split(OUTPUT_FRAMES, dim=1):
            yield to_levels(some).permute(1, 2, 3, 0).contiguous().cpu()

    def pixels(self, tokens: Tensor) -> Tensor:
        """All frames float [3, n, h, w] in [-1, 1], on the device; tokens as `decode` takes them. Raises NotFinite."""
        pixels = self._decode(tokens.view(-1, *self.chunking.latent_shape[1:]))
        if not pixels.isfinite().all():
            raise NotFinite("the tokenizer decoded pixels that are no finite numbers; its weights may be damaged")
        return pixels

    def _encode(self, frames: Tensor) -> Tensor:
        """int64 [t, h', w'] of float [1, 3, n, h, w]."""
        tokens = _tokens_in(run_program(self.encoder, frames.to(self.device, self.dtype)))
        # Looked up in the embedding, a token out of range triggers a device-side assert, which ends the CUDA context.
        lowest, highest = (int(token) for token in tokens.aminmax())
        if lowest < 0 or highest >= self.vocabulary:
            raise ModelUnavailable(
                f"the tokenizer gives tokens {lowest}..{highest}, and the model knows only {self.vocabulary}"
            )
        return tokens

    def _codes(self, still: Tensor) -> Tensor:
        """float32 [codes, h', w'] of one frame, float [1, 3, 1, h, w]."""
        if not self.looks_only_backwards:
            still = filled(still, self.chunking.n_frames)
        return _codes_in(run_program(self.encoder, still.to(self.device, self.dtype)))[:, 0].float().cpu()

    def _decode(self, tokens: Tensor) -> Tensor:
        """Float [3, n, h, w] in [-1, 1] of int64 [t, h', w']."""
        pixels = run_program(self.decoder, tokens[None].to(self.device))
        n_frames = 1 + (len(tokens) - 1) * self.chunking.compression[0]
        expected = [1, 3, n_frames, *self.chunking.frame_size]
        if not (isinstance(pixels, Tensor) and pixels.is_floating_point() and list(pixels.shape) == expected):
            raise ModelUnavailable(
                f"the tokenizer decodes to {_describe(pixels)}, and the model expects floating-point {expected}"
            )
        return pixels[0]

    def _require_fit(self) -> None:
        """Send a chunk through encoder and decoder."""
        chunk = smooth_chunk(self.chunking)
        tokens, expected = self._encode(chunk), list(self.chunking.latent_shape)
        if list(tokens.shape) != expected:
            raise ModelUnavailable(
                f"the tokenizer makes {list(tokens.shape)} tokens of a {list(chunk.shape[1:])} chunk, and the model "
                f"expects {expected}: the tokenizer is of another compression, or the model of another frame size"
            )
        if not self._decode(tokens).isfinite().all():
            raise ModelUnavailable("the tokenizer's decoder gives pixels that are not finite; its file may be damaged")


@torch.inference_mode()
def to_levels(pixels: Tensor) -> Tensor:
    """uint8 of pixels in [-1, 1]: scaled, clamped and truncated in their own precision, as published."""
    return ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8)


def _tokens_in(output: object) -> Tensor:
    """The tokens int64 [t, h, w] among an encoder's outputs: published ones give codes as well, in either order."""
    for tensor in _finite_tensors(output):
        if tensor.dtype in TOKEN_DTYPES and tensor.ndim == 4 and len(tensor) == 1 and tensor.numel():
            return tensor[0].long()
    raise ModelUnavailable(
        f"the tokenizer's encoder gives {_describe(output)}, and whole-number tokens [1, t, h, w] were expected: "
        "a discrete tokenizer is needed"
    )


def _codes_in(output: object) -> Tensor:
    """The codes [codes, t, h, w] among an encoder's outputs."""
    for tensor in _finite_tensors(output):
        if tensor.is_floating_point() and tensor.ndim == 5 and len(tensor) == 1 and tensor.numel():
            return tensor[0]
    raise ModelUnavailable(
        f"the tokenizer's encoder gives {_describe(output)}, without the codes [1, n, t, h, w] that published ones give"
    )


def _finite_tensors(output: object) -> list[Tensor]:
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    tensors = [part for part in outputs if isinstance(part, Tensor)]
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ModelUnavailable("the tokenizer's encoder gives codes that are not finite; its file may be damaged")
    return tensors


def _describe(output: object) -> str:
    """What a program gave, in words: "float32 [1, 3, 33, 640, 1024]"."""
    if isinstance(output, (tuple, list)):
        return f"{len(output)} outputs ({', '.join(map(_describe, output))})"
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
    return type(output).__name__


def tokenizer_need(directory: Path, chunking: Chunking, bytes_per_weight: int) -> Need:
    """Of the programs in a tokenizer's directory, for a whole chunk at a time.

    bytes_per_weight  2 in bfloat16, 4 in float32
    """
    pixels = chunking.n_frames * math.prod(chunking.frame_size)
    files = [file for file in program_files(directory) if file.is_file()]
    return Need(
        TOKENIZER,
        weights=sum(file.stat().st_size for file in files),
        work=WORK_BYTES_PER_PIXEL * pixels * bytes_per_weight // 2,
    )
