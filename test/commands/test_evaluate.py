"""`cosmos_ros evaluate` as its users call it, on recordings good and bad, with a whole world model in miniature."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from cosmos_ros.commands import cli
from cosmos_ros.recordings.bag import Bag

pytestmark = pytest.mark.processes

START = 1_700_000_000_000_000_000
RATE = 10.0  # the tiny checkpoint's


def stamps(n: int, rate: float = RATE) -> list[int]:
    return [START + round(i * 1e9 / rate) for i in range(n)]


@pytest.fixture(scope="module")
def bag(tmp_path_factory, write_bag, moving_scene) -> Path:
    """5.2 s of 10 Hz: windows at 0.8, 1.8 and 2.8 s."""
    return write_bag(tmp_path_factory.mktemp("bags") / "drive", moving_scene(53), stamps(53))


@pytest.fixture
def evaluate(tiny_checkpoint, tmp_path, capsys):
    """evaluate(*bags, **options) -> (exit status, metrics.json or None, what was said on stderr)"""

    def call(*bags: Path, options: tuple[str, ...] = ()) -> tuple[int, dict | None, str]:
        folder = tmp_path / "out"
        arguments = ["evaluate", *map(str, bags), "--out", str(folder), "--checkpoint", str(tiny_checkpoint)]
        status = cli.main([*arguments, "--device", "cpu", "--workers", "1", *options])
        metrics = folder / "metrics.json"
        return status, json.loads(metrics.read_text()) if metrics.exists() else None, capsys.readouterr().err

    return call


@pytest.fixture(scope="module")
def whole(bag, tiny_checkpoint, tmp_path_factory) -> Path:
    """The folder of one evaluation of the bag by one worker. Do not change its files."""
    folder = tmp_path_factory.mktemp("evaluation") / "whole"
    arguments = ["evaluate", str(bag), "--out", str(folder), "--checkpoint", str(tiny_checkpoint)]
    assert cli.main([*arguments, "--device", "cpu", "--workers", "1"]) == 0
    return folder


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def timeless(metrics: dict) -> dict:
    return {key: value for key, value in metrics.items() if key != "time"}


def test_a_recording_is_evaluated_in_every_row(whole):
    metrics = metrics_of(whole)
    assert metrics["complete"] and metrics["schema"] == "cosmos_ros/evaluation/2"
    windows, summary = metrics["windows"], metrics["summary"]
    assert [window["time_ns"] - START for window in windows] == [800_000_000, 1_800_000_000, 2_800_000_000]
    assert summary["windows"] == 3 and not metrics["skipped"]
    rows = ["model", "repeat_last_frame", "constant_flow", "tokenizer_round_trip", "truth"]
    assert sorted(summary["rows"]) == sorted(rows)
    for window in windows:
        assert window["conditioning_stamps_ns"][-1] == window["time_ns"]
        for row in (window["samples"][0], *(window[name] for name in rows[1:4])):
            assert all(len(row[metric]) == 24 for metric in ("psnr", "moving_psnr", "ssim", "motion_error", "sampson"))
    assert {"python", "torch", "numpy"} <= metrics["versions"].keys() and metrics["hardware"]["cpu"]
    assert metrics["model"]["name"] == "tiny" and metrics["model"]["guardrail"].startswith("embedded: ")
    lines = list(csv.DictReader((whole / "windows.csv").open()))
    assert len(lines) == 3
    mean = sum(windows[1]["samples"][0]["psnr"]) / 24
    assert float(lines[1]["model_psnr"]) == pytest.approx(mean, abs=1e-4)
    timing = json.loads((whole / "timing.json").read_text())
    assert timing["seconds_per_window"]["predicting"] > 0


def test_the_same_inputs_give_the_same_file_but_for_its_times_whatever_the_split(evaluate, bag, whole):
    status, split, _ = evaluate(bag, options=("--workers", "3"))
    assert status == 0 and timeless(split) == timeless(metrics_of(whole)) and split["time"] != metrics_of(whole)["time"]


def test_a_model_that_is_cut_over_two_processes_gives_the_same_numbers(evaluate, bag, whole):
    status, cut, said = evaluate(bag, options=("--gpus", "2", "--every", "10"))
    assert status == 0, said
    first = metrics_of(whole)["windows"][0]
    assert cut["windows"] == [first]


def test_a_run_goes_on_from_what_is_there(evaluate, bag, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    kept, without_pictures, lost = sorted((tmp_path / "out" / "windows").glob("*[0-9].json"))
    lost.unlink()
    without_pictures.with_suffix(".pictures.json").unlink()
    before = kept.stat().st_mtime_ns
    status, resumed, _ = evaluate(bag, options=("--resume",))
    assert status == 0 and timeless(resumed) == timeless(metrics_of(whole))
    assert kept.stat().st_mtime_ns == before
    timed = json.loads((tmp_path / "out" / "timing.json").read_text())["windows"]
    assert list(timed) == [without_pictures.stem, lost.stem]


def test_results_are_neither_overwritten_nor_mixed(evaluate, bag, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    status, metrics, said = evaluate(bag)
    assert status == 1 and "go on with --resume, or choose another --out" in said
    status, metrics, said = evaluate(bag, options=("--resume", "--seed", "5"))
    assert status == 1 and "other settings (seed was 0, is 5 now)" in said and metrics == metrics_of(whole)


def test_an_evaluation_that_another_release_began_is_refused_in_words(evaluate, bag, whole, tmp_path):
    """One that did not note yet by which hypothesis a sample was refined."""
    shutil.copytree(whole, tmp_path / "out")
    file = min((tmp_path / "out" / "windows").glob("*[0-9].json"))
    record = json.loads(file.read_text())
    del record["samples"][0]["hypothesis"]
    file.write_text(json.dumps(record))
    status, metrics, said = evaluate(bag, options=("--resume",))
    assert status == 1 and metrics == metrics_of(whole), "nothing of it was changed"
    assert "that another release began: its records have no 'hypothesis', which is needed now; choose another" in said


@pytest.mark.parametrize("name", ["report.html", "metrics.json", "settings.json"])
def test_files_of_somebody_else_are_not_overwritten(evaluate, bag, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"schema": "mine"}')
    status, _, said = evaluate(bag)
    assert status == 1 and f"somebody else that would be overwritten ({name})" in said
    assert [(file.name, file.read_text()) for file in (tmp_path / "out").iterdir()] == [(name, '{"schema": "mine"}')]


def test_a_run_that_evaluated_nothing_does_not_claim_its_folder(evaluate, bag):
    assert evaluate(bag, options=("--image-topic", "/front"))[0] == 1
    status, metrics, _ = evaluate(bag, options=("--every", "10"))
    assert status == 0 and metrics["summary"]["windows"] == 1


def test_samples_give_mean_and_best(evaluate, bag):
    status, metrics, _ = evaluate(bag, options=("--samples", "2", "--every", "10", "--seed", "4"))
    assert status == 0 and [sample["seed"] for sample in metrics["windows"][0]["samples"]] == [4, 5]
    assert metrics["temperature"] > 0 and 0 < metrics["top_p"] <= 1, "what was drawn with, though none was asked for"
    rows = metrics["summary"]["rows"]
    assert rows["model_best_of_n"]["psnr"]["mean"] >= rows["model"]["psnr"]["mean"]


def test_another_horizon_is_measured_over_its_steps_with_the_seams_named(evaluate, bag, whole, tmp_path):
    status, metrics, said = evaluate(bag, options=("--frames", "40", "--every", "10"))
    assert status == 0, said
    (window,) = metrics["windows"]
    assert metrics["frames"] == 40 and window["seams"] == [25]
    expected = metrics_of(whole)["windows"][0]
    assert window["samples"][0]["psnr"][:24] == expected["samples"][0]["psnr"]
    assert len(metrics["summary"]["rows"]["model"]["psnr"]["per_step"]["mean"]) == 40
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="seam"') == page.count('class="card chart"')


def test_a_horizon_that_cannot_be_is_refused(evaluate, bag):
    status, _, said = evaluate(bag, options=("--frames", "10001"))
    assert status == 1 and "frames must lie in 1..10000; got 10001" in said


def test_many_bags_of_which_one_is_damaged_and_one_is_none(evaluate, bag, tmp_path, write_bag, moving_scene):
    damaged = write_bag(tmp_path / "damaged", moving_scene(60, 96, 128), stamps(60), encoding="png")
    file = next(damaged.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    status, metrics, said = evaluate(bag, damaged, tmp_path / "nowhere", options=("--every", "10"))
    assert status == 0 and [window["bag"] for window in metrics["windows"]] == ["drive", "damaged"]
    _, second, third = metrics["recordings"]
    assert "damaged or cut off" in second["losses"][0] and "were lost" in second["losses"][1]
    assert "does not exist" in third["error"]
    assert "damaged or cut off" in said and "does not exist" in said


def test_a_bag_that_breaks_its_reader_does_not_end_the_evaluation_of_the_others(
    evaluate, bag, tmp_path, write_bag, moving_scene
):
    (tmp_path / "text.mcap").write_text("a note")
    os.mkfifo(tmp_path / "pipe.db3")
    deep = write_bag(tmp_path / "deep", moving_scene(53), stamps(53))
    (deep / "metadata.yaml").write_text("[" * 20_000)
    video = tmp_path / "broken.mp4"
    video.write_bytes(bytes(1000))
    status, metrics, _ = evaluate(
        tmp_path / "text.mcap", tmp_path / "pipe.db3", deep, video, bag, options=("--every", "10")
    )
    assert status == 0 and [window["bag"] for window in metrics["windows"]] == ["deep", "drive"]
    errors = [recording.get("error", "") for recording in metrics["recordings"]]
    assert "it is text" in errors[0] and "is a named pipe" in errors[1] and "cannot be decoded" in errors[3]
    assert "metadata.yaml cannot be used" in metrics["recordings"][2]["losses"][0]


def test_a_recording_that_ends_in_an_error_counts_up_to_there(evaluate, bag, monkeypatch):
    whole = Bag._frames

    def broken(self, topic):
        for i, frame in enumerate(whole(self, topic)):
            if i == 45:
                raise KeyError("what nobody thought of")
            yield frame

    monkeypatch.setattr(Bag, "_frames", broken)
    status, metrics, said = evaluate(bag, bag, options=("--every", "10"))
    assert status == 0 and metrics["summary"]["windows"] == 2
    assert all("KeyError: 'what nobody thought of'" in bag["losses"][0] for bag in metrics["recordings"])
    assert "what nobody thought of" in said and "Traceback" not in said


def test_a_video_is_evaluated_like_a_bag(evaluate, tmp_path, moving_scene):
    with av.open(str(tmp_path / "drive.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = 48, 64
        for frame in moving_scene(53):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    status, metrics, _ = evaluate(tmp_path / "drive.mp4")
    assert status == 0 and metrics["summary"]["windows"] == 3
    assert metrics["recordings"] == [{"name": "drive.mp4", "topic": "", "losses": [], "notes": []}]


def test_windows_in_which_too_little_moves_are_left_out(evaluate, tmp_path, write_bag, moving_scene):
    """Four seconds of a scene that moves, then four of one that stands still."""
    frames = np.concatenate([moving_scene(40), np.repeat(moving_scene(1), 40, axis=0)])
    bag = write_bag(tmp_path / "bag", frames, stamps(80))
    status, metrics, _ = evaluate(bag, options=("--min-motion", "0.02"))
    assert status == 0 and metrics["skipped_by_reason"]["STILL"] >= 1
    assert all(window["moving_share"] >= 0.02 for window in metrics["windows"])
    assert "0.0% of the pixels change within the horizon, and --min-motion is 0.02" in metrics["skipped"][-1]["message"]


def test_an_encoding_that_changes_is_said_and_both_parts_are_evaluated(evaluate, tmp_path, write_bag, moving_scene):
    encodings = ["rgb8"] * 40 + ["bgr8"] * 40
    changing = write_bag(tmp_path / "changing", moving_scene(80), stamps(80), encoding=encodings)
    status, metrics, _ = evaluate(changing, options=("--every", "10"))
    assert status == 0 and metrics["summary"]["windows"] == 2
    assert "the camera changes at" in metrics["recordings"][0]["notes"][0]


def test_windows_with_gaps_are_skipped_and_counted_with_the_reason(evaluate, tmp_path, write_bag, moving_scene):
    kept = [i for i in range(90) if i not in (20, 21)]
    gappy = write_bag(tmp_path / "gappy", moving_scene(90)[kept], [stamps(90)[i] for i in kept])
    status, metrics, _ = evaluate(gappy)
    assert status == 0 and metrics["skipped_by_reason"] == {"UNEVEN_FRAMES": 3}
    assert len(metrics["windows"]) == 3 and "is missing at 10 Hz" in metrics["skipped"][0]["message"]


def test_a_rollout_that_the_guardrail_refuses_is_counted_and_listed(evaluate, tmp_path, write_bag):
    """Before a wall of one colour the miniature tokenizer gives one colour back, frame after frame."""
    wall = np.full((40, 48, 64, 3), 128, np.uint8)
    status, metrics, errors = evaluate(write_bag(tmp_path / "wall", wall, stamps(40)), options=("--temperature", "0"))
    refused = [window["refused"] for window in metrics["windows"]]
    assert status == 1 and len(refused) == metrics["summary"]["refused"] == 1
    assert refused[0]["code"] == "BLOCKED_VIDEO" and refused[0]["reasons"]
    assert "the guardrail refused all 1 windows" in errors
    assert refused[0]["reasons"][0] in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("recorded", "options", "said"),
    [
        (53, ("--image-topic", "/front"), "has no topic /front; its image topics are /camera/image_raw (sensor_msgs"),
        (20, (), "it lasts 1.90 s, and a window 3.20 s"),
        (0, (), "is empty: it holds no messages"),
    ],
)
def test_nothing_to_evaluate_is_an_error_and_still_a_report(
    evaluate, tmp_path, write_bag, moving_scene, recorded, options, said
):
    bag = write_bag(tmp_path / "bag", moving_scene(60)[:recorded], stamps(recorded))
    status, metrics, errors = evaluate(bag, options=options)
    assert status == 1 and said in errors
    assert metrics["summary"]["windows"] == 0 and "nothing to say" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--every", "0"), "--every must be positive"),
        (("--samples", "0"), "--samples must be positive"),
        (("--workers", "-1"), "--workers must not be negative"),
        (("--checkpoint", "/nowhere"), "/nowhere"),
        (("--model", "/nowhere"), "/nowhere"),
        (("--gpus", "0"), "gpus must be a whole number from 1 to 64; got 0"),
        (("--memory", "huge"), "memory must be one of auto, fast, balanced, low; got 'huge'"),
        (("--prompt", "a ball"), "takes no prompt; leave it empty"),
        (("--top-p", "2"), "top_p must be a number from -1 to 1, but not 0; got 2.0"),
    ],
)
def test_settings_that_make_no_sense_are_said(evaluate, bag, options, said):
    status, _, errors = evaluate(bag, options=options)
    assert status == 1 and said in errors


def test_ray_that_is_not_there_is_said(evaluate, bag, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, errors = evaluate(bag, options=("--ray", "local"))
    assert status == 1 and "--ray needs Ray, which is not installed: python -m pip install" in errors


@pytest.fixture(scope="module")
def learned(alexnet_weights, i3d_weights) -> tuple[str, ...]:
    """Options that add LPIPS and FVD."""
    return ("--lpips-weights", str(alexnet_weights), "--fvd-weights", str(i3d_weights))


@pytest.fixture(scope="module")
def with_learned(bag, tiny_checkpoint, learned, tmp_path_factory) -> Path:
    """As `whole`, with LPIPS and FVD. Do not change its files."""
    folder = tmp_path_factory.mktemp("evaluation") / "learned"
    arguments = ["evaluate", str(bag), "--out", str(folder), "--checkpoint", str(tiny_checkpoint), *learned]
    assert cli.main([*arguments, "--device", "cpu", "--workers", "1"]) == 0
    return folder


def test_lpips_and_fvd_where_their_weights_are_given(with_learned, whole):
    metrics, without = metrics_of(with_learned), metrics_of(whole)
    summary = metrics["summary"]
    assert any("FVD over 3 windows means little" in sentence for sentence in summary["verdict"])
    rows = ("model", "repeat_last_frame", "constant_flow", "tokenizer_round_trip")
    assert all(len(summary["rows"][row]["lpips"]["per_step"]["mean"]) == 24 for row in rows)
    assert all(summary["rows"][row]["lpips"]["mean"] > 0 and summary["fvd"][row] > 0 for row in rows)
    assert all("video_features" not in window for window in metrics["windows"])
    lines = list(csv.DictReader((with_learned / "windows.csv").open()))
    mean = sum(metrics["windows"][0]["constant_flow"]["lpips"]) / 24
    assert float(lines[0]["constant_flow_lpips"]) == pytest.approx(mean, abs=1e-4)
    assert summary["rows"]["model"]["psnr"] == without["summary"]["rows"]["model"]["psnr"]
    report, plain = ((folder / "report.html").read_text() for folder in (with_learned, whole))
    assert "<th>LPIPS" in report and "<th>FVD" in report and "not reported" not in report
    assert "<th>LPIPS" not in plain and "LPIPS is not reported" in plain and "FVD is not reported" in plain


def test_lpips_and_fvd_are_the_same_on_any_split_and_after_going_on(evaluate, bag, learned, with_learned, tmp_path):
    shutil.copytree(with_learned, tmp_path / "out")
    for lost in sorted((tmp_path / "out" / "windows").glob("*[0-9].json"))[1:]:
        lost.unlink()
    status, _, said = evaluate(bag, options=(*learned[2:], "--resume"))
    assert status == 1 and "other settings (lpips_weights was " in said
    status, resumed, _ = evaluate(bag, options=(*learned, "--resume", "--workers", "2"))
    assert status == 0 and timeless(resumed) == timeless(metrics_of(with_learned))


@pytest.mark.parametrize(
    ("option", "expected"), [("--lpips-weights", "alexnet-owt-7be5be79.pth"), ("--fvd-weights", "i3d_torchscript.pt")]
)
def test_a_wrong_weights_file_is_said_with_the_right_one_at_once(evaluate, bag, tmp_path, option, expected):
    wrong = tmp_path / "wrong.pt"
    wrong.write_text("not weights")
    status, metrics, said = evaluate(bag, options=(option, str(wrong)))
    assert status == 1 and metrics is None
    assert "wrong.pt cannot serve" in said and expected in said and "Traceback" not in said


def test_interrupting_leaves_a_report_of_what_is_there(bag, tmp_path, tiny_checkpoint):
    folder = tmp_path / "out"
    arguments = ["evaluate", str(bag), "--out", str(folder), "--checkpoint", str(tiny_checkpoint), "--device", "cpu"]
    arguments += ["--every", "0.01", "--workers", "1"]  # 200 windows: it will not be done by then
    run = subprocess.Popen(
        [sys.executable, "-m", "cosmos_ros.commands.cli", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 300
    while not list((folder / "windows").glob("*[0-9].json")):
        assert run.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)  # as Ctrl-C does: the workers hear it too
    _, said = run.communicate(timeout=300)
    assert run.returncode == 130 and "go on with --resume" in said and "Traceback" not in said
    metrics = json.loads((folder / "metrics.json").read_text())
    assert not metrics["complete"] and 0 < metrics["summary"]["windows"] < 200
    assert "This evaluation is not complete" in (folder / "report.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_whatever_ends_an_evaluation_ends_its_workers(bag, tmp_path, tiny_checkpoint, number):
    folder = tmp_path / "out"
    arguments = ["evaluate", str(bag), "--out", str(folder), "--checkpoint", str(tiny_checkpoint), "--device", "cpu"]
    run = subprocess.Popen(
        [sys.executable, "-m", "cosmos_ros.commands.cli", *arguments, "--every", "0.01", "--workers", "2"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 300
    while not list((folder / "windows").glob("*[0-9].json")):
        assert run.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    assert len(members(run.pid)) >= 3
    run.send_signal(number)
    assert run.wait(300) == (130 if number == signal.SIGTERM else -number)
    while members(run.pid):
        assert time.monotonic() < end, "processes were left behind"
        time.sleep(0.1)
    assert (number == signal.SIGKILL) or "not complete" in (folder / "report.html").read_text()


def members(session: int) -> list[int]:
    """The processes of a session that still run (Linux: /proc)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, theirs = stat.read_text().rpartition(")")[2].split()[:4]
            if int(theirs) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


def test_the_same_numbers_over_ray(evaluate, bag, whole):
    pytest.importorskip("ray", reason="Ray is an optional extra: requirements/ray.txt")
    status, cluster, _ = evaluate(bag, options=("--ray", "local", "--workers", "2"))
    assert status == 0 and timeless(cluster) == timeless(metrics_of(whole))
