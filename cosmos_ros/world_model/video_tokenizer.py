"""The video tokenizer: frames to tokens and back, through the published TorchScript programs.

A chunk is 33 frames at the published compression: its first frame is a latent frame of its own, then every 8 frames
are one (Cosmos Tokenizer DV8x16x16, arXiv:2501.03575, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model.memory import is_out_of_memory

ENCODER, DECODER = "encoder.jit", "decoder.jit"
# Beside a checkpoint, of either family: Cosmos 1.0 and Cosmos-Predict1.
SIBLINGS = ("Cosmos-1.0-Tokenizer-DV8x16x16", "Cosmos-Tokenize1-DV8x16x16-720p")
OUTPUT_FRAMES = 8  # at a time
PROGRAM_ERRORS = (RuntimeError, torch.jit.Error)


@dataclass(frozen=True)
class Chunking:
    """How a chunk of frames becomes latent frames.

    latent_shape  (t, h, w) of a chunk's tokens
    compression   pixels per token along (time, height, width)
    """

    latent_shape: tuple[int, int, int]
    compression: tuple[int, int, int]

    @property
    def n_frames(self) -> int:
        return 1 + (self.latent_shape[0] - 1) * self.compression[0]

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.latent_shape[1] * self.compression[1], self.latent_shape[2] * self.compression[2]

    def latent_frames(self, n_frames: int) -> int:
        """Latent frames of n pixel frames from the chunk's start. Raises ValueError where they end inside one."""
        whole, rest = divmod(n_frames - 1, self.compression[0])
        if not 1 <= n_frames <= self.n_frames or rest:
            step = self.compression[0]
            raise ValueError(f"a clip must have 1 + {step}k frames, at most {self.n_frames}; got {n_frames}")
        return 1 + whole


class VideoTokenizer:
    """Encoder and decoder on a device.

    Published encoders look only backwards in time, so that a clip's tokens need only the clip's frames; whether this
    one does is measured when it is loaded, and if not, clips are filled up to a whole chunk with their last frame, as
    published.

    vocabulary  number of tokens that the model knows

    Raises ModelUnavailable where the programs do not fit the vocabulary, latent shape and compression of the model.
    """

    def __init__(
        self,
        encoder: torch.jit.ScriptModule,
        decoder: torch.jit.ScriptModule,
        chunking: Chunking,
        vocabulary: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.encoder, self.decoder = encoder, decoder
        self.chunking, self.vocabulary = chunking, vocabulary
        self.device, self.dtype = device, dtype
        chunk = _probe(chunking)
        tokens = self._require_fit(chunk)
        self.looks_only_backwards = self._is_causal(chunk, tokens)

    @classmethod
    def load(
        cls, directory: str | Path, chunking: Chunking, vocabulary: int, device: torch.device, dtype: torch.dtype
    ) -> VideoTokenizer:
        """From a directory with encoder.jit and decoder.jit. Raises ModelUnavailable."""
        encoder, decoder = (_load_program(Path(directory) / name, device, dtype) for name in (ENCODER, DECODER))
        return cls(encoder, decoder, chunking, vocabulary, device, dtype)

    def encode(self, frames: Tensor) -> Tensor:
        """Tokens of a clip: float [1, 3, n, h, w] in [-1, 1] -> int64 [latent frames * h' * w'], raster order.

        n is 1 + 8k, at most a chunk. Raises ValueError for another n, ModelUnavailable for a token that the model
        does not know.
        """
        latent_frames = self.chunking.latent_frames(frames.shape[2])
        if not self.looks_only_backwards:
            frames = _filled(frames, self.chunking.n_frames)
        return self._encode(frames)[:latent_frames].flatten()

    def decode(self, tokens: Tensor, n_conditioning: int) -> Iterator[Tensor]:
        """Frames of a whole chunk's tokens int64 [t*h*w], after the first n: uint8 [k, h, w, 3] on the CPU, in order.

        Raises ModelUnavailable where a pixel is not a finite number.
        """
        pixels = self._decode(tokens.view(self.chunking.latent_shape))[:, n_conditioning:]
        if not pixels.isfinite().all():
            raise ModelUnavailable("the tokenizer's decoder gave pixels that are not finite; its file may be damaged")
        for some in pixels.split(OUTPUT_FRAMES, dim=1):
            yield to_levels(some).permute(1, 2, 3, 0).contiguous().cpu()

    def _encode(self, frames: Tensor) -> Tensor:
        """int64 [t, h', w'] of float [1, 3, n, h, w]."""
        tokens = _indices(_run(self.encoder, frames.to(self.device, self.dtype)))[0].long()
        # Looked up in the embedding, a stranger would end a CUDA context for good.
        lowest, highest = (int(token) for token in tokens.aminmax())
        if lowest < 0 or highest >= self.vocabulary:
            raise ModelUnavailable(
                f"the tokenizer gives tokens {lowest}..{highest}, and the model knows only {self.vocabulary}"
            )
        return tokens

    def _decode(self, tokens: Tensor) -> Tensor:
        """Float [3, n, h, w] in [-1, 1] of int64 [t, h', w']."""
        return _run(self.decoder, tokens[None].to(self.device))[0]

    def _require_fit(self, chunk: Tensor) -> Tensor:
        """The chunk's tokens [t, h', w'], after they went through encoder and decoder."""
        expected, pixels = list(self.chunking.latent_shape), list(chunk.shape[1:])
        try:
            tokens = self._encode(chunk)
            if list(tokens.shape) != expected:
                raise ModelUnavailable(
                    f"the tokenizer makes {list(tokens.shape)} tokens of a {pixels} chunk, and the model expects "
                    f"{expected}: the tokenizer is of another compression, or the model of another frame size"
                )
            decoded = self._decode(tokens)
        except PROGRAM_ERRORS as error:
            if is_out_of_memory(error):
                raise
            raise ModelUnavailable(f"the tokenizer cannot take a {pixels} chunk: {_last_line(error)}") from error
        if list(decoded.shape) != pixels:
            raise ModelUnavailable(f"the tokenizer decodes to {list(decoded.shape)}, and the model expects {pixels}")
        return tokens

    def _is_causal(self, chunk: Tensor, tokens: Tensor) -> bool:
        """Whether the frames of a clip alone give the tokens that they give at the head of a whole chunk."""
        for latent_frames in (1, 2):
            clip = chunk[:, :, : 1 + (latent_frames - 1) * self.chunking.compression[0]]
            try:
                alone = self._encode(clip)
            except PROGRAM_ERRORS as error:
                if is_out_of_memory(error):
                    raise
                return False  # a program that was traced for whole chunks takes nothing shorter
            if not torch.equal(alone, tokens[:latent_frames]):
                return False
        return True


@torch.inference_mode()
def to_levels(pixels: Tensor) -> Tensor:
    """uint8 of pixels in [-1, 1]: scaled, clamped and cut off to whole numbers in their own precision, as published."""
    return ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8)


def find_tokenizer(checkpoint: Path, directory: str | Path = "") -> Path:
    """The tokenizer's directory: the given one, the checkpoint itself, its tokenizer/, or a published sibling.

    Raises ModelUnavailable where there is none, naming what was looked for.
    """
    if directory:
        candidates = [Path(directory)]
    else:
        siblings = [checkpoint.absolute().parent / name for name in SIBLINGS]
        candidates = [checkpoint, checkpoint / "tokenizer", *siblings]
    for candidate in candidates:
        if (candidate / ENCODER).exists() or (candidate / DECODER).exists():
            return candidate
    looked = ", ".join(map(str, candidates))
    raise ModelUnavailable(
        f"no {ENCODER} and {DECODER} in {looked}; download {SIBLINGS[1]} beside the checkpoint, or name its directory"
    )


def _load_program(file: Path, device: torch.device, dtype: torch.dtype) -> torch.jit.ScriptModule:
    try:
        with file.open("rb"):
            pass
        return torch.jit.load(file, map_location=device).to(device, dtype).eval()
    except FileNotFoundError as error:
        raise ModelUnavailable(f"the tokenizer lacks {file.name}: {file} does not exist") from error
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be read: {error.strerror}") from error
    except (*PROGRAM_ERRORS, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelUnavailable(
            f"{file} is no TorchScript program, or is damaged or cut short: {_last_line(error)}"
        ) from error


def _indices(output: object) -> Tensor:
    """The tokens among an encoder's outputs: published ones give codes as well, in either order."""
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    for tensor in outputs:
        if isinstance(tensor, Tensor) and tensor.ndim == 4 and not tensor.is_floating_point():
            return tensor
    raise ModelUnavailable("the encoder gives no whole-number tokens [1, t, h, w]; a discrete tokenizer is needed")


def _filled(frames: Tensor, n: int) -> Tensor:
    """Repeat the last frame up to n frames."""
    last = frames[:, :, -1:]
    return torch.cat([frames, last.expand(-1, -1, n - frames.shape[2], -1, -1)], dim=2)


def _probe(chunking: Chunking) -> Tensor:
    """A chunk of smooth, moving colours, the same each time: float32 [1, 3, n, h, w] in [-1, 1]."""
    noise = torch.rand(1, 3, chunking.n_frames, 9, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(noise, size=(chunking.n_frames, *chunking.frame_size), mode="trilinear")


@torch.inference_mode()
def _run(program: torch.jit.ScriptModule, given: Tensor) -> object:
    # As published: without TorchScript's fuser, which would compile anew for every number of frames.
    before = torch._C._jit_texpr_fuser_enabled()
    torch._C._jit_set_texpr_fuser_enabled(False)
    try:
        return program(given)
    finally:
        torch._C._jit_set_texpr_fuser_enabled(before)


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
