"""The guards of a Cosmos-1.0-Guardrail folder, under which NVIDIA's published checkpoints run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail.cosmos.aegis import Aegis
from cosmos_ros.guardrail.cosmos.blocklist import COSMOS_1_0, PREDICT1, Blocklist
from cosmos_ros.guardrail.cosmos.folder import AEGIS, BLOCKLIST, FACES, FETCH, PUBLISHED, VIDEO_CONTENT, find_folder
from cosmos_ros.guardrail.cosmos.retinaface_detector import RetinaFaceDetector
from cosmos_ros.guardrail.cosmos.video_content import VideoContentGuard
from cosmos_ros.guardrail.face_blur import FaceBlur
from cosmos_ros.guardrail.guard import Checkpoint, Guards, PromptGuard
from cosmos_ros.reading import reading

T = TypeVar("T")


def cosmos_guards(spec: Checkpoint, folder: str | Path, memory: DeviceMemory) -> Guards:
    """The guards for a checkpoint, from `folder` or where find_folder looks for it; those for prompts only where the
    model takes text.

    Raises GuardrailUnavailable where the folder is not found, saying what to fetch, and where a guard does not load.
    """
    home = find_folder(spec.directory, folder)
    prompt: tuple[PromptGuard, ...] = ()
    if spec.takes_prompt:
        near = PREDICT1 if "predict1" in spec.directory.absolute().name.lower() else COSMOS_1_0
        prompt = (_loaded(Blocklist, home / BLOCKLIST, near), _loaded(Aegis, home / AEGIS, memory))
    content = _loaded(VideoContentGuard, home / VIDEO_CONTENT, memory)
    height, width = spec.frame_size
    faces = FaceBlur(_loaded(RetinaFaceDetector, home / FACES, memory), height * width)
    return Guards(PUBLISHED, prompt, (content,), (faces,))


def _loaded(kind: Callable[..., T], path: Path, *args: object) -> T:
    with reading(path, GuardrailUnavailable, fault="cannot be loaded", remedy=f"fetch it anew: {FETCH}"):
        return kind(path, *args)
