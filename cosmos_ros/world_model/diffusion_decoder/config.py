"""What a diffusion decoder looks like: its sizes, its tensors under their published names, and NVIDIA's published one.

It is the network of Cosmos-1.0-Diffusion-7B-Decoder-DV8x16x16ToCV8x8x8 and of Cosmos-Predict1-7B-Decoder-
DV8x16x16ToCV8x8x8-720p: a diffusion transformer that is given tokens of the discrete tokenizer DV8x16x16 and removes
noise from latents of the continuous tokenizer CV8x8x8 (NVIDIA, arXiv:2501.03575, section 5.2.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.listing import listed
from cosmos_ros.world_model.checkpoints.recognition import shape_problems
from cosmos_ros.world_model.config import Shape
from cosmos_ros.world_model.tokenizer.chunking import Chunking

PATCH = 2  # latent pixels of a patch, along height and width
LARGEST_GRID = 120  # patches along height or width for which the published model has positions
COMPRESSION = (8, 16, 16)  # pixels of a token along (time, height, width)
LATENT_COMPRESSION = (8, 8, 8)  # pixels of a latent pixel
CHUNK = 8  # latent frames that the network works on: (57 - 1) / 8 + 1 of the 57 pixel frames it was trained on


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """The network's sizes.

    hidden           channels inside a feed-forward
    context_dim      width of the text embedding
    modulation_dim   of the low-rank projection from noise level to shift, scale and gate
    vocabulary       tokens that it knows
    token_channels   width of a token's embedding, which is put beside the latent's channels

    Raises ValueError where the sizes do not fit together.
    """

    n_blocks: int
    dim: int
    n_heads: int
    head_dim: int
    hidden: int
    context_dim: int
    modulation_dim: int
    vocabulary: int
    token_channels: int
    latent_channels: int

    def __post_init__(self) -> None:
        if wrong := [name for name, size in vars(self).items() if size < 1]:
            raise ValueError(f"{', '.join(wrong)} must be positive whole numbers in {self}")
        if self.head_dim % 2 or self.head_dim < 12:
            raise ValueError(f"head_dim must be even and at least 12 to hold three rotary axes; got {self.head_dim}")
        if self.dim % 2:
            raise ValueError(f"dim must be even to hold sines and cosines of the noise level; got {self.dim}")

    @property
    def inner(self) -> int:
        """Channels of all heads together."""
        return self.n_heads * self.head_dim

    @property
    def patch_in(self) -> int:
        """Numbers of a patch that goes in: latent, token embedding and padding mask."""
        return (self.latent_channels + self.token_channels + 1) * PATCH**2

    @property
    def patch_out(self) -> int:
        return self.latent_channels * PATCH**2

    @property
    def double(self) -> int:
        return 2 * self.dim

    @property
    def triple(self) -> int:
        return 3 * self.dim


PUBLISHED = DiffusionDecoderConfig(
    n_blocks=28,
    dim=4096,
    n_heads=32,
    head_dim=128,
    hidden=16384,
    context_dim=1024,
    modulation_dim=256,
    vocabulary=64000,
    token_channels=32,
    latent_channels=16,
)

# Our name of a tensor -> its published one and its shape in the names of DiffusionDecoderConfig. In a block: without
# `blocks.N.` and `net.blocks.blockN.`; all without `.weight`.
Layout = dict[str, tuple[str, tuple[str, ...]]]


def _attention(ours: str, theirs: str, source: str) -> Layout:
    return {
        f"{ours}.wq": (f"{theirs}.to_q.0", ("inner", "dim")),
        f"{ours}.q_norm": (f"{theirs}.to_q.1", ("head_dim",)),
        f"{ours}.wk": (f"{theirs}.to_k.0", ("inner", source)),
        f"{ours}.k_norm": (f"{theirs}.to_k.1", ("head_dim",)),
        f"{ours}.wv": (f"{theirs}.to_v.0", ("inner", source)),
        f"{ours}.wo": (f"{theirs}.to_out.0", ("dim", "inner")),
    }


def _modulation(ours: str, theirs: str, rows: str) -> Layout:
    return {
        f"{ours}.down": (f"{theirs}.adaLN_modulation.1", ("modulation_dim", "dim")),
        f"{ours}.up": (f"{theirs}.adaLN_modulation.2", (rows, "modulation_dim")),
    }


OUTER: Layout = {
    "patches": ("net.x_embedder.proj.1", ("dim", "patch_in")),
    "token_embedding": ("net.token_embedder", ("vocabulary", "token_channels")),
    "time.first": ("net.t_embedder.1.linear_1", ("dim", "dim")),
    "time.second": ("net.t_embedder.1.linear_2", ("triple", "dim")),
    "time.norm": ("net.affline_norm", ("dim",)),
    "out": ("net.final_layer.linear", ("patch_out", "dim")),
} | _modulation("out_modulation", "net.final_layer", "double")
BLOCK: Layout = (
    _attention("attention", "blocks.0.block.attn", "dim")
    | _attention("cross_attention", "blocks.1.block.attn", "context_dim")
    | {
        "feed_forward.w1": ("blocks.2.block.layer1", ("hidden", "dim")),
        "feed_forward.w2": ("blocks.2.block.layer2", ("dim", "hidden")),
    }
    | _modulation("attention_modulation", "blocks.0", "triple")
    | _modulation("cross_attention_modulation", "blocks.1", "triple")
    | _modulation("feed_forward_modulation", "blocks.2", "triple")
)
# In the file, or in what others made of it, and not used when frames are decoded: what weighs the loss in training, and
# the positions 0, 1, 2, ... and their exponents, which are computed.
UNUSED = re.compile(r"logvar\..*|net\.pos_embedder\.(seq|dim_spatial_range|dim_temporal_range)")
BLOCK_NAME = re.compile(r"net\.blocks\.block(\d{1,3})\.")
# The tensor that a size is taken from, and its axis.
TELLING = {
    "dim": ("net.x_embedder.proj.1.weight", 0),
    "head_dim": ("net.blocks.block0.blocks.0.block.attn.to_q.1.weight", 0),
    "inner": ("net.blocks.block0.blocks.0.block.attn.to_q.0.weight", 0),
    "hidden": ("net.blocks.block0.blocks.2.block.layer1.weight", 0),
    "context_dim": ("net.blocks.block0.blocks.1.block.attn.to_k.0.weight", 1),
    "modulation_dim": ("net.final_layer.adaLN_modulation.1.weight", 0),
    "vocabulary": ("net.token_embedder.weight", 0),
    "token_channels": ("net.token_embedder.weight", 1),
    "patch_out": ("net.final_layer.linear.weight", 0),
}


def names_in_file(config: DiffusionDecoderConfig) -> dict[str, str]:
    """Published name of every tensor -> the name that `DiffusionTransformer` gives it."""
    names = {f"{theirs}.weight": f"{ours}.weight" for ours, (theirs, _) in OUTER.items()}
    for i in range(config.n_blocks):
        names |= {
            f"net.blocks.block{i}.{theirs}.weight": f"blocks.{i}.{ours}.weight" for ours, (theirs, _) in BLOCK.items()
        }
    return names


def tensor_shapes(config: DiffusionDecoderConfig) -> dict[str, Shape]:
    """Shape of every tensor, by its published name."""
    shapes = {f"{theirs}.weight": sizes for theirs, sizes in OUTER.values()}
    for i in range(config.n_blocks):
        shapes |= {f"net.blocks.block{i}.{theirs}.weight": sizes for theirs, sizes in BLOCK.values()}
    return {name: tuple(getattr(config, size) for size in sizes) for name, sizes in shapes.items()}


def used(names: Iterable[str]) -> list[str]:
    """Those of a file's names that belong to the network."""
    return [name for name in names if not UNUSED.fullmatch(name)]


def config_from_shapes(shapes: Mapping[str, Shape]) -> DiffusionDecoderConfig:
    """The config that a file's tensors describe, by their published names.

    Raises ValueError where they are not those of one whole network. A published one that lacks tensors, or whose
    tensors were altered, is refused as such and never taken for a decoder of somebody's own, which would run without
    the guardrail that the licence requires.
    """
    published = tensor_shapes(PUBLISHED)
    if 2 * sum(shapes.get(name) == shape for name, shape in published.items()) > len(shapes):
        _require(shapes, published, "is an incomplete or altered Cosmos diffusion decoder; download it again")
        return PUBLISHED
    absent = [name for name, axis in TELLING.values() if axis >= len(shapes.get(name, ())) or 0 in shapes[name]]
    if absent:
        raise ValueError(
            f"does not hold the expected tensors: missing, or not of any use: {listed(sorted(set(absent)))}"
        )
    sizes = {size: shapes[name][axis] for size, (name, axis) in TELLING.items()}
    blocks = [int(inside[1]) for name in shapes if (inside := BLOCK_NAME.match(name))]
    inner, patch_out = sizes.pop("inner"), sizes.pop("patch_out")
    try:
        config = DiffusionDecoderConfig(
            n_blocks=max(blocks) + 1,
            n_heads=inner // sizes["head_dim"],
            latent_channels=patch_out // PATCH**2,
            **sizes,
        )
    except ValueError as error:
        raise ValueError(f"has tensors that do not fit together: {error}") from error
    _require(shapes, tensor_shapes(config), "does not hold the expected tensors")
    return config


def _require(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], what: str) -> None:
    if problems := shape_problems(shapes, expected):
        raise ValueError(f"{what}: {listed(problems)}")


def require_decodable(chunking: Chunking) -> None:
    """Raises ModelUnavailable for a model's frames that no decoder of this kind gives, whichever may be there."""
    if chunking.compression != COMPRESSION:
        _refuse(f"tokens of {COMPRESSION} pixels (time, height, width), and the model's are {chunking.compression}")
    if max(chunking.latent_shape[1:]) > LARGEST_GRID:
        largest = LARGEST_GRID * COMPRESSION[1]
        _refuse(f"frames of at most {largest} pixels along a side, and the model's are {chunking.frame_size}")


def require_fit(config: DiffusionDecoderConfig, vocabulary: int, context_dim: int | None) -> None:
    """Raises ModelUnavailable where a model's tokens or prompts are not those that this decoder knows.

    vocabulary, context_dim  of the model
    """
    if config.vocabulary != vocabulary:
        _refuse(f"{config.vocabulary} different tokens, and the model has {vocabulary}")
    if context_dim not in (None, config.context_dim):
        _refuse(f"text embeddings of width {config.context_dim}, and the model's prompts have {context_dim}")


def _refuse(problem: str) -> NoReturn:
    raise ModelUnavailable(
        f"the diffusion decoder was made for {problem}; it decodes NVIDIA's models, whose tokenizer is DV8x16x16. "
        "Set frame_decoder to discrete"
    )
