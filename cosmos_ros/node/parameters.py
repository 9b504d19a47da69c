"""The node's parameters: the settings of cosmos_ros/settings.py, declared to ROS and judged by the same check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from cosmos_ros.errors import SettingError
from cosmos_ros.settings import SETTINGS, C, Setting, Value, When, check_together, settings_of


class Parameters:
    """The declared parameters of one node: `parameters["max_age"]` is the current value.

    is_configured   whether values that are read at configure are in use and so cannot change

    Raises rclpy's ParameterException where an override from file or command line is of another type or out of range.
    """

    def __init__(self, node: Node, is_configured: Callable[[], bool]) -> None:
        self._node = node
        self._is_configured = is_configured
        # Before the declarations, so that overrides from files are judged by the same words.
        node.add_on_set_parameters_callback(self._judge)
        node.declare_parameters("", [(each.name, each.default, descriptor(each)) for each in SETTINGS.values()])

    def __getitem__(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def of(self, table: type[C]) -> C:
        """The current values of one table of settings."""
        return table(**{each.name: self[each.name] for each in settings_of(table)})

    def _judge(self, parameters: Iterable[Parameter]) -> SetParametersResult:
        # Not use_sim_time and the like, which are not ours.
        given = {each.name: each.value for each in parameters if each.name in SETTINGS}
        objections = [self._objection(SETTINGS[name], value) for name, value in given.items()]
        objection = next(filter(None, objections), "") or self._objection_to_all(given)
        return SetParametersResult(successful=not objection, reason=objection)

    def _objection_to_all(self, given: Mapping[str, Value]) -> str:
        """Why these values cannot stand with the others; empty where they can.

        Of those that are only being declared the default counts.
        """
        values = {
            name: self[name] if self._node.has_parameter(name) else each.default
            for name, each in SETTINGS.items()
            if name not in given
        }
        values.update(given)
        try:
            check_together(values)
        except SettingError as error:
            return str(error)
        return ""

    def _objection(self, setting: Setting, value: Value) -> str:
        """Why the parameter cannot take this value now; empty where it can."""
        try:
            setting.check(value)
        except SettingError as error:
            return str(error)
        if not self._node.has_parameter(setting.name) or value == self[setting.name]:
            return ""  # it is just being declared, or nothing changes: `ros2 param load` sets all of a file
        if setting.when is When.START:
            return f"{setting.name} is read-only, {setting.when.value}: start the node anew with the other value"
        if setting.when is When.CONFIGURE and self._is_configured():
            return f"{setting.name} is {setting.when.value}: deactivate and clean up the node first"
        return ""


def descriptor(setting: Setting) -> ParameterDescriptor:
    """What `ros2 param describe` shows.

    `read_only` stays false: rclpy would refuse even the value that a read-only parameter has. `Parameters` refuses
    every other one.
    """
    words = ParameterDescriptor(
        name=setting.name,
        description=setting.description,
        additional_constraints="; ".join(filter(None, (setting.constraints, setting.when.value))),
    )
    if setting.bounds and isinstance(setting.default, float):
        low, high = setting.bounds
        words.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif setting.bounds:
        low, high = map(int, setting.bounds)
        words.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return words
