"""The table of parameters: what ships is what it says, and what it forbids cannot be set."""

from __future__ import annotations

from dataclasses import fields

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from cosmos_ros.foresight import ForesightConfig
from cosmos_ros.node.parameters import DECLARATIONS, Parameters, When, as_yaml
from cosmos_ros.paths import share_directory


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


def test_the_shipped_file_is_the_table():
    """To renew it: python -m cosmos_ros.node.parameters > config/foresight.yaml"""
    assert (share_directory() / "config" / "foresight.yaml").read_text() == as_yaml()


def test_the_shipped_file_names_every_parameter_with_its_default():
    values = yaml.safe_load(as_yaml())["/**"]["ros__parameters"]
    assert values == {declaration.name: declaration.default for declaration in DECLARATIONS}


def test_a_node_started_with_the_shipped_file_is_the_default_one():
    context = Context()
    rclpy.init(context=context, args=["--ros-args", "--params-file", str(share_directory() / "config/foresight.yaml")])
    node = rclpy.create_node("foresight", context=context)
    parameters = Parameters(node, is_configured=lambda: False)
    assert {d.name: parameters[d.name] for d in DECLARATIONS} == {d.name: d.default for d in DECLARATIONS}
    rclpy.try_shutdown(context=context)


def test_everything_that_a_foresight_is_made_from_is_a_parameter():
    assert {field.name for field in fields(ForesightConfig)} <= {declaration.name for declaration in DECLARATIONS}


def test_every_parameter_describes_itself_to_ros(declared):
    node, _ = declared()
    for declaration in DECLARATIONS:
        descriptor = node.describe_parameter(declaration.name)
        assert descriptor.description == declaration.description
        assert declaration.when.value in descriptor.additional_constraints
        assert descriptor.read_only is (declaration.when is When.START)


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


def test_autostart_is_read_only(declared):
    node, _ = declared()
    assert "read-only" in node.set_parameters([Parameter("autostart", value=False)])[0].reason


def test_what_is_read_at_configure_cannot_be_set_while_it_is_in_use(declared):
    node, parameters = declared()
    node.configured = True
    for declaration in DECLARATIONS:
        if declaration.when is When.CONFIGURE:
            answer = node.set_parameters([Parameter(declaration.name, value=declaration.default)])[0]
            assert not answer.successful and "clean up" in answer.reason
    assert node.set_parameters([Parameter("when_busy", value="queue")])[0].successful
    assert parameters["when_busy"] == "queue"
