"""Fault injection: every guard of both profiles, every fault, and no pixel that leaves.

Faults of files are made in the files, faults of a running guard in the guard that was loaded from them.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_ros.errors import GuardrailUnavailable
from cosmos_ros.guardrail import Guardrail, watched_thread
from cosmos_ros.guardrail.guard import Judgement
from cosmos_ros.rollout import Clip, Crop

pytestmark = pytest.mark.slow

COMMIT = "snapshots/0123456789abcdef0123456789abcdef01234567"
BASE = f"aegis/models--meta-llama--LlamaGuard-7b/{COMMIT}"
ADAPTER = f"aegis/models--nvidia--Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0/{COMMIT}"
SIGLIP = f"video_content_safety_filter/models--google--siglip-so400m-patch14-384/{COMMIT}"
CLASSIFIER = "video_content_safety_filter/safety_filter.pt"
RETINAFACE = "face_blur_filter/Resnet50_Final.pth"


@dataclass(frozen=True)
class Spec:
    directory: Path
    name: str = "Cosmos-1.0-Autoregressive-5B-Video2World"
    published: bool = True
    takes_prompt: bool = True
    frame_size: tuple[int, int] = (64, 96)


# Faults of files


def gone(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def emptied(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        gone(name)(folder)
        (folder / name).mkdir()

    return act


def cut(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).unlink()  # it may be a link to what other tests read
        (folder / name).write_bytes(data[: len(data) // 2])

    return act


def garbled(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).write_bytes(b"\xff\xfe not what it was \x80")

    return act


def tensors(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    """A change to the tensors in a .pt, .pth or .safetensors file."""

    def act(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / name
        if path.suffix == ".safetensors":
            stored = load_file(path)
            change(stored)
            save_file(stored, path, metadata={"format": "pt"})
        else:
            stored = torch.load(path, weights_only=True)
            change(stored.get("model", stored))
            path.unlink()
            torch.save(stored, path)

    return act


def without(part: str) -> Callable[[dict], None]:
    return lambda stored: [stored.pop(name) for name in list(stored) if part in name]


def with_nan(part: str, where: object = ...) -> Callable[[dict], None]:
    return filled(part, float("nan"), where)


def filled(part: str, number: float, where: object = ...) -> Callable[[dict], None]:
    return lambda stored: [value[where].fill_(number) for name, value in stored.items() if part in name]


def reshaped(part: str) -> Callable[[dict], None]:
    return lambda stored: stored.update({n: v.repeat_interleave(2, 0) for n, v in stored.items() if part in n})


FILE_FAULTS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("blocklist", "folder missing"): gone("blocklist"),
    ("blocklist", "folder empty"): emptied("blocklist"),
    ("blocklist", "list missing"): gone("blocklist/custom"),
    ("blocklist", "list empty"): emptied("blocklist/custom"),
    ("blocklist", "exact_match empty"): emptied("blocklist/exact_match"),
    ("blocklist", "whitelist missing"): gone("blocklist/whitelist"),
    ("blocklist", "not text"): garbled("blocklist/custom/tools"),
    ("blocklist", "nltk_data missing"): gone("blocklist/nltk_data"),
    ("blocklist", "WordNet missing"): gone("blocklist/nltk_data/corpora/wordnet"),
    ("blocklist", "WordNet cut"): cut("blocklist/nltk_data/corpora/wordnet/index.noun"),
    ("blocklist", "WordNet not text"): garbled("blocklist/nltk_data/corpora/wordnet/noun.exc"),
    ("blocklist", "Punkt missing"): gone("blocklist/nltk_data/tokenizers/punkt_tab"),
    ("blocklist", "Punkt not text"): garbled("blocklist/nltk_data/tokenizers/punkt_tab/english/collocations.tab"),
    ("aegis", "folder missing"): gone("aegis"),
    ("aegis", "folder empty"): emptied("aegis"),
    ("aegis", "base cut"): cut(f"{BASE}/model.safetensors"),
    ("aegis", "base lacks a weight"): tensors(f"{BASE}/model.safetensors", without("lm_head")),
    ("aegis", "base config not JSON"): garbled(f"{BASE}/config.json"),
    ("aegis", "tokenizer missing"): gone(f"{BASE}/tokenizer.json"),
    ("aegis", "adapter missing"): gone(ADAPTER),
    ("aegis", "adapter cut"): cut(f"{ADAPTER}/adapter_model.safetensors"),
    ("aegis", "adapter lacks a weight"): tensors(f"{ADAPTER}/adapter_model.safetensors", without("lora_B")),
    ("aegis", "NaN in the base"): tensors(f"{BASE}/model.safetensors", with_nan("lm_head")),
    ("aegis", "NaN in the adapter"): tensors(f"{ADAPTER}/adapter_model.safetensors", with_nan("lora_A")),
    ("aegis", "NaN in a word"): tensors(f"{BASE}/model.safetensors", with_nan("lm_head", (3, 0))),
    ("aegis", "logits overflow"): tensors(f"{BASE}/model.safetensors", filled("lm_head", 3e38, 3)),
    ("aegis", "unknown label"): tensors(f"{BASE}/model.safetensors", filled("lm_head", 0.0)),
    ("video_content", "folder missing"): gone("video_content_safety_filter"),
    ("video_content", "folder empty"): emptied("video_content_safety_filter"),
    ("video_content", "SigLIP missing"): gone(SIGLIP),
    ("video_content", "SigLIP cut"): cut(f"{SIGLIP}/model.safetensors"),
    ("video_content", "SigLIP lacks a weight"): tensors(f"{SIGLIP}/model.safetensors", without("vision_model.head")),
    ("video_content", "preparation not JSON"): garbled(f"{SIGLIP}/preprocessor_config.json"),
    ("video_content", "classifier missing"): gone(CLASSIFIER),
    ("video_content", "classifier cut"): cut(CLASSIFIER),
    ("video_content", "classifier not a file of tensors"): garbled(CLASSIFIER),
    ("video_content", "classifier lacks a weight"): tensors(CLASSIFIER, without("running_mean")),
    ("video_content", "unknown label"): tensors(CLASSIFIER, reshaped("layers.6")),
    ("video_content", "NaN in SigLIP"): tensors(f"{SIGLIP}/model.safetensors", with_nan("post_layernorm")),
    ("video_content", "NaN in the classifier"): tensors(CLASSIFIER, with_nan("layers.3.weight")),
    ("video_content", "NaN features"): tensors(f"{SIGLIP}/model.safetensors", filled("vision_model.head", 0.0)),
    ("face_blur", "folder missing"): gone("face_blur_filter"),
    ("face_blur", "folder empty"): emptied("face_blur_filter"),
    ("face_blur", "file cut"): cut(RETINAFACE),
    ("face_blur", "not a file of tensors"): garbled(RETINAFACE),
    ("face_blur", "lacks a weight"): tensors(RETINAFACE, without("layer4.2.bn3.running_var")),
    ("face_blur", "NaN in the network"): tensors(RETINAFACE, with_nan("fpn.merge1.0.weight")),
    ("face_blur", "NaN in a head"): tensors(RETINAFACE, with_nan("ClassHead.0.conv1x1.bias")),
    ("face_blur", "output overflows"): tensors(RETINAFACE, filled("running_var", 0.0)),
}

# Faults of a running guard


free_again = threading.Event()  # ends what hangs


def raises(_: object) -> None:
    raise RuntimeError("the device is lost")


def hangs(_: object) -> None:
    watched_thread.time.wind(3600)
    free_again.wait(60)


RUNNING_FAULTS: dict[str, Callable[[object], object]] = {
    "exception": raises,
    "timeout": hangs,
    "unknown answer": lambda _: "Safe",
    "unknown verdict": lambda _: Judgement(7),  # type: ignore[arg-type]
    "wrong number of frames": lambda given: (given[:1], Judgement(0)),  # type: ignore[arg-type,index]
}
GUARDS = {  # profile, guard: its kind, and the method that is asked
    ("published", "blocklist"): ("prompt", "judge"),
    ("published", "aegis"): ("prompt", "judge"),
    ("published", "video_content"): ("content", "judge"),
    ("published", "face_blur"): ("filters", "filter"),
    ("embedded", "blocklist"): ("prompt", "judge"),
    ("embedded", "degenerate_video"): ("content", "judge"),
    ("embedded", "face_blur"): ("filters", "filter"),
}
RUNNING = [(*guard, *asked, fault) for guard, asked in GUARDS.items() for fault in RUNNING_FAULTS]


def run(guardrail: Guardrail, frames: np.ndarray, prompt: str) -> tuple[int, str]:
    """A goal: how many numbers of pixels left, and why not where they did not."""
    clip = Clip(frames[:1], (0,), 10.0)
    try:
        with guardrail.screen(prompt, Crop(0, 0, 96, 64)) as screening:
            screening.admit_prompt()
            screening.inspect(frames)
            return screening.release(clip, "a model", 0, tuple).frames.size, ""
    except GuardrailUnavailable as refusal:
        return 0, str(refusal)


def spec(folder: Path) -> Spec:
    return Spec(folder.parent / "Cosmos-1.0-Autoregressive-5B-Video2World")


@pytest.mark.parametrize("guard, fault", FILE_FAULTS)
def test_a_fault_in_a_file_lets_no_pixel_out(damaged, noise, guard, fault):
    FILE_FAULTS[guard, fault](damaged)
    try:
        guardrail = Guardrail.for_model(spec(damaged), timeout_s=60)
    except GuardrailUnavailable as refusal:
        assert str(damaged) in str(refusal)  # it says where to look
    else:
        assert fault in ("unknown label", "logits overflow", "NaN features", "output overflows")
        pixels, reason = run(guardrail, noise(4), "a red cube")
        assert pixels == 0 and reason.startswith(f"guard {guard} failed")


@pytest.fixture(scope="module")
def guardrails(request) -> Callable[[str], Guardrail]:
    """The profile's guardrail, loaded once; only the published one needs its packages."""

    @cache
    def load(profile: str) -> Guardrail:
        if profile == "embedded":
            return Guardrail.for_model(Spec(Path("foresight-small"), published=False), timeout_s=60)
        return Guardrail.for_model(spec(request.getfixturevalue("published")), timeout_s=60)

    return load


@pytest.mark.parametrize("profile, name, kind, method, fault", RUNNING)
def test_a_guard_that_fails_while_it_runs_lets_no_pixel_out(
    guardrails, noise, monkeypatch, wound, profile, name, kind, method, fault
):
    guardrail = guardrails(profile)
    guard = next(guard for guard in getattr(guardrail.guards, kind) if guard.name == name)
    prompt = f"a cube, {profile} {name}, {fault}"  # one that no test before it had judged
    free_again.clear()
    with monkeypatch.context() as patch:
        patch.setattr(guard, method, RUNNING_FAULTS[fault])
        pixels, reason = run(guardrail, noise(4), prompt)
        assert pixels == 0 and reason.startswith(f"guard {name} ")
        assert ("did not answer within 60 s" in reason) is (fault == "timeout")
    free_again.set()
    assert run(guardrail, noise(4), prompt) == (noise(4).size, ""), "the next goal must be served"


@pytest.mark.parametrize(
    "boxes",
    [[], [np.full((1, 4), np.nan)] * 4, [np.array([[0, 0, 30, np.inf]])] * 4, "nonsense"],
    ids=["too few", "NaN", "infinity", "no boxes"],
)
@pytest.mark.parametrize("profile", ["published", "embedded"])
def test_a_face_detector_that_fails_lets_no_pixel_out(guardrails, noise, monkeypatch, profile, boxes):
    guardrail = guardrails(profile)
    monkeypatch.setattr(guardrail.guards.filters[0]._detector, "detect", lambda frames: boxes)
    pixels, reason = run(guardrail, noise(4), "a cube")
    assert pixels == 0 and reason.startswith("guard face_blur failed")
