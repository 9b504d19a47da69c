"""From nominal bags to a calibration, and from labelled bags to what an alarm notices: the commands as a user sees."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cosmos_ros.commands import cli
from cosmos_ros.planning.calibration import Calibration

START = 1_700_000_000_000_000_000
MODEL = ("--device", "cpu", "--dtype", "float32", "--workers", "1")

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def bags(moving_scene, write_bag, tmp_path_factory):
    """Four nominal bags of 3.5 s, and one in which the lights go out 2 s after its first frame."""
    folder = tmp_path_factory.mktemp("bags")
    stamps = [START + i * 100_000_000 for i in range(35)]
    film = moving_scene(60)
    for i in range(4):
        noise = np.random.default_rng(i).integers(-3, 4, (35, *film.shape[1:]))
        frames = np.clip(film[5 * i : 5 * i + 35] + noise, 0, 255).astype(np.uint8)
        write_bag(folder / f"nominal{i}", frames, stamps)
    frames[20:] //= 16
    write_bag(folder / "dark", frames, stamps)
    labels = "recording,start,end,label\ndark,2.0,3.5,lights_out\ndark,2000,3500,in_milliseconds\n"
    (folder / "labels.csv").write_text(labels)
    return folder


@pytest.fixture(scope="module")
def calibration(bags, tiny_checkpoint):
    nominal = [str(bags / f"nominal{i}") for i in range(4)]
    out = bags / "calibration.json"
    arguments = ["--checkpoint", str(tiny_checkpoint), "--every", "0.8", "--frames", "8", "--out", str(out), *MODEL]
    assert cli.main(["calibrate", *nominal, *arguments]) == 0
    return out


def test_a_calibration_names_the_model_and_what_it_was_made_from(calibration):
    made = Calibration.load(calibration)
    assert (made.validity.model, made.validity.frame_size, made.validity.frame_rate) == ("tiny", (32, 64), 10.0)
    assert made.recordings == 4 and made.predictions == 16 and made.way.conditioning_frames == 9
    assert set(made.model.scales) == {"place", "whole", "still", "tokens"}
    assert set(made.floor.scales) == {"place", "whole", "still"}
    assert made.model.scales["tokens"].steps == (8,)
    assert made.made_by["recordings"] == [f"nominal{i}" for i in range(4)]


def test_recordings_that_cannot_be_read_are_named(bags, tiny_checkpoint, tmp_path, capsys):
    nowhere = str(tmp_path / "nowhere")
    arguments = ["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "calibration.json"), *MODEL]
    assert cli.main(["calibrate", nowhere, *arguments]) == 1
    assert f"nothing was predicted from these recordings: {nowhere} does not exist" in capsys.readouterr().err


def test_labelled_recordings_say_how_soon_the_alarm_came(bags, calibration, tiny_checkpoint, tmp_path, capsys):
    given = [str(bags / name) for name in ("dark", "nominal0")]
    arguments = ["--checkpoint", str(tiny_checkpoint), "--every", "0.8", "--frames", "8", *MODEL]
    labels = ["--labels", str(bags / "labels.csv"), "--surprise-calibration", str(calibration)]
    labels += ["--surprise-alpha", "0.2", "--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", *given, *labels, *arguments]) == 0
    result = json.loads((tmp_path / "out" / "surprise.json").read_text())
    assert result["complete"] and set(result["rows"]) == {"model", "floor"}
    for row in result["rows"].values():
        noticed = row["labels"]["lights_out"]
        assert noticed["detected"] == 1 and 0 <= noticed["median_delay_s"] <= 0.4
        assert row["labels"]["in_milliseconds"] == {
            "intervals": 1,
            "detected": 0,
            "median_delay_s": None,
            "longest_delay_s": None,
        }
    said = capsys.readouterr()
    assert "| lights out | 1 of 1" in said.out
    assert "dark: no frame was compared from 2000 to 3500 s, so that in_milliseconds counts as missed" in said.err
    # What was watched stays: another alpha needs no new predictions.
    assert cli.main(["evaluate", *given, *labels, *arguments]) == 1
    assert "holds a previous evaluation: go on with --resume" in capsys.readouterr().err
    assert cli.main(["evaluate", *given, *labels, "--surprise-alpha", "0.3", "--resume", *arguments]) == 0
    file = tmp_path / "out" / "windows" / "000-dark.json"
    record = json.loads(file.read_text())
    del record["first_ns"]
    file.write_text(json.dumps(record))
    assert cli.main(["evaluate", *given, *labels, "--resume", *arguments]) == 1
    assert "that another release began: its records have no 'first_ns'" in capsys.readouterr().err


def test_labels_without_a_calibration_or_with_another_models_are_refused(
    bags, calibration, tiny_text_checkpoint, tmp_path, capsys
):
    labels = ["--labels", str(bags / "labels.csv"), "--out", str(tmp_path / "out"), *MODEL]
    assert cli.main(["evaluate", str(bags / "dark"), *labels]) == 1
    assert "--labels needs --surprise-calibration FILE" in capsys.readouterr().err
    labels += ["--surprise-calibration", str(calibration), "--checkpoint", str(tiny_text_checkpoint)]
    assert cli.main(["evaluate", str(bags / "dark"), *labels]) == 1
    assert "this calibration was made for the model tiny" in capsys.readouterr().err


def test_a_recording_that_is_given_twice_is_refused(bags, tiny_checkpoint, tmp_path, capsys):
    """Both halves of a calibration would hold it, and promise what nothing keeps."""
    twice = [str(bags / "nominal0"), str(bags / "nominal1"), f"{bags}/../{bags.name}/nominal0"]
    out = tmp_path / "calibration.json"
    assert cli.main(["calibrate", *twice, "--checkpoint", str(tiny_checkpoint), "--out", str(out), *MODEL]) == 1
    assert "nominal0: give each recording once" in capsys.readouterr().err and not out.exists()
