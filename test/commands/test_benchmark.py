"""`cosmos_ros benchmark` as its users call it, with a whole world model in miniature."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import cosmos_ros.training  # noqa: F401  (before MuJoCo: it chooses an OpenGL without a display)
from cosmos_ros.commands import cli

mujoco = pytest.importorskip("mujoco", reason="simulating needs requirements/benchmark.txt")
from cosmos_ros.training import simulation  # noqa: E402

pytestmark = pytest.mark.processes

START = 1_700_000_000_000_000_000
N_CLIPS = 1
ROWS = {"model", "repeat_last_frame", "constant_flow", "tokenizer_round_trip", "truth"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def benchmark(cache, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """benchmark(*arguments) -> (exit status, benchmark.json or None, what was said on stdout, and on stderr)"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))

    def call(*arguments: str | Path, out: Path = tmp_path / "out") -> tuple[int, dict | None, str, str]:
        given = [*map(str, arguments), "--out", str(out), "--checkpoint", str(tiny_checkpoint), "--device", "cpu"]
        status = cli.main(["benchmark", *given])
        file, said = out / "benchmark.json", capsys.readouterr()
        return status, json.loads(file.read_text()) if file.exists() else None, said.out, said.err

    return call


@pytest.fixture(scope="module")
def whole(cache, tiny_checkpoint, tmp_path_factory) -> Path:
    """The folder of one benchmark by one worker. Do not change its files."""
    folder = tmp_path_factory.mktemp("benchmark") / "whole"
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("XDG_CACHE_HOME", str(cache))
        given = ["--out", str(folder), "--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--workers", "1"]
        status = cli.main(["benchmark", "physics", "--clips", str(N_CLIPS), *given])
    if status and not (folder / "benchmark.json").exists():
        pytest.skip("no OpenGL without a display here")
    return folder


def content(folder: Path) -> dict:
    return {
        name: value for name, value in json.loads((folder / "benchmark.json").read_text()).items() if name != "time"
    }


def test_it_measures_every_row_after_a_video_and_after_an_image(whole):
    found = content(whole)
    assert found["complete"] and found["schema"] == "cosmos_ros/benchmark/1" and found["benchmark"] == "physics"
    assert found["conditioning"] == [9, 1] and list(found["summary"]) == ["9", "1"]
    for n, steps in (("9", 24), ("1", 32)):
        part = found["summary"][n]
        assert part["evaluation"]["windows"] + part["evaluation"]["refused"] == N_CLIPS
        assert set(part["numbers"]) == ROWS
        windows = [window for window in found["windows"] if window["n_conditioning"] == int(n)]
        assert [len(window["truth_stamps_ns"]) for window in windows] == [steps] * N_CLIPS
    for window in found["windows"]:
        assert len(window["frames_sha256"]) == 64 and window["scene_seed"] == 0


def test_what_is_needed_to_run_it_again_is_there(whole):
    found = content(whole)
    assert found["simulated"]["size"] == [32, 64] and found["simulated"]["frame_rate"] == 10
    assert len(found["simulated"]["kinds"]) == 8
    assert {"mujoco", "torch"} <= found["versions"].keys() and found["hardware"]["cpu"]
    assert found["model"]["fingerprints"] and found["seed"] == 0
    assert found["temperature"] > 0 and 0 < found["top_p"] <= 1
    assert {each["model"] for each in found["published"]} >= {"Cosmos AR 4B"} and found["comparable"]
    report = (whole / "report.html").read_text()
    assert "After 9 frames" in report and "After one image" in report and "Cosmos AR 4B, published" in report
    assert len((whole / "windows.csv").read_text().splitlines()) == 1 + 2 * N_CLIPS


def test_it_goes_on_from_what_is_there_over_any_workers_and_with_more_clips(benchmark, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    kept, lost, *_ = sorted(file for file in (tmp_path / "out" / "windows").glob("*[0-9].json"))
    lost.unlink()
    before = kept.stat().st_mtime_ns
    status, _, _, said = benchmark("physics", "--clips", N_CLIPS)
    assert status == 1 and "go on with --resume, or choose another --out" in said
    status, _, _, said = benchmark("physics", "--frame-rate", "8", "--resume")
    assert status == 1 and "other settings (frame_rate was " in said and "; simulated.frame_rate was " in said
    status, found, said, _ = benchmark("physics", "--clips", N_CLIPS + 1, "--resume", "--workers", "2")
    assert status == 0 and len(found["windows"]) == 2 * (N_CLIPS + 1)
    assert all(window in found["windows"] for window in content(whole)["windows"])
    assert kept.stat().st_mtime_ns == before
    assert f"{N_CLIPS + 1} simulated clips; all that are kept in " in said and "after one image:" in said
    assert "Cosmos AR 4B, published: PSNR 17.91, SSIM 0.490, IoU, all objects 0.394" in said
    status, found, *_ = benchmark("physics", "--clips", N_CLIPS, "--resume")
    assert status == 0 and found["windows"] == content(whole)["windows"], "those of the further clip are not counted"


@pytest.mark.slow
def test_the_same_file_over_ray(benchmark, whole, tmp_path):
    pytest.importorskip("ray", reason="Ray is an optional extra: requirements/ray.txt")
    status, *_ = benchmark("physics", "--clips", N_CLIPS, "--ray", "local", "--workers", "1")
    assert status == 0 and content(tmp_path / "out") == content(whole)


def test_another_folders_files_are_not_overwritten(benchmark, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.json").write_text('{"schema": "cosmos_ros/evaluation/2"}')
    (tmp_path / "out" / "windows").mkdir()
    status, found, _, said = benchmark("failures", "--clips", "1")
    assert status == 1 and found is None and "somebody else that would be overwritten (settings.json, windows)" in said


def test_a_recording_takes_the_place_of_simulated_clips(benchmark, write_bag, moving_scene, tmp_path, monkeypatch):
    for name in [
        name for name in sys.modules if re.match(r"cosmos_ros\.(benchmarks|training)\.(failing|scenes|sim)", name)
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)  # which only simulated clips need
    bag = write_bag(tmp_path / "drive", moving_scene(40), [START + k * 10**8 for k in range(40)])
    status, found, said, _ = benchmark("failures", bag, "--workers", "1")
    assert status == 0 and found["simulated"] is None and found["bags"][0]["name"] == "drive"
    assert [window["n_conditioning"] for window in found["windows"]] == [1, 9]
    assert [window["scene_seed"] for window in found["windows"]] == [None, None] and "windows of drive" in said


def test_a_recording_in_which_nothing_moves_leaves_nothing_behind(benchmark, write_bag, moving_scene, tmp_path):
    still = np.repeat(moving_scene(1), 60, axis=0)
    bag = write_bag(tmp_path / "still", still, [START + k * 10**8 for k in range(60)])
    status, found, _, said = benchmark("failures", bag)
    assert status == 1 and found is None and not (tmp_path / "out").exists()
    assert "all 1 windows were skipped; 0.0% of the pixels change within the horizon, and --min-motion is 0.02" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("failures", "--frame-rate", "200"), "choose another --frame-rate, 4.1 to 66 Hz"),
        (("failures", "--clips", "0"), "--clips must be from 1 to 10000; got 0"),
        (("failures", "drive", "--clips", "2"), "--clips counts simulated clips"),
        (("failures", "--clips", "99999999999"), "--clips must be from 1 to 10000; got 99999999999"),
        (("failures", "--seed", str(2**64)), "seed must lie in 0..9223372036854775807"),
        (("failures", "--prompt", "a ball"), "takes no prompt; leave it empty"),
        (("failures", "nowhere"), "nowhere"),
        (("failures", "--sam2", "weights"), "--sam2 tracks objects for the physics benchmark; failures looks at none"),
        (("physics", "--sam2", "nowhere"), "--sam2 nowhere holds no model.safetensors; expected a folder"),
        (("physics", "drive"), "physics needs to know what truly moved, and takes no recordings; 3d and failures do"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(benchmark, tmp_path, arguments, words):
    status, found, _, said = benchmark(*arguments)
    assert status == 1 and words in said and found is None and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("package", "name"), [("mujoco", "failures"), ("pycolmap", "3d")])
def test_what_is_not_installed_is_named_with_the_command(benchmark, tmp_path, monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    status, _, _, said = benchmark(name)
    assert status == 1 and not (tmp_path / "out").exists()
    assert f"needs {package}" in said and "python -m pip install -r requirements/benchmark.txt" in said


def test_a_machine_without_egl_is_told_so(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.delattr(mujoco, "GLContext", raising=False)
    monkeypatch.setattr(simulation, "_gl_context", simulation._gl_context.__wrapped__)  # which keeps what it made
    status, _, _, said = benchmark("failures", "--clips", "1")
    assert status == 1 and "apt install libegl1" in said and not (tmp_path / "out").exists()
