"""The video tokenizer: frames to tokens and back, through the published TorchScript programs.

A chunk is 33 frames at the published compression: its first frame is a latent frame of its own, then every 8 frames
are one (Cosmos Tokenizer DV8x16x16, arXiv:2501.03575, section 4).
"""

from __future__ import annotations

import errno
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.device.out_of_memory import is_out_of_memory
from cosmos_ros.device.plan import Need
from cosmos_ros.errors import ModelUnavailable, VideoBlocked

ENCODER, DECODER, AUTOENCODER = "encoder.jit", "decoder.jit", "autoencoder.jit"
# Beside a checkpoint, of either family: Cosmos 1.0 and Cosmos-Predict1.
SIBLINGS = ("Cosmos-1.0-Tokenizer-DV8x16x16", "Cosmos-Tokenize1-DV8x16x16-720p")
FETCH = (
    f"fetch {ENCODER} and {DECODER} with `hf download nvidia/{SIBLINGS[0]} --local-dir <checkpoints>/{SIBLINGS[0]}`, "
    "where <checkpoints> holds the model's folder"
)
# Of the published network, which autoencoder.jit is traced from; encoder.jit is the first three in turn.
AUTOENCODER_PARTS = ("encoder", "quant_conv", "quantizer", "post_quant_conv", "decoder")
TOKEN_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
OUTPUT_FRAMES = 8  # at a time
TOKENIZER = "tokenizer"  # the part's name in a memory plan
# Activations at their peak, in bfloat16, for each pixel of a chunk of frames. Measured with bench/published_models.py.
WORK_BYTES_PER_PIXEL = 75


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
        with _refusing(f"the tokenizer cannot take a {[3, chunking.n_frames, *chunking.frame_size]} chunk"):
            chunk = _probe(chunking)
            tokens = self._require_fit(chunk)
            self.looks_only_backwards = self._is_causal(chunk, tokens)

    @classmethod
    def load(
        cls, directory: str | Path, chunking: Chunking, vocabulary: int, device: torch.device, dtype: torch.dtype
    ) -> VideoTokenizer:
        """From a directory with encoder.jit and decoder.jit, or with autoencoder.jit alone. Raises ModelUnavailable."""
        encoder, decoder = _load_programs(Path(directory), device, dtype)
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
            frames = _filled(frames, self.chunking.n_frames)
        return self._encode(frames)[:latent_frames].flatten()

    def decode(self, tokens: Tensor, n_conditioning: int) -> Iterator[Tensor]:
        """Frames of a whole chunk's tokens int64 [t*h*w], after the first n: uint8 [k, h, w, 3] on the CPU, in order.

        Raises VideoBlocked where a pixel is not a finite number: as uint8, in which guards see it, it would be one.
        """
        pixels = self._decode(tokens.view(self.chunking.latent_shape))[:, n_conditioning:]
        if not pixels.isfinite().all():
            raise VideoBlocked("the predicted frames hold pixels that are not finite (Non_Finite_Output)")
        for some in pixels.split(OUTPUT_FRAMES, dim=1):
            yield to_levels(some).permute(1, 2, 3, 0).contiguous().cpu()

    def _encode(self, frames: Tensor) -> Tensor:
        """int64 [t, h', w'] of float [1, 3, n, h, w]."""
        tokens = _tokens_in(_run(self.encoder, frames.to(self.device, self.dtype)))
        # Looked up in the embedding, a stranger would end a CUDA context for good.
        lowest, highest = (int(token) for token in tokens.aminmax())
        if lowest < 0 or highest >= self.vocabulary:
            raise ModelUnavailable(
                f"the tokenizer gives tokens {lowest}..{highest}, and the model knows only {self.vocabulary}"
            )
        return tokens

    def _decode(self, tokens: Tensor) -> Tensor:
        """Float [3, n, h, w] in [-1, 1] of int64 [t, h', w']."""
        pixels = _run(self.decoder, tokens[None].to(self.device))
        expected = [1, 3, self.chunking.n_frames, *self.chunking.frame_size]
        if not (isinstance(pixels, Tensor) and pixels.is_floating_point() and list(pixels.shape) == expected):
            raise ModelUnavailable(
                f"the tokenizer decodes to {_describe(pixels)}, and the model expects floating-point {expected}"
            )
        return pixels[0]

    def _require_fit(self, chunk: Tensor) -> Tensor:
        """The chunk's tokens [t, h', w'], after they went through encoder and decoder."""
        tokens, expected = self._encode(chunk), list(self.chunking.latent_shape)
        if list(tokens.shape) != expected:
            raise ModelUnavailable(
                f"the tokenizer makes {list(tokens.shape)} tokens of a {list(chunk.shape[1:])} chunk, and the model "
                f"expects {expected}: the tokenizer is of another compression, or the model of another frame size"
            )
        if not self._decode(tokens).isfinite().all():
            raise ModelUnavailable("the tokenizer's decoder gives pixels that are not finite; its file may be damaged")
        return tokens

    def _is_causal(self, chunk: Tensor, tokens: Tensor) -> bool:
        """Whether the frames of a clip alone give the tokens that they give at the head of any chunk."""
        if not self._same_alone(chunk, tokens):
            return False
        return all(self._same_alone(other, self._encode(other)) for other in _contrasts(chunk, self.chunking))

    def _same_alone(self, chunk: Tensor, tokens: Tensor) -> bool:
        """Whether the first frames of a chunk give, without the others, the first of its tokens."""
        for latent_frames in (1, 2):
            clip = chunk[:, :, : 1 + (latent_frames - 1) * self.chunking.compression[0]]
            try:
                alone = self._encode(clip)
            except Exception as error:
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

    Raises ModelUnavailable where there is none, naming what was looked for, and where one may not be looked into.
    """
    if directory:
        candidates = [Path(directory)]
    else:
        siblings = [checkpoint.absolute().parent / name for name in SIBLINGS]
        candidates = [checkpoint, checkpoint / "tokenizer", *siblings]
    for candidate in candidates:
        if any(_exists(candidate / name) for name in (ENCODER, DECODER, AUTOENCODER)):
            return candidate
    looked = ", ".join(map(str, candidates))
    raise ModelUnavailable(
        f"no {ENCODER} and {DECODER}, nor an {AUTOENCODER}, in {looked}; {FETCH}, or name the tokenizer's directory"
    )


def _exists(file: Path) -> bool:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ModelUnavailable(
            f"cannot look for {file}: {error.strerror}; let this user read the directory, or name another one"
        ) from error
    return True


def program_files(directory: Path) -> list[Path]:
    """What is loaded of a tokenizer's directory: encoder.jit and decoder.jit, or autoencoder.jit where it is alone."""
    pair, whole = [directory / ENCODER, directory / DECODER], directory / AUTOENCODER
    return [whole] if _exists(whole) and not all(map(_exists, pair)) else pair


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


def _load_programs(directory: Path, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder."""
    files = program_files(directory)
    programs = [_load_program(file, device, dtype) for file in files]
    return _halves(programs[0], files[0]) if len(programs) == 1 else (programs[0], programs[1])


def _halves(program: torch.jit.ScriptModule, file: Path) -> tuple[nn.Module, nn.Module]:
    """What encoder.jit and decoder.jit do, from the parts that a traced autoencoder keeps, or from its two methods."""
    if all(hasattr(program, part) for part in AUTOENCODER_PARTS) and hasattr(program.quantizer, "implicit_codebook"):
        encoder = nn.Sequential(program.encoder, program.quant_conv, program.quantizer)
        return encoder, nn.Sequential(_Codes(program.quantizer), program.post_quant_conv, program.decoder)
    if hasattr(program, "encode") and hasattr(program, "decode"):
        return _Method(program, "encode"), _Method(program, "decode")
    raise ModelUnavailable(
        f"{file} holds no separate encode and decode: it has neither these methods nor the published parts "
        f"{', '.join(AUTOENCODER_PARTS)}; {FETCH}"
    )


class _Codes(nn.Module):
    """Tokens to codes, by the quantizer's table: int64 [1, t, h, w] -> float [1, codes, t, h, w]."""

    def __init__(self, quantizer: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, tokens: Tensor) -> Tensor:
        table = self.quantizer.implicit_codebook
        # decoder.jit computes the codes digit by digit, whereby a token beyond the table begins it anew.
        return table[tokens % len(table)].movedim(-1, 1)


class _Method(nn.Module):
    """A method of a program as a program of its own."""

    def __init__(self, program: torch.jit.ScriptModule, name: str) -> None:
        super().__init__()
        self.program, self.name = program, name

    def forward(self, given: Tensor) -> object:
        return getattr(self.program, self.name)(given)


def _load_program(file: Path, device: torch.device, dtype: torch.dtype) -> torch.jit.ScriptModule:
    try:
        _require_intact(file)
        with _refusing(f"{file} is no TorchScript program, or is damaged; fetch it again"):
            program = torch.jit.load(file, map_location=device).to(device, dtype).eval()
            # A buffer may be a mask of infinities; weights are numbers.
            bad = [name for name, weight in program.named_parameters() if not weight.isfinite().all()]
            bad += [name for name, buffer in program.named_buffers() if buffer.isnan().any()]
    except FileNotFoundError as error:
        raise ModelUnavailable(f"the tokenizer lacks {file.name}: {file} does not exist; {FETCH}") from error
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be read: {error.strerror or error}") from error
    if bad:
        raise ModelUnavailable(
            f"{file} is damaged: {len(bad)} of its weights and buffers are not finite, first {bad[0]}"
        )
    return program


def _require_intact(file: Path) -> None:
    """Compare the checksums of a program's file: TorchScript does not, and damage can make it abort the process."""
    with _refusing(f"{file} is damaged or cut short; fetch it again"), zipfile.ZipFile(file) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ModelUnavailable(f"{file} is damaged: {bad} in it does not match its checksum; fetch it again")


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is a ModelUnavailable, but for the disk's errors and missing memory."""
    try:
        yield
    except ModelUnavailable:
        raise
    except Exception as error:
        # An invalid argument is not the disk's: a damaged archive tells to look before its beginning.
        of_the_disk = isinstance(error, OSError) and error.errno != errno.EINVAL
        if of_the_disk or is_out_of_memory(error):
            raise
        raise ModelUnavailable(f"{what}: {_last_line(error)}") from error


def _tokens_in(output: object) -> Tensor:
    """The tokens int64 [t, h, w] among an encoder's outputs: published ones give codes as well, in either order."""
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    tensors = [part for part in outputs if isinstance(part, Tensor)]
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ModelUnavailable("the tokenizer's encoder gives codes that are not finite; its file may be damaged")
    for tensor in tensors:
        if tensor.dtype in TOKEN_DTYPES and tensor.ndim == 4 and len(tensor) == 1 and tensor.numel():
            return tensor[0].long()
    raise ModelUnavailable(
        f"the tokenizer's encoder gives {_describe(output)}, and whole-number tokens [1, t, h, w] were expected: "
        "a discrete tokenizer is needed"
    )


def _describe(output: object) -> str:
    """What a program gave, in words: "float32 [1, 3, 33, 640, 1024]"."""
    if isinstance(output, (tuple, list)):
        return f"{len(output)} outputs ({', '.join(map(_describe, output))})"
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
    return type(output).__name__


def _filled(frames: Tensor, n: int) -> Tensor:
    """Repeat the last frame up to n frames."""
    last = frames[:, :, -1:]
    return torch.cat([frames, last.expand(-1, -1, n - frames.shape[2], -1, -1)], dim=2)


def _probe(chunking: Chunking) -> Tensor:
    """A chunk of smooth, moving colours, the same each time: float32 [1, 3, n, h, w] in [-1, 1]."""
    noise = torch.rand(1, 3, chunking.n_frames, 9, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(noise, size=(chunking.n_frames, *chunking.frame_size), mode="trilinear")


def _contrasts(smooth: Tensor, chunking: Chunking) -> Iterator[Tensor]:
    """Chunks whose first frames, smooth, flat patches, noise and grey, are followed by what is little like them.

    The last frame repeated is among it: so clips are filled up where the future does matter.
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
    yield _filled(noise[:, :, :n_head], n)
    yield torch.cat([torch.zeros_like(patches), future], dim=2)


@torch.inference_mode()
def _run(program: nn.Module, given: Tensor) -> object:
    # As published: without TorchScript's fuser, which would compile anew for every number of frames.
    before = torch._C._jit_texpr_fuser_enabled()
    torch._C._jit_set_texpr_fuser_enabled(False)
    try:
        return program(given)
    finally:
        torch._C._jit_set_texpr_fuser_enabled(before)


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2] or type(error).__name__
