"""Where a diffusion decoder's files lie, and reading them: strictly, and nothing that is no number.

Two folders beside the checkpoint, in either published naming:

    Cosmos-1.0-Diffusion-7B-Decoder-DV8x16x16ToCV8x8x8/         model.pt, aux_vars.pt
    Cosmos-1.0-Tokenizer-CV8x8x8/                               decoder.jit, mean_std.pt
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from cosmos_ros.device.tensors import not_finite
from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.files import check_regular
from cosmos_ros.listing import listed
from cosmos_ros.reading import reading
from cosmos_ros.torchscript import require_sound
from cosmos_ros.world_model.checkpoints.recognition import shape_problems
from cosmos_ros.world_model.checkpoints.weight_files import (
    WEIGHT_DTYPES,
    TensorHeader,
    drop_pages,
    headers_of,
    is_directory,
    load_archive,
    map_tensors,
    read_headers,
)
from cosmos_ros.world_model.diffusion_decoder.config import (
    CHUNK,
    PUBLISHED,
    DiffusionDecoderConfig,
    config_from_shapes,
    names_in_file,
    tensor_shapes,
    used,
)
from cosmos_ros.world_model.diffusion_decoder.network import DiffusionTransformer
from cosmos_ros.world_model.diffusion_decoder.sampler import EULER, MULTISTEP, Solver
from cosmos_ros.world_model.tokenizer.programs import NO_PROGRAM

WEIGHTS, TEXT = "model.pt", "aux_vars.pt"
PROGRAM, STATISTICS = "decoder.jit", "mean_std.pt"


@dataclass(frozen=True)
class Family:
    """One of the two releases: what its folders are called, and how its pipeline samples."""

    decoder: str
    tokenizer: str
    solver: Solver


FAMILIES = (
    Family("Cosmos-1.0-Diffusion-7B-Decoder-DV8x16x16ToCV8x8x8", "Cosmos-1.0-Tokenizer-CV8x8x8", MULTISTEP),
    Family("Cosmos-Predict1-7B-Decoder-DV8x16x16ToCV8x8x8-720p", "Cosmos-Tokenize1-CV8x8x8-720p", EULER),
)
FETCH = " and ".join(
    f"`hf download nvidia/{name} --local-dir <checkpoints>/{name}`"
    for name in (FAMILIES[0].decoder, FAMILIES[0].tokenizer)
)
REMEDY = f"fetch decoder and tokenizer with {FETCH}, where <checkpoints> holds the model's folder"


@dataclass(frozen=True)
class DiffusionDecoderFolders:
    """A decoder that was found, its header read: what is loaded later is what was recognised here.

    weights    model.pt
    tokenizer  folder of the continuous tokenizer; None: latents are all that is wanted
    headers    of the tensors of model.pt, by their published names
    """

    weights: Path
    tokenizer: Path | None
    solver: Solver
    config: DiffusionDecoderConfig
    headers: Mapping[str, TensorHeader]

    @property
    def files(self) -> list[Path]:
        """All that decides what it computes."""
        tokenizer = [] if self.tokenizer is None else [self.tokenizer / PROGRAM, self.tokenizer / STATISTICS]
        return [self.weights, self.weights.parent / TEXT, *tokenizer]

    @property
    def published(self) -> bool:
        """Whether it is NVIDIA's, for which their licence holds."""
        return self.config == PUBLISHED


def find_diffusion_decoder(checkpoint: Path) -> DiffusionDecoderFolders:
    """The decoder beside or in a checkpoint's directory; of two, the one of the checkpoint's own release.

    Raises ModelUnavailable where a part is missing or damaged.
    """
    checkpoint = checkpoint.absolute()
    own_first = sorted(FAMILIES, key=lambda family: _release(family.decoder) != _release(checkpoint.name))
    looked = []
    for family in own_first:
        for root in (checkpoint.parent, checkpoint):
            looked.append(root / family.decoder)
            if _exists(looked[-1]):
                return open_diffusion_decoder(looked[-1], _tokenizer(root, family), family.solver)
    raise ModelUnavailable(
        f"frame_decoder: diffusion needs a diffusion decoder: no {' nor '.join(map(str, looked))}; {REMEDY}"
    )


def _release(name: str) -> str:
    return "1.0" if name.startswith("Cosmos-1.0-") else "Predict1"


def _tokenizer(root: Path, family: Family) -> Path:
    candidates = [root / each.tokenizer for each in sorted(FAMILIES, key=lambda each: each is not family)]
    for candidate in candidates:
        if _exists(candidate):
            return candidate
    raise ModelUnavailable(
        f"the diffusion decoder needs the continuous tokenizer: no {' nor '.join(map(str, candidates))}; {REMEDY}"
    )


def _exists(folder: Path) -> bool:
    with reading(folder, remedy=REMEDY):
        try:
            folder.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def open_diffusion_decoder(
    decoder: Path, tokenizer: Path | None, solver: Solver, config: DiffusionDecoderConfig | None = None
) -> DiffusionDecoderFolders:
    """Read the header of a decoder in the given folders.

    config  None: from the tensors' shapes

    Raises ModelUnavailable, also where one of the other files is missing, damaged or unfit.
    """
    weights = decoder / WEIGHTS
    for file in (
        weights,
        decoder / TEXT,
        *([] if tokenizer is None else [tokenizer / PROGRAM, tokenizer / STATISTICS]),
    ):
        with reading(file, remedy=REMEDY):
            check_regular(file)
    headers = read_headers(weights)
    config = _recognised(weights, headers, config)
    # Small beside the weights: what is wrong with the other files is said before anything is loaded.
    read_text(decoder, config.context_dim)
    if tokenizer is not None:
        read_statistics(tokenizer, config.latent_channels, CHUNK)
        with reading(program := tokenizer / PROGRAM, fault=NO_PROGRAM, remedy=REMEDY):
            require_sound(program)
    return DiffusionDecoderFolders(weights, tokenizer, solver, config, headers)


def _recognised(
    file: Path, headers: Mapping[str, TensorHeader], config: DiffusionDecoderConfig | None
) -> DiffusionDecoderConfig:
    of_network = {name: headers[name] for name in used(headers)}
    if odd := [f"{name} is {header.dtype}" for name, header in of_network.items() if header.dtype not in WEIGHT_DTYPES]:
        raise ModelUnavailable(f"{file} holds what is no tensor of {', '.join(WEIGHT_DTYPES)}: {listed(odd)}; {REMEDY}")
    if config is not None:
        return config
    try:
        return config_from_shapes({name: header.shape for name, header in of_network.items()})
    except ValueError as error:
        raise ModelUnavailable(f"{file} {error}; {REMEDY}") from error


def load_diffusion_transformer(
    source: str | Path | DiffusionDecoderFolders,
    config: DiffusionDecoderConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DiffusionTransformer:
    """The decoder's network, for inference.

    source  model.pt, the folder that holds it, or what was found before
    config  None: from the tensors' shapes

    Raises ModelUnavailable where tensors are missing, unexpected or of another shape (listed by name), hold a value
    that is not finite, or are not those that were found before.
    """
    if not isinstance(source, DiffusionDecoderFolders):
        folder = Path(source) if is_directory(Path(source)) else Path(source).parent
        source = open_diffusion_decoder(folder, None, FAMILIES[0].solver, config)
    file, headers, config = source.weights, source.headers, source.config
    shapes = {name: headers[name].shape for name in used(headers)}
    if problems := shape_problems(shapes, tensor_shapes(config)):
        raise ModelUnavailable(f"{file} does not hold the expected tensors: {listed(problems)}; {REMEDY}")
    mapped = map_tensors(file)
    if headers_of(mapped) != headers:
        raise ModelUnavailable(f"{file} was replaced while it was in use; clean up and configure the node again")
    weights = {}
    for theirs, ours in names_in_file(config).items():
        weights[ours] = mapped[theirs].to(device, dtype)
        if weights[ours].data_ptr() != mapped[theirs].data_ptr():
            drop_pages(mapped[theirs])
    if bad := not_finite(weights):
        raise ModelUnavailable(f"{file} holds weights that are not finite: {listed(bad)}; {REMEDY}")
    with torch.device("meta"):
        network = DiffusionTransformer(config)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def read_text(decoder: Path, width: int) -> Tensor:
    """The text embedding [1, M, width] with which a model without prompts is decoded, of aux_vars.pt.

    Raises ModelUnavailable.
    """
    file = decoder / TEXT
    with reading(file, remedy=REMEDY):
        entries = load_archive(file)
    text = entries.get("context") if isinstance(entries, dict) else None
    text = text[None] if _is_plain(text) and text.ndim == 2 else text
    if not (_is_plain(text) and text.ndim == 3):
        raise ModelUnavailable(f"{file} holds no floating-point tensor `context` [1, positions, {width}]; {REMEDY}")
    if text.shape[0] != 1 or not text.shape[1] or text.shape[2] != width:
        raise ModelUnavailable(f"{file}: context is {list(text.shape)}, expected [1, positions, {width}]; {REMEDY}")
    if not text.isfinite().all():
        raise ModelUnavailable(f"{file}: context holds what is no finite number; {REMEDY}")
    return text.detach()


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor of floating-point numbers, each of them in the file."""
    return headers_of({"": value})[""].dtype in WEIGHT_DTYPES


def read_statistics(tokenizer: Path, channels: int, length: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation bfloat16 [channels, length, 1, 1] of latents at each place of a chunk.

    As published they are rounded to bfloat16, whatever computes with them. Raises ModelUnavailable.
    """
    file = tokenizer / STATISTICS
    with reading(file, remedy=REMEDY):
        entries = load_archive(file)
    if not (isinstance(entries, (list, tuple)) and len(entries) == 2 and all(isinstance(e, Tensor) for e in entries)):
        raise ModelUnavailable(f"{file} must hold two tensors, means and standard deviations; {REMEDY}")
    expected = f"floating-point numbers for {channels} channels at {length} or more places"
    for each in entries:
        places = each.numel() // channels
        if not _is_plain(each) or each.numel() != channels * places or places < length:
            raise ModelUnavailable(f"{file} holds {each.dtype} {list(each.shape)}, expected {expected}; {REMEDY}")
    mean, deviation = (each.detach().reshape(channels, -1)[:, :length, None, None].bfloat16() for each in entries)
    if not (mean.isfinite().all() and deviation.isfinite().all() and (deviation > 0).all()):
        raise ModelUnavailable(f"{file} holds what can be no mean or standard deviation; {REMEDY}")
    return mean, deviation
