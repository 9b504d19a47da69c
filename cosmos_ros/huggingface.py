"""Models in Hugging Face's layout, from local folders alone: no network, and no weight left at random."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cosmos_ros.device.tensors import tensors_of
from cosmos_ros.errors import ForesightError
from cosmos_ros.files import check_regular
from cosmos_ros.reading import reading

SETTINGS = (".json", ".model")
WEIGHTS = (".safetensors", ".bin")  # the first kind that is there is read; a snapshot may hold both


@dataclass(frozen=True)
class LocalModels:
    """The one way to find and load such models, on behalf of one owner.

    refusal       what is raised where a model, or a package that reads it, is not there or not whole
    user          what needs the packages, for the message
    requirements  the file that lists them
    """

    refusal: type[ForesightError]
    user: str
    requirements: str

    def snapshot(self, cache: Path, repository: str) -> Path:
        """The folder of a repository's files in a Hugging Face cache: `models--owner--name/snapshots/commit`.

        Raises the refusal where the cache does not hold it, or holds several and does not say which.
        """
        home, remedy = self.home(cache, repository), f"fetch it: hf download {repository} --cache-dir {cache}"
        main = home / "refs" / "main"
        snapshots = sorted(path for path in (home / "snapshots").glob("*") if path.is_dir())
        if main.is_file():
            with reading(main, self.refusal, fault="cannot be read", remedy=remedy):
                commit = main.read_text(encoding="utf-8").strip()
            snapshots = [path for path in snapshots if path.name == commit]
        if len(snapshots) != 1:
            raise self.refusal(
                f"{home} holds {len(snapshots)} usable snapshots of {repository}, where one is needed; {remedy}"
            )
        self.require_ordinary(snapshots[0])
        return snapshots[0]

    def require_ordinary(self, folder: Path) -> None:
        """Raises the refusal where the folder holds a pipe or a device: opening it may never end."""
        for path in folder.iterdir():
            if path.exists() and not path.is_dir():
                with reading(path, self.refusal, remedy="remove it"):
                    check_regular(path)

    @staticmethod
    def home(cache: Path, repository: str) -> Path:
        """Where a cache keeps a repository."""
        return cache / ("models--" + repository.replace("/", "--"))

    def files_of(self, folder: Path) -> list[Path]:
        """The files of a snapshot that decide what the model computes. Raises as weights_kind does."""
        return _files(folder, *SETTINGS, self.weights_kind(folder))

    def weights_of(self, folder: Path) -> list[Path]:
        """The files of a snapshot that its weights are read from. Raises as weights_kind does."""
        return _files(folder, self.weights_kind(folder))

    def weights_kind(self, folder: Path) -> str:
        """Which files of a snapshot its weights are read from, one of WEIGHTS.

        Raises the refusal where there is none.
        """
        there = {path.suffix for path in _files(folder, *WEIGHTS)}
        for kind in WEIGHTS:
            if kind in there:
                return kind
        raise self.refusal(f"{folder} holds no weights ({' or '.join(WEIGHTS)})")

    def transformers(self) -> ModuleType:
        """The package, kept off the network. Raises the refusal where it is not installed."""
        os.environ["HF_HUB_OFFLINE"] = "1"  # belt and braces: every path that it is given is local
        os.environ["TRANSFORMERS_OFFLINE"] = "1"
        try:
            import transformers as module
        except ImportError as error:
            raise self.not_installed("transformers") from error
        module.logging.set_verbosity_error()  # it would list every weight of a model that is loaded in part
        module.logging.disable_progress_bar()  # it would fill the node's log
        return module

    def load(self, model_class: Any, folder: Path, **options: Any) -> Any:
        """`model_class.from_pretrained` of a local folder, in eval mode; a .bin file is read as tensors alone.

        The weights are the model's own from then on: whatever is written to the files later does not reach it.

        Raises the refusal where a weight is missing or of another shape: transformers would draw it at random.
        """
        model, info = model_class.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=self.weights_kind(folder) == ".safetensors",
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
            raise self.refusal(f"{folder} does not hold {model_class.__name__}: {', '.join(faults)}")
        for tensor in tensors_of(model):
            tensor.data = tensor.data.clone()  # it was the file itself, mapped into memory
        return model.eval()

    def not_installed(self, package: str) -> ForesightError:
        return self.refusal(f"{self.user} needs the package {package}: pip install -r {self.requirements}")


def _files(folder: Path, *suffixes: str) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and path.suffix in suffixes]
