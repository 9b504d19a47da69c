"""What a guard is: it judges a prompt or frames, or it changes frames, and says under which weights it did so."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn

from cosmos_ros.device.placement import Part
from cosmos_ros.device.tensors import not_finite
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.files import check_regular
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.listing import listed

# The names of the guards' networks in a memory plan.
PROMPT_GUARD, VIDEO_GUARD = "prompt guard", "video guard"


class Checkpoint(Protocol):
    """What choosing the guards needs to know of a checkpoint; `world_model.ModelSpec` is one.

    frame_size  height and width of the model's frames, pixels
    """

    @property
    def directory(self) -> Path: ...
    @property
    def published(self) -> bool: ...
    @property
    def takes_prompt(self) -> bool: ...
    @property
    def frame_size(self) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Judgement:
    """A guard's answer.

    detail   the class or entry that refused; for a filter, what it changed ("faces pixelated")
    frame    index into the judged frames of the first frame that was refused
    changes  how many things a filter changed
    """

    verdict: Verdict
    detail: str = ""
    frame: int | None = None
    changes: int = 0


PASSED = Judgement(Verdict.PASSED)


class Guard(ABC):
    """Base of all guards. The runner calls a guard from one thread at a time.

    name      as in msg/GuardDecision.msg
    weights   SHA-256 over the guard's files, hexadecimal: see sha256_of
    settings  what besides the weights decides an answer; verdicts are remembered by text, weights and settings
    parts     its networks, where it has some, held by the memory of the prediction as PROMPT_GUARD or VIDEO_GUARD
    """

    name: str
    weights: str
    settings: str = ""
    parts: tuple[Part, ...] = ()


class PromptGuard(Guard):
    @abstractmethod
    def judge(self, prompt: str) -> Judgement:
        """PASSED or REFUSED; whatever is raised refuses as well."""


class ContentGuard(Guard):
    @abstractmethod
    def judge(self, frames: np.ndarray) -> Judgement:
        """Judge a few consecutive frames, uint8 [k, h, w, 3] RGB, read-only: PASSED or REFUSED."""


class FrameFilter(Guard):
    @abstractmethod
    def filter(self, frames: np.ndarray) -> tuple[np.ndarray, Judgement]:
        """New frames of the same shape for uint8 [k, h, w, 3] RGB, read-only: PASSED or MODIFIED."""


@dataclass(frozen=True)
class Guards:
    """The guards of one profile, each kind in the order in which they judge."""

    profile: str
    prompt: tuple[PromptGuard, ...]
    content: tuple[ContentGuard, ...]
    filters: tuple[FrameFilter, ...]

    @property
    def everyone(self) -> tuple[PromptGuard | ContentGuard | FrameFilter, ...]:
        return (*self.prompt, *self.content, *self.filters)


def require_finite(path: Path, network: nn.Module) -> None:
    """Raises GuardrailUnavailable, with path and names, where weights or buffers of the network are not finite."""
    # 0.8 s for the 7 billion of Aegis on one core of a CPU.
    if bad := not_finite({name: each for name, each in network.state_dict().items() if each.is_floating_point()}):
        raise GuardrailUnavailable(f"{path} holds weights that are not finite: {listed(bad, 3, ', ')}")


def sha256_of(files: Iterable[Path], folder: Path) -> str:
    """SHA-256 of one file; of several, SHA-256 of what `sha256sum --zero` prints for them in the folder.

    That is, for each in the order of their paths below the folder: its hash, two spaces, the path and a zero byte.

    Raises GuardrailUnavailable where there is no file or one cannot be read.
    """
    paths = sorted(files, key=lambda path: _name_in(folder, path))
    if not paths:
        raise GuardrailUnavailable(f"a guard has no files in {folder}")
    try:
        with ThreadPoolExecutor(max_workers=8) as pool:  # hashing releases the GIL, and the weights are many GB
            hashes = list(pool.map(_sha256, paths))
    except OSError as error:
        raise GuardrailUnavailable(f"a guard's file cannot be read: {error}") from error
    if len(hashes) == 1:
        return hashes[0]
    listed = (f"{digest}  ".encode() + _name_in(folder, path) for digest, path in zip(hashes, paths, strict=True))
    return hashlib.sha256(b"".join(line + b"\0" for line in listed)).hexdigest()


def _name_in(folder: Path, path: Path) -> bytes:
    return os.fsencode(path.relative_to(folder).as_posix())


def _sha256(path: Path) -> str:
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
