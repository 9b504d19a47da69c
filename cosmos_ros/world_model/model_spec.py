"""What a checkpoint is, known from its headers alone: its name, its sizes, and whether it is one of NVIDIA's."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cosmos_ros import paths
from cosmos_ros.errors import ModelUnavailable, SettingError
from cosmos_ros.world_model.checkpoints.transformer_weights import (
    Checkpoint,
    config_of,
    open_checkpoint,
    read_settings,
)
from cosmos_ros.world_model.checkpoints.weight_files import is_directory
from cosmos_ros.world_model.config import PUBLISHED_KINDS, TransformerConfig, published_kind
from cosmos_ros.world_model.diffusion_decoder.config import require_decodable, require_fit
from cosmos_ros.world_model.diffusion_decoder.files import DiffusionDecoderFolders, find_diffusion_decoder
from cosmos_ros.world_model.tokenizer.chunking import Chunking

PUBLISHED_FRAME_RATE = 25.0  # Hz, at which the published pipeline writes its output
PUBLISHED_COMPRESSION = (8, 16, 16)
PUBLISHED_NAMES = ("Cosmos-1.0-Autoregressive", "Cosmos-Predict1")
CLIP_LATENT_FRAMES = 2  # of the longest clip: its first frame, then one step of the compression in time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSpec:
    """What a checkpoint is, known from its headers alone.

    checkpoint    its opened headers: what is loaded later is what was recognised here
    name          for people and for the rollout message; of NVIDIA's four models their own, whatever the directory's
    published     one of NVIDIA's four models, by its tensor shapes or by its name, or decoded by their decoder
    compression   pixels per token along (time, height, width)
    frame_rate    Hz, of conditioning and predicted frames
    temperature, top_p  what the model's makers recommend
    diffusion_decoder   that turns its tokens into frames; None: the discrete tokenizer does

    config.json may set frame_rate, compression, temperature and top_p, the name of a model that is none of NVIDIA's,
    and what `config_from_shapes` reads.
    """

    directory: Path
    checkpoint: Checkpoint = field(repr=False, compare=False)
    name: str
    config: TransformerConfig
    published: bool
    frame_rate: float
    compression: tuple[int, int, int]
    temperature: float
    top_p: float
    diffusion_decoder: DiffusionDecoderFolders | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of_checkpoint(cls, directory: str | Path = "") -> ModelSpec:
        """Read the headers of a checkpoint; "" is the model that ships with this package.

        Raises ModelUnavailable where it is missing, damaged or no checkpoint of this family.
        """
        directory = Path(directory or _embedded_model()).absolute()
        if not is_directory(directory):
            raise ModelUnavailable(f"{directory} is a file; give the directory that holds it and its tokenizer")
        settings = read_settings(directory)
        checkpoint = open_checkpoint(directory)
        config = config_of(checkpoint, settings)
        try:
            return cls._described(directory, checkpoint, config, settings)
        except ValueError as error:
            raise ModelUnavailable(f"{directory / 'config.json'}: {error}; correct it, or fetch it again") from error

    @classmethod
    def _described(
        cls, directory: Path, checkpoint: Checkpoint, config: TransformerConfig, settings: Mapping
    ) -> ModelSpec:
        """By its config.json. Raises ValueError where that says what cannot be."""
        if config.latent_shape[0] <= CLIP_LATENT_FRAMES:
            raise ValueError(
                f"latent_shape {list(config.latent_shape)} leaves nothing to predict: a clip alone is "
                f"{CLIP_LATENT_FRAMES} latent frames, and the first number counts all"
            )
        kind = published_kind(config)
        name = _name(directory, settings, kind)
        return cls(
            directory=directory,
            checkpoint=checkpoint,
            name=name,
            config=config,
            published=kind is not None or any(_is_published_name(claim) for claim in (directory.name, name)),
            frame_rate=_number(settings, "frame_rate", PUBLISHED_FRAME_RATE, 1e-3, 1e3),
            compression=_compression(settings),
            temperature=_number(settings, "temperature", 1.0, 0.0, 10.0),
            top_p=_number(settings, "top_p", PUBLISHED_KINDS[kind].top_p if kind else 0.8, 1e-9, 1.0),
        )

    def at(self, frame_size: str) -> ModelSpec:
        """The same model for frames of another size, "320x512" (height x width); "": as it was trained.

        Positions and the tokenizer's convolutions go by the frames' own grid, so that another size computes; how good
        it then is, only training or trying can say. Raises SettingError for a size that the tokens do not fit, or that
        is larger than the one that was trained.
        """
        if not frame_size:
            return self
        height, width = (int(size) for size in frame_size.split("x"))
        _, down, across = self.compression
        fits = height % down == 0 < height <= self.frame_size[0] and width % across == 0 < width <= self.frame_size[1]
        if not fits:
            raise SettingError(
                f"frame_size must be height x width, the height a multiple of {down}, the width of {across}, up to "
                f"{self.frame_size[0]}x{self.frame_size[1]}; got {frame_size}"
            )
        shape = (self.config.latent_shape[0], height // down, width // across)
        return replace(self, config=replace(self.config, latent_shape=shape))

    def decoded_by(self, frame_decoder: str) -> ModelSpec:
        """The same model with what turns its tokens into frames: "discrete", or "diffusion" beside the checkpoint.

        NVIDIA's diffusion decoder brings the guardrail that their licence asks for with it, whatever model it decodes.
        Raises ModelUnavailable where it is missing, damaged or was made for other models.
        """
        if frame_decoder == "discrete":
            return self
        require_decodable(self.chunking)  # first: nobody is to fetch a decoder that is refused then
        found = find_diffusion_decoder(self.directory)
        require_fit(found.config, self.config.vocab_out, self.config.context_dim)
        return replace(self, diffusion_decoder=found, published=self.published or found.published)

    @property
    def chunking(self) -> Chunking:
        return Chunking(self.config.latent_shape, self.compression)

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the model's frames, pixels."""
        return self.chunking.frame_size

    @property
    def takes_prompt(self) -> bool:
        return self.config.has_text

    @property
    def conditioning_lengths(self) -> tuple[int, int]:
        """Numbers of conditioning frames: a video's, and an image's; 9 and 1 at the published compression."""
        return 1 + self.compression[0], 1

    def new_frames(self, n_conditioning: int) -> int:
        """Predicted frames after n conditioning ones; at the published compression 24 after 9, 32 after 1."""
        return self.chunking.n_frames - n_conditioning

    def stretches(self, n_conditioning: int, n_frames: int) -> tuple[int, ...]:
        """How many frames each stretch of a prediction has, so that there are n_frames, in whole latent frames.

        The first goes on from n_conditioning camera frames, each later one from as many of the frames before it as the
        longest clip has.
        """
        step = self.compression[0]
        left = math.ceil(n_frames / step) * step
        lengths = [min(left, self.new_frames(n_conditioning))]
        later = self.new_frames(self.conditioning_lengths[0])
        while left := left - lengths[-1]:
            lengths.append(min(left, later))
        return tuple(lengths)


def _embedded_model() -> Path:
    try:
        return paths.embedded_model()
    except FileNotFoundError as error:
        raise ModelUnavailable(f"there is no model to load: {error}") from error


def _name(directory: Path, settings: Mapping, kind: str | None) -> str:
    """A published model has one of its published names: the directory's if that is one of them, else its first."""
    given = settings.get("name", directory.name)
    if kind is None:
        if not isinstance(given, str) or not given.strip():
            raise ValueError(f"name must be a text; got {given!r}")
        return given
    names = PUBLISHED_KINDS[kind].names
    name = directory.name if directory.name in names else names[0]
    claims = [directory.name] if _is_published_name(directory.name) else []
    claims += [settings["name"]] if "name" in settings else []
    for claim in claims:
        if claim not in names:
            logger.warning("%s is %s by its tensors; the name %r is ignored", directory, name, claim)
    return name


def _is_published_name(name: str) -> bool:
    return name.startswith(PUBLISHED_NAMES)


def _number(settings: Mapping, key: str, default: float, low: float, high: float) -> float:
    value = settings.get(key, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(f"{key} must be a number in {low:g}..{high:g}; got {value!r}")
    return float(value)


def _compression(settings: Mapping) -> tuple[int, int, int]:
    value = settings.get("compression", PUBLISHED_COMPRESSION)
    if not (isinstance(value, (list, tuple)) and len(value) == 3 and all(isinstance(v, int) and v > 0 for v in value)):
        raise ValueError(f"compression must be three positive whole numbers; got {value!r}")
    return tuple(value)
