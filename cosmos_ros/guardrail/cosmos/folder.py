"""The Cosmos-1.0-Guardrail folder: where it is looked for, what lies in it, and whether it is whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cosmos_ros.device.plan import Need
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.cosmos import aegis, video_content
from cosmos_ros.guardrail.cosmos.local_models import huggingface
from cosmos_ros.guardrail.guard import PROMPT_GUARD, VIDEO_GUARD

PUBLISHED = "Cosmos-1.0-Guardrail"
FETCH = f"hf download nvidia/{PUBLISHED}"
# Bytes of activations at their peak, by bench/published_models.py.
PROMPT_GUARD_WORK, VIDEO_GUARD_WORK = 750_000_000, 2_000_000_000
# What the guards import in addition to the core, as requirements/guardrail.txt installs it.
VIDEO_GUARD_PACKAGES = ("transformers",)
PROMPT_GUARD_PACKAGES = ("transformers", "peft", "nltk", "better_profanity")
# Below the folder.
BLOCKLIST, AEGIS = "blocklist", "aegis"
VIDEO_CONTENT, FACES = "video_content_safety_filter", Path("face_blur_filter") / "Resnet50_Final.pth"


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
    """Where the networks of the video guard, or of the prompt guard, lie in the folder.

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


def needs_of(home: Path, takes_prompt: bool) -> tuple[Need, ...]:
    """What the folder's guards take of the device, from the sizes of the files that they read. SigLIP's text half,
    which is not used and is about as large as the half in use, is counted too.

    Raises GuardrailUnavailable where a network's snapshot is not there.
    """
    needs = [Need(VIDEO_GUARD, _bytes_in(video_networks(home).weights()), work=VIDEO_GUARD_WORK)]
    if takes_prompt:
        needs.append(Need(PROMPT_GUARD, _bytes_in(prompt_networks(home).weights()), work=PROMPT_GUARD_WORK))
    return tuple(needs)


def _bytes_in(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def require_whole(home: Path, takes_prompt: bool) -> None:
    """Look whether the folder holds what its guards load, by names alone: 20 GB are not read.

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
        try:
            huggingface.weights_kind(huggingface.snapshot(cache, repository))
        except GuardrailUnavailable as error:
            raise GuardrailUnavailable(f"{error}; fetch it: hf download {repository} --cache-dir {cache}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise GuardrailUnavailable(f"{cache} cannot be loaded: {error}; fetch it anew: {FETCH}") from error


def _holds_something(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
