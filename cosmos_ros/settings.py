"""Every setting of the package, once: type, default, choices or bounds, what it does, and when a new value is taken.

The node's parameters, config/foresight.yaml, the launch arguments and the flags of the commands are made from these
tables, and one check judges a value wherever it comes from. A setting belongs to the class of those who read it:

    ForesightConfig   what a Foresight is made from: model, guardrail, device
    SamplingConfig    how tokens are drawn, for goals that do not say it themselves
    ClipConfig        how frames are picked from a camera or a recording
    NodeConfig        the rest of the node
    ContinuousConfig  what the node predicts by itself
    SurpriseConfig    when frames that went another way than predicted are surprising

To add one, write one line in the class of its reader, and renew the file that ships:

    horizon: int = setting(0, "Frames that ...", bounds=(0, 24))
    python -m cosmos_ros.settings > config/foresight.yaml

It is then a parameter `horizon`, a launch argument `horizon:=`, a flag `--horizon` of every command that takes the
class, and a field `config.horizon`. A name that was given up stays usable for one release: `formerly=("old_name",)`.

`python -m cosmos_ros.settings` prints config/foresight.yaml. Nothing here needs PyTorch or ROS.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cosmos_ros.errors import SettingError
from cosmos_ros.setting import C, Config, Setting, Value, When, parameter_file, renamed, setting, settings_of, truth

__all__ = [  # with what setting.py defines, so that one import is enough
    "C",
    "Config",
    "Setting",
    "Value",
    "When",
    "parameter_file",
    "renamed",
    "setting",
    "settings_of",
    "truth",
]


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
    frame_decoder: str = setting(
        "discrete",
        "What turns tokens into frames. discrete: the tokenizer that made them. diffusion: NVIDIA's diffusion decoder, "
        "sharper and slower, from its folder and the continuous tokenizer's beside the checkpoint.",
        choices=("discrete", "diffusion"),
        decides=True,
    )
    denoising_steps: int = setting(
        0,
        "Steps of the diffusion decoder: fewer take less time and come less close to what it was published for. 0: as "
        "published, 15.",
        bounds=(0, 100),
        decides=True,
    )
    device: str = setting(
        "auto",
        "Where the model runs. auto: CUDA where there is one, else the CPU.",
        pattern=r"auto|cpu|cuda(:\d{1,3})?",
        form="auto, cpu, cuda or cuda:N",
    )
    dtype: str = setting(
        "auto",
        "Precision of transformer and diffusion decoder. auto: bfloat16 on CUDA, float32 on the CPU. fp8: matrix "
        "products in 8 bits, faster and less exact, on one GPU of compute capability 8.9 or later; elsewhere as auto.",
        choices=("auto", "bfloat16", "float32", "fp8"),
        decides=True,
    )
    frame_size: str = setting(
        "",
        "Size of the model's frames, height x width in pixels, such as 320x512: smaller ones take less time. Empty: as "
        "the model was trained; its weights were not tuned for another size.",
        pattern=r"(\d{1,4}x\d{1,4})?",
        form="height x width in pixels such as 320x512, or empty",
        decides=True,
    )
    window: int = setting(
        0,
        "Positions that a decoding pass looks at: more of them take fewer passes, each of which takes longer. On a GPU "
        "tokens depend on it. 0: 128 on a GPU, 32 on the CPU.",
        bounds=(0, 12_800),
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
        "Seconds of its own work that one guard may take for an answer before it counts as failed and the rollout is "
        "refused. A guard that took longer than a second to warm up may take ten times as long as that.",
        bounds=(0.1, 600.0),
        unit="s",
    )


@dataclass(frozen=True)
class SamplingConfig(Config):
    """How tokens are drawn where nobody says it for one prediction. A goal's own values go before these."""

    temperature: float = setting(
        -1.0,
        "Sampling temperature, unless a goal gives its own. 0: greedy. Negative: the model's recommendation.",
        when=When.ANY_TIME,
        bounds=(-1.0, 10.0),
        decides=True,
    )
    top_p: float = setting(
        -1.0,
        "Nucleus, in (0, 1], unless a goal gives its own. Negative: the model's recommendation.",
        when=When.ANY_TIME,
        bounds=(-1.0, 1.0),
        never=(0.0,),
        decides=True,
    )

    def chosen(self) -> dict[str, float | None]:
        """As Foresight.predict takes them: None is the model's recommendation."""
        values = {"temperature": self.temperature, "top_p": self.top_p}
        return {name: value if value >= 0 else None for name, value in values.items()}


@dataclass(frozen=True)
class ClipConfig(Config):
    """How frames are picked from a camera or a recording."""

    frame_rate: float = setting(
        0.0,
        "Rate at which conditioning frames are picked and frames are predicted. 0: the model's own.",
        bounds=(0.0, 240.0),
        least=0.01,
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
    max_pixels: int = setting(
        64_000_000,
        "Pixels of the largest image, video frame or picture that is decoded: what says that it is larger is refused.",
        bounds=(1, 2**30),  # which is OpenCV's own limit
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
    latency_compensation: float = setting(
        0.0,
        "Seconds that ~/image_now is ahead of the node's clock: as long as its way to the eye takes.",
        when=When.ANY_TIME,
        bounds=(0.0, 60.0),
        unit="s",
    )
    max_frames: int = setting(
        96,
        "Frames that a goal, or `continuous_frames`, may ask for. What is more than the model predicts at once is "
        "predicted in stretches, each from the last frames of the one before, and takes so much more time and memory.",
        when=When.ANY_TIME,
        bounds=(1, 10_000),
    )
    keep_rollouts: int = setting(
        4,
        "Goals whose rollouts are kept for ~/score. A rollout of 640x1024 takes 47 MB.",
        when=When.ANY_TIME,
        bounds=(0, 100),
    )


@dataclass(frozen=True)
class ContinuousConfig(Config):
    """What the node predicts by itself, from the newest frames. A new value is taken with the next frame."""

    continuous_rate: float = setting(
        0.0,
        "Predictions per second of the camera's time that the node makes by itself. What the model cannot keep up with "
        "is skipped, and goals go first. 0: none.",
        when=When.ANY_TIME,
        bounds=(0.0, 60.0),
        least=0.001,
        unit="Hz",
    )
    continuous_prompt: str = setting(
        "",
        "Prompt of the continuous predictions, for models that take one.",
        when=When.ANY_TIME,
    )
    continuous_seed: int = setting(
        -1,
        "Seed of every continuous prediction. Negative: drawn anew for each.",
        when=When.ANY_TIME,
        bounds=(-1, 2**63 - 17),
    )
    continuous_samples: int = setting(
        1,
        "Rollouts of each continuous prediction, with seeds that follow each other.",
        when=When.ANY_TIME,
        bounds=(1, 16),
    )
    continuous_frames: int = setting(
        0,
        "Frames of each continuous prediction, rounded up to whole latent frames of the model (8 frames each in the "
        "published models), at most `max_frames`; more than it predicts at once come in stretches. 0: as many as it "
        "predicts at once.",
        when=When.ANY_TIME,
        bounds=(0, 10_000),
    )


@dataclass(frozen=True)
class SurpriseConfig(Config):
    """When frames that went another way than predicted are surprising."""

    surprise_calibration: str = setting(
        "",
        "What `cosmos_ros calibrate` wrote for this model. Empty: scores are uncalibrated, and nothing is surprising.",
        path=True,
    )
    surprise_alpha: float = setting(
        0.02,
        "Share of nominal predictions of which any frame may be called surprising.",
        bounds=(0.0001, 0.5),
    )
    surprise_frames: int = setting(
        2,
        "Frames in a row that must be surprising for the alarm.",
        bounds=(1, 100),
    )
    surprise_clear_after: float = setting(
        3.0,
        "Seconds of the camera's time without a surprising frame after which the alarm ends.",
        bounds=(0.0, 3600.0),
        unit="s",
    )
    surprise_likelihood: bool = setting(
        True,
        "Ask the model how likely the frames are that came, by a pass over their tokens every eight frames; it takes "
        "its turn with predictions. False: the pixels alone are compared.",
    )


TABLES = (ForesightConfig, SamplingConfig, ClipConfig, NodeConfig, ContinuousConfig, SurpriseConfig)
SETTINGS = {each.name: each for table in TABLES for each in settings_of(table)}


def check_together(values: Mapping[str, Any]) -> None:
    """What no setting can say by itself. Raises SettingError.

    values  of all settings, those that are new among them
    """
    asked, most = values["continuous_frames"], values["max_frames"]
    if asked > most:
        raise SettingError(
            f"continuous_frames must not be more than max_frames; got {asked} and {most}: raise max_frames first, or "
            "ask for fewer"
        )


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


if __name__ == "__main__":
    print(as_yaml(), end="")
