"""Every parameter of the node, declared once: name, type, default, range, when it may change, what it does.

`python -m cosmos_ros.node.parameters` prints config/foresight.yaml, which is this table with its words.
"""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

Value = bool | int | float | str


class When(enum.Enum):
    """When a new value is taken."""

    START = "read-only"
    CONFIGURE = "read at configure"
    ANY_TIME = "any time; the next goal follows it"


@dataclass(frozen=True)
class Declaration:
    """One parameter. `bounds` are inclusive; `choices` are all that a string may be."""

    name: str
    default: Value
    description: str
    when: When = When.CONFIGURE
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()

    @property
    def constraints(self) -> str:
        """What a value must fulfil, in words; empty where anything of the type will do."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.bounds:
            return f"{self.bounds[0]:g} to {self.bounds[1]:g}"
        return ""

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        descriptor = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints="; ".join(filter(None, (self.constraints, self.when.value))),
            read_only=self.when is When.START,
        )
        if self.bounds and isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.bounds[0], to_value=self.bounds[1])]
        elif self.bounds:
            low, high = map(int, self.bounds)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor

    def objection(self, value: Value) -> str:
        """Why this value cannot be taken; empty where it can. rclpy itself checks types and bounds, NaN included."""
        if self.choices and value not in self.choices:
            return f"{self.name} must be {self.constraints}; got {value!r}"
        return ""


DECLARATIONS = (
    Declaration(
        "autostart",
        True,
        "Configure and activate without being told. False: a lifecycle manager does it.",
        When.START,
    ),
    Declaration(
        "checkpoint",
        "",
        "Directory of the world model in the published layout. Empty: the small model that ships with this package.",
    ),
    Declaration(
        "guardrail",
        "",
        "Directory of Cosmos-1.0-Guardrail, needed by NVIDIA's checkpoints. Empty: looked for beside the checkpoint. "
        "The guardrail cannot be switched off.",
    ),
    Declaration(
        "tokenizer",
        "",
        "Directory with encoder.jit and decoder.jit, or with autoencoder.jit. Empty: in or beside the checkpoint.",
    ),
    Declaration(
        "device",
        "auto",
        "Where the model runs: auto (CUDA where there is one), cpu, cuda, cuda:1, ...",
    ),
    Declaration(
        "dtype",
        "auto",
        "Precision of the transformer. auto: bfloat16 on CUDA, float32 on the CPU.",
        choices=("auto", "bfloat16", "float32"),
    ),
    Declaration(
        "memory",
        "auto",
        "What waits in host memory while it does not work. fast: nothing. balanced: what works once per prompt. low: "
        "everything, one part on the GPU at a time. auto: as little as fits the GPU.",
        choices=("auto", "fast", "balanced", "low"),
    ),
    Declaration(
        "gpus",
        1,
        "Over how many GPUs of this host, from `device` on, the transformer is cut; a number that divides its "
        "key-value heads (8 in NVIDIA's models). On the CPU: over how many processes.",
        bounds=(1, 64),
    ),
    Declaration(
        "cpu_threads",
        0,
        "Threads that one operation uses on the CPU. 0: half of the cores.",
        When.ANY_TIME,
        bounds=(0, 1024),
    ),
    Declaration(
        "guard_timeout",
        10.0,
        "Seconds that one guard may take before it counts as failed and the rollout is refused.",
        bounds=(0.1, 600.0),
    ),
    Declaration(
        "image_transport",
        "raw",
        "What arrives on the topic `image`. raw: sensor_msgs/Image. compressed: sensor_msgs/CompressedImage.",
        choices=("raw", "compressed"),
    ),
    Declaration(
        "image_reliability",
        "auto",
        "QoS of the image subscription. auto: reliable while every publisher of the topic is, else best effort. "
        "best_effort hears every publisher, but large images get lost on the way. reliable does not hear a "
        "best-effort camera.",
        choices=("auto", "best_effort", "reliable"),
    ),
    Declaration(
        "frame_rate",
        0.0,
        "Rate in Hz at which conditioning frames are picked and frames are predicted. 0: the model's own.",
        bounds=(0.0, 240.0),
    ),
    Declaration(
        "max_age",
        1.0,
        "Seconds by the node's clock after which the newest frame is too old to predict from. 0: never.",
        bounds=(0.0, 3600.0),
    ),
    Declaration(
        "history",
        3.0,
        "Seconds of camera images that are kept, at least a clip's length: how far back a goal's `until` may reach.",
        bounds=(0.1, 600.0),
    ),
    Declaration(
        "temperature",
        -1.0,
        "Sampling temperature of goals that leave theirs negative. 0: greedy. Negative: the model's recommendation.",
        When.ANY_TIME,
        bounds=(-1.0, 10.0),
    ),
    Declaration(
        "top_p",
        -1.0,
        "Nucleus of goals that leave theirs negative, in (0, 1]. Negative: the model's recommendation.",
        When.ANY_TIME,
        bounds=(-1.0, 1.0),
    ),
    Declaration(
        "when_busy",
        "reject",
        "What a goal meets while another one runs. reject: it is aborted with BUSY. preempt: it takes over. "
        "queue: it waits its turn.",
        When.ANY_TIME,
        choices=("reject", "preempt", "queue"),
    ),
)

_BY_NAME = {declaration.name: declaration for declaration in DECLARATIONS}


class Parameters:
    """The declared parameters of one node: `parameters["max_age"]` is the current value.

    is_configured   tells whether values that are read at configure are in use and so cannot change

    Raises rclpy's InvalidParameterValueException where an override from file or command line is out of range.
    """

    def __init__(self, node: Node, is_configured: Callable[[], bool]) -> None:
        self._node = node
        self._is_configured = is_configured
        # Before the declarations, so that overrides from files are judged by the same words.
        node.add_on_set_parameters_callback(self._judge)
        node.declare_parameters("", [(d.name, d.default, d.descriptor()) for d in DECLARATIONS])

    def __getitem__(self, name: str) -> Value:
        return self._node.get_parameter(name).value

    def _judge(self, parameters: Iterable[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            declaration = _BY_NAME.get(parameter.name)
            if declaration is None:
                continue  # not ours: use_sim_time and the like
            objection = declaration.objection(parameter.value)
            if not objection and declaration.when is When.CONFIGURE and self._is_configured():
                objection = f"{declaration.name} is {declaration.when.value}: deactivate and clean up the node first"
            if objection:
                return SetParametersResult(successful=False, reason=objection)
        return SetParametersResult(successful=True)


def as_yaml() -> str:
    """The content of config/foresight.yaml: every parameter with its default, under the words that explain it."""
    lines = [
        "# Every parameter of the node, with its default. Generated: python -m cosmos_ros.node.parameters",
        "/**:",
        "  ros__parameters:",
    ]
    for declaration in DECLARATIONS:
        words = f"{declaration.description} [{declaration.descriptor().additional_constraints}]"
        lines += textwrap.wrap(words, width=110, initial_indent="    # ", subsequent_indent="    # ")
        lines += [f"    {declaration.name}: {_as_yaml_value(declaration.default)}", ""]
    return "\n".join(lines[:-1]) + "\n"


def _as_yaml_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    print(as_yaml(), end="")
