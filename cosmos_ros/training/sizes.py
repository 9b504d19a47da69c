"""What is configuration in training, not code: sizes of frames and networks, compression, frame rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cosmos_ros.errors import SettingError
from cosmos_ros.rollout import MAX_SAMPLES
from cosmos_ros.world_model import TransformerConfig
from cosmos_ros.world_model.model_spec import PUBLISHED_COMPRESSION, ModelSpec

TIME_COMPRESSION = 8  # frames of a latent frame
PATCH = 4  # pixels, and frames, per wavelet patch along each axis
CLIP_FRAMES = 33
T = TypeVar("T")
CONDITIONING_FRAMES = 9


@dataclass(frozen=True)
class TokenizerSizes:
    """Sizes of the video tokenizer.

    channels        at 1/4, 1/8 and so on of the picture's size; how many there are sets the compression in space
    encoder_blocks  residual blocks per level; likewise decoder_blocks
    levels          quantisation levels per code dimension; their product is the vocabulary
    """

    channels: tuple[int, ...] = (128, 208)
    encoder_blocks: tuple[int, ...] = (1, 3)
    decoder_blocks: tuple[int, ...] = (2, 4)
    levels: tuple[int, ...] = (7, 5, 5, 5, 5)

    def __post_init__(self) -> None:
        _make_tuples(self, "channels", "encoder_blocks", "decoder_blocks", "levels")
        if not len(self.channels) == len(self.encoder_blocks) == len(self.decoder_blocks) >= 2:
            raise SettingError("channels, encoder_blocks and decoder_blocks need one number per level, two or more")
        positive = self.channels + self.encoder_blocks + self.decoder_blocks
        if not (_are_whole(positive) and self.levels and _are_whole(self.levels, 2)):
            raise SettingError(
                "channels, encoder_blocks and decoder_blocks must be positive whole numbers, and levels whole numbers "
                f"from 2 on; got {self}"
            )

    @property
    def vocabulary(self) -> int:
        return math.prod(self.levels)

    @property
    def space_compression(self) -> int:
        """Pixels of a token along height and width."""
        return PATCH * 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class Sizes:
    """Everything that a model directory is made by. The defaults are the model that ships.

    frame_size  (height, width) of the model's frames, pixels; multiples of 16 and of a token
    frame_rate  Hz, at which clips are picked from recordings, and the model's own
    refiner_channels, refiner_hypotheses  of the refiner; see `Refiner`

    Raises SettingError where these do not fit together.
    """

    frame_size: tuple[int, int] = (112, 192)
    frame_rate: float = 10.0
    tokenizer: TokenizerSizes = field(default_factory=TokenizerSizes)
    layers: int = 6
    width: int = 384
    heads: int = 6
    key_value_heads: int = 2
    ffn_hidden: int = 1024
    refiner_channels: tuple[int, int, int, int] = (48, 96, 144, 176)
    refiner_hypotheses: int = 9
    temperature: float = 0.8
    top_p: float = 0.6

    def __post_init__(self) -> None:
        _make_tuples(self, "frame_size", "refiner_channels")
        given: Any = self.tokenizer
        if not isinstance(given, TokenizerSizes):
            object.__setattr__(self, "tokenizer", _made(TokenizerSizes, given))
        _require_bounds(self)
        numbers = (self.layers, self.width, self.heads, self.key_value_heads, self.ffn_hidden)
        if not _are_whole(numbers + self.refiner_channels) or len(self.refiner_channels) != 4:
            raise SettingError(
                "layers, width, heads, key_value_heads, ffn_hidden and the four refiner_channels must be positive "
                "whole numbers"
            )
        step = math.lcm(16, self.tokenizer.space_compression)
        if len(self.frame_size) != 2 or not _are_whole(self.frame_size) or any(size % step for size in self.frame_size):
            raise SettingError(f"frame_size must be two multiples of {step}; got {list(self.frame_size)}")
        if self.width % self.heads or self.heads % self.key_value_heads:
            raise SettingError("width must be a multiple of heads, and heads of key_value_heads")
        try:
            _ = self.transformer
        except ValueError as error:
            raise SettingError(str(error)) from error

    @classmethod
    def of(cls, file: Path | None) -> Sizes:
        """From a YAML file of these fields; None: the model that ships. Raises SettingError."""
        return _read(cls, file)

    @property
    def transformer(self) -> TransformerConfig:
        return TransformerConfig(
            n_layers=self.layers,
            dim=self.width,
            n_heads=self.heads,
            n_kv_heads=self.key_value_heads,
            head_dim=self.width // self.heads,
            ffn_hidden=self.ffn_hidden,
            vocab_in=self.tokenizer.vocabulary,
            vocab_out=self.tokenizer.vocabulary,
            latent_shape=self.latent_shape,
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        step = self.tokenizer.space_compression
        latent_frames = 1 + (CLIP_FRAMES - 1) // TIME_COMPRESSION
        return latent_frames, self.frame_size[0] // step, self.frame_size[1] // step


@dataclass(frozen=True)
class PublishedSizes:
    """What can be chosen where training goes on from a model that was made elsewhere; the rest is as it is there.

    frame_size        (height, width) in pixels, up to the checkpoint's; empty: the checkpoint's
    frame_rate        Hz, at which clips are picked, and the model's own from then on; None: the checkpoint's
    learning_rate     of the transformer, the highest
    refiner_channels, refiner_hypotheses  of the refiner; see `Refiner`
    camera_times      times the model's height and width, of the camera's frames that the refiner is trained with
    temperature, top_p  of the rollouts that the refiner is trained on, and of the model; None: the checkpoint's

    Raises SettingError where these make no sense.
    """

    frame_size: tuple[int, ...] = ()
    frame_rate: float | None = None
    learning_rate: float = 1e-4
    refiner_channels: tuple[int, int, int, int] = (48, 96, 144, 176)
    refiner_hypotheses: int = 9
    camera_times: float = 1.5
    temperature: float | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        _make_tuples(self, "frame_size", "refiner_channels")
        _require_bounds(self)
        if (
            not _are_whole((*self.frame_size, *self.refiner_channels))
            or len(self.frame_size) not in (0, 2)
            or len(self.refiner_channels) != 4
        ):
            raise SettingError("frame_size needs two positive whole numbers (height, width), and refiner_channels four")

    @classmethod
    def of(cls, file: Path | None) -> PublishedSizes:
        """From a YAML file of these fields; None: as the checkpoint says. Raises SettingError."""
        return _read(cls, file)

    def applied(self, spec: ModelSpec) -> ModelSpec:
        """What the checkpoint is with these choices. Raises SettingError where its frames or clips do not fit."""
        if spec.compression[0] != TIME_COMPRESSION or spec.chunking.n_frames != CLIP_FRAMES:
            raise SettingError(
                f"{spec.name} takes clips of {spec.chunking.n_frames} frames, {spec.compression[0]} to a latent frame; "
                f"training is made for {CLIP_FRAMES} frames, {TIME_COMPRESSION} to a latent frame"
            )
        spec = spec.at("x".join(map(str, self.frame_size)))
        step = PUBLISHED_COMPRESSION[1]  # what the refiner halves its frames to
        if any(side % step for side in spec.frame_size):
            raise SettingError(f"frame_size must be two multiples of {step}; got {list(spec.frame_size)}")
        chosen = {name: getattr(self, name) for name in ("frame_rate", "temperature", "top_p")}
        return replace(spec, **{name: value for name, value in chosen.items() if value is not None})


_BOUNDS = {
    "frame_rate": (1e-3, 1e3),
    "learning_rate": (1e-9, 1.0),
    "camera_times": (1.0, 4.0),
    "temperature": (0.0, 10.0),
    "top_p": (1e-9, 1.0),
}


def _make_tuples(sizes: object, *names: str) -> None:
    """Of the lists that YAML gives. Raises SettingError where one is none."""
    for name in names:
        if not isinstance(given := getattr(sizes, name), (list, tuple)):
            raise SettingError(f"{name} must be a list of numbers; got {given!r}")
        object.__setattr__(sizes, name, tuple(given))


def _require_bounds(sizes: Sizes | PublishedSizes) -> None:
    """Raises SettingError where a number is out of its bounds; None is none where it is the default."""
    hypotheses: object = sizes.refiner_hypotheses
    if not _are_whole((hypotheses,)) or sizes.refiner_hypotheses > MAX_SAMPLES:  # a goal has no more samples to show
        raise SettingError(f"refiner_hypotheses must be a whole number from 1 to {MAX_SAMPLES}; got {hypotheses!r}")
    bounds = {name: each for name, each in _BOUNDS.items() if hasattr(sizes, name)}
    wrong = [
        f"{name} {low:g} to {high:g}"
        for name, (low, high) in bounds.items()
        if not (_within(value := getattr(sizes, name), low, high) or value is getattr(type(sizes), name) is None)
    ]
    if wrong:
        raise SettingError(f"out of range: expected {', '.join(wrong)}")


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _are_whole(numbers: tuple[object, ...], least: int = 1) -> bool:
    return all(isinstance(each, int) and not isinstance(each, bool) and each >= least for each in numbers)


def _read(cls: type[T], file: Path | None) -> T:
    if file is None:
        return cls()
    try:
        given = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"{file} cannot be read as YAML: {error}") from error
    return _made(cls, given if given is not None else {}, str(file))


def _made(cls: type[T], given: object, where: str = "tokenizer") -> T:
    names = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(given, dict) or (unknown := set(given) - names):
        told = sorted(map(str, unknown)) if isinstance(given, dict) else type(given).__name__
        raise SettingError(f"{where}: expected a mapping of {', '.join(sorted(names))}; got {told}")
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{where}: {error}") from error
