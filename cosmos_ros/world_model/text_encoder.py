"""A prompt becomes the context of a Video2World model: embedded by T5, remembered, and filled up with zeros.

The published models see all 512 positions, the zeros beyond the prompt included, so no mask travels with the context.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.errors import InvalidGoal, ModelUnavailable
from cosmos_ros.files import check_regular, write_whole
from cosmos_ros.paths import cache_directory
from cosmos_ros.world_model.t5 import MAX_TOKENS, REMEDY, T5, find_t5, identity_of, reading_t5

logger = logging.getLogger(__name__)

PACKAGES = (
    "transformers",
    "sentencepiece",
)  # what T5 needs in addition to requirements/core.txt
CONTEXT_LENGTH = MAX_TOKENS
REMEMBERED_PROMPTS = 64  # 1 MiB each at the published width
EMBEDDINGS_FILE = "text_embeddings.safetensors"
PRECISION = "float32"  # in which embeddings are made: part of what a file of the cache is known by


class TextEncoder:
    """Prompts to contexts. T5 is loaded when a prompt is met that no cache knows, and not before.

    folder      local T5 folder, or None where only precomputed embeddings serve
    width       d_model that the world model's cross-attention expects (its context_dim)
    given       precomputed embeddings: prompt -> bfloat16 [n <= 512, width]
    cache       directory that remembers embeddings across runs. It is used only together with the T5 that made them:
                a file's name is made of the prompt and of that T5's identity
    memory      says whether T5 stays on the device between prompts

    Raises ModelUnavailable where a file of the folder cannot be read, or weights or tokenizer are missing there.
    """

    def __init__(
        self,
        folder: Path | None,
        width: int,
        *,
        given: Mapping[str, Tensor],
        cache: Path,
        memory: DeviceMemory,
    ) -> None:
        self.folder = folder
        self.width = width
        self._t5 = T5(folder, memory) if folder else None
        self.given = dict(given)
        self._cache = cache
        self._identity = f"{identity_of(folder)} {PRECISION}" if folder else ""
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def for_checkpoint(
        cls,
        directory: str | Path,
        device: str | torch.device = "cpu",
        *,
        width: int = 1024,
        embeddings: str | Path = "",
        cache: str | Path = "",
        memory: DeviceMemory | None = None,
    ) -> TextEncoder:
        """The encoder that serves a Video2World checkpoint.

        directory    the checkpoint; T5 is looked for in its parent directory and in it, in both published layouts
        embeddings   a safetensors file whose tensors are named by their prompts; empty: text_embeddings.safetensors
                     in the checkpoint, where there is one
        cache        directory for embeddings already made; empty: $XDG_CACHE_HOME/cosmos_ros/text_embeddings
        memory       holds T5 on its device; None: T5 stays on `device` once it was needed

        Raises ModelUnavailable where there is neither a T5 folder nor a file of embeddings, or one that is there
        cannot be read.
        """
        directory = Path(directory)
        folder = find_t5(directory)
        file = Path(embeddings) if embeddings else directory / EMBEDDINGS_FILE
        with reading_t5(file):
            given = read_embeddings(file, width) if embeddings or file.exists() else {}
        if folder is None and not given:
            raise ModelUnavailable(f"{directory.name} reads prompts through T5-11B, which is not there: {REMEDY}")
        cache = Path(cache or cache_directory() / "text_embeddings")
        return cls(folder, width, given=given, cache=cache, memory=memory or DeviceMemory(device))

    def encode(self, prompt: str) -> Tensor:
        """The prompt's context: bfloat16 [1, 512, width], on the CPU; zero beyond the prompt's tokens.

        Raises ModelUnavailable where T5 is needed and missing or damaged, InvalidGoal where the prompt is no text.
        """
        require_text(prompt)
        embedding = self._known(prompt)
        if embedding is None:
            embedding = self._embed(prompt)
            self._write(prompt, embedding)
        self._remember(prompt, embedding)
        return nn.functional.pad(embedding, (0, 0, 0, CONTEXT_LENGTH - len(embedding)))[None]

    def _known(self, prompt: str) -> Tensor | None:
        """bfloat16 [n, width] from memory, from what was given, or from the disk."""
        if prompt in self._remembered:
            return self._remembered[prompt]
        if prompt in self.given:
            return self.given[prompt]
        if self.folder is None:
            return None
        file = self._file(prompt)
        try:
            return checked(load_file(file)["embedding"], self.width, str(file)) if file.is_file() else None
        except (OSError, SafetensorError, KeyError, ModelUnavailable) as error:
            logger.warning("the cached embedding %s cannot be used and is made anew: %s", file, error)
            return None

    def _remember(self, prompt: str, embedding: Tensor) -> None:
        self._remembered[prompt] = embedding
        self._remembered.move_to_end(prompt)
        if len(self._remembered) > REMEMBERED_PROMPTS:
            self._remembered.popitem(last=False)

    def _write(self, prompt: str, embedding: Tensor) -> None:
        file = self._file(prompt)
        try:
            write_whole(file, save({"embedding": embedding}))
        except OSError as error:
            logger.warning("the prompt's embedding could not be kept in %s: %s", file.parent, error)

    def _file(self, prompt: str) -> Path:
        key = hashlib.sha256(f"{self._identity}\0{prompt}".encode()).hexdigest()
        return self._cache / f"{key}.safetensors"

    def _embed(self, prompt: str) -> Tensor:
        """bfloat16 [n, width], on the CPU, n the prompt's tokens with the closing one."""
        if self._t5 is None:
            raise ModelUnavailable(
                f"no precomputed embedding is named by this prompt, and T5-11B is not there to make it: {REMEDY}"
            )
        return checked(self._t5.embed(prompt), self.width, str(self.folder))


def require_text(prompt: str) -> None:
    """Raises InvalidGoal for a string that no encoding of Unicode can write, and no tokenizer read."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InvalidGoal(
            f"the prompt is no Unicode text: character {error.start + 1} is {ascii(prompt[error.start])}, half of a "
            "surrogate pair; decode the prompt as UTF-8 before it is sent"
        ) from error


def read_embeddings(file: Path, width: int) -> dict[str, Tensor]:
    """Precomputed embeddings: prompt -> bfloat16 [n <= 512, width]. Raises ModelUnavailable where they are none."""
    with reading_t5(file):
        check_regular(file)
        tensors = load_file(file)
    return {prompt: checked(tensor, width, f"'{prompt}' in {file}") for prompt, tensor in tensors.items()}


def write_embeddings(file: str | Path, embeddings: Mapping[str, Tensor]) -> None:
    """Keep contexts [1, 512, width] or embeddings [n, width] by their prompts, for a robot that has no T5."""
    tensors = {
        prompt: tensor.reshape(-1, tensor.shape[-1]).to(torch.bfloat16).contiguous()
        for prompt, tensor in embeddings.items()
    }
    write_whole(file, save(tensors))


def checked(embedding: Tensor, width: int, source: str) -> Tensor:
    """The embedding as bfloat16 [n, width].

    Raises ModelUnavailable for another shape, for whole or complex numbers, and for a value that is not finite.
    """
    embedding = embedding[0] if embedding.ndim == 3 and len(embedding) == 1 else embedding
    if embedding.ndim != 2 or embedding.shape[1] != width or not 0 < len(embedding) <= CONTEXT_LENGTH:
        raise ModelUnavailable(
            f"{source} gives an embedding of shape {list(embedding.shape)}; "
            f"the model expects [1..{CONTEXT_LENGTH}, {width}]"
        )
    if not embedding.is_floating_point():
        raise ModelUnavailable(f"{source} gives an embedding of {embedding.dtype}; the model expects floating-point")
    embedding = embedding.to(torch.bfloat16)
    if not embedding.isfinite().all():
        raise ModelUnavailable(f"{source} gives an embedding that is not finite; its weights are damaged")
    return embedding
