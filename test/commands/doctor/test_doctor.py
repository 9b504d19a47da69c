"""`cosmos_ros doctor`: every finding has its line and its remedy, also where PyTorch or ROS is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cosmos_ros.commands import cli
from cosmos_ros.node import camera_probe

pytestmark = pytest.mark.processes

# No camera is there, so that every look for one would take its whole time.
HURRIED = "from cosmos_ros.node import camera_probe; camera_probe.DISCOVERY_S = 0.1; "


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(camera_probe, "DISCOVERY_S", 0.1)


def lines(capsys, *arguments: str) -> tuple[int, list[str]]:
    status = cli.main(["doctor", *arguments])
    return status, capsys.readouterr().out.splitlines()


def test_a_machine_that_can_run_the_model_has_no_fault(tiny_checkpoint, capsys):
    status, out = lines(capsys, "--checkpoint", str(tiny_checkpoint))
    assert status == 0
    subjects = [line.split()[1] for line in out]
    for subject in ("python", "PyTorch", "GPU", "checkpoint", "guardrail", "memory", "ROS", "camera", "disk"):
        assert subject in subjects
    assert any("tiny: 64x32 at 10 Hz, takes no prompt" in line for line in out)
    assert any("RMW rmw_" in line for line in out)


@pytest.mark.parametrize(("missing", "word"), [("torch", "PyTorch"), ("rclpy", "ROS")])
def test_it_runs_where_torch_or_ros_is_missing_and_says_how_to_get_it(missing, word, tmp_path):
    hide = f"import sys; sys.modules[{missing!r}] = None"
    hurried = HURRIED if missing != "rclpy" else ""
    program = f"{hide}; {hurried}from cosmos_ros.commands import cli; sys.exit(cli.main(['doctor']))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
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
    hurried = HURRIED if package != "cv2" else ""  # without which no camera is looked for
    places = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{hurried}from cosmos_ros.commands.cli import main; raise SystemExit(main())",
            "doctor",
        ],
        cwd=tmp_path,
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


def test_a_middleware_that_is_not_there_is_a_fault_and_not_the_end(tiny_checkpoint, tmp_path):
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "from cosmos_ros.commands.cli import main; raise SystemExit(main())",
            "doctor",
            "--checkpoint",
            tiny_checkpoint,
        ],
        cwd=tmp_path,
        env={**os.environ, "RMW_IMPLEMENTATION": "rmw_that_is_not_there"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1, ended.stderr
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("FAIL"))
    assert "rmw_that_is_not_there" in line and "unset RMW_IMPLEMENTATION" in line
    assert "disk" in ended.stdout, "it goes on to the end"


def test_a_setting_that_cannot_be_ends_it_with_one_line(capsys):
    assert cli.main(["doctor", "--device", "banana"]) == 1
    assert capsys.readouterr().err == "cosmos_ros doctor: device must be auto, cpu, cuda or cuda:N; got 'banana'\n"


def test_a_device_that_is_not_there_is_a_fault(tiny_checkpoint, capsys):
    status, out = lines(capsys, "--checkpoint", str(tiny_checkpoint), "--device", "cuda:99")
    assert status == 1 and any(line.startswith("FAIL  device") and "cuda:99 is not there" in line for line in out)
    assert any(line.startswith("note  memory      not planned") for line in out)


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
