"""A trained model to and from the published directory layout: model.safetensors, config.json and the .jit files."""

from __future__ import annotations

import copy
import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cosmos_ros.errors import SettingError
from cosmos_ros.files import check_place, write_together, writing
from cosmos_ros.reading import reading
from cosmos_ros.torch_archive import save_whole
from cosmos_ros.torchscript import load_program
from cosmos_ros.training.refiner_network import VECTORS, Refiner
from cosmos_ros.training.sizes import TIME_COMPRESSION, Sizes
from cosmos_ros.training.tokenizer_network import IndicesToPixels, PixelsToIndices, VideoTokenizer
from cosmos_ros.world_model import Transformer, load_transformer
from cosmos_ros.world_model.checkpoints.transformer_weights import holds_weights
from cosmos_ros.world_model.checkpoints.weight_files import SAFETENSORS, SAFETENSORS_DTYPES, TensorHeader
from cosmos_ros.world_model.config import TransformerConfig
from cosmos_ros.world_model.refiner import refiner_file

FILES = ("encoder.jit", "decoder.jit", "refiner.jit", "model.safetensors", "config.json")
MANTISSA = 10  # bits, of a half-precision number
KEPT_MANTISSA = 8  # of these in what makes pixels: nobody sees the difference, and the file gets smaller


def check_directory(directory: Path) -> None:
    """Raise the OSError that exporting into this directory would end in, before anything is trained."""
    for name in FILES:
        check_place(directory / name)


def export(directory: Path, *parts: Mapping[str, bytes]) -> None:
    """Write the files of these parts, by their names: all of them or none, as an encoder needs its own decoder.

    Raises OSError where the disk refuses.
    """
    write_together({directory / name: data for part in parts for name, data in part.items()})


def tokenizer_files(tokenizer: VideoTokenizer) -> dict[str, bytes]:
    """encoder.jit and decoder.jit, weights in half precision; they run in whatever they are moved to."""
    tokenizer = copy.deepcopy(tokenizer).cpu().half().eval()
    encoder = program_bytes(PixelsToIndices(tokenizer))
    _shorten(tokenizer.decoder)
    return {"encoder.jit": encoder, "decoder.jit": program_bytes(IndicesToPixels(tokenizer))}


def refiner_files(refiner: Refiner) -> dict[str, bytes]:
    """refiner.jit, as tokenizer_files makes its own."""
    refiner = copy.deepcopy(refiner).cpu().half().eval()
    _shorten(refiner)
    return {"refiner.jit": program_bytes(refiner)}


def transformer_files(transformer: Transformer, name: str, sizes: Sizes) -> dict[str, bytes]:
    """model.safetensors in bfloat16 with the published key names, and config.json, which says the model's name."""
    tensors = {f"model.{key}": value.to("cpu", torch.bfloat16) for key, value in transformer.state_dict().items()}
    settings = describe(transformer.config, sizes, name)
    return {
        "model.safetensors": save(tensors, metadata={"format": "pt"}),
        "config.json": (json.dumps(settings, indent=2) + "\n").encode(),
    }


def write_weights(file: Path, headers: Mapping[str, TensorHeader], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a checkpoint's weights by their published names: model.safetensors piece by piece, or model.pt.

    headers  of every tensor, without the `model.` prefix, in the order in which they come
    tensors  contiguous, on the CPU

    The file is replaced whole. Raises OSError where the disk refuses.
    """
    if file.suffix != SAFETENSORS:
        save_whole(file, {f"model.{name}": tensor for name, tensor in tensors})
        return
    codes = {ours: theirs for theirs, ours in SAFETENSORS_DTYPES.items()}
    described: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, header in headers.items():
        begin, end = end, end + math.prod(header.shape) * getattr(torch, header.dtype).itemsize
        described[f"model.{name}"] = {
            "dtype": codes[header.dtype],
            "shape": header.shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    with writing(file) as draft:
        draft.write(len(text).to_bytes(8, "little") + text)
        for _name, tensor in tensors:
            draft.write(tensor.flatten().view(torch.uint8).numpy().data)


def program_bytes(program: nn.Module) -> bytes:
    """A scripted program's archive, its records compressed, without where its sources lay on this machine."""
    plain, small = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(program.eval()), plain)
    with zipfile.ZipFile(plain) as given, zipfile.ZipFile(small, "w") as made:
        for record in given.infolist():
            if record.filename.endswith(".debug_pkl"):
                continue
            # No times, so that the same weights give the same file.
            made.writestr(zipfile.ZipInfo(record.filename), given.read(record), zipfile.ZIP_DEFLATED, compresslevel=9)
    return small.getvalue()


@torch.no_grad()
def _shorten(network: nn.Module) -> None:
    """Round half-precision weights to KEPT_MANTISSA bits, in place."""
    drop = MANTISSA - KEPT_MANTISSA
    for weight in network.parameters():
        bits = weight.view(torch.int16).int() & 0xFFFF
        bits = (bits + (1 << (drop - 1))) & ~((1 << drop) - 1)
        weight.copy_(((bits + 2**15) % 2**16 - 2**15).to(torch.int16).view(torch.float16))


def describe(config: TransformerConfig, sizes: Sizes, name: str) -> dict:
    """What config.json says: the sizes for people, and what cannot be read off the tensors for the loader."""
    return {
        "name": name,
        "input_types": ["video"],
        "n_layers": config.n_layers,
        "dim": config.dim,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "ffn_hidden_size": config.ffn_hidden,
        "vocab_size": config.vocab_out,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "latent_shape": list(config.latent_shape),
        "compression": [TIME_COMPRESSION, sizes.tokenizer.space_compression, sizes.tokenizer.space_compression],
        "frame_rate": sizes.frame_rate,
        "temperature": sizes.temperature,
        "top_p": sizes.top_p,
    }


def is_ours(directory: Path) -> bool:
    """Whether a directory's tokenizer is one that tokenizer_files made: its programs keep their classes' names.

    Raises ModelUnavailable as load_exported does.
    """
    programs = {"encoder.jit": PixelsToIndices, "decoder.jit": IndicesToPixels}
    there = {name: kind for name, kind in programs.items() if (directory / name).is_file()}
    ours = [_read(directory / name).original_name == kind.__name__ for name, kind in there.items()]
    return "encoder.jit" in there and all(ours)


def load_exported(
    directory: Path, tokenizer: VideoTokenizer, transformer: Transformer | None, refiner: Refiner | None
) -> None:
    """Fill networks with the weights of an exported model; a part that the directory lacks stays as it is.

    transformer, refiner  None: not wanted

    Raises SettingError where a part is of another architecture, ModelUnavailable where a file is damaged or could do
    more than compute.
    """
    _fill_from(directory / "encoder.jit", tokenizer.encoder, "encoder")
    _fill_from(directory / "decoder.jit", tokenizer.decoder, "decoder")
    if refiner is not None:
        load_refiner(directory, refiner)
    if transformer is not None and holds_weights(directory):
        trained = load_transformer(directory, device="cpu", dtype=torch.float32)
        _require_same(trained.config, transformer.config, directory)
        _fill(transformer, trained.state_dict(), directory)


def load_refiner(directory: Path, refiner: Refiner) -> None:
    """Fill a refiner as load_exported does.

    From one of a single hypothesis: number 0, the others stay as they are. So do vectors that an older one has not.
    Where none of its hypotheses trusts the tokens, number 0 refined its round trips: the one that is to begins so.
    """
    file = refiner_file(directory)
    if file is None:
        return
    program = _read(file)
    weights, there = program.state_dict(), getattr(program, "hypotheses", 1)
    vectors = {name: refiner.get_parameter(name) for name in VECTORS}
    if there not in (1, refiner.hypotheses):
        raise _other_architecture(file, f"refiner_hypotheses is {there}, not {refiner.hypotheses}")
    _fill(refiner, weights | vectors if there == 1 else vectors | weights, file)
    if there > 1 and not hasattr(program, "trusting"):
        refiner.trust_as_the_first()


def _fill_from(file: Path, network: nn.Module, part: str = "") -> None:
    if not file.is_file():
        return
    program = _read(file)
    _fill(network, (getattr(program, part) if part else program).state_dict(), file)


def _read(file: Path) -> torch.jit.ScriptModule:
    with reading(file, remedy="train that part anew"):
        return load_program(file, "cpu")


def _require_same(there: TransformerConfig, wanted: TransformerConfig, origin: Path) -> None:
    """Raises SettingError where weights would be read as another network's: shapes do not show the number of heads.

    Frames of another size make no other network.
    """
    for each in fields(wanted):
        old, new = getattr(there, each.name), getattr(wanted, each.name)
        if each.name != "latent_shape" and old != new:
            raise _other_architecture(origin, f"{each.name} is {old}, not {new}")


def _fill(network: nn.Module, weights: dict[str, Tensor], origin: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise _other_architecture(origin, _shortened(lines[min(1, len(lines) - 1)].strip())) from error


def _shortened(names: str, most: int = 160) -> str:
    """Torch lists every weight that does not fit; the first few tell."""
    return names if len(names) <= most else f"{names[:most].rsplit(', ', 1)[0]} and others"


def _other_architecture(origin: Path, what: str) -> SettingError:
    return SettingError(
        f"--init {origin} is of another architecture than --config says: {what}. Give the --config that it was trained "
        "with (without one: the defaults of its release); `sizes` in its evaluation.json holds the same"
    )
