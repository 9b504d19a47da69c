"""One file of weights, as torch.save or safetensors write it: its header, or its tensors mapped, not copied.

Reading runs no code from the file, and whatever is wrong with it comes out as ModelUnavailable.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import pickle
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.files import check_regular
from cosmos_ros.reading import reading
from cosmos_ros.torch_archive import require_bounded
from cosmos_ros.world_model.config import Shape

Value = TypeVar("Value")

WEIGHT_DTYPES = ("float64", "float32", "float16", "bfloat16")
SAFETENSORS_DTYPES = dict(zip(("F64", "F32", "F16", "BF16"), WEIGHT_DTYPES, strict=True))

SAFETENSORS = ".safetensors"
MODEL_FILES = (".safetensors", ".pt", ".jit", ".json")
SAMPLE = 1 << 20
MAX_HEADER = 100_000_000  # bytes, as in the safetensors library
REMEDY = "download it again"

# How a file begins that is not in the format of its name -> what it is.
MISNAMED = {
    rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19": "is in PyTorch's format from before 1.6, which cannot be "
    "mapped; load it with torch.load and torch.save it again",
    rb"version https://git-lfs": "is a pointer of Git LFS and not the file itself; fetch it with git lfs pull",
}
NO_TORCH = MISNAMED | {
    rb".{5}\0\0\0\{": "is a safetensors file under another name; call it model.safetensors",
}
NO_SAFETENSORS = MISNAMED | {
    rb"PK\x03\x04": "is a file of torch.save under another name; call it model.pt",
}

CODE = re.compile(r"GLOBAL (\S+) was not an allowed|GLOBAL (\S+) whose module")  # PyTorch's refusals


class TensorHeader(NamedTuple):
    """What a header says of an entry.

    dtype  its name in PyTorch; else safetensors' name for it, or why it is no plain tensor
    """

    shape: Shape
    dtype: str


def is_directory(path: Path) -> bool:
    """Raises ModelUnavailable where there is nothing, or it cannot be looked at."""
    with reading(path, remedy=f"check the path, or {REMEDY}"):
        return stat.S_ISDIR(path.stat().st_mode)


def names_in(directory: Path) -> list[str]:
    """Sorted. Raises ModelUnavailable where it cannot be listed."""
    with reading(directory, remedy=REMEDY):
        return sorted(entry.name for entry in directory.iterdir())


def read_headers(file: Path) -> dict[str, TensorHeader]:
    """Of every entry, by name, `model.` taken off. Raises ModelUnavailable."""
    with reading(file, remedy=REMEDY):
        _look(file)
        if file.suffix == SAFETENSORS:
            return _plain_names(file, _safetensors_header(file))
        return _plain_names(file, headers_of(_map_torch(file)))


def headers_of(entries: Mapping[str, object]) -> dict[str, TensorHeader]:
    """What the headers of mapped entries are."""
    return {name: _header(value) for name, value in entries.items()}


def map_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor by name, `model.` taken off: data is read where it is used. Raises ModelUnavailable."""
    with reading(file, remedy=REMEDY), _mapped_whole(file):
        _look(file)
        return _plain_names(file, _map_safetensors(file) if file.suffix == SAFETENSORS else _map_torch(file))


def size_and_ends(file: Path) -> tuple[int, bytes]:
    """Size in bytes, and the first and the last MiB: enough to distinguish weights. Raises OSError."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(SAMPLE)
        opened.seek(max(size - SAMPLE, 0))
        return size, head + opened.read(SAMPLE)


def model_files(directory: Path) -> list[Path]:
    """All that decides what a checkpoint computes."""
    return sorted(file for file in directory.rglob("*") if file.suffix in MODEL_FILES)


def fingerprint(file: Path) -> str:
    """SHA-256 over the file's size, first and last MiB: tells weights apart without reading gigabytes of them."""
    size, ends = size_and_ends(file)
    return hashlib.sha256(str(size).encode() + ends).hexdigest()


def drop_pages(tensor: Tensor) -> None:
    """Drop what was read of a mapped tensor from this process's memory; it is read anew if it is used again.

    Until the file is unmapped its pages count as this process's memory, in addition to the copy made of them.
    """
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE  # no page that another tensor shares
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end:
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def _look(file: Path) -> None:
    """Raises ModelUnavailable or OSError for what is not to be opened, or is in another format than its name says."""
    check_regular(file)
    with file.open("rb") as opened:
        begin = opened.read(64)
    for pattern, what in (NO_SAFETENSORS if file.suffix == SAFETENSORS else NO_TORCH).items():
        if re.match(pattern, begin, re.DOTALL):
            raise ModelUnavailable(f"{file} {what}")


@contextmanager
def _mapped_whole(file: Path) -> Iterator[None]:
    """A host that does not overcommit refuses to map a file that is larger than its memory: here that has a remedy."""
    try:
        yield
    except Exception as error:
        if "Cannot allocate memory" not in str(error):
            raise
        raise ModelUnavailable(
            f"{file} is larger than this host's memory; `sysctl vm.overcommit_memory=1` lets it be mapped all the same"
        ) from error


def _plain_names(file: Path, entries: Mapping[str, Value]) -> dict[str, Value]:
    names = [name.removeprefix("model.") for name in entries if "_extra_state" not in name]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ModelUnavailable(
            f"{file} holds two tensors of one name, with and without `model.` in front: {', '.join(twice[:8])}; leave "
            "the right one"
        )
    return {name.removeprefix("model."): value for name, value in entries.items() if "_extra_state" not in name}


def _header(value: object) -> TensorHeader:
    if not isinstance(value, Tensor):
        return TensorHeader((), f"{type(value).__name__} and no tensor")
    if value.layout != torch.strided or value.is_meta or value.is_nested:
        kind = "nested" if value.is_nested else _name(value.layout)
        return TensorHeader((), f"{kind} on {value.device}")
    if value.nbytes > value.untyped_storage().nbytes():  # a few bytes that stand for terabytes
        return TensorHeader((), "repeated numbers")
    return TensorHeader(tuple(value.shape), _name(value.dtype))


def _name(thing: torch.dtype | torch.layout) -> str:
    return str(thing).removeprefix("torch.")


def _safetensors_header(file: Path) -> dict[str, TensorHeader]:
    """Format: 8 bytes little-endian length, JSON of that length, data."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > MAX_HEADER:
            raise ModelUnavailable(f"{file} is damaged: its header would be {length} bytes long; {REMEDY}")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < end:
        raise ModelUnavailable(f"{file} is cut short: {size} bytes of {end}; {REMEDY}")
    return {
        name: TensorHeader(tuple(map(int, entry["shape"])), SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"]))
        for name, entry in header.items()
    }


def _map_safetensors(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as reader:
        return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118  (it is no dictionary)


def _map_torch(file: Path) -> dict[str, Any]:
    entries = load_archive(file)
    if isinstance(entries, dict) and isinstance(entries.get("model"), dict):
        entries = entries["model"]
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise ModelUnavailable(f"{file} holds {type(entries).__name__}, not a dictionary of named tensors")
    return entries


def load_archive(file: Path) -> object:
    """Whatever a file of torch.save holds, as far as it is plain data; tensors mapped. Runs no code from the file."""
    check_regular(file)
    with file.open("rb") as opened:
        if not zipfile.is_zipfile(opened):
            raise ModelUnavailable(
                f"{file} is damaged or cut short (its {file.stat().st_size} bytes are no complete zip archive, which "
                "a file written by torch.save is); download it again"
            )
        archive = zipfile.ZipFile(opened)
        require_bounded(archive)
        inside = [name.split("/", 1)[-1] for name in archive.namelist()]
    if "constants.pkl" in inside:
        raise ModelUnavailable(f"{file} is a TorchScript program, such as a video tokenizer; expected weights")
    try:
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        if CODE.search(str(error)) is None:
            raise
        raise ModelUnavailable(
            f"{file} holds Python objects that could run code when loaded; refused. A published checkpoint holds none: "
            "download it again, or save the tensors alone"
        ) from error
