"""What the doctor says of a checkpoint: each part by its own words, and where all of it fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cosmos_ros.commands.doctor import model
from cosmos_ros.commands.doctor.finding import Finding
from cosmos_ros.device.plan import MODES, Need, plan_memory
from cosmos_ros.pipeline import PIPELINE
from cosmos_ros.settings import ForesightConfig
from cosmos_ros.world_model import ModelSpec

GB = 1_000_000_000


def part(subject: str, spec: ModelSpec, **config: str) -> Finding:
    return next(found for found in model.parts(spec, ForesightConfig(**config)) if found.subject == subject)


def tokenizer(spec: ModelSpec) -> Finding:
    return part("tokenizer", spec)


def guardrail(spec: ModelSpec, folder: str = "") -> Finding:
    return part("guardrail", spec, guardrail=folder)


def text(spec: ModelSpec) -> Finding:
    return part("text", spec)


@pytest.mark.parametrize("damage", [b"", b"no program", None], ids=["empty", "another file", "cut short"])
@pytest.mark.parametrize("name", ["encoder.jit", "decoder.jit"])
def test_a_damaged_tokenizer_is_a_fault(name, damage, tiny_checkpoint, tmp_path):
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    spec = ModelSpec.of_checkpoint(directory)
    assert str(tokenizer(spec)) == f"ok    tokenizer   encoder.jit and decoder.jit in {directory}"
    program = directory / name
    program.write_bytes(program.read_bytes()[:-40] if damage is None else damage)
    found = tokenizer(spec)
    assert found.mark == "FAIL" and name in found.text and "hf download" in found.text


def test_an_autoencoder_is_a_tokenizer_of_its_own(tiny_checkpoint, tmp_path):
    """What it does is seen when it is loaded; here any program will do."""
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    spec = ModelSpec.of_checkpoint(directory)
    (directory / "encoder.jit").rename(directory / "autoencoder.jit")
    assert str(tokenizer(spec)) == f"ok    tokenizer   autoencoder.jit in {directory}"


def test_half_a_tokenizer_is_a_fault(tiny_checkpoint, tmp_path):
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    (directory / "decoder.jit").unlink()
    found = tokenizer(ModelSpec.of_checkpoint(directory))
    assert found.mark == "FAIL" and "decoder.jit does not exist" in found.text and "hf download" in found.text


AEGIS = (
    "models--meta-llama--LlamaGuard-7b/snapshots/0123/model.safetensors",
    "models--nvidia--Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0/snapshots/0123/adapter_model.safetensors",
)
FOR_PROMPTS = (
    *(f"blocklist/{name}/words" for name in ("custom", "whitelist", "exact_match", "nltk_data")),
    *(f"aegis/{name}" for name in AEGIS),
)
FOR_VIDEO = (
    "video_content_safety_filter/safety_filter.pt",
    "video_content_safety_filter/models--google--siglip-so400m-patch14-384/snapshots/0123/model.safetensors",
    "face_blur_filter/Resnet50_Final.pth",
)


@pytest.fixture
def guarded(tiny_text_checkpoint, tmp_path):
    """A published checkpoint that takes prompts, beside a guardrail folder with a file for each that is needed."""
    for name in (*FOR_PROMPTS, *FOR_VIDEO):
        file = tmp_path / "Cosmos-1.0-Guardrail" / name
        file.parent.mkdir(parents=True)
        file.write_text("weights")
    return ModelSpec.of_checkpoint(shutil.copytree(tiny_text_checkpoint, tmp_path / "Cosmos-Predict1-5B-Video2World"))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_guardrail_folder_that_holds_all_is_in_order(suffix, guarded, tmp_path):
    folder = tmp_path / "Cosmos-1.0-Guardrail"
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(suffix))
    assert str(guardrail(guarded)) == f"ok    guardrail   {folder}"


@pytest.mark.parametrize("name", [*FOR_PROMPTS, *FOR_VIDEO])
def test_a_guardrail_folder_that_lacks_something_is_a_fault_with_the_command_to_fetch_it(name, guarded, tmp_path):
    missing = tmp_path / "Cosmos-1.0-Guardrail" / name
    shutil.rmtree(missing.parent) if "blocklist" in name else missing.unlink()
    found = guardrail(guarded)
    assert found.mark == "FAIL" and "hf download" in found.text
    assert ("blocklist/" if "blocklist" in name else missing.parent.name) in found.text


def test_a_damaged_cache_in_a_guardrail_folder_is_a_fault(guarded, tmp_path):
    revision = tmp_path / "Cosmos-1.0-Guardrail/aegis/models--meta-llama--LlamaGuard-7b/refs/main"
    revision.parent.mkdir()
    revision.write_bytes(b"\xff\xfe")
    found = guardrail(guarded)
    assert found.mark == "FAIL" and "refs/main cannot be read" in found.text and "hf download" in found.text


def test_a_model_without_prompts_needs_no_prompt_guards(guarded, tiny_checkpoint, tmp_path):
    folder = tmp_path / "Cosmos-1.0-Guardrail"
    shutil.rmtree(folder / "aegis")
    shutil.rmtree(folder / "blocklist")
    assert guardrail(guarded).mark == "FAIL"
    assert guardrail(ModelSpec.of_checkpoint(tiny_checkpoint), str(folder)).mark == "ok"


def test_what_reads_prompts_is_told(guarded, known_prompt):
    assert str(text(guarded)) == "ok    text        no T5; prompts in text_embeddings.safetensors: 1"
    (guarded.directory / "text_embeddings.safetensors").unlink()
    assert text(guarded).mark == "FAIL"
    t5 = guarded.directory.parent / "google-t5" / "t5-11b"
    t5.mkdir(parents=True)
    published = {"vocab_size": 32128, "d_model": 1024, "d_kv": 128, "d_ff": 65536, "num_layers": 24, "num_heads": 128}
    (t5 / "config.json").write_text(json.dumps(published))
    assert "holds no weights" in text(guarded).text
    for name in ("pytorch_model.bin", "spiece.model"):
        (t5 / name).write_text("not looked into here")
    assert str(text(guarded)) == f"ok    text        T5 of 19.5 GB in {t5}"
    (t5 / "config.json").write_text("{}")
    assert text(guarded).mark == "FAIL" and "config.json gives no" in text(guarded).text


@pytest.mark.skipif(torch.cuda.is_available(), reason="describes a machine without a GPU")
def test_several_gpus_where_there_is_none_are_told(tiny_checkpoint):
    (found,) = model.shares(ModelSpec.of_checkpoint(tiny_checkpoint), gpus=2)
    assert found.mark == "note" and "PyTorch sees none: 2 processes would share the CPU" in found.text


@pytest.mark.parametrize("gpus", [-1, 0, 3, 4])
def test_a_number_of_gpus_that_does_not_divide_the_heads_is_a_fault(gpus, tiny_checkpoint):
    (found,) = model.shares(ModelSpec.of_checkpoint(tiny_checkpoint), gpus)
    assert found.mark == "FAIL" and f"got {gpus}" in found.text


def needs():
    return [Need("transformer", 9 * GB, work=2 * GB, tables=GB), Need("text encoder", 10 * GB), Need("tokenizer", GB)]


@pytest.mark.parametrize(
    ("free", "host", "expected"),
    [
        (80, 60, ["ok", "ok", "ok", "ok"]),
        (22, 60, ["ok", "note", "ok", "ok"]),  # fast does not fit, and need not
        (15, 5, ["ok", "note", "note", "ok", "FAIL"]),  # nowhere to park what auto parks
        (4, 60, ["note", "note", "note", "note", "FAIL"]),
    ],
)
def test_each_mode_has_a_line_and_only_a_gpu_that_no_mode_fits_is_a_fault(free, host, expected):
    plans = {mode: plan_memory(needs(), PIPELINE, free * GB, mode) for mode in MODES}
    found = list(model.modes(plans, host * GB))
    assert [finding.mark for finding in found] == expected
    assert [f"memory {mode}: expected peak" in str(finding) for mode, finding in zip(MODES, found, strict=False)]


@pytest.mark.parametrize(
    ("free", "mark", "words"),
    [
        ([80 * GB] * 4, "ok", "cut over 4 GPUs the transformer takes 8.0 GB of each"),
        ([80 * GB] * 2, "FAIL", "PyTorch sees 2 from `device` on -> ask for fewer"),
        ([80 * GB, 80 * GB, 5 * GB, 7 * GB], "FAIL", "GPU 2 has 5.0 GB free, GPU 3 has 7.0 GB free"),
        ([80 * GB] * 4 + [1 * GB], "ok", "8.0 GB"),
    ],
)
def test_each_of_several_gpus_needs_room_for_its_share(free, mark, words):
    finding = model.ranks(4, 8 * GB, dict(enumerate(free)))
    assert finding.mark == mark and words in str(finding)


@pytest.mark.parametrize(("needed", "mark"), [(True, "FAIL"), (False, "note")])
def test_missing_packages_are_a_fault_where_the_checkpoint_needs_them(needed, mark):
    (found,) = model.missing("reading minds", ("no_such_package", "json", "nor_this"), needed)
    assert found.mark == mark
    assert "no_such_package, nor_this missing, for reading minds" in found.text and "pip install" in found.remedy
    assert list(model.missing("reading JSON", ("json",), needed)) == []


@pytest.fixture
def faults(monkeypatch):
    """faults(spec, guardrail="") -> for what packages are missed by this checkpoint, where none is installed"""
    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None)

    def missed(spec: ModelSpec | None, guardrail: str = "") -> list[str]:
        purposes = ("T5", "video guard", "prompt guard")
        found = [each for each in model.extras(spec, guardrail) if each.mark == "FAIL"]
        return [next(purpose for purpose in purposes if purpose in each.text) for each in found]

    return missed


def test_which_packages_a_checkpoint_needs(guarded, tiny_checkpoint, tiny_text_checkpoint, faults):
    own, own_with_text = ModelSpec.of_checkpoint(tiny_checkpoint), ModelSpec.of_checkpoint(tiny_text_checkpoint)
    assert faults(None) == faults(own) == []
    assert faults(own, "a folder") == ["video guard"]
    assert faults(own_with_text) == [], "embeddings serve without T5"
    assert faults(guarded) == ["video guard", "prompt guard"]
    (guarded.directory / "text_embeddings.safetensors").unlink()
    assert faults(guarded) == ["T5", "video guard", "prompt guard"]


def test_the_diffusion_decoder_is_checked_where_it_is_asked_for(make_checkpoint, write_diffusion_decoder, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "tiny")
    config = ForesightConfig(checkpoint=str(checkpoint), device="cpu", frame_decoder="diffusion")
    spec = ModelSpec.of_checkpoint(checkpoint)

    def findings() -> list[Finding]:
        return list(model.model(spec, config))

    assert [found.subject for found in model.model(spec, ForesightConfig(device="cpu"))].count("decoder") == 0
    assert findings()[0].mark == "FAIL" and "hf download" in findings()[0].text
    folder = write_diffusion_decoder(tmp_path)
    first, *_, last = findings()
    assert str(first).startswith(f"ok    decoder     {folder}") and "RES 2ab" in first.text
    assert (last.subject, last.mark) == ("memory", "ok")
    (folder / "aux_vars.pt").unlink()
    assert findings()[0].mark == "FAIL" and "aux_vars.pt does not exist" in findings()[0].text


def test_a_folder_without_a_model_is_a_fault_that_says_where_one_comes_from(tmp_path):
    spec, found = model.checkpoint(str(tmp_path))
    assert spec is None and found.mark == "FAIL" and "it holds nothing" in found.text
    assert "hf download nvidia/Cosmos-1.0-Autoregressive-4B" in found.remedy
