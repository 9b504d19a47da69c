"""Which guards a model runs under, and where the published ones' folder is looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from cosmos_ros import huggingface
from cosmos_ros.device.memory import resolve_device
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.blocklist import COSMOS_1_0, PREDICT1, Blocklist
from cosmos_ros.guardrail.cosmos import aegis, video_content
from cosmos_ros.guardrail.cosmos.aegis import Aegis
from cosmos_ros.guardrail.cosmos.retinaface_detector import RetinaFaceDetector
from cosmos_ros.guardrail.cosmos.video_content import VideoContentGuard
from cosmos_ros.guardrail.embedded.guards import CascadeFaceDetector, DegenerateVideoGuard, EmbeddedBlocklist
from cosmos_ros.guardrail.face_blur import FaceBlur
from cosmos_ros.guardrail.guard import ContentGuard, FrameFilter, PromptGuard

T = TypeVar("T")
Guards = tuple[list[PromptGuard], list[ContentGuard], list[FrameFilter]]

EMBEDDED = "embedded"
PUBLISHED = "Cosmos-1.0-Guardrail"
FETCH = "hf download nvidia/Cosmos-1.0-Guardrail"
# Below a Cosmos-1.0-Guardrail folder.
BLOCKLIST, AEGIS = "blocklist", "aegis"
VIDEO_CONTENT, FACES = "video_content_safety_filter", Path("face_blur_filter") / "Resnet50_Final.pth"


class Model(Protocol):
    """What choosing the guards needs to know of a checkpoint."""

    directory: Path
    published: bool
    takes_prompt: bool


def embedded() -> tuple[str, Guards]:
    """The guards that come with this package."""
    return EMBEDDED, ([EmbeddedBlocklist()], [DegenerateVideoGuard()], [FaceBlur(CascadeFaceDetector())])


def published(spec: Model, folder: str | Path, device: str) -> tuple[str, Guards]:
    """The guards of a Cosmos-1.0-Guardrail folder, both prompt guards only for a model that takes text.

    Raises GuardrailUnavailable where the folder is not found, saying what to fetch, and where a guard does not load;
    ModelUnavailable for a device that is not there.
    """
    home = find_folder(spec.directory, folder)
    where = resolve_device(device)
    near = PREDICT1 if "predict1" in spec.directory.absolute().name.lower() else COSMOS_1_0
    prompt: list[PromptGuard] = []
    if spec.takes_prompt:
        prompt.append(_loaded(Blocklist, home / BLOCKLIST, near))
        prompt.append(_loaded(Aegis, home / AEGIS, where))
    content = _loaded(VideoContentGuard, home / VIDEO_CONTENT, where)
    faces = _loaded(RetinaFaceDetector, home / FACES, where)
    return PUBLISHED, (prompt, [content], [FaceBlur(faces)])


def _loaded(kind: Callable[..., T], path: Path, *args: object) -> T:
    try:
        return kind(path, *args)
    except GuardrailUnavailable:
        raise
    except Exception as error:  # each library has its own for a file that does not parse
        raise GuardrailUnavailable(
            f"the guardrail's {path} cannot be loaded: {type(error).__name__}: {error}; fetch it anew: {FETCH}"
        ) from error


def find_folder(checkpoint: Path, folder: str | Path = "") -> Path:
    """Where the guardrail's folder is: as given, else beside the checkpoint (Cosmos 1.0), else inside it (Predict1).

    Raises GuardrailUnavailable where there is none, or it is empty or cannot be read.
    """
    checkpoint = checkpoint.absolute()
    candidates = [Path(folder)] if folder else [checkpoint.parent / PUBLISHED, checkpoint / "guardrail"]
    for candidate in candidates:
        if _holds_something(candidate):
            return candidate
    raise GuardrailUnavailable(
        f"{checkpoint.name} is to run under {PUBLISHED}, as every published NVIDIA Cosmos checkpoint must; no such "
        f"folder could be read at {' or '.join(map(str, candidates))}. Accept the licence of nvidia/{PUBLISHED} on "
        f"Hugging Face, then: {FETCH} --local-dir {candidates[0]}"
    )


@dataclass(frozen=True)
class Networks:
    """Where the networks of the video guard, or of the prompt guard, lie in a Cosmos-1.0-Guardrail folder.

    files      weights that lie by themselves
    snapshots  (cache, repository) of those in Hugging Face's cache layout
    """

    files: tuple[Path, ...]
    snapshots: tuple[tuple[Path, str], ...]

    def weights(self) -> list[Path]:
        """Every file of weights that is read. Raises GuardrailUnavailable where a snapshot is not there."""
        folders = [huggingface.snapshot(cache, repository) for cache, repository in self.snapshots]
        return [*self.files, *(file for folder in folders for file in huggingface.weights_of(folder))]


def video_networks(home: Path) -> Networks:
    content = home / VIDEO_CONTENT
    return Networks((content / video_content.CLASSIFIER, home / FACES), ((content, video_content.ENCODER),))


def prompt_networks(home: Path) -> Networks:
    return Networks((), ((home / AEGIS, aegis.BASE), (home / AEGIS, aegis.ADAPTER)))


def require_whole(home: Path, takes_prompt: bool) -> None:
    """Look whether a Cosmos-1.0-Guardrail folder holds what its guards load, by names alone: 20 GB are not read.

    Raises GuardrailUnavailable for what it lacks.
    """
    needed = video_networks(home)
    paths, snapshots = list(needed.files), list(needed.snapshots)
    if takes_prompt:
        paths += [home / BLOCKLIST / name for name in ("custom", "whitelist", "exact_match", "nltk_data")]
        snapshots += prompt_networks(home).snapshots
    if missing := [str(path.relative_to(home)) for path in paths if not path.exists()]:
        raise GuardrailUnavailable(f"{home} lacks {', '.join(missing)}; fetch it: {FETCH} --local-dir {home}")
    for cache, repository in snapshots:
        folder = _loaded(huggingface.snapshot, cache, repository)
        try:
            huggingface.weights_kind(folder)
        except GuardrailUnavailable as error:
            raise GuardrailUnavailable(f"{error}; fetch it: hf download {repository} --cache-dir {cache}") from error


def _holds_something(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
