"""The tables of settings: what they forbid is refused wherever it comes from, and what ships is what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cosmos_ros.device.devices import DTYPES, FLOAT8
from cosmos_ros.errors import ForesightError, SettingError
from cosmos_ros.paths import share_directory
from cosmos_ros.settings import (
    SETTINGS,
    TABLES,
    ClipConfig,
    ForesightConfig,
    NodeConfig,
    SamplingConfig,
    as_yaml,
    parameter_file,
    settings_of,
    truth,
)


def test_the_shipped_file_is_the_table():
    """To renew it: python -m cosmos_ros.settings > config/foresight.yaml"""
    assert (share_directory() / "config" / "foresight.yaml").read_text() == as_yaml()


def test_the_shipped_file_names_every_parameter_with_its_default():
    values = yaml.safe_load(as_yaml())["/**"]["ros__parameters"]
    assert values == {name: setting.default for name, setting in SETTINGS.items()}
    assert {name: type(value) for name, value in values.items()} == {
        name: type(setting.default) for name, setting in SETTINGS.items()
    }


def test_every_precision_that_may_be_chosen_is_one_that_there_is():
    assert set(SETTINGS["dtype"].choices) == {"auto", FLOAT8, *DTYPES}


def test_no_setting_stands_in_two_tables():
    assert sum(len(settings_of(table)) for table in TABLES) == len(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_a_default_is_allowed_and_is_read_back_from_its_text(setting):
    assert setting.check(setting.default) == setting.default
    assert setting.parse(str(setting.default)) == setting.default
    assert setting.description.endswith(".")


@pytest.mark.processes
def test_the_tables_need_neither_torch_nor_ros():
    hidden = "import sys; sys.modules |= dict.fromkeys(('torch', 'rclpy', 'cv2', 'numpy'))"
    subprocess.run([sys.executable, "-c", f"{hidden}; import cosmos_ros.settings"], check=True)


@pytest.mark.parametrize(
    ("table", "given", "words"),
    [
        (ForesightConfig, {"gpus": 0}, "gpus must be a whole number from 1 to 64; got 0"),
        (ForesightConfig, {"gpus": 2.0}, "gpus must be a whole number from 1 to 64; got 2.0"),
        (ForesightConfig, {"gpus": True}, "gpus must be a whole number from 1 to 64; got True"),
        (ForesightConfig, {"gpus": "2"}, "gpus must be a whole number from 1 to 64; got '2'"),
        (ForesightConfig, {"memory": "huge"}, "memory must be one of auto, fast, balanced, low; got 'huge'"),
        (ForesightConfig, {"dtype": "int8"}, "dtype must be one of auto, bfloat16, float32, fp8; got 'int8'"),
        (ForesightConfig, {"device": "banana"}, "device must be auto, cpu, cuda or cuda:N; got 'banana'"),
        (ForesightConfig, {"device": "cuda:-1"}, "device must be"),
        (ForesightConfig, {"device": "cuda:\u0663"}, "device must be"),
        (ForesightConfig, {"device": None}, "device must be auto, cpu, cuda or cuda:N; got None"),
        (ForesightConfig, {"checkpoint": "a\0b"}, "checkpoint must be a path; got 'a.x00b'"),
        (ForesightConfig, {"checkpoint": 5}, "checkpoint must be a path; got 5"),
        (ForesightConfig, {"guard_timeout": 0}, "guard_timeout must be a number from 0.1 to 600 s; got 0"),
        (SamplingConfig, {"top_p": 0.0}, "top_p must be a number from -1 to 1, but not 0; got 0.0"),
        (SamplingConfig, {"temperature": float("nan")}, "temperature must be a number from -1 to 10; got nan"),
        (ClipConfig, {"frame_rate": float("inf")}, "240 Hz, but not between 0 and 0.01; got inf"),
        (ClipConfig, {"max_age": [1.0]}, "max_age must be a number"),
        (NodeConfig, {"autostart": 1}, "autostart must be true or false; got 1"),
        (NodeConfig, {"when_busy": ""}, "when_busy must be one of reject, preempt, queue; got ''"),
    ],
)
def test_what_a_setting_cannot_be_is_one_kind_of_error_that_says_what_it_can(table, given, words):
    with pytest.raises(SettingError, match=words):
        table(**given)
    with pytest.raises(SettingError, match=words):
        table.of(given)
    assert issubclass(SettingError, ForesightError) and issubclass(SettingError, ValueError)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("gpus", "4", 4),
        ("max_age", "2", 2.0),
        ("autostart", "False", False),
        ("autostart", "1", True),
        ("checkpoint", "1e5", "1e5"),
        ("device", "cuda:1", "cuda:1"),
    ],
)
def test_texts_are_read_as_the_settings_type(name, text, value):
    read = SETTINGS[name].parse(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(("name", "text"), [("gpus", "4.0"), ("gpus", ""), ("max_age", "1 s"), ("autostart", "maybe")])
def test_a_text_of_another_type_is_refused_as_it_was_written(name, text):
    with pytest.raises(SettingError, match=f"^{name} must be .*; got '{text}'$"):
        SETTINGS[name].parse(text)


def test_a_home_is_expanded_and_other_tildes_are_not(monkeypatch):
    monkeypatch.setenv("HOME", "/home/robot")
    config = ForesightConfig(checkpoint="~/model", guardrail="/data/~old", tokenizer=Path("~"))
    assert (config.checkpoint, config.guardrail, config.tokenizer) == ("/home/robot/model", "/data/~old", "/home/robot")
    assert ForesightConfig(checkpoint="~no such user/x").checkpoint == "~no such user/x"


def test_whole_numbers_serve_as_numbers():
    assert ClipConfig(max_age=2).max_age == 2.0 and type(ClipConfig(max_age=2).max_age) is float
    assert SamplingConfig(temperature=np.float64(0.5)).temperature == 0.5


def test_a_negative_sampling_value_is_the_models_recommendation():
    assert SamplingConfig().chosen() == {"temperature": None, "top_p": None}
    assert SamplingConfig(0.0, 0.9).chosen() == {"temperature": 0.0, "top_p": 0.9}


def test_settings_come_from_a_mapping_or_a_yaml_file(tmp_path):
    file = tmp_path / "foresight.yaml"
    file.write_text("checkpoint: model\ngpus: 2\n")
    assert ForesightConfig.of(file) == ForesightConfig.of({"checkpoint": "model", "gpus": 2})
    file.write_text("")
    assert ForesightConfig.of(str(file)) == ForesightConfig()


@pytest.mark.parametrize("content", [b"[1, 2]", b"a: [", b"\xff\xfe", None], ids=["list", "no YAML", "bytes", "absent"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, content):
    file = tmp_path / "foresight.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingError, match="foresight.yaml"):
        ForesightConfig.of(file)


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(SettingError, match="chekpoint.*known are checkpoint"):
        ForesightConfig.of({"chekpoint": "somewhere", 5: 6})


def test_a_name_that_was_given_up_works_with_a_warning(caplog):
    assert ForesightConfig.of({"model": "somewhere"}).checkpoint == "somewhere"
    assert "model is now called checkpoint" in caplog.text


def test_a_truth_that_is_no_setting_is_read_likewise():
    assert truth("rviz", "True") and not truth("rviz", "0")
    with pytest.raises(SettingError, match="rviz must be true or false; got 'yes'"):
        truth("rviz", "yes")


def test_a_parameter_file_keeps_texts_texts():
    text = parameter_file({"checkpoint": "1e5", "gpus": 2, "autostart": False, "tokenizer": 'a "b"'}, node="/x")
    assert '"1e5"' in text
    values = {"checkpoint": "1e5", "gpus": 2, "autostart": False, "tokenizer": 'a "b"'}
    assert yaml.safe_load(text) == {"/x": {"ros__parameters": values}}
