"""`cosmos_ros predict` on files of every kind, alone and by the list, with a whole world model in miniature."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from cosmos_ros import files
from cosmos_ros.commands import cli
from cosmos_ros.foresight import Foresight
from cosmos_ros.recordings.inputs import OUTPUTS, Job, free_name, identities, jobs, read_clip, stale_names
from cosmos_ros.recordings.recording import BadRecording

pytestmark = pytest.mark.slow  # as a whole

S = 1_000_000_000


@pytest.fixture
def predict(tiny_checkpoint, tmp_path, capsys):
    """predict(*inputs) -> (exit status, what was said on stderr); outputs go to tmp_path/out

    printed  give what was printed on stdout too
    """

    def call(*inputs: Path | str, options: tuple[str, ...] = (), printed: bool = False) -> tuple[int | str, ...]:
        arguments = ["predict", *map(str, inputs), "--out", str(tmp_path / "out"), "--checkpoint", str(tiny_checkpoint)]
        status = cli.main([*arguments, "--device", "cpu", *options])
        said = capsys.readouterr()
        return (status, said.err, said.out) if printed else (status, said.err)

    return call


def write_video(path: Path, frames: np.ndarray, rate: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_image(path: Path, frame: np.ndarray) -> Path:
    cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return path


def facts(folder: Path, name: str) -> dict:
    return json.loads((folder / "out" / f"{name}.json").read_text())


def n_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(("asked", "n", "seams"), [(7, 8, []), (49, 56, [33])])
def test_as_many_frames_are_written_as_are_asked_for_with_the_seams_named(
    predict, tmp_path, moving_scene, asked, n, seams
):
    status, said = predict(write_image(tmp_path / "a.png", moving_scene(1)[0]), options=("--frames", str(asked)))
    assert status == 0, said
    told = facts(tmp_path, "a")
    assert len(told["stamps_ns"]) == n and n_frames(tmp_path / "out" / "a.mp4") == 1 + n
    assert told["seams"] == seams and told["first_frame"] == 0


def test_a_negative_number_of_frames_is_refused(predict, tmp_path, moving_scene):
    status, said = predict(write_image(tmp_path / "a.png", moving_scene(1)[0]), options=("--frames", "-8"))
    assert status == 1 and "--frames must not be negative; got -8" in said


def test_each_sample_is_written_with_its_seed_and_is_what_the_seed_gives_alone(predict, tmp_path, moving_scene):
    image = write_image(tmp_path / "a.png", moving_scene(1)[0])
    status, said = predict(image, options=("--samples", "3", "--seed", "8", "--frames", "8"))
    assert status == 0, said
    names = ["a", "a_2", "a_3"]
    assert [(facts(tmp_path, name)["seed"], facts(tmp_path, name)["sample"]) for name in names] == [
        (8, 0),
        (9, 1),
        (10, 2),
    ]
    pictures = [(tmp_path / "out" / f"{name}.png").read_bytes() for name in names]
    assert len(set(pictures)) == 3
    status, said = predict(image, options=("--seed", "9", "--frames", "8"))
    assert status == 0, said
    assert facts(tmp_path, "a")["seed"] == 9 and (tmp_path / "out" / "a.png").read_bytes() == pictures[1]


def test_a_run_of_fewer_samples_leaves_none_of_an_earlier_one(predict, tmp_path, moving_scene):
    image, out = write_image(tmp_path / "a.png", moving_scene(1)[0]), tmp_path / "out"
    assert predict(image, options=("--samples", "5", "--frames", "8"))[0] == 0
    kept = ["a_02.json", "a_b_2.json", "best.json"]  # by names that are none of ours
    for name in kept:
        shutil.copy(out / "a_2.json", out / name)
    (out / "a_4.json").write_text('{"input": "elsewhere/a.png"}')  # somebody else's by now
    (out / "a_5.txt").write_text("a note")
    status, said, printed = predict(image, options=("--samples", "2", "--seed", "8", "--frames", "8"), printed=True)
    assert status == 0 and f"{image}: removed a_3, a_5, which an earlier run had predicted from it" in printed, said
    ours = {f"{name}{suffix}" for name in ("a", "a_2") for suffix in OUTPUTS}
    assert {path.name for path in out.iterdir()} == {*ours, *kept, "a_4.mp4", "a_4.png", "a_4.json", "a_5.txt"}
    assert [facts(tmp_path, name)["seed"] for name in ("a", "a_2")] == [8, 9]


def test_what_is_stale_beside_newer_outputs(tmp_path):
    """What was predicted from the same file, has a name that it gets, is not written anew and is no input itself."""
    image = tmp_path / "a[1].png"
    for name in ("a[1]", *(f"a[1]_{k}" for k in (1, 2, 3, 4, 10, "02")), "a1_2", "a[1]b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"input": str(image)}))
    (tmp_path / "a[1]_5.json").write_text(json.dumps({"input": "elsewhere/a[1].png"}))
    (tmp_path / "a[1]_6.json").write_text("not ours")
    (tmp_path / "a[1]_4.png").touch()
    inputs = identities([tmp_path / "a[1]_4.png"])
    assert stale_names(image, tmp_path, {"a[1]", "a[1]_2"}) == ["a[1]_3", "a[1]_4", "a[1]_10"]
    assert stale_names(image, tmp_path, {"a[1]", "a[1]_2"}, inputs) == ["a[1]_3", "a[1]_10"]
    assert stale_names(image, tmp_path / "nowhere", ()) == []


def test_an_input_that_is_listed_twice_keeps_both_predictions(predict, tmp_path, moving_scene):
    image, out = write_image(tmp_path / "a.png", moving_scene(1)[0]), tmp_path / "out"
    for samples, n in ((3, 6), (1, 2)):
        assert predict(image, image, options=("--samples", str(samples), "--frames", "8"))[0] == 0
        assert len(list(out.glob("*.json"))) == n
    assert {path.stem for path in out.glob("*.json")} == {"a", "a_2"}


def test_a_disk_that_refuses_leaves_the_earlier_run_as_it_was(predict, tmp_path, moving_scene, monkeypatch):
    image, out = write_image(tmp_path / "a.png", moving_scene(1)[0]), tmp_path / "out"
    assert predict(image, options=("--samples", "3", "--frames", "8"))[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write, written = files.os.write, []

    def full(handle: int, data: bytes) -> int:
        written.append(handle)
        if len(written) > 4:  # amid the second sample's files
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", full)
        status, said = predict(image, options=("--samples", "2", "--seed", "8", "--frames", "8"))
    assert status == 1 and re.search(r"a_2\.\w+ could not be written .*the disk is full", said), said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("samples", ["0", "17"])
def test_a_number_of_samples_that_cannot_be_is_refused(predict, tmp_path, moving_scene, samples):
    status, said = predict(write_image(tmp_path / "a.png", moving_scene(1)[0]), options=("--samples", samples))
    assert status == 1 and f"samples must lie in 1..16; got {samples}" in said
    assert not list((tmp_path / "out").glob("a*"))


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_a_video_goes_on_from_its_last_frames_at_the_models_rate(predict, tmp_path, moving_scene, suffix):
    video = write_video(tmp_path / f"drive.{suffix}", moving_scene(60), rate=30)
    status, said = predict(video, options=("--seed", "3"))
    assert status == 0, said
    told = facts(tmp_path, "drive")
    last = told["conditioning_stamps_ns"][-1]
    assert [round((stamp - last) / S, 3) for stamp in told["conditioning_stamps_ns"]] == [
        round(-0.1 * k, 3) for k in range(8, -1, -1)
    ]
    assert last - S == pytest.approx(59 / 30 * S, abs=S / 100)
    assert (told["seed"], told["model"], len(told["stamps_ns"])) == (3, "tiny", 24)
    assert {decision["guard"] for decision in told["guardrail"]["decisions"]} >= {"degenerate_video", "face_blur"}
    assert n_frames(tmp_path / "out" / "drive.mp4") == 33
    assert cv2.imread(str(tmp_path / "out" / "drive.png")) is not None


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_image_alone_gives_32_frames(predict, tmp_path, moving_scene, suffix):
    status, said = predict(write_image(tmp_path / f"still.{suffix}", moving_scene(1)[0]))
    assert status == 0, said
    assert n_frames(tmp_path / "out" / "still.mp4") == 33 and len(facts(tmp_path, "still")["stamps_ns"]) == 32


def test_a_recording(predict, tmp_path, moving_scene, write_bag):
    stamps = [1_700_000_000 * S + i * S // 10 for i in range(15)]
    status, said = predict(write_bag(tmp_path / "robot", moving_scene(15), stamps))
    assert status == 0, said
    assert facts(tmp_path, "robot")["conditioning_stamps_ns"] == stamps[-9:]


def test_a_list_in_which_bad_lines_are_told_and_do_not_stop_the_others(predict, tmp_path, moving_scene):
    one = write_image(tmp_path / "one.png", moving_scene(1)[0])
    (tmp_path / "cut.png").write_bytes(one.read_bytes()[:40])
    lines = [
        json.dumps({"visual_input": str(one)}),
        "{not json",
        json.dumps({"prompt": "no input"}),
        json.dumps({"visual_input": str(tmp_path / "nowhere.mp4")}),
        json.dumps({"visual_input": str(tmp_path / "cut.png")}),
        "",
        json.dumps({"visual_input": str(one), "prompt": "a prompt for a model that takes none"}),
        json.dumps({"visual_input": str(one), "prompt": "", "note": "other keys do no harm"}),
    ]
    listed = tmp_path / "many.jsonl"
    listed.write_text("\n".join(lines))
    status, said = predict(listed)
    assert status == 1
    reasons = {2: "got '{not json'", 3: "KeyError", 4: "does not exist", 5: "no image", 7: "prompt"}
    for number, what in reasons.items():
        assert any(f"line {number}" in line and what in line for line in said.splitlines()), (number, said)
    assert {path.name for path in (tmp_path / "out").glob("*.mp4")} == {"one.mp4", "one_2.mp4"}


def test_a_missing_input_is_named_once_and_before_the_model_is_loaded(predict, tmp_path, monkeypatch):
    monkeypatch.setattr(Foresight, "load", lambda _: pytest.fail("loaded for nothing"))
    missing = tmp_path / "nowhere.mp4"
    (listed := tmp_path / "many.jsonl").write_text(json.dumps({"visual_input": str(missing)}))
    status, said = predict(missing, listed)
    assert status == 1
    assert f"cosmos_ros predict: {missing} does not exist" in said
    assert f"cosmos_ros predict: {listed}, line 1: {missing} does not exist" in said


def test_two_inputs_never_share_a_name(predict, tmp_path, moving_scene):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    inputs = [
        write_image(tmp_path / "a" / "view.png", moving_scene(1)[0]),
        write_image(tmp_path / "b" / "view.jpg", moving_scene(2)[1]),
        write_image(tmp_path / "a" / "VIEW.webp", moving_scene(1)[0]),
    ]
    assert predict(*inputs)[0] == 0
    told = {path.stem: json.loads(path.read_text())["input"] for path in (tmp_path / "out").glob("*.json")}
    assert told == {"view": str(inputs[0]), "view_2": str(inputs[1]), "VIEW_3": str(inputs[2])}
    # Once more: each overwrites its own. And another input of that name finds another one.
    assert predict(*inputs)[0] == 0
    (tmp_path / "c").mkdir()
    assert predict(write_image(tmp_path / "c" / "view.png", moving_scene(1)[0]))[0] == 0
    assert facts(tmp_path, "view_3")["input"] == str(tmp_path / "c" / "view.png")


def test_names_that_somebody_else_takes_during_the_work_are_left_to_them(predict, tmp_path, moving_scene, monkeypatch):
    image, out = write_image(tmp_path / "view.png", moving_scene(1)[0]), tmp_path / "out"
    predict_samples = Foresight.predict_samples

    def meanwhile(*args, **options):
        rollouts = predict_samples(*args, **options)
        out.mkdir()
        (out / "view.json").write_text('{"input": "elsewhere/view.png"}')
        (out / "view_2.mp4").write_text("a film")
        return rollouts

    monkeypatch.setattr(Foresight, "predict_samples", meanwhile)
    status, said, printed = predict(image, options=("--samples", "2", "--frames", "8"), printed=True)
    assert status == 0 and "view_3.mp4" in printed, said
    assert (out / "view.json").read_text() == '{"input": "elsewhere/view.png"}'
    assert (out / "view_2.mp4").read_text() == "a film"
    assert {path.stem for path in out.glob("*.json")} == {"view", "view_3", "view_4"}


def test_an_earlier_run_from_the_same_file_is_known_by_its_place(tmp_path, monkeypatch):
    """Two relative paths that read the same may be two files."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "view.json").write_text(json.dumps({"input": str(tmp_path / "a" / "view.png")}))
    monkeypatch.chdir(tmp_path / "a")
    assert free_name(Path("view.png"), out, set()) == "view"
    monkeypatch.chdir(tmp_path / "b")
    assert free_name(Path("view.png"), out, set()) == "view_2"


@pytest.mark.slow
def test_no_input_is_overwritten_whatever_it_was_before(tmp_path, predict, moving_scene):
    """Outputs of an earlier run from the same input are, unless they are inputs themselves by now."""
    out = tmp_path / "out"
    out.mkdir()
    image = write_image(out / "view.webp", moving_scene(1)[0])
    assert predict(image)[0] == 0
    sheet = (out / "view.png").read_bytes()
    assert predict(image, out / "view.png")[0] == 0
    assert (out / "view.png").read_bytes() == sheet
    assert {path.stem for path in out.glob("*.json")} == {"view", "view_2", "view_3"}


def test_the_folder_that_one_is_in_has_a_name_too(tmp_path, monkeypatch):
    (tmp_path / "drive" / "day").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "drive" / "day")
    assert [free_name(Path(name), tmp_path, set()) for name in (".", "..", "../..")] == ["day", "drive", tmp_path.name]


def test_a_name_that_is_taken_by_a_stranger_is_left_alone(tmp_path):
    (tmp_path / "view.json").write_text('{"input": "elsewhere/view.png"}')
    (tmp_path / "view_2.json").write_text("not ours")
    assert free_name(Path("view.png"), tmp_path, ()) == "view_3"
    assert free_name(Path("view.mp4"), tmp_path, {"view_3"}) == "view_4"


def test_no_input_is_ever_overwritten(tmp_path, moving_scene, predict):
    """Outputs go where the inputs lie, under names that the inputs have."""
    (tmp_path / "out").mkdir()
    picture = write_image(tmp_path / "out" / "view.png", moving_scene(1)[0])
    film = write_video(tmp_path / "out" / "clip.mp4", moving_scene(40), rate=30)
    sheet = write_image(tmp_path / "out" / "clip.png", moving_scene(1)[0])
    before = {path: path.read_bytes() for path in (picture, film, sheet)}
    for _ in range(2):
        status, said = predict(picture, film, sheet)
        assert status == 0, said
        assert {path: path.read_bytes() for path in before} == before
    names = {path.name for path in (tmp_path / "out").glob("*.json")}
    assert names == {"view_2.json", "clip_2.json", "clip_3.json"}


def test_what_was_lost_or_converted_is_told(tmp_path, moving_scene, predict, write_bag):
    stamps = [1_700_000_000 * S + i * S // 10 for i in range(30)]
    bag = write_bag(tmp_path / "robot", moving_scene(30), stamps)
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    deep = (moving_scene(1)[0].astype(np.uint16) << 4)[..., ::-1]
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    status, said = predict(bag, tmp_path / "deep.png")
    assert status == 0, said
    assert f"{bag}: robot.mcap is damaged or cut off" in said and "images on /camera/image_raw were lost" in said
    assert f"{tmp_path / 'deep.png'}: deep.png holds 16 bits per sample, of which 12 are used" in said


def test_a_place_that_cannot_be_written_is_said_before_anything_is_predicted(
    tmp_path, moving_scene, predict, monkeypatch
):
    monkeypatch.setattr("cosmos_ros.foresight.Foresight.predict", lambda *_, **__: pytest.fail("it was predicted"))
    name = "x" * 251  # of which NAME.json is a letter longer than names may be
    status, said = predict(write_image(tmp_path / f"{name}.png", moving_scene(1)[0]))
    assert status == 1 and f"{name}.json could not be written (File name too long)" in said


def test_what_cannot_be_predicted_from(tmp_path, moving_scene, predict):
    short = write_video(tmp_path / "short.mp4", moving_scene(5), rate=30)
    slow = write_video(tmp_path / "slow.mp4", moving_scene(30), rate=4)
    (tmp_path / "empty.png").touch()
    (tmp_path / "no.mp4").write_bytes(b"not a video at all")
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    names = ["short.mp4", "slow.mp4", "empty.png", "no.mp4", "text.txt", "folder", "absent.jsonl"]
    status, said = predict(*(tmp_path / name for name in names))
    assert status == 1 and short.exists() and slow.exists()
    reasons = [
        "conditioning frame 7 of 9",
        "camera gives 4.0 Hz; --frame-rate HZ picks frames, and predicts, at another rate",
        "no image that can be",
        "cannot be decoded",
        "no video, image or recording by its name",
        "no rosbag2 recording",
        "cannot be read",
    ]
    for reason in reasons:
        assert reason in said, (reason, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--checkpoint", "/nowhere"), "/nowhere"),
        (("--gpus", "0"), "gpus must be a whole number from 1 to 64; got 0"),
        (("--gpus", "3"), "gpus must be 1 or 2"),
        (("--gpus", "two"), "gpus must be a whole number from 1 to 64; got 'two'"),
        (("--frame-rate", "-1"), "240 Hz, but not between 0 and 0.01; got -1.0"),
        (("--model", "/elsewhere"), "/elsewhere"),
    ],
)
def test_a_model_that_cannot_be_had_ends_it_at_once(predict, tmp_path, moving_scene, options, words):
    status, said = predict(write_image(tmp_path / "one.png", moving_scene(1)[0]), options=options)
    assert status == 1 and words in said


@pytest.mark.processes
def test_over_two_processes_it_predicts_what_one_predicts(predict, tmp_path, moving_scene):
    image = write_image(tmp_path / "one.png", moving_scene(1)[0])
    sheets = []
    for options in ((), ("--gpus", "2", "--memory", "low")):
        assert predict(image, options=options)[0] == 0
        sheets.append(cv2.imread(str(tmp_path / "out" / "one.png")))
    assert np.array_equal(*sheets)


def test_lines_of_a_list(tmp_path):
    listed = tmp_path / "many.jsonl"
    listed.write_text('{"visual_input": "a.mp4", "prompt": "p"}\n["b"]\n{"visual_input": 3}\n')
    first, second, third = jobs([str(listed)], "of the command line")
    assert first == Job(Path("a.mp4"), "p", f"{listed}, line 1")
    assert isinstance(second, BadRecording) and isinstance(third, BadRecording)
    assert list(jobs(["b.png"], "of the command line")) == [Job(Path("b.png"), "of the command line", "b.png")]


def test_an_image_is_read_in_its_colours(tmp_path, moving_scene):
    frame = moving_scene(1)[0]
    clip, losses = read_clip(write_image(tmp_path / "a.png", frame), 10.0, 9)
    assert np.array_equal(clip.frames[0], frame) and losses == []
