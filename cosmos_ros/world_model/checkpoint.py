"""Reading a transformer from disk: the published layout in all its forms, strictly, without a second copy.

What it is comes from its header alone. Its data is mapped, and goes from the file straight to the device. On the CPU
in the file's own precision the weights stay mapped, so a file in use must be replaced by renaming, never overwritten
in place.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model.config import (
    Shape,
    TransformerConfig,
    config_from_shapes,
    published_shard,
    transformer_shapes,
)
from cosmos_ros.world_model.transformer import Transformer

WEIGHTS_FILES = ("model.pt", "model.safetensors")
SHARD_NAME = re.compile(r"(?P<stem>.*model_mp_)(?P<rank>\d+)\.(pt|safetensors)")
SAFETENSORS_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WEIGHT_DTYPES = tuple(SAFETENSORS_DTYPES.values())
SHARD_TOLERANCE = 1e-3  # between the ranks' copies of a weight that every rank holds
LISTED_PROBLEMS = 40

# What a file is if it is no transformer of this family: a key that gives it away -> its name.
OTHER_KINDS = {
    r"net\.(x_embedder|blocks|token_embedder)\b": "a Cosmos diffusion model (net.*), such as the diffusion decoder",
    r".*layernorm_qkv\b": "a Cosmos transformer in TransformerEngine's key format",
    r"(model\.)?embed_tokens\.|lm_head\.|.*self_attn\.q_proj\b": "a language model in Hugging Face's key format",
    r"transformer_blocks\.": "a diffusers model",
    r"(encoder|decoder)\.block\.\d+|shared\.weight": "a T5 text encoder",
    r"(encoder|decoder|quant_conv|quantizer|post_quant_conv)\.": "a video tokenizer",
    r"exp_avg|param_groups|state$|optimizer": "optimizer state",
    r"scheduler|grad_scaler|iteration": "trainer state without a model",
}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint, its header read.

    path   the file, or the directory of the shards
    files  one for each tensor-parallel rank
    ranks  for each, its tensors without data (on the meta device) by name, without the `model.` prefix
    """

    path: Path
    files: tuple[Path, ...]
    ranks: tuple[Mapping[str, Tensor], ...]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of the whole tensors, ranks put together."""
        return {name: self._whole_shape(name) for name in self.ranks[0]}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: tensor.dtype for name, tensor in self.ranks[0].items()}

    def mapped(self) -> dict[str, tuple[Tensor, ...]]:
        """Every tensor's part on every rank, mapped from the files: data is read where it is used."""
        ranks = [_entries(file, mapped=True) for file in self.files]
        return {name: tuple(rank[name] for rank in ranks) for name in self.ranks[0]}

    def merged(self, name: str, parts: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
        """The whole of a mapped tensor, on the device. Raises ModelUnavailable where the ranks disagree."""
        axis = shard_axis(name)
        if len(parts) == 1:
            return parts[0].to(device, dtype)
        if axis is None:
            copies = torch.stack([part.to(device, torch.float32) for part in parts])
            if not torch.allclose(copies, copies[:1], rtol=SHARD_TOLERANCE, atol=SHARD_TOLERANCE):
                raise ModelUnavailable(f"{self.path}: the shards disagree on {name}; they are not of one checkpoint")
            return copies.mean(dim=0).to(dtype)
        whole = torch.empty(self._whole_shape(name), device=device, dtype=dtype)
        for part, place in zip(parts, whole.split([part.shape[axis] for part in parts], dim=axis), strict=True):
            place.copy_(part)
        return whole

    def sliced(
        self, name: str, parts: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype, rank: int, ranks: int
    ) -> Tensor:
        """One rank's equal share of a mapped tensor that is cut, on the device; nothing else of it is read.

        The checkpoint may itself lie in shards, of that many ranks or any other number.
        """
        axis = shard_axis(name)
        share = self._whole_shape(name)[axis] // ranks
        pieces, begin = [], rank * share
        for part in parts:
            low, high = max(begin, 0), min(begin + share, part.shape[axis])
            if low < high:
                pieces.append(part.narrow(axis, low, high - low).to(device, dtype))
            begin -= part.shape[axis]
        return pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces, dim=axis)

    def _whole_shape(self, name: str) -> Shape:
        shape, axis = list(self.ranks[0][name].shape), shard_axis(name)
        if axis is not None and axis < len(shape):
            shape[axis] = sum(rank[name].shape[axis] for rank in self.ranks)
        return tuple(shape)


def shard_axis(name: str) -> int | None:
    """Along which axis a tensor is cut for tensor parallelism; None: every rank holds it whole."""
    if "norm" in name:
        return None
    return 1 if name.endswith((".wo.weight", ".w2.weight")) else 0


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint's header: model.pt (flat, or nested under "model"; keys with or without `model.`),
    .safetensors, or a directory that holds one of these or tensor-parallel shards.

    Raises ModelUnavailable where it is missing, unreadable, damaged, or a checkpoint of another kind.
    """
    path = Path(path)
    files = _weights_files(path)
    ranks = [_entries(file, mapped=False) for file in files]
    for file, rank in zip(files, ranks, strict=True):
        _refuse_other_kinds(file, rank)
        if _uncut_shapes(rank) != _uncut_shapes(ranks[0]):
            raise ModelUnavailable(f"{file.name} and {files[0].name} hold other tensors: not of one checkpoint")
    return Checkpoint(files[0] if len(files) == 1 else path, tuple(files), tuple(ranks))


def _uncut_shapes(rank: Mapping[str, Tensor]) -> dict[str, Shape]:
    """What every rank has alike: the names, and the sizes along the axes that are not cut."""
    return {
        name: tuple(size if axis != shard_axis(name) else 0 for axis, size in enumerate(tensor.shape))
        for name, tensor in rank.items()
    }


def read_settings(path: str | Path) -> dict:
    """The config.json beside a checkpoint's weights; empty where there is none.

    Raises ModelUnavailable where it is not a JSON object.
    """
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        settings = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ModelUnavailable(f"{file} must hold a JSON object; it holds {type(settings).__name__}")
    return settings


def config_of(checkpoint: Checkpoint, settings: Mapping) -> TransformerConfig:
    """The config that the tensors describe; `settings` says what shapes cannot. Raises ModelUnavailable."""
    shapes = checkpoint.shapes
    try:
        config = config_from_shapes(shapes, settings)
    except (ValueError, ZeroDivisionError) as error:
        some = ", ".join(list(shapes)[:3]) or "nothing"
        raise ModelUnavailable(
            f"{checkpoint.path} is not a Cosmos autoregressive transformer: {error} (it holds {some}, ...)"
        ) from error
    if shard := published_shard(config):
        raise ModelUnavailable(
            f"{checkpoint.path} is a tensor-parallel part of the {shard[0]} model, cut for {shard[1]} ranks or more; "
            "give the directory with all its shards"
        )
    return config


def load_transformer(
    path: str | Path,
    config: TransformerConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Transformer:
    """A transformer for inference, its weights on the device.

    path    model.pt, a .safetensors file, or a directory (see `open_checkpoint`)
    config  None: from the tensor shapes, and from config.json for what shapes cannot say
    dtype   of the weights; None: bfloat16 on CUDA, float32 on the CPU

    Raises ModelUnavailable where tensors are missing, unexpected or of another shape (listed by name), or hold a
    value that is not finite.
    """
    device = torch.device(device)
    dtype = dtype or default_dtype(device)
    checkpoint = open_checkpoint(path)
    config = config or config_of(checkpoint, read_settings(path))
    weights = load_weights(checkpoint, config, device, dtype)
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(weights, assign=True)
    model.make_position_tables(device, dtype)
    return model.eval().requires_grad_(False)


def load_weights(
    checkpoint: Checkpoint,
    config: TransformerConfig,
    device: torch.device,
    dtype: torch.dtype,
    rank: int = 0,
    ranks: int = 1,
) -> dict[str, Tensor]:
    """All tensors of the config's transformer, on the device; of several tensor-parallel ranks, one rank's slices.

    Raises ModelUnavailable as `load_transformer` does.
    """
    _require_shapes(checkpoint, transformer_shapes(config))
    weights = {
        name: checkpoint.merged(name, parts, device, dtype)
        if ranks == 1 or shard_axis(name) is None
        else checkpoint.sliced(name, parts, device, dtype, rank, ranks)
        for name, parts in checkpoint.mapped().items()
    }
    _require_finite(checkpoint.path, weights)
    return weights


def default_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _weights_files(path: Path) -> list[Path]:
    """One file, or the shards in the order of their ranks."""
    if not path.is_dir():
        return [path]
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise ModelUnavailable(f"{path} cannot be read: {error.strerror}") from error
    for name in WEIGHTS_FILES:
        if name in names:
            return [path / name]
    shards = [match for match in map(SHARD_NAME.fullmatch, names) if match]
    if not shards:
        raise ModelUnavailable(
            f"{path} holds no {' or '.join(WEIGHTS_FILES)} and no shards model_model_mp_*.pt; "
            f"it holds {', '.join(names[:8]) or 'nothing'}"
        )
    if len(stems := sorted({shard["stem"] for shard in shards})) > 1:
        raise ModelUnavailable(f"{path} holds shards of several checkpoints, {', '.join(stems)}; leave one")
    by_rank = {int(shard["rank"]): path / shard.string for shard in shards}
    if absent := sorted(set(range(max(by_rank) + 1)) - set(by_rank)):
        raise ModelUnavailable(f"{path} lacks the shard of rank {', '.join(map(str, absent))}")
    return [by_rank[rank] for rank in sorted(by_rank)]


def _entries(file: Path, mapped: bool) -> dict[str, Tensor]:
    """Every entry of the file's model, `model.` taken off the names; without data unless mapped."""
    try:
        if file.suffix != ".safetensors":
            entries = _map_torch(file)
        else:
            entries = _map_safetensors(file) if mapped else _safetensors_header(file)
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{file} does not exist") from error
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be read: {error.strerror or error}") from error
    entries = {name.removeprefix("model."): value for name, value in entries.items() if "_extra_state" not in name}
    return entries if mapped else {name: _without_data(value) for name, value in entries.items()}


def _without_data(value: object) -> object:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def _safetensors_header(file: Path) -> dict[str, Tensor]:
    """Format: 8 bytes little-endian length, JSON of that length, data."""
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, size)))
        header.pop("__metadata__", None)
        end = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
        tensors = {
            name: torch.empty(entry["shape"], dtype=SAFETENSORS_DTYPES.get(entry["dtype"], torch.uint8), device="meta")
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelUnavailable(f"{file} is damaged or cut short, or not a safetensors file: {error}") from error
    if size < end:
        raise ModelUnavailable(f"{file} is cut short: {size} bytes of {end}; download it again")
    return tensors


def _map_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as reader:
            names = reader.keys()
            return {name: reader.get_tensor(name) for name in names}
    except (SafetensorError, RuntimeError) as error:
        raise ModelUnavailable(f"{file} {_not_mapped(error)}") from error


def _map_torch(file: Path) -> dict:
    with file.open("rb") as opened:
        if not zipfile.is_zipfile(opened):
            raise ModelUnavailable(
                f"{file} is damaged or cut short (its {file.stat().st_size} bytes are no complete zip archive, which "
                "a file written by torch.save is); download it again"
            )
        inside = [name.split("/", 1)[-1] for name in zipfile.ZipFile(opened).namelist()]
    if "constants.pkl" in inside:
        raise ModelUnavailable(f"{file} is a TorchScript program, such as a video tokenizer; expected weights")
    try:
        entries = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelUnavailable(f"{file} holds Python objects that could run code when loaded; refused") from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ModelUnavailable(f"{file} {_not_mapped(error)}") from error
    if isinstance(entries, dict) and isinstance(entries.get("model"), dict):
        entries = entries["model"]
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise ModelUnavailable(f"{file} holds {type(entries).__name__}, not a dictionary of named tensors")
    return entries


def _not_mapped(error: Exception) -> str:
    if "Cannot allocate memory" in str(error):
        return "is larger than this host's memory; `sysctl vm.overcommit_memory=1` lets it be mapped all the same"
    return f"is damaged: {error}"


def _refuse_other_kinds(file: Path, entries: Mapping[str, object]) -> None:
    if "tok_embeddings.weight" in entries and "norm.weight" in entries:
        if odd := [name for name, value in entries.items() if not isinstance(value, Tensor)]:
            raise ModelUnavailable(f"{file}: not tensors: {', '.join(odd[:LISTED_PROBLEMS])}")
        return
    for pattern, kind in OTHER_KINDS.items():
        if any(re.match(pattern, name) for name in entries):
            raise ModelUnavailable(
                f"{file} is {kind}; expected a Cosmos autoregressive transformer (tok_embeddings, layers.*, output)"
            )
    some = ", ".join(list(entries)[:5]) or "nothing"
    raise ModelUnavailable(
        f"{file} is not a Cosmos autoregressive transformer: it has no tok_embeddings.weight and norm.weight; "
        f"it holds {some}"
    )


def _require_shapes(checkpoint: Checkpoint, expected: Mapping[str, Shape]) -> None:
    found = checkpoint.shapes
    problems = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected {name} {list(shape)}" for name, shape in found.items() if name not in expected]
    problems += [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems += [
        f"{name} is {dtype}, expected {' or '.join(str(t) for t in WEIGHT_DTYPES)}"
        for name, dtype in checkpoint.dtypes.items()
        if dtype not in WEIGHT_DTYPES
    ]
    _refuse(checkpoint.path, "does not hold the expected tensors", problems)


def _require_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    # Extremes carry every NaN and infinity, need no second tensor, and are fetched from the device once for all.
    extremes = torch.stack([torch.stack(torch.aminmax(weight)).float() for weight in weights.values()])
    finite = torch.isfinite(extremes).all(dim=1).tolist()
    bad = [name for name, good in zip(weights, finite, strict=True) if not good]
    _refuse(path, "holds weights that are not finite", bad)


def _refuse(path: Path, what: str, problems: Iterable[str]) -> None:
    problems = list(problems)
    if problems:
        more = len(problems) - LISTED_PROBLEMS
        listed = "; ".join(problems[:LISTED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise ModelUnavailable(f"{path} {what}: {listed}")
