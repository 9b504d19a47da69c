"""Which guards a model runs under, and where the published ones' folder is looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.embedded import CascadeFaceDetector, DegenerateVideoGuard, EmbeddedBlocklist
from cosmos_ros.guardrail.guard import ContentGuard, FrameFilter, PromptGuard
from cosmos_ros.guardrail.pixelation import FaceBlur

Guards = tuple[list[PromptGuard], list[ContentGuard], list[FrameFilter]]

EMBEDDED = "embedded"
PUBLISHED = "Cosmos-1.0-Guardrail"


class Model(Protocol):
    """What choosing the guards needs to know of a checkpoint."""

    directory: Path
    published: bool
    takes_prompt: bool


def embedded() -> tuple[str, Guards]:
    """The guards that come with this package."""
    return EMBEDDED, ([EmbeddedBlocklist()], [DegenerateVideoGuard()], [FaceBlur(CascadeFaceDetector())])


def published(spec: Model, folder: str | Path = "") -> tuple[str, Guards]:
    """The guards of a Cosmos-1.0-Guardrail folder. Raises GuardrailUnavailable, saying what to fetch."""
    directory = find_folder(spec.directory, folder)
    raise GuardrailUnavailable(f"the guards in {directory} cannot be loaded by this version")


def find_folder(checkpoint: Path, folder: str | Path = "") -> Path:
    """Where the guardrail's folder is: as given, else beside the checkpoint (Cosmos 1.0), else inside it (Predict1).

    Raises GuardrailUnavailable where there is none, or it is empty.
    """
    candidates = [Path(folder)] if folder else [checkpoint.parent / PUBLISHED, checkpoint / "guardrail"]
    for candidate in candidates:
        if candidate.is_dir() and any(candidate.iterdir()):
            return candidate
    raise GuardrailUnavailable(
        f"{checkpoint.name} is a published NVIDIA Cosmos checkpoint and runs only with its guardrail; none found at "
        f"{' or '.join(map(str, candidates))}. Accept the licence of nvidia/Cosmos-1.0-Guardrail on Hugging Face, "
        f"then: hf download nvidia/Cosmos-1.0-Guardrail --local-dir {checkpoint.parent / PUBLISHED}"
    )
