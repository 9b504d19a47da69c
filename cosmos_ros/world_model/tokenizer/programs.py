"""A tokenizer's TorchScript programs: where they are found, and how they are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from cosmos_ros.device.out_of_memory import is_out_of_memory
from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.reading import reading
from cosmos_ros.torchscript import load_program, require_sound

ENCODER, DECODER, AUTOENCODER = "encoder.jit", "decoder.jit", "autoencoder.jit"
# Beside a checkpoint, of either family: Cosmos 1.0 and Cosmos-Predict1.
SIBLINGS = ("Cosmos-1.0-Tokenizer-DV8x16x16", "Cosmos-Tokenize1-DV8x16x16-720p")
FETCH = (
    f"fetch {ENCODER} and {DECODER} with `hf download nvidia/{SIBLINGS[0]} --local-dir <checkpoints>/{SIBLINGS[0]}`, "
    "where <checkpoints> holds the model's folder"
)
NO_PROGRAM = "is no TorchScript program, or is damaged or cut short"
# Of the published network, which autoencoder.jit is traced from; encoder.jit is the first three in turn.
AUTOENCODER_PARTS = ("encoder", "quant_conv", "quantizer", "post_quant_conv", "decoder")


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


def check(checkpoint: Path, directory: str | Path = "") -> str:
    """Look whether a tokenizer could be loaded, short of loading it; what was found, in words.

    checkpoint, directory  as find_tokenizer takes them

    Raises ModelUnavailable for what is missing, damaged or not permitted.
    """
    home = find_tokenizer(checkpoint, directory)
    files = program_files(home)
    for file in files:
        with reading(file, fault=NO_PROGRAM, remedy=FETCH):
            require_sound(file)
    return f"{' and '.join(file.name for file in files)} in {home}"


def load_programs(directory: Path, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of a tokenizer's directory, on the device.

    Raises ModelUnavailable where they are missing, damaged, or could do more than compute.
    """
    files = program_files(directory)
    programs = [load_network(file, device, dtype) for file in files]
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


def load_network(file: Path, device: torch.device, dtype: torch.dtype, fetch: str = FETCH) -> torch.jit.ScriptModule:
    """A program whose weights are all finite. `fetch` says what to do about a file that cannot be used."""
    with reading(file, fault=NO_PROGRAM, remedy=fetch):
        program = load_program(file, device).to(device, dtype)
        # A buffer may be a mask of infinities; weights are numbers.
        bad = [name for name, weight in program.named_parameters() if not weight.isfinite().all()]
        bad += [name for name, buffer in program.named_buffers() if buffer.isnan().any()]
    if bad:
        raise ModelUnavailable(
            f"{file} is damaged: {len(bad)} of its weights and buffers are not finite, first {bad[0]}"
        )
    return program


@contextmanager
def trying_out(what: str) -> Iterator[None]:
    """Whatever a program raises while it is tried out is ModelUnavailable, unless memory ran out.

    what  could not be done: "the tokenizer cannot take ..."
    """
    try:
        yield
    except ModelUnavailable:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        cause = str(error).strip().rpartition("\n")[2]  # TorchScript puts it below its own traceback
        raise ModelUnavailable(f"{what}: {cause}") from error


@torch.inference_mode()
def run_program(program: nn.Module, *given: Tensor | int) -> object:
    """Call a program as published: without TorchScript's fuser, which would compile anew for every number of frames."""
    before = torch._C._jit_texpr_fuser_enabled()
    torch._C._jit_set_texpr_fuser_enabled(False)
    try:
        return program(*given)
    finally:
        torch._C._jit_set_texpr_fuser_enabled(before)
