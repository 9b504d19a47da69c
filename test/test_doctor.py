"""`cosmos_ros doctor`: every finding has its line and its remedy, also where PyTorch or ROS is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cosmos_ros import cli, doctor
from cosmos_ros.node.probe import CameraReport
from cosmos_ros.world_model.memory_plan import MODES, Need, plan_memory

GB = 1_000_000_000
CAMERA = {"publishers": 1, "transport": "raw", "types": ("sensor_msgs/msg/Image",), "rate": 30.0,
          "images": "640x480 rgb8", "usable": True, "theirs": "reliable", "ours": "best effort", "compatible": True}


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
    program = f"import sys; sys.modules[{missing!r}] = None; from cosmos_ros import cli; sys.exit(cli.main(['doctor']))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("FAIL"))
    assert line.split()[1] == word and "cannot be imported" in line and " -> " in line and "install" in line
    assert "disk" in ended.stdout, "it goes on to the end"


def test_a_middleware_that_is_not_there_is_a_fault_and_not_the_end(tiny_checkpoint):
    ended = subprocess.run(
        [sys.executable, "-c", "from cosmos_ros.cli import main; raise SystemExit(main())",
         "doctor", "--checkpoint", tiny_checkpoint],
        env={**os.environ, "RMW_IMPLEMENTATION": "rmw_that_is_not_there"}, capture_output=True, text=True,
    )
    assert ended.returncode == 1, ended.stderr
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("FAIL"))
    assert "rmw_that_is_not_there" in line and "unset RMW_IMPLEMENTATION" in line
    assert "disk" in ended.stdout, "it goes on to the end"


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


def test_a_missing_tokenizer_is_a_fault(tiny_checkpoint, tmp_path, capsys):
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    for program in directory.glob("*.jit"):
        program.unlink()
    status, out = lines(capsys, "--checkpoint", str(directory))
    assert status == 1
    assert any(line.startswith("FAIL  memory") and "decoder.jit" in line for line in out)


def needs():
    return [Need("transformer", 9 * GB, work=2 * GB, on_host=GB), Need("text encoder", 10 * GB), Need("tokenizer", GB)]


@pytest.mark.parametrize(
    ("free", "host", "expected"),
    [
        (80, 60, ["ok", "ok", "ok", "ok"]),
        (22, 60, ["ok", "note", "ok", "ok"]),                   # fast does not fit, and need not
        (15, 5, ["ok", "note", "note", "ok", "FAIL"]),          # nowhere to park what auto parks
        (4, 60, ["note", "note", "note", "note", "FAIL"]),
    ],
)
def test_each_mode_has_a_line_and_only_a_gpu_that_no_mode_fits_is_a_fault(free, host, expected):
    plans = {mode: plan_memory(needs(), free * GB, mode) for mode in MODES}
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


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ({}, ["ok", "ok"], "640x480 rgb8, 30.0 images/s"),
        ({"publishers": 0}, ["FAIL"], "nobody publishes /camera"),
        ({"transport": "", "types": ("std_msgs/msg/String",)}, ["FAIL"], "carries std_msgs/msg/String"),
        ({"theirs": "best effort", "ours": "reliable", "compatible": False, "images": "", "usable": False},
         ["FAIL", "FAIL"], "publisher's QoS best effort, ours reliable -> set image_reliability: auto"),
        ({"images": "data is shorter than step*height", "usable": False}, ["ok", "FAIL"], "data is shorter"),
        ({"rate": 5.0}, ["ok", "FAIL"], "5.0 images/s; the model's rate is 10 Hz"),
        ({"transport": "compressed"}, ["ok", "note", "ok"], "set image_transport: compressed"),
    ],
)  # fmt: skip
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


def test_missing_extras_are_named_with_their_purpose_and_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "EXTRAS", {"no_such_package": ("reading minds", "pip install minds"), "json": ("", "")})
    (finding,) = doctor.extras()
    assert str(finding).split(maxsplit=2)[2] == "no_such_package is not installed: reading minds -> pip install minds"
