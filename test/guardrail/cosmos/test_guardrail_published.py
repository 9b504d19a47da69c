"""Cosmos-1.0-Guardrail: each guard on a small folder of the published format, read by the code for the real one."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cosmos_ros.errors import PromptBlocked, VideoBlocked
from cosmos_ros.guardrail import Guardrail
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.rollout import Clip, Crop, GuardedRollout

pytestmark = pytest.mark.slow  # as a whole

NAMES = ["blocklist", "aegis", "video_content", "face_blur"]


@dataclass(frozen=True)
class Spec:
    directory: Path
    name: str = "Cosmos-1.0-Autoregressive-5B-Video2World"
    published: bool = True
    takes_prompt: bool = True
    frame_size: tuple[int, int] = (64, 96)


@pytest.fixture(scope="module")
def guardrail(published: Path) -> Guardrail:
    return Guardrail.for_model(Spec(published.parent / "Cosmos-1.0-Autoregressive-5B-Video2World"), timeout_s=60)


def predict(guardrail: Guardrail, prompt: str, *chunks: np.ndarray) -> GuardedRollout:
    clip = Clip(np.zeros((1, 64, 96, 3), np.uint8), (0,), 10.0)
    with guardrail.screen(prompt, Crop(0, 0, 96, 64)) as screening:
        screening.admit_prompt()
        for frames in chunks:
            screening.inspect(frames)
        return screening.release(clip, "a model", 0, tuple)


@pytest.mark.slow
def test_all_guards_pass_what_is_harmless(guardrail, noise):
    rollout = predict(guardrail, "a robot arm lifts a cube", noise(8, 0), noise(8, 1))
    assert [(d.guard, d.verdict) for d in rollout.guardrail.decisions] == [(name, Verdict.PASSED) for name in NAMES]
    assert rollout.guardrail.profile == guardrail.profile == "Cosmos-1.0-Guardrail"
    assert np.array_equal(rollout.frames, np.concatenate([noise(8, 0), noise(8, 1)]))


@pytest.mark.parametrize(
    "prompt, reason",
    [
        ("a rotten turnip", "blocklist .*custom"),
        ("the arm will wreck the table", "aegis .*O1 Violence, O3 Criminal Planning/Confessions"),
    ],
)
def test_the_prompt_guards_refuse_by_name_and_class(guardrail, prompt, reason):
    with pytest.raises(PromptBlocked, match=reason):
        predict(guardrail, prompt)


def test_the_content_guard_refuses_by_class_and_frame(guardrail, noise):
    frames = noise(8, 1)
    frames[5] = 255
    with pytest.raises(VideoBlocked, match="video_content refused predicted frame 14: Violence") as refusal:
        predict(guardrail, "a cube", noise(8, 0), frames)
    decisions = {decision.guard: decision for decision in refusal.value.report.decisions}
    assert (decisions["video_content"].verdict, decisions["video_content"].detail) == (Verdict.REFUSED, "Violence")


def test_the_posture_names_every_guard_with_the_hash_of_its_files(guardrail, published):
    assert [guard.name for guard in guardrail.guards.everyone] == NAMES
    faces = published / "face_blur_filter" / "Resnet50_Final.pth"
    assert guardrail.guards.everyone[-1].weights == hashlib.sha256(faces.read_bytes()).hexdigest()
    assert all(f"{guard.name} {guard.weights}" in guardrail.posture for guard in guardrail.guards.everyone)
    assert len({guard.weights for guard in guardrail.guards.everyone}) == 4


def test_the_hash_of_several_files_is_sha256sums_over_their_hashes_and_paths(guardrail, published):
    folder = published / "blocklist"
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    listing = "".join(f"{hashlib.sha256((folder / file).read_bytes()).hexdigest()}  {file}\0" for file in files)
    assert guardrail.guards.everyone[0].weights == hashlib.sha256(listing.encode()).hexdigest()


def test_another_file_is_another_hash(damaged, guardrail):
    (damaged / "blocklist" / "custom" / "tools").write_text("Wrench\n")
    other = Guardrail.for_model(Spec(damaged.parent / "Cosmos-1.0-Autoregressive-5B-Video2World"))
    same = [a.weights == b.weights for a, b in zip(guardrail.guards.everyone, other.guards.everyone, strict=True)]
    assert same == [False, True, True, True]


def test_the_folder_is_found_beside_the_checkpoint_inside_it_or_where_it_is_said_to_be(damaged, tmp_path):
    (tmp_path / "away").mkdir()
    inside = tmp_path / "away" / "Cosmos-Predict1-4B"
    inside.mkdir()
    spec = Spec(inside, takes_prompt=False)
    assert Guardrail.for_model(spec, folder=damaged).guards.everyone
    damaged.rename(inside / "guardrail")
    assert Guardrail.for_model(spec).guards.everyone


def test_a_model_that_takes_no_text_loads_no_language_model(published):
    guardrail = Guardrail.for_model(Spec(published.parent / "Cosmos-1.0-Autoregressive-4B", takes_prompt=False))
    assert [guard.name for guard in guardrail.guards.everyone] == NAMES[2:]


def test_a_model_of_ones_own_can_run_under_the_whole_guardrail(published):
    guardrail = Guardrail.for_model(Spec(published.parent / "mine", published=False), folder=published)
    assert guardrail.profile == "Cosmos-1.0-Guardrail"


@pytest.mark.parametrize(
    "directory, blocked",
    [("Cosmos-1.0-Autoregressive-5B-Video2World", True), ("Cosmos-Predict1-5B-Video2World", False)],
)
def test_the_checkpoints_family_decides_how_near_a_match_must_be(published, tmp_path, directory, blocked):
    guardrail = Guardrail.for_model(Spec(tmp_path / directory), folder=published, timeout_s=60)
    prompt = "a cube in purplex rain"
    if blocked:
        with pytest.raises(PromptBlocked, match="exact_match: 'purple rain'"):
            predict(guardrail, prompt)
    else:
        with guardrail.screen(prompt, Crop(0, 0, 96, 64)) as screening:
            screening.admit_prompt()


def test_what_is_written_to_a_file_after_it_was_read_reaches_no_guard(damaged, noise):
    """A file that is copied over in place, while the node runs: its hash was told, and what it held then decides."""
    guardrail = Guardrail.for_model(Spec(damaged.parent / "Cosmos-1.0-Autoregressive-5B-Video2World"), timeout_s=60)
    white = np.full_like(noise(2), 255)
    logits = guardrail.guards.content[0].logits(white)
    for file in damaged.rglob("model.safetensors"):
        with file.open("r+b") as opened:
            header = 8 + int.from_bytes(opened.read(8), "little")
            opened.seek(header)
            opened.write(bytes(file.stat().st_size - header))
    with pytest.raises(PromptBlocked, match="aegis"):
        predict(guardrail, "somebody will wreck the shelf")
    assert guardrail.guards.content[0].logits(white).equal(logits)


def test_guards_give_the_device_back_and_go_on(guardrail, noise):
    guardrail.load()
    guardrail.unload()
    assert len(predict(guardrail, "a cube", noise(2)).frames) == 2


def test_the_guards_load_and_judge_without_a_network(published, noise, monkeypatch):
    def no_network(*_):
        raise AssertionError("a guard asked the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    for flag in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(flag, raising=False)
    guardrail = Guardrail.for_model(Spec(published.parent / "Cosmos-1.0-Autoregressive-5B-Video2World"), timeout_s=60)
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
    assert len(predict(guardrail, "a cube on a table", noise(2)).frames) == 2
