"""`cosmos_ros doctor`: every finding has its line and its remedy, also where PyTorch or ROS is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cosmos_ros.commands import cli
from cosmos_ros.commands.doctor import doctor
from cosmos_ros.commands.doctor.robot import CameraReport
from cosmos_ros.device.plan import MODES, Need, plan_memory
from cosmos_ros.foresight import PIPELINE
from cosmos_ros.world_model import ModelSpec

GB = 1_000_000_000
CAMERA = {
    "publishers": 1,
    "transport": "raw",
    "types": ("sensor_msgs/msg/Image",),
    "rate": 30.0,
    "images": "640x480 rgb8",
    "usable": True,
    "theirs": "reliable",
    "ours": "best effort",
    "compatible": True,
}


def lines(capsys, *arguments: str) -> tuple[int, list[str]]:
    status = cli.main(["doctor", *arguments])
    return status, capsys.readouterr().out.splitlines()


def marks(findings) -> list[str]:
    return [finding.mark for finding in findings]


def test_a_machine_that_can_run_the_model_has_no_fault(tiny_checkpoint, capsys):
    status, out = lines(capsys, "--checkpoint", str(tiny_checkpoint))
    assert status == 0
    subjects = [line.split()[1] for line in out]
    for subject in ("python", "PyTorch", "GPU", "checkpoint", "guardrail", "memory", "ROS", "camera", "disk"):
        assert subject in subjects
    assert any("tiny: 64x32 at 10 Hz, takes no prompt" in line for line in out)
    assert any("RMW rmw_" in line for line in out)


@pytest.mark.parametrize(("missing", "word"), [("torch", "PyTorch"), ("rclpy", "ROS")])
def test_it_runs_where_torch_or_ros_is_missing_and_says_how_to_get_it(missing, word):
    hide = f"import sys; sys.modules[{missing!r}] = None"
    program = f"{hide}; from cosmos_ros.commands import cli; sys.exit(cli.main(['doctor']))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("FAIL"))
    assert line.split()[1] == word and "cannot be imported" in line and " -> " in line and "install" in line
    assert "disk" in ended.stdout, "it goes on to the end"


@pytest.mark.parametrize(
    ("package", "raised", "subject"),
    [
        ("torch", OSError("libcublas.so.12: cannot open shared object file"), "PyTorch"),
        ("safetensors", ImportError("\n\nIMPORTANT: READ THIS\n\nit was compiled for another Python\n"), "packages"),
        ("cv2", ImportError("libGL.so.1: cannot open shared object file"), "packages"),
    ],
)
def test_a_package_that_is_broken_is_a_fault_of_one_line_and_not_the_end(package, raised, subject, tmp_path):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise {raised!r}")
    places = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        [sys.executable, "-c", "from cosmos_ros.commands.cli import main; raise SystemExit(main())", "doctor"],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1, ended.stderr
    found = ended.stdout.splitlines()
    assert {line.split()[0] for line in found} <= {"ok", "note", "FAIL"}
    (line,) = (line for line in found if line.startswith(f"FAIL  {subject}"))
    assert str(raised).strip().splitlines()[-1] in line and " -> " in line and "install" in line
    assert "disk" in ended.stdout, "it goes on to the end"


def test_a_middleware_that_is_not_there_is_a_fault_and_not_the_end(tiny_checkpoint):
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "from cosmos_ros.commands.cli import main; raise SystemExit(main())",
            "doctor",
            "--checkpoint",
            tiny_checkpoint,
        ],
        env={**os.environ, "RMW_IMPLEMENTATION": "rmw_that_is_not_there"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1, ended.stderr
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("FAIL"))
    assert "rmw_that_is_not_there" in line and "unset RMW_IMPLEMENTATION" in line
    assert "disk" in ended.stdout, "it goes on to the end"


@pytest.mark.parametrize(("domain", "said"), [("forty", "not an integral number"), ("9999", "too high")])
def test_a_domain_that_cannot_be_is_told_with_what_the_middleware_says_of_it(domain, said, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    (found,) = doctor.ros("", 10.0)
    assert found.mark == "FAIL" and said in found.text and "ROS's environment" in found.remedy


def test_a_checkpoint_that_is_not_there_is_a_fault(tmp_path, capsys):
    status, out = lines(capsys, "--checkpoint", str(tmp_path / "nowhere"))
    assert status == 1
    assert any(line.startswith("FAIL  checkpoint") and "nowhere" in line for line in out)


def test_a_published_checkpoint_without_its_guardrail_is_a_fault_with_the_command_to_fetch_it(
    tiny_checkpoint, tmp_path, capsys
):
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "Cosmos-1.0-Autoregressive-4B"))
    status, out = lines(capsys, "--checkpoint", str(directory))
    assert status == 1
    assert any(line.startswith("FAIL  guardrail") and "hf download nvidia/Cosmos-1.0-Guardrail" in line for line in out)


def test_each_missing_part_has_its_fault_and_memory_is_not_planned_without(tiny_text_checkpoint, tmp_path, capsys):
    directory = Path(shutil.copytree(tiny_text_checkpoint, tmp_path / "Cosmos-1.0-Autoregressive-5B-Video2World"))
    for file in (*directory.glob("*.jit"), directory / "text_embeddings.safetensors"):
        file.unlink()
    status, out = lines(capsys, "--checkpoint", str(directory), "--gpus", "3")
    assert status == 1
    faults = {line.split()[1]: line for line in out if line.startswith("FAIL")}
    assert list(faults) == ["tokenizer", "guardrail", "text", "GPUs"]
    assert "no encoder.jit and decoder.jit" in faults["tokenizer"]
    assert "hf download google-t5/t5-11b" in faults["text"]
    assert "gpus must be 1 or 2, a number that divides this model's 2 key-value heads" in faults["GPUs"]
    assert any(line.startswith("note  memory      not planned") for line in out)


@pytest.mark.parametrize("damage", [b"", b"no program", None], ids=["empty", "another file", "cut short"])
@pytest.mark.parametrize("name", ["encoder.jit", "decoder.jit"])
def test_a_damaged_tokenizer_is_a_fault(name, damage, tiny_checkpoint, tmp_path):
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    spec = ModelSpec.of_checkpoint(directory)
    assert str(doctor.tokenizer(spec, "")) == f"ok    tokenizer   encoder.jit and decoder.jit in {directory}"
    program = directory / name
    program.write_bytes(program.read_bytes()[:-40] if damage is None else damage)
    found = doctor.tokenizer(spec, "")
    assert found.mark == "FAIL" and f"{name} missing, unreadable, cut short" in found.text


def test_an_autoencoder_is_a_tokenizer_of_its_own(tiny_checkpoint, tmp_path):
    """What it holds is seen when it is loaded; here any archive does."""
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    spec = ModelSpec.of_checkpoint(directory)
    (directory / "encoder.jit").rename(directory / "autoencoder.jit")
    assert str(doctor.tokenizer(spec, "")) == f"ok    tokenizer   autoencoder.jit in {directory}"


def test_half_a_tokenizer_is_a_fault(tiny_checkpoint, tmp_path):
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    (directory / "decoder.jit").unlink()
    found = doctor.tokenizer(ModelSpec.of_checkpoint(directory), "")
    assert found.mark == "FAIL" and ": decoder.jit missing" in found.text and "hf download" in found.text


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
    assert str(doctor.guardrail(guarded, "")) == f"ok    guardrail   {folder}"


@pytest.mark.parametrize("name", [*FOR_PROMPTS, *FOR_VIDEO])
def test_a_guardrail_folder_that_lacks_something_is_a_fault_with_the_command_to_fetch_it(name, guarded, tmp_path):
    missing = tmp_path / "Cosmos-1.0-Guardrail" / name
    shutil.rmtree(missing.parent) if "blocklist" in name else missing.unlink()
    found = doctor.guardrail(guarded, "")
    assert found.mark == "FAIL" and "hf download" in found.text
    assert ("blocklist/" if "blocklist" in name else missing.parent.name) in found.text


def test_a_damaged_cache_in_a_guardrail_folder_is_a_fault(guarded, tmp_path):
    revision = tmp_path / "Cosmos-1.0-Guardrail/aegis/models--meta-llama--LlamaGuard-7b/refs/main"
    revision.parent.mkdir()
    revision.write_bytes(b"\xff\xfe")
    found = doctor.guardrail(guarded, "")
    assert found.mark == "FAIL" and "aegis cannot be loaded" in found.text and "hf download" in found.text


def test_a_model_without_prompts_needs_no_prompt_guards(guarded, tiny_checkpoint, tmp_path):
    folder = tmp_path / "Cosmos-1.0-Guardrail"
    shutil.rmtree(folder / "aegis")
    shutil.rmtree(folder / "blocklist")
    assert doctor.guardrail(guarded, "").mark == "FAIL"
    assert doctor.guardrail(ModelSpec.of_checkpoint(tiny_checkpoint), str(folder)).mark == "ok"


def test_what_reads_prompts_is_told(guarded, known_prompt):
    assert str(doctor.text(guarded)) == "ok    text        no T5; prompts in text_embeddings.safetensors: 1"
    (guarded.directory / "text_embeddings.safetensors").unlink()
    assert doctor.text(guarded).mark == "FAIL"
    t5 = guarded.directory.parent / "google-t5" / "t5-11b"
    t5.mkdir(parents=True)
    published = {"vocab_size": 32128, "d_model": 1024, "d_kv": 128, "d_ff": 65536, "num_layers": 24, "num_heads": 128}
    (t5 / "config.json").write_text(json.dumps(published))
    assert "holds no weights" in doctor.text(guarded).text
    for name in ("pytorch_model.bin", "spiece.model"):
        (t5 / name).write_text("not looked into here")
    assert str(doctor.text(guarded)) == f"ok    text        T5 of 9.7 GB in {t5}"
    (t5 / "config.json").write_text("{}")
    assert doctor.text(guarded).mark == "FAIL" and "config.json gives no" in doctor.text(guarded).text


def test_a_gpu_that_does_not_answer_is_a_fault_and_not_the_end(tiny_checkpoint, monkeypatch, capsys):
    def busy(*_):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might be")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    status, out = lines(capsys, "--checkpoint", str(tiny_checkpoint))
    assert status == 1
    (fault,) = (line for line in out if line.startswith("FAIL"))
    assert fault.startswith("FAIL  GPU         cuda:0 does not answer: CUDA error") and "nvidia-smi" in fault
    assert any(line.startswith("note  memory      not planned") for line in out)
    assert any("disk" in line for line in out), "it goes on to the end"


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells of a machine without a GPU")
def test_several_gpus_where_there_is_none_are_told(tiny_checkpoint):
    (found,) = doctor.shares(ModelSpec.of_checkpoint(tiny_checkpoint), gpus=2)
    assert found.mark == "note" and "PyTorch sees none: 2 processes would share the CPU" in found.text


@pytest.mark.parametrize("gpus", [-1, 0, 3, 4])
def test_a_number_of_gpus_that_does_not_divide_the_heads_is_a_fault(gpus, tiny_checkpoint):
    (found,) = doctor.shares(ModelSpec.of_checkpoint(tiny_checkpoint), gpus)
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
    found = list(doctor.modes(plans, host * GB))
    assert marks(found) == expected
    assert [f"memory {mode}: expected peak" in str(finding) for mode, finding in zip(MODES, found, strict=False)]


@pytest.mark.parametrize(
    ("free", "mark", "words"),
    [
        ([80 * GB] * 4, "ok", "cut over 4 GPUs the transformer takes 8.0 GB of each"),
        ([80 * GB] * 2, "FAIL", "PyTorch sees 2 -> ask for fewer"),
        ([80 * GB, 80 * GB, 5 * GB, 7 * GB], "FAIL", "GPU 2 has 5.0 GB free, GPU 3 has 7.0 GB free"),
        ([80 * GB] * 4 + [1 * GB], "ok", "8.0 GB"),
    ],
)
def test_each_of_several_gpus_needs_room_for_its_share(free, mark, words):
    finding = doctor.ranks(4, 8 * GB, free)
    assert finding.mark == mark and words in str(finding)


@pytest.mark.parametrize("topic", ["camera/", "/camera//image", "{camera}", "my camera"])
def test_a_name_that_no_topic_can_have_is_a_fault_and_not_the_end(topic):
    found = list(doctor.ros(topic, 10.0))
    assert marks(found) == ["ok", "FAIL"]
    assert str(found[1]).startswith(f"FAIL  camera      '{topic}' can be no topic: ")
    assert "\n" not in str(found[1]) and found[1].remedy


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ({}, ["ok", "ok"], "640x480 rgb8, 30.00 images/s; the model's rate is 10 Hz"),
        ({"rate": 9.98}, ["ok", "ok"], "9.98 images/s; the model's rate is 10 Hz"),
        ({"rate": 9.49}, ["ok", "FAIL"], "9.49 images/s; the model's rate is 10 Hz -> raise the camera's rate"),
        ({"publishers": 0}, ["FAIL"], "nobody publishes /camera"),
        ({"transport": "", "types": ("std_msgs/msg/String",)}, ["FAIL"], "carries std_msgs/msg/String"),
        (
            {"theirs": "best effort", "ours": "reliable", "compatible": False, "images": "", "usable": False},
            ["FAIL", "FAIL"],
            "publisher's QoS best effort, ours reliable -> set image_reliability: auto",
        ),
        ({"images": "data is shorter than step*height", "usable": False}, ["ok", "FAIL"], "data is shorter"),
        ({"transport": "compressed"}, ["ok", "note", "ok"], "set image_transport: compressed"),
    ],
)
def test_a_camera_is_judged_by_what_was_seen_of_it(change, expected, words):
    found = list(doctor.camera("/camera", CameraReport(**CAMERA | change), model_rate=10.0))
    assert marks(found) == expected
    assert any(words in str(finding) for finding in found)
    assert all(finding.remedy for finding in found if finding.mark == "FAIL")


def test_what_is_out_of_bounds_is_a_fault(monkeypatch):
    monkeypatch.setattr(doctor, "SUPPORTED_PYTHON", ((3, 99), (3, 99)))
    monkeypatch.setattr(doctor, "ROOM_FOR_CACHES", 10**18)
    assert doctor.python().mark == doctor.disk().mark == "FAIL"
    assert "use Python 3.99 to 3.99" in str(doctor.python())


@pytest.mark.parametrize("place", ["x" * 300, "file"])
def test_a_cache_that_cannot_be_used_is_told_with_the_remedy(place, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    found = doctor.disk()
    assert found.mark == "note" and "nothing can be kept" in found.text and place in found.text
    assert "set XDG_CACHE_HOME" in found.remedy


def test_missing_extras_are_faults_where_the_checkpoint_needs_them(monkeypatch):
    minds = doctor.Extra("reading minds", ("no_such_package", "json", "nor_this"), "pip install minds")
    monkeypatch.setattr(doctor, "EXTRAS", (minds, doctor.Extra("reading JSON", ("json",), "")))
    (wanted,), (spare,) = doctor.extras({minds}), doctor.extras(set())
    assert wanted.mark == "FAIL" and spare.mark == "note"
    assert str(wanted).endswith(" no_such_package, nor_this missing, for reading minds -> pip install minds")


def test_which_extras_a_checkpoint_needs(guarded, tiny_checkpoint, tiny_text_checkpoint):
    own, own_with_text = ModelSpec.of_checkpoint(tiny_checkpoint), ModelSpec.of_checkpoint(tiny_text_checkpoint)
    assert doctor.needed_extras(own, "") == set()
    assert doctor.needed_extras(own, "a folder") == {doctor.VIDEO_GUARD}
    assert doctor.needed_extras(own_with_text, "") == set(), "embeddings serve without T5"
    assert doctor.needed_extras(guarded, "") == {doctor.VIDEO_GUARD, doctor.PROMPT_GUARD}
    (guarded.directory / "text_embeddings.safetensors").unlink()
    assert doctor.needed_extras(guarded, "") == {doctor.VIDEO_GUARD, doctor.PROMPT_GUARD, doctor.T5}
