"""Hugging Face models out of the guardrail's folder: no network, and nothing left at random."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from cosmos_ros.device.tensors import tensors_of
from cosmos_ros.errors import GuardrailUnavailable

SETTINGS = (".json", ".model")
WEIGHTS = (".safetensors", ".bin")  # the first kind that is there is read; a snapshot may hold both


def snapshot(cache: Path, repository: str) -> Path:
    """The folder of a repository's files in a cache of Hugging Face's layout: `models--owner--name/snapshots/commit`.

    Raises GuardrailUnavailable where the cache does not hold it, or holds several and does not say which.
    """
    home = cache / ("models--" + repository.replace("/", "--"))
    main = home / "refs" / "main"
    snapshots = sorted(path for path in (home / "snapshots").glob("*") if path.is_dir())
    if main.is_file():
        snapshots = [path for path in snapshots if path.name == main.read_text().strip()]
    if len(snapshots) != 1:
        raise GuardrailUnavailable(
            f"{home} holds {len(snapshots)} usable snapshots of {repository}, where one is needed; "
            f"fetch it: hf download {repository} --cache-dir {cache}"
        )
    return snapshots[0]


def files_of(folder: Path) -> list[Path]:
    """The files of a snapshot that decide what the model computes. Raises as weights_kind does."""
    return _files(folder, *SETTINGS, weights_kind(folder))


def weights_of(folder: Path) -> list[Path]:
    """The files of a snapshot that its weights are read from. Raises as weights_kind does."""
    return _files(folder, weights_kind(folder))


def _files(folder: Path, *suffixes: str) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and path.suffix in suffixes]


def weights_kind(folder: Path) -> str:
    """Which files of a snapshot its weights are read from, one of WEIGHTS.

    Raises GuardrailUnavailable where there is none.
    """
    there = {path.suffix for path in folder.iterdir() if path.is_file()}
    for kind in WEIGHTS:
        if kind in there:
            return kind
    raise GuardrailUnavailable(f"{folder} holds no weights ({' or '.join(WEIGHTS)})")


def transformers() -> ModuleType:
    """The module, told to stay off the network. Raises GuardrailUnavailable where it is not installed."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # every path given is local already; this is the second lock on the door
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    try:
        import transformers as module
    except ImportError as error:
        raise not_installed("transformers") from error
    module.logging.set_verbosity_error()  # it would list every weight of a model that is loaded in part
    return module


def load(model_class: Any, folder: Path, **options: Any) -> Any:
    """`model_class.from_pretrained` of a local folder, in eval mode; a .bin file is read as tensors alone.

    The weights are the model's own from then on: whatever is written to the files later does not reach it.

    Raises GuardrailUnavailable where a weight is missing or of another shape: transformers would draw it at random.
    """
    model, info = model_class.from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=weights_kind(folder) == ".safetensors",
        weights_only=True,
        output_loading_info=True,
        **options,
    )
    faults = [
        f"{kind.replace('_', ' ')} {sorted(map(str, info[kind]))[:3]}"
        for kind in ("missing_keys", "mismatched_keys")
        if info[kind]
    ]
    if faults:
        raise GuardrailUnavailable(f"{folder} does not hold {model_class.__name__}: {', '.join(faults)}")
    for tensor in tensors_of(model):
        tensor.data = tensor.data.clone()  # it was the file itself, mapped into memory
    return model.eval()


def not_installed(package: str) -> GuardrailUnavailable:
    return GuardrailUnavailable(
        f"Cosmos-1.0-Guardrail needs the package {package}: pip install -r requirements/guardrail.txt"
    )
