"""A prompt becomes the context of a Video2World model: T5-11B's encoder, asked as the published pipeline asks it.

Source: google-t5/t5-11b (encoder half, d_model 1024) as used by NVIDIA's Cosmos-1.0-Autoregressive-*-Video2World:
512 positions, padded and truncated, positions beyond the prompt set to zero. The published models see all 512
positions, the zeros included, so no mask travels with the result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cosmos_ros.device.out_of_memory import is_out_of_memory
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import Need
from cosmos_ros.device.tensors import not_finite
from cosmos_ros.errors import InvalidGoal, ModelUnavailable
from cosmos_ros.files import write_whole
from cosmos_ros.paths import cache_directory
from cosmos_ros.world_model.checkpoints.weight_files import size_and_ends

logger = logging.getLogger(__name__)
T = TypeVar("T")

TEXT_ENCODER = "text encoder"  # the part's name in a memory plan
WORK_BYTES = 300_000_000  # of activations at their peak, by bench/published_models.py
PACKAGES = ("transformers", "sentencepiece")  # what T5 needs beside the core, as requirements/text.txt installs it
CONTEXT_LENGTH = 512
REMEMBERED_PROMPTS = 64  # 1 MiB each at the published width
EMBEDDINGS_FILE = "text_embeddings.safetensors"
# Beside the checkpoint: a plain snapshot (Cosmos-Predict1's layout), or a Hugging Face cache (Cosmos 1.0's).
SNAPSHOT = Path("google-t5") / "t5-11b"
HUB_CACHE = Path("models--google-t5--t5-11b")
# Of each kind a T5 folder has at least one file.
FILES = {"weights": ("*.safetensors", "*.bin"), "tokenizer": ("tokenizer.json", "spiece.model")}
SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")  # of its config.json
REMEDY = (
    "fetch it with `hf download google-t5/t5-11b --local-dir <checkpoints>/google-t5/t5-11b`, where "
    f"<checkpoints> is the directory that holds the model's, or put precomputed embeddings into {EMBEDDINGS_FILE}"
)


class TextEncoder:
    """Prompts to contexts. T5 is loaded when a prompt is met that no cache knows, and not before.

    folder      local T5 folder, or None where only precomputed embeddings serve
    width       d_model that the world model's cross-attention expects (its context_dim)
    given       precomputed embeddings: prompt -> bfloat16 [n <= 512, width]
    cache       directory that remembers embeddings across runs. It serves only beside the T5 that made them: which
                one that was is part of a file's name, and cannot be known without it
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
        self._t5 = memory.hold(TEXT_ENCODER, partial(_load_t5, folder)) if folder else None
        self.given = dict(given)
        self._cache = cache
        self._identity = weights_identity(folder) if folder else ""
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

        directory    the checkpoint; T5 is looked for beside it and in it, in both published layouts
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
        given = read_embeddings(file, width) if embeddings or reading(file, file.is_file) else {}
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
            _write_tensors(file, {"embedding": embedding})
        except OSError as error:
            logger.warning("the prompt's embedding could not be kept in %s: %s", file.parent, error)

    def _file(self, prompt: str) -> Path:
        key = hashlib.sha256(f"{self._identity}\0{prompt}".encode()).hexdigest()
        return self._cache / f"{key}.safetensors"

    def _embed(self, prompt: str) -> Tensor:
        """bfloat16 [n, width], on the CPU, n the prompt's tokens with the closing one."""
        if self.folder is None or self._t5 is None:
            raise ModelUnavailable(
                f"no precomputed embedding is named by this prompt, and T5-11B is not there to make it: {REMEDY}"
            )
        tokens = _load_tokenizer(self.folder)(
            prompt, max_length=CONTEXT_LENGTH, padding="max_length", truncation=True, return_tensors="pt"
        )
        with self._t5.in_use() as t5, torch.inference_mode():
            device = next(t5.parameters()).device
            hidden = t5(
                input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
            ).last_hidden_state
            embedding = hidden[0, : int(tokens["attention_mask"].sum())].to("cpu", torch.bfloat16).clone()
        return checked(embedding, self.width, str(self.folder))


def _load_tokenizer(folder: Path) -> Any:
    tokenizer = reading(
        folder, lambda: transformers().AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    )
    # Looked up in the embedding, a token beyond it would end a CUDA context for good.
    if len(tokenizer) > (known := t5_config(folder)["vocab_size"]):
        raise ModelUnavailable(
            f"the T5 folder {folder} has a tokenizer of {len(tokenizer)} tokens, and its model knows {known}: "
            f"one of them is another model's: {REMEDY}"
        )
    return tokenizer


def _load_t5(folder: Path) -> nn.Module:
    """T5's encoder in bfloat16, on the CPU, every weight from the folder."""
    module, info = reading(
        folder,
        lambda: transformers().T5EncoderModel.from_pretrained(
            str(folder), dtype=torch.bfloat16, local_files_only=True, output_loading_info=True
        ),
    )
    # from_pretrained fills what a file lacks with random numbers: here that is an error.
    if absent := sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}):
        raise ModelUnavailable(f"the T5 folder {folder} lacks {', '.join(absent[:5])} or has another shape")
    if bad := not_finite(dict(module.named_parameters())):
        raise ModelUnavailable(f"the T5 folder {folder} holds weights that are not finite: {bad[0]}")
    return module.eval().requires_grad_(False)


def require_text(prompt: str) -> None:
    """Raises InvalidGoal for a string that no encoding of Unicode can write, and no tokenizer read."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InvalidGoal(
            f"the prompt is no Unicode text: character {error.start + 1} is {ascii(prompt[error.start])}, half of a "
            "surrogate pair; decode the prompt as UTF-8 before it is sent"
        ) from error


def find_t5(directory: Path) -> Path | None:
    """The local T5 folder beside or in a checkpoint, in either published layout; None where there is none.

    Raises ModelUnavailable where a place in which it may lie cannot be looked at.
    """
    for root in (directory.absolute().parent, directory.absolute()):
        if folder := reading(root, partial(_t5_below, root)):
            return folder
    return None


def _t5_below(root: Path) -> Path | None:
    snapshots = root / HUB_CACHE / "snapshots"
    revision = root / HUB_CACHE / "refs" / "main"
    candidates = [root / SNAPSHOT]
    if revision.is_file():
        candidates.append(snapshots / reading(revision, lambda: revision.read_text(encoding="utf-8").strip()))
    if snapshots.is_dir():
        candidates.extend(sorted(snapshots.iterdir()))
    return next((folder for folder in candidates if (folder / "config.json").is_file()), None)


def t5_config(folder: Path) -> dict:
    """A T5 folder's config.json. Raises ModelUnavailable where that cannot be read or lacks a size."""
    file = folder / "config.json"
    config = reading(file, lambda: dict(json.loads(file.read_text(encoding="utf-8"))))
    wrong = [size for size in SIZES if not isinstance(config.get(size), int) or config[size] < 1]
    if wrong:
        raise ModelUnavailable(f"{file} gives no positive whole number as {', '.join(wrong)}, as T5's does: {REMEDY}")
    return config


def t5_bytes(folder: Path) -> int:
    """Bytes of the encoder in bfloat16, from the folder's config.json (4.86 G parameters at 11B's size).

    Raises as t5_config does.
    """
    config = t5_config(folder)
    inner = config["num_heads"] * config["d_kv"]
    matrices_in = 2 if "gated" in str(config.get("feed_forward_proj")) else 1
    layer = 4 * config["d_model"] * inner + (matrices_in + 1) * config["d_model"] * config["d_ff"]
    return 2 * (config["vocab_size"] * config["d_model"] + config["num_layers"] * layer)


def text_encoder_need(folder: Path) -> Need:
    """Of T5's encoder in bfloat16. Raises as t5_config does."""
    return Need(TEXT_ENCODER, weights=t5_bytes(folder), work=WORK_BYTES)


def weights_identity(folder: Path) -> str:
    """What tells one T5 folder from another without reading 45 GB: names, sizes, heads and tails of its files.

    Raises ModelUnavailable where one cannot be read, or weights or tokenizer are missing or empty.
    """
    files = reading(folder, lambda: sorted(path for path in folder.iterdir() if path.is_file()))
    for kind, names in FILES.items():
        if not any(file.match(name) for file in files for name in names):
            raise ModelUnavailable(f"the T5 folder {folder} holds no {kind} ({' or '.join(names)}): {REMEDY}")
    digest = hashlib.sha256()
    for file in files:
        size, ends = reading(file, partial(size_and_ends, file))
        if not size and any(file.match(name) for names in FILES.values() for name in names):
            raise ModelUnavailable(f"{file} is empty: {REMEDY}")  # sentencepiece would take that for a model
        digest.update(f"{file.name}\0{size}\0".encode() + ends)
    return digest.hexdigest()


def read_embeddings(file: Path, width: int) -> dict[str, Tensor]:
    """Precomputed embeddings: prompt -> bfloat16 [n <= 512, width]. Raises ModelUnavailable where they are none."""
    tensors = reading(file, lambda: load_file(file))
    return {prompt: checked(tensor, width, f"'{prompt}' in {file}") for prompt, tensor in tensors.items()}


def write_embeddings(file: str | Path, embeddings: Mapping[str, Tensor]) -> None:
    """Keep contexts [1, 512, width] or embeddings [n, width] by their prompts, for a robot that has no T5."""
    _write_tensors(
        Path(file),
        {
            prompt: tensor.reshape(-1, tensor.shape[-1]).to(torch.bfloat16).contiguous()
            for prompt, tensor in embeddings.items()
        },
    )


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


def _write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """As safetensors. Raises OSError where the file cannot be written."""
    write_whole(file, save(dict(tensors)))


def transformers() -> ModuleType:
    """The transformers package, kept from the network. Raises ModelUnavailable where it is not installed."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    try:
        import transformers
    except ImportError as error:
        raise ModelUnavailable(
            f"prompts are read through T5, which needs transformers ({error}): pip install -r requirements/text.txt"
        ) from error
    return transformers


def reading(source: Path, read: Callable[[], T]) -> T:
    """Whatever a damaged file makes a reader raise is ModelUnavailable here; running out of memory stays that."""
    try:
        return read()
    except ModelUnavailable:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        remedy = "let this user read it" if isinstance(error, PermissionError) else REMEDY
        raise ModelUnavailable(f"{source} cannot be read ({type(error).__name__}: {error}): {remedy}") from error
