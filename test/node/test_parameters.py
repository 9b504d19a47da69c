"""The settings as parameters: they describe themselves to ROS, and what the table forbids cannot be set."""

from __future__ import annotations

import pytest
import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from cosmos_ros.node.parameters import Parameters
from cosmos_ros.paths import share_directory
from cosmos_ros.settings import SETTINGS, ForesightConfig, Setting, Value, When


@pytest.fixture
def declared():
    """declared(**overrides) -> (node, its parameters); node.configured tells them whether they are in use"""
    context = Context()
    rclpy.init(context=context)

    def declare(**overrides: object):
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        node = rclpy.create_node("parameters", context=context, parameter_overrides=given)
        node.configured = False
        return node, Parameters(node, is_configured=lambda: node.configured)

    yield declare
    rclpy.try_shutdown(context=context)


def test_a_node_started_with_the_shipped_file_is_the_default_one():
    context = Context()
    rclpy.init(context=context, args=["--ros-args", "--params-file", str(share_directory() / "config/foresight.yaml")])
    node = rclpy.create_node("foresight", context=context)
    parameters = Parameters(node, is_configured=lambda: False)
    assert {name: parameters[name] for name in SETTINGS} == {each.name: each.default for each in SETTINGS.values()}
    rclpy.try_shutdown(context=context)


def test_a_table_is_read_whole_with_the_home_expanded(declared, monkeypatch):
    monkeypatch.setenv("HOME", "/home/robot")
    _, parameters = declared(checkpoint="~/model", gpus=2)
    assert parameters.of(ForesightConfig) == ForesightConfig(checkpoint="/home/robot/model", gpus=2)


def test_every_parameter_describes_itself_to_ros(declared):
    node, _ = declared()
    for setting in SETTINGS.values():
        descriptor = node.describe_parameter(setting.name)
        assert descriptor.description == setting.description
        assert setting.constraints in descriptor.additional_constraints
        assert setting.when.value in descriptor.additional_constraints


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_age", -0.1),
        ("max_age", float("nan")),
        ("temperature", 10.5),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("guard_timeout", 0.0),
        ("history", float("inf")),
        ("frame_rate", -1.0),
        ("cpu_threads", -1),
        ("when_busy", "panic"),
        ("image_transport", "theora"),
        ("image_reliability", ""),
        ("dtype", "int8"),
        ("device", "banana"),
        ("device", "cuda:"),
        ("device", "CPU"),
        ("top_p", 0.0),
        ("top_p", -0.0),
        ("gpus", 0),
        ("checkpoint", "model\0"),
        ("latency_compensation", -0.1),
        ("keep_rollouts", -1),
        ("max_frames", 0),
        ("continuous_rate", -1.0),
        ("continuous_rate", 1e-300),  # a period that no whole number of nanoseconds is
        ("frame_rate", 1e-9),
        ("continuous_seed", 2**63 - 16),  # those of 16 samples would not exist
        ("continuous_samples", 0),
        ("continuous_samples", 17),
        ("continuous_frames", 10_001),
        ("surprise_alpha", 0.0),
        ("surprise_frames", 0),
        ("surprise_clear_after", -1.0),
    ],
)
def test_what_is_out_of_range_is_refused(declared, name, value):
    node, parameters = declared()
    before = parameters[name]
    answer = node.set_parameters([Parameter(name, value=value)])[0]
    assert not answer.successful and name in answer.reason
    assert parameters[name] == before


def test_what_is_out_of_range_at_the_start_names_the_parameter(declared):
    with pytest.raises(InvalidParameterValueException, match="when_busy must be one of reject, preempt, queue"):
        declared(when_busy="panic")
    with pytest.raises(InvalidParameterTypeException, match="max_age"):
        declared(max_age="long")


def test_continuous_predictions_may_be_as_long_as_goals_and_no_longer(declared):
    node, parameters = declared()
    longer, lower = Parameter("continuous_frames", value=97), Parameter("max_frames", value=48)
    says = "continuous_frames must not be more than max_frames; got 97 and 96: raise max_frames first"
    assert says in node.set_parameters([longer])[0].reason and parameters["continuous_frames"] == 0
    assert node.set_parameters_atomically([longer, Parameter("max_frames", value=97)]).successful
    assert "got 97 and 48" in node.set_parameters([lower])[0].reason and parameters["max_frames"] == 97
    both = [lower, Parameter("continuous_frames", value=48)]
    assert node.set_parameters_atomically(both).successful and parameters["max_frames"] == 48


def test_a_node_may_start_with_longer_continuous_predictions_where_goals_may_be_as_long(declared):
    _, parameters = declared(continuous_frames=200, max_frames=200)
    assert parameters["continuous_frames"] == 200
    with pytest.raises(InvalidParameterValueException, match="must not be more than max_frames; got 200 and 96"):
        declared(continuous_frames=200)


def test_what_is_read_at_the_start_cannot_be_set(declared):
    node, parameters = declared()
    answer = node.set_parameters([Parameter("autostart", value=False)])[0]
    assert not answer.successful and "autostart is read-only" in answer.reason and parameters["autostart"] is True


def other(setting: Setting) -> Value:
    """A value that the setting may have and has not."""
    if setting.choices:
        return next(choice for choice in setting.choices if choice != setting.default)
    if isinstance(setting.default, str):
        return {"device": "cpu", "frame_size": "320x512"}.get(setting.name, "elsewhere")
    if isinstance(setting.default, bool):
        return not setting.default
    return setting.default + 1 if setting.default + 1 <= setting.bounds[1] else setting.bounds[1]


@pytest.mark.parametrize("name", [each.name for each in SETTINGS.values() if each.when is When.CONFIGURE])
def test_what_is_read_at_configure_cannot_be_changed_while_it_is_in_use(declared, name):
    node, parameters = declared()
    node.configured = True
    answer = node.set_parameters([Parameter(name, value=other(SETTINGS[name]))])[0]
    assert not answer.successful and name in answer.reason and "clean up" in answer.reason
    node.configured = False
    assert node.set_parameters([Parameter(name, value=other(SETTINGS[name]))])[0].successful
    assert parameters[name] == other(SETTINGS[name])


def test_what_is_read_anew_for_every_goal_can_always_be_changed(declared):
    node, parameters = declared()
    node.configured = True
    assert node.set_parameters([Parameter("when_busy", value="queue")])[0].successful
    assert parameters["when_busy"] == "queue"


def test_a_value_that_a_parameter_has_already_can_always_be_set(declared):
    """As `ros2 param load` does with a whole file, that of the running node among them."""
    node, parameters = declared()
    node.configured = True
    now = [Parameter(name, value=parameters[name]) for name in SETTINGS]
    assert [answer.reason for answer in node.set_parameters(now)] == [""] * len(SETTINGS)
    assert node.set_parameters_atomically(now).successful
