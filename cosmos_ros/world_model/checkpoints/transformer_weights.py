"""Reading a transformer from disk: the published layout in all its forms, strictly, without a second copy.

What it is comes from its header alone. Its data is mapped, and goes from the file straight to the device, tensor by
tensor. On the CPU in the file's own precision the weights stay mapped, so a file in use must be replaced by renaming,
never overwritten in place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cosmos_ros.device.devices import default_dtype
from cosmos_ros.device.tensors import not_finite
from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.files import check_regular
from cosmos_ros.listing import listed
from cosmos_ros.reading import reading
from cosmos_ros.world_model.checkpoints.recognition import config_from_shapes, shape_problems
from cosmos_ros.world_model.checkpoints.weight_files import (
    WEIGHT_DTYPES,
    TensorHeader,
    drop_pages,
    headers_of,
    is_directory,
    map_tensors,
    names_in,
    read_headers,
)
from cosmos_ros.world_model.checkpoints.wrong_files import describe_directory, refuse_other_kind
from cosmos_ros.world_model.config import Shape, TransformerConfig, transformer_shapes
from cosmos_ros.world_model.transformer import Transformer

WEIGHTS_FILES = ("model.pt", "model.safetensors")
SHARD_NAME = re.compile(r"(?P<stem>.*model_mp_)(?P<rank>\d+)\.(pt|safetensors)")
MAX_SETTINGS = 1 << 20  # bytes of config.json; the published ones have a few thousand
SHARD_COUNTS = (2, 4, 8)  # what divides the published models' 8 key-value heads
SHARD_TOLERANCE = 1e-3  # between the ranks' copies of a weight that every rank holds


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint, its header read.

    path   the file, or the directory of the shards
    files  one for each tensor-parallel rank
    ranks  for each, the headers of its tensors by name, without the `model.` prefix
    """

    path: Path
    files: tuple[Path, ...]
    ranks: tuple[Mapping[str, TensorHeader], ...]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of the whole tensors, ranks put together."""
        return {name: self._whole_shape(name) for name in self.ranks[0]}

    def mapped(self) -> dict[str, tuple[Tensor, ...]]:
        """Every tensor's part on every rank, mapped from the files: data is read where it is used.

        Raises ModelUnavailable where a file has been replaced by another model since it was opened: the guardrail was
        chosen for the one that it held then.
        """
        ranks = [map_tensors(file) for file in self.files]
        for file, rank, headers in zip(self.files, ranks, self.ranks, strict=True):
            if headers_of(rank) != headers:
                raise ModelUnavailable(
                    f"{file} was replaced while it was in use; clean up and configure the node again"
                )
        return {name: tuple(rank[name] for rank in ranks) for name in self.ranks[0]}

    def merged(self, name: str, parts: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
        """The whole of a mapped tensor, on the device. Raises ModelUnavailable where the ranks disagree."""
        axis = shard_axis(name)
        if len(parts) == 1:
            return parts[0].to(device, dtype)
        if axis is None:
            copies = torch.stack([part.to(device, torch.float32) for part in parts])
            # Weights that are not finite never agree; they are reported as such once all is loaded.
            agree = torch.allclose(copies, copies[:1], rtol=SHARD_TOLERANCE, atol=SHARD_TOLERANCE)
            if not agree and copies.isfinite().all():
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
        if (axis := shard_axis(name)) is None:
            raise ValueError(f"{name} is not cut: every rank holds it whole")
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
    ranks = [read_headers(file) for file in files]
    for file, rank in zip(files, ranks, strict=True):
        refuse_other_kind(file, rank)
        _refuse(file, f"holds what is no tensor of {', '.join(WEIGHT_DTYPES)}", _odd_dtypes(rank))
        unlike_first = shape_problems(_shapes(rank), _shapes(ranks[0]))
        _refuse(file, f"is no shard of the same checkpoint as {files[0].name}", unlike_first)
    return Checkpoint(files[0] if len(files) == 1 else path, tuple(files), tuple(ranks))


def _odd_dtypes(rank: Mapping[str, TensorHeader]) -> list[str]:
    return [f"{name} is {header.dtype}" for name, header in rank.items() if header.dtype not in WEIGHT_DTYPES]


def _shapes(rank: Mapping[str, TensorHeader]) -> dict[str, Shape]:
    return {name: header.shape for name, header in rank.items()}


def read_settings(path: str | Path) -> dict:
    """The config.json in a checkpoint's directory, without null values; empty where there is none.

    Raises ModelUnavailable where it is not a JSON object.
    """
    path = Path(path)
    file = (path if is_directory(path) else path.parent) / "config.json"
    with reading(file, fault="cannot be read as JSON", remedy="correct it, or download it again"):
        if not os.path.lexists(file):
            return {}
        check_regular(file)
        if (size := file.stat().st_size) > MAX_SETTINGS:
            raise ModelUnavailable(f"{file} is no settings file: {size} bytes, where {MAX_SETTINGS} are plenty")
        settings = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ModelUnavailable(f"{file} must hold a JSON object; it holds {type(settings).__name__}")
    return {key: value for key, value in settings.items() if value is not None}


def config_of(checkpoint: Checkpoint, settings: Mapping) -> TransformerConfig:
    """The config that the tensors describe; `settings` says what shapes cannot. Raises ModelUnavailable."""
    try:
        return config_from_shapes(checkpoint.shapes, settings)
    except ValueError as error:
        raise ModelUnavailable(f"{checkpoint.path} {error}") from error


def load_transformer(
    path: str | Path | Checkpoint,
    config: TransformerConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Transformer:
    """A transformer for inference, its weights on the device.

    path    model.pt, a .safetensors file, or a directory (see `open_checkpoint`); or one that was opened
    config  None: from the tensor shapes, and from config.json for what shapes cannot say
    dtype   of the weights; None: bfloat16 on CUDA, float32 on the CPU

    Raises ModelUnavailable where tensors are missing, unexpected or of another shape (listed by name), or hold a
    value that is not finite.
    """
    device = torch.device(device)
    dtype = dtype or default_dtype(device)
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    config = config or config_of(checkpoint, read_settings(checkpoint.path))
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
    problems = shape_problems(checkpoint.shapes, transformer_shapes(config))
    _refuse(checkpoint.path, "does not hold the expected tensors", problems)
    weights = {}
    for name, parts in checkpoint.mapped().items():
        if ranks == 1 or shard_axis(name) is None:
            weights[name] = checkpoint.merged(name, parts, device, dtype)
        else:
            weights[name] = checkpoint.sliced(name, parts, device, dtype, rank, ranks)
        for part in parts:
            if part.untyped_storage().data_ptr() != weights[name].untyped_storage().data_ptr():
                drop_pages(part)
    _refuse(checkpoint.path, "holds weights that are not finite", not_finite(weights))
    return weights


def _weights_files(path: Path) -> list[Path]:
    """One file, or the shards in the order of their ranks."""
    if not is_directory(path):
        if SHARD_NAME.fullmatch(path.name):
            raise ModelUnavailable(f"{path} is one shard of several; give the directory, with all of them in it")
        return [path]
    names = names_in(path)
    for name in WEIGHTS_FILES:
        if name in names:
            return [path / name]
    shards = [match for match in map(SHARD_NAME.fullmatch, names) if match]
    if not shards:
        expected = f"{' or '.join(WEIGHTS_FILES)} or shards model_model_mp_*.pt"
        raise ModelUnavailable(f"{path} {describe_directory(names, expected)}")
    if len(stems := sorted({shard["stem"] for shard in shards})) > 1:
        raise ModelUnavailable(f"{path} holds shards of several checkpoints, {', '.join(stems)}; leave one")
    # Shards without the highest ranks have the shapes of a smaller model, which would run without the right guardrail.
    shards.sort(key=lambda shard: int(shard["rank"]))
    ranks = [int(shard["rank"]) for shard in shards]
    if ranks != list(range(len(ranks))) or len(ranks) not in SHARD_COUNTS:
        raise ModelUnavailable(
            f"{path} holds the shards {', '.join(shard.string for shard in shards)}; expected one for each rank, 0 to "
            f"N - 1 for N of {', '.join(map(str, SHARD_COUNTS))}. Fetch the others, or merge them into model.pt"
        )
    return [path / shard.string for shard in shards]


def holds_weights(directory: Path) -> bool:
    """Whether there are files of weights in a directory, whatever is in them."""
    return directory.is_dir() and any(is_weights_name(file.name) for file in directory.iterdir())


def is_weights_name(name: str) -> bool:
    """Whether a file of this name in a checkpoint's directory is read as weights."""
    return name in WEIGHTS_FILES or SHARD_NAME.fullmatch(name) is not None


def _refuse(path: Path, what: str, problems: list[str]) -> None:
    if problems:
        raise ModelUnavailable(f"{path} {what}: {listed(problems)}")
