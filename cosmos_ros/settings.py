"""Every setting of the package, once: type, default, choices or bounds, what it does, and when a new value is taken.

The node's parameters, config/foresight.yaml, the launch arguments and the flags of the commands are made from these
tables, and one check judges a value wherever it comes from. A setting belongs to the class of those who read it:

    ForesightConfig   what a Foresight is made from: model, guardrail, device
    SamplingConfig    how tokens are drawn, for goals that do not say it themselves
    ClipConfig        how frames are picked from a camera or a recording
    NodeConfig        the rest of the node

To add one, write one line in the class of its reader, and renew the file that ships:

    window: int = setting(0, "Tokens that ...", bounds=(0, 12_800))
    python -m cosmos_ros.settings > config/foresight.yaml

It is then a parameter `window`, a launch argument `window:=`, a flag `--window` of every command that takes the class,
and a field `config.window`. A name that was given up stays usable for one release: `formerly=("old_name",)`.

`python -m cosmos_ros.settings` prints config/foresight.yaml. Nothing here needs PyTorch or ROS.
"""

from __future__ import annotations

import enum
import json
import logging
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cosmos_ros.errors import SettingError
from cosmos_ros.paths import expanded

logger = logging.getLogger(__name__)

Value = bool | int | float | str
C = TypeVar("C", bound="Config")


class When(enum.Enum):
    """When the node takes a new value."""

    START = "read at the start"
    CONFIGURE = "read at configure"
    ANY_TIME = "any time; the next goal follows it"


@dataclass(frozen=True)
class Setting:
    """One setting.

    bounds       the least and the greatest number, both allowed
    never        numbers between the bounds that are not allowed
    choices      all that a text may be; empty: `pattern` decides
    pattern      what a text must match as a whole, which `form` says in words; empty: any text
    unit         of a number: "s", "Hz"
    path         a file or folder: a leading ~ is the user's home
    decides      whether a rollout depends on it, so that an evaluation goes on only where it is the same
    formerly     names under which it was known before
    """

    name: str
    default: Value
    description: str
    when: When = When.CONFIGURE
    bounds: tuple[float, float] | None = None
    never: tuple[float, ...] = ()
    choices: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""
    unit: str = ""
    path: bool = False
    decides: bool = False
    formerly: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def constraints(self) -> str:
        """What a value must fulfil, in words; empty where any text will do."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.bounds is not None:
            kind = "a whole number" if isinstance(self.default, int) else "a number"
            unit = f" {self.unit}" if self.unit else ""
            but = "".join(f", but not {number:g}" for number in self.never)
            return f"{kind} from {self.bounds[0]:g} to {self.bounds[1]:g}{unit}{but}"
        return "true or false" if isinstance(self.default, bool) else self.form

    def check(self, value: Any) -> Value:
        """The value as this setting's type. Raises SettingError for any other value than the constraints allow."""
        kind = type(self.default)
        if kind is str and isinstance(value, str | Path) and self._is_allowed(str(value)):
            return expanded(str(value)) if self.path else str(value)
        if kind is bool and isinstance(value, bool):
            return value
        numbers = int if kind is int else int | float
        if kind in (int, float) and isinstance(value, numbers) and self._is_in_bounds(value):
            return kind(value)
        raise self.refusal(value)

    def parse(self, text: str) -> Value:
        """The value that a text stands for, from a command line. Raises SettingError."""
        if isinstance(self.default, str):
            return self.check(text)
        try:
            value = _READERS[type(self.default)](text.strip())
        except (KeyError, ValueError):
            raise self.refusal(text) from None
        return self.check(value)

    def refusal(self, value: object) -> SettingError:
        expected = self.constraints or ("a path" if self.path else "a text")
        got = str(value) if isinstance(value, int | float) else repr(value)
        return SettingError(f"{self.name} must be {expected}; got {got}")

    def _is_allowed(self, text: str) -> bool:
        if self.choices:
            return text in self.choices
        return "\0" not in text and re.fullmatch(self.pattern or r"(?s:.*)", text) is not None

    def _is_in_bounds(self, number: float) -> bool:
        if isinstance(number, bool) or not math.isfinite(number) or number in self.never:
            return False
        return self.bounds is None or self.bounds[0] <= number <= self.bounds[1]


_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_READERS: dict[type, Callable[[str], Value]] = {int: int, float: float, bool: lambda text: _TRUTHS[text.lower()]}


def setting(default: Value, description: str, **facts: Any) -> Any:
    """A field of a Config; `facts` are those of Setting."""
    return field(default=default, metadata={"description": description, **facts})


@dataclass(frozen=True)
class Config:
    """Base of the tables. Making one checks every value. Raises SettingError."""

    def __post_init__(self) -> None:
        for each in settings_of(type(self)):
            object.__setattr__(self, each.name, each.check(getattr(self, each.name)))

    @classmethod
    def of(cls: type[C], source: str | Path | Mapping) -> C:
        """From a mapping, or from a YAML file of one; what it does not name keeps its default.

        Raises SettingError for a name that is no setting of this table and for a file that cannot be read.
        """
        values = dict(source) if isinstance(source, Mapping) else _read(Path(source))
        table = {each.name: each for each in settings_of(cls)}
        for each in table.values():
            for old in each.formerly:
                if old in values:
                    renamed(old, each.name)
                    values.setdefault(each.name, values.pop(old))
        if unknown := sorted(map(str, values.keys() - table.keys())):
            raise SettingError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(table))}")
        return cls(**values)


@dataclass(frozen=True)
class ForesightConfig(Config):
    """What a Foresight is made from."""

    checkpoint: str = setting(
        "",
        "Directory of the world model in the published layout. Empty: the small model that ships with this package.",
        path=True,
        formerly=("model",),
    )
    guardrail: str = setting(
        "",
        "Directory of Cosmos-1.0-Guardrail, needed by NVIDIA's checkpoints. Empty: looked for beside the checkpoint. "
        "The guardrail cannot be switched off.",
        path=True,
    )
    tokenizer: str = setting(
        "",
        "Directory with encoder.jit and decoder.jit, or with autoencoder.jit. Empty: in or beside the checkpoint.",
        path=True,
    )
    device: str = setting(
        "auto",
        "Where the model runs. auto: CUDA where there is one, else the CPU.",
        pattern=r"auto|cpu|cuda(:\d{1,3})?",
        form="auto, cpu, cuda or cuda:N",
    )
    dtype: str = setting(
        "auto",
        "Precision of the transformer. auto: bfloat16 on CUDA, float32 on the CPU.",
        choices=("auto", "bfloat16", "float32"),
        decides=True,
    )
    memory: str = setting(
        "auto",
        "What waits in host memory while it does not work. fast: nothing. balanced: what works once per prompt. low: "
        "everything, one part on the GPU at a time. auto: as little as fits the GPU.",
        choices=("auto", "fast", "balanced", "low"),
    )
    gpus: int = setting(
        1,
        "Over how many GPUs of this host, from `device` on, the transformer is cut; a number that divides its "
        "key-value heads (8 in NVIDIA's models). On the CPU: over how many processes.",
        bounds=(1, 64),
    )
    guard_timeout: float = setting(
        10.0,
        "Seconds that one guard may take before it counts as failed and the rollout is refused.",
        bounds=(0.1, 600.0),
        unit="s",
    )


@dataclass(frozen=True)
class SamplingConfig(Config):
    """How tokens are drawn where nobody says it for one prediction. A goal's own values go before these."""

    temperature: float = setting(
        -1.0,
        "Sampling temperature where a goal leaves its own negative. 0: greedy. Negative: the model's recommendation.",
        when=When.ANY_TIME,
        bounds=(-1.0, 10.0),
        decides=True,
    )
    top_p: float = setting(
        -1.0,
        "Nucleus, in (0, 1], where a goal leaves its own negative. Negative: the model's recommendation.",
        when=When.ANY_TIME,
        bounds=(-1.0, 1.0),
        never=(0.0,),
        decides=True,
    )

    def chosen(self) -> dict[str, float | None]:
        """As Foresight.predict takes them: None stands for the model's recommendation."""
        values = {"temperature": self.temperature, "top_p": self.top_p}
        return {name: value if value >= 0 else None for name, value in values.items()}


@dataclass(frozen=True)
class ClipConfig(Config):
    """How frames are picked from a camera or a recording."""

    frame_rate: float = setting(
        0.0,
        "Rate at which conditioning frames are picked and frames are predicted. 0: the model's own.",
        bounds=(0.0, 240.0),
        unit="Hz",
        decides=True,
    )
    max_age: float = setting(
        1.0,
        "Seconds by the node's clock after which the newest frame is too old to predict from. 0: never.",
        bounds=(0.0, 3600.0),
        unit="s",
        decides=True,
    )


@dataclass(frozen=True)
class NodeConfig(Config):
    """What only the node reads."""

    autostart: bool = setting(
        True,
        "Configure and activate without waiting for a lifecycle manager. False: a lifecycle manager does it.",
        when=When.START,
    )
    image_transport: str = setting(
        "raw",
        "What arrives on the topic `image`. raw: sensor_msgs/Image. compressed: sensor_msgs/CompressedImage.",
        choices=("raw", "compressed"),
    )
    image_reliability: str = setting(
        "auto",
        "QoS of the image subscription. auto: reliable while every publisher of the topic is, else best effort. "
        "best_effort hears every publisher, but large images get lost on the way. reliable does not hear a "
        "best-effort camera.",
        choices=("auto", "best_effort", "reliable"),
    )
    history: float = setting(
        3.0,
        "Seconds of camera images that are kept, at least a clip's length: how far back a goal's `until` may reach.",
        bounds=(0.1, 600.0),
        unit="s",
    )
    cpu_threads: int = setting(
        0,
        "Threads that one operation uses on the CPU. 0: half of the cores.",
        when=When.ANY_TIME,
        bounds=(0, 1024),
    )
    when_busy: str = setting(
        "reject",
        "What a goal meets while another one runs. reject: it is aborted with BUSY. preempt: it takes over. "
        "queue: it waits its turn.",
        when=When.ANY_TIME,
        choices=("reject", "preempt", "queue"),
    )


def settings_of(table: type[Config]) -> tuple[Setting, ...]:
    """The settings of one table, in its order."""
    return tuple(Setting(name=each.name, default=getattr(table, each.name), **each.metadata) for each in fields(table))


TABLES = (ForesightConfig, SamplingConfig, ClipConfig, NodeConfig)
SETTINGS = {each.name: each for table in TABLES for each in settings_of(table)}


def truth(name: str, text: str) -> bool:
    """Of an argument that is no setting: true, false, 1 or 0. Raises SettingError."""
    return bool(Setting(name, False, "").parse(text))


def renamed(old: str, new: str) -> None:
    """Warn of a name that was given up."""
    logger.warning("%s is now called %s; the old name will go with the next release", old, new)


def parameter_file(values: Mapping[str, Value], node: str) -> str:
    """A ROS parameter file. Texts are quoted: rcl would take `1e5` for a number and `on` for a truth.

    node  whom it is for, as rcl matches names: "/**" is every node
    """
    lines = [f"{node}:", "  ros__parameters:", *(f"    {name}: {json.dumps(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def as_yaml(settings: Iterable[Setting] = tuple(SETTINGS.values())) -> str:
    """The content of config/foresight.yaml: every parameter with its default, under the words that explain it."""
    lines = [
        "# Every parameter of the node, with its default. Generated: python -m cosmos_ros.settings",
        "/**:",
        "  ros__parameters:",
    ]
    for each in settings:
        words = f"{each.description} [{'; '.join(filter(None, (each.constraints, each.when.value)))}]"
        lines += textwrap.wrap(
            words, width=110, initial_indent="    # ", subsequent_indent="    # ", break_on_hyphens=False
        )
        lines += [f"    {each.name}: {json.dumps(each.default)}", ""]
    return "\n".join(lines[:-1]) + "\n"


def _read(file: Path) -> dict:
    """A YAML file of one mapping; an empty one is an empty mapping."""
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"the settings in {file} cannot be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingError(f"{file} must hold settings as `name: value`; got {type(values).__name__}")
    return values


if __name__ == "__main__":
    print(as_yaml(), end="")
