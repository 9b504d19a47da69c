"""What the launch files make of their arguments: each reaches the node as what it is, or is refused by its name."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import rclpy
from rclpy.context import Context

from cosmos_ros.errors import SettingError
from cosmos_ros.launch_arguments import (
    PARAMETERS,
    node_parameters,
    parameter_files,
    recording,
    sibling_info,
    speed,
)
from cosmos_ros.node.parameters import Parameters
from cosmos_ros.paths import share_directory
from cosmos_ros.settings import SETTINGS

SHIPPED = str(share_directory() / "config" / "foresight.yaml")


@pytest.fixture
def of_node():
    """of_node(given, params_file, namespace="") -> the parameters of a node that is started with these arguments"""
    contexts = []

    def values(given, params_file=SHIPPED, namespace=""):
        files = parameter_files(params_file, node_parameters(given))
        passed = [word for file in files for word in ("--params-file", file)]
        contexts.append(Context())
        rclpy.init(context=contexts[-1], args=["--ros-args", *passed, "-r", f"__ns:=/{namespace}"])
        node = rclpy.create_node("foresight", context=contexts[-1])
        declared = Parameters(node, is_configured=lambda: False)
        return {name: declared[name] for name in (*SETTINGS, "use_sim_time")}

    yield values
    for context in contexts:
        rclpy.try_shutdown(context=context)


def test_every_setting_is_an_argument():
    assert PARAMETERS.keys() == {*SETTINGS, "use_sim_time"}
    assert all(default == "" for default, _ in PARAMETERS.values())
    assert PARAMETERS["gpus"][1].startswith(SETTINGS["gpus"].description)


def test_without_arguments_the_node_has_what_the_shipped_file_says(of_node):
    defaults = {name: setting.default for name, setting in SETTINGS.items()}
    assert of_node(dict.fromkeys(PARAMETERS, "")) == defaults | {"use_sim_time": False}
    assert parameter_files(SHIPPED, {}) == [SHIPPED]


def test_the_file_of_arguments_goes_when_launch_ends(tmp_path):
    program = f"""
from pathlib import Path
from cosmos_ros.launch_arguments import parameter_files
given = Path(parameter_files({SHIPPED!r}, {{"checkpoint": "1e5"}})[1])
assert "checkpoint: '1e5'" in given.read_text().replace('"', "'"), given.read_text()
print(given)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path)) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("checkpoint", "1e5", "1e5"),
        ("checkpoint", "007", "007"),
        ("tokenizer", "on", "on"),
        ("guardrail", "a: [b, 'c\" d'", "a: [b, 'c\" d'"),
        ("gpus", "4", 4),
        ("max_age", "2", 2.0),
        ("autostart", "False", False),
        ("when_busy", "queue", "queue"),
        ("device", "cuda:1", "cuda:1"),
        ("use_sim_time", "true", True),
        ("use_sim_time", "false", False),
    ],
)
@pytest.mark.parametrize("namespace", ["", "robot1"])
def test_a_value_reaches_the_node_as_what_it_is(of_node, name, text, value, namespace):
    assert of_node({name: text}, namespace=namespace)[name] == value


def test_a_home_is_expanded(of_node, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("/**:\n  ros__parameters:\n    max_age: 7.0\n")
    values = of_node({"checkpoint": "~/model", "guardrail": "/a/~b"}, "~/mine.yaml")
    assert values["checkpoint"] == f"{tmp_path}/model" and values["guardrail"] == "/a/~b" and values["max_age"] == 7.0
    assert recording("~/mine.yaml") == f"{tmp_path}/mine.yaml"


@pytest.mark.parametrize("node", ["/**", "/foresight", "foresight"])
def test_an_argument_goes_before_the_file_and_what_is_not_given_is_left_as_the_file_says(of_node, tmp_path, node):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{node}:\n  ros__parameters:\n    gpus: 2\n    memory: low\n    use_sim_time: true\n")
    values = of_node({"gpus": "4"}, str(file))
    assert (values["gpus"], values["memory"], values["use_sim_time"]) == (4, "low", True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpus": "four"}, "gpus must be a whole number from 1 to 64; got 'four'"),
        ({"gpus": "0"}, "gpus must be a whole number from 1 to 64; got 0"),
        ({"device": "banana"}, "device must be auto, cpu, cuda or cuda:N; got 'banana'"),
        ({"top_p": "0"}, "top_p must be a number from -1 to 1, but not 0; got 0.0"),
        ({"autostart": "perhaps"}, "autostart must be true or false; got 'perhaps'"),
        ({"use_sim_time": "yes!"}, "use_sim_time must be true or false; got 'yes!'"),
    ],
)
def test_what_cannot_be_names_itself(given, words):
    with pytest.raises(SettingError, match=words):
        node_parameters(given)


@pytest.mark.parametrize("place", ["/nowhere.yaml", "", "/"])
def test_a_missing_file_of_parameters_is_an_error(place):
    with pytest.raises(SettingError, match="params_file must be a file of the node's parameters; there is none at"):
        parameter_files(place, {})


def test_a_recording_that_is_not_there_is_an_error():
    with pytest.raises(SettingError, match="bag must be a rosbag2 recording; there is none at /nowhere"):
        recording("/nowhere")


@pytest.mark.parametrize("rate", ["fast", "0", "-1", "nan", "inf", ""])
def test_a_speed_is_a_number_above_0(rate):
    with pytest.raises(SettingError, match="rate must be a number above 0; got"):
        speed(rate)
    assert speed("0.5") == "0.5"


@pytest.mark.parametrize(
    ("image", "info"),
    [
        ("/front/image_raw", "/front/camera_info"),
        ("/front/image_raw/compressed", "/front/camera_info"),
        ("image", "camera_info"),
        ("/image", "/camera_info"),
    ],
)
def test_the_calibration_is_the_images_sibling(image, info):
    assert sibling_info(image) == info
