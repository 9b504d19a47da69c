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
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.parts import TEXT_ENCODER
from cosmos_ros.paths import cache_directory
from cosmos_ros.world_model.memory_plan import DeviceMemory

logger = logging.getLogger(__name__)

CONTEXT_LENGTH = 512
REMEMBERED_PROMPTS = 64         # 1 MiB each at the published width
EMBEDDINGS_FILE = "text_embeddings.safetensors"
# Beside the checkpoint: a plain snapshot (Cosmos-Predict1's layout), or a Hugging Face cache (Cosmos 1.0's).
SNAPSHOT = Path("google-t5") / "t5-11b"
HUB_CACHE = Path("models--google-t5--t5-11b")
REMEDY = (
    "fetch it with `hf download google-t5/t5-11b --local-dir <checkpoints>/google-t5/t5-11b`, where "
    f"<checkpoints> is the directory that holds the model's, or put precomputed embeddings into {EMBEDDINGS_FILE}"
)


class TextEncoder:
    """Prompts to contexts. T5 is loaded when a prompt is met that no cache knows, and not before.

    folder      local T5 folder, or None where only precomputed embeddings serve
    width       d_model that the world model's cross-attention expects (its context_dim)
    given       precomputed embeddings: prompt -> bfloat16 [n <= 512, width]
    cache       directory that remembers embeddings across runs
    memory      says whether T5 stays on the device between prompts
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
        self._t5 = memory.hold(TEXT_ENCODER, self._load)
        self._given = dict(given)
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

        Raises ModelUnavailable where there is neither a T5 folder nor a file of embeddings, or that file is damaged.
        """
        directory = Path(directory)
        folder = find_t5(directory)
        file = Path(embeddings) if embeddings else directory / EMBEDDINGS_FILE
        given = read_embeddings(file, width) if embeddings or file.is_file() else {}
        if folder is None and not given:
            raise ModelUnavailable(f"{directory.name} reads prompts through T5-11B, which is not there: {REMEDY}")
        cache = Path(cache or cache_directory() / "text_embeddings")
        return cls(folder, width, given=given, cache=cache, memory=memory or DeviceMemory(device))

    def encode(self, prompt: str) -> Tensor:
        """The prompt's context: bfloat16 [1, 512, width], on the CPU; zero beyond the prompt's tokens.

        Raises ModelUnavailable where T5 is needed and missing or damaged.
        """
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
        if prompt in self._given:
            return self._given[prompt]
        file = self._file(prompt)
        if self.folder is None or not file.is_file():
            return None
        try:
            return checked(load_file(file)["embedding"], self.width, str(file))
        except (OSError, SafetensorError, KeyError, ModelUnavailable) as error:
            logger.warning("the cached embedding %s is damaged and is made anew: %s", file, error)
            return None

    def _remember(self, prompt: str, embedding: Tensor) -> None:
        self._remembered[prompt] = embedding
        self._remembered.move_to_end(prompt)
        if len(self._remembered) > REMEMBERED_PROMPTS:
            self._remembered.popitem(last=False)

    def _write(self, prompt: str, embedding: Tensor) -> None:
        file = self._file(prompt)
        try:
            write_atomically(file, {"embedding": embedding})
        except OSError as error:
            logger.warning("the prompt's embedding could not be kept in %s: %s", file.parent, error)

    def _file(self, prompt: str) -> Path:
        key = hashlib.sha256(f"{self._identity}\0{prompt}".encode()).hexdigest()
        return self._cache / f"{key}.safetensors"

    def _embed(self, prompt: str) -> Tensor:
        """bfloat16 [n, width], on the CPU, n the prompt's tokens with the closing one."""
        if self.folder is None:
            raise ModelUnavailable(
                f"no precomputed embedding is named by this prompt, and T5-11B is not there to make it: {REMEDY}"
            )
        tokens = self._tokenizer()(
            prompt, max_length=CONTEXT_LENGTH, padding="max_length", truncation=True, return_tensors="pt"
        )
        with self._t5.in_use() as t5, torch.inference_mode():
            device = next(t5.parameters()).device
            hidden = t5(
                input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
            ).last_hidden_state
            embedding = hidden[0, : int(tokens["attention_mask"].sum())].to("cpu", torch.bfloat16).clone()
        return checked(embedding, self.width, str(self.folder))

    def _tokenizer(self):
        return reading(self.folder, lambda: transformers().AutoTokenizer.from_pretrained(
            str(self.folder), local_files_only=True
        ))

    def _load(self) -> nn.Module:
        """T5's encoder in bfloat16, on the CPU, every weight from the folder."""
        module, info = reading(self.folder, lambda: transformers().T5EncoderModel.from_pretrained(
            str(self.folder), dtype=torch.bfloat16, local_files_only=True, output_loading_info=True
        ))
        # from_pretrained fills what a file lacks with random numbers: here that is an error.
        if absent := sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}):
            raise ModelUnavailable(f"the T5 folder {self.folder} lacks {', '.join(absent[:5])} or has another shape")
        return module.eval().requires_grad_(False)


def find_t5(directory: Path) -> Path | None:
    """The local T5 folder beside or in a checkpoint, in either published layout; None where there is none."""
    for root in (directory.absolute().parent, directory.absolute()):
        snapshots = root / HUB_CACHE / "snapshots"
        revision = root / HUB_CACHE / "refs" / "main"
        candidates = [root / SNAPSHOT]
        if revision.is_file():
            candidates.append(snapshots / revision.read_text().strip())
        if snapshots.is_dir():
            candidates.extend(sorted(snapshots.iterdir()))
        for candidate in candidates:
            if (candidate / "config.json").is_file():
                return candidate
    return None


def t5_bytes(folder: Path) -> int:
    """Bytes of the encoder in bfloat16, from the folder's config.json (4.86 G parameters at 11B's size)."""
    config = json.loads((folder / "config.json").read_text())
    inner = config["num_heads"] * config["d_kv"]
    matrices_in = 2 if "gated" in config.get("feed_forward_proj", "relu") else 1
    layer = 4 * config["d_model"] * inner + (matrices_in + 1) * config["d_model"] * config["d_ff"]
    return 2 * (config["vocab_size"] * config["d_model"] + config["num_layers"] * layer)


def weights_identity(folder: Path) -> str:
    """What tells one T5 folder from another without reading 45 GB: names, sizes, heads and tails of its files."""
    digest = hashlib.sha256()
    sample = 1 << 20
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(sample))
            file.seek(max(size - sample, 0))
            digest.update(file.read(sample))
    return digest.hexdigest()


def read_embeddings(file: Path, width: int) -> dict[str, Tensor]:
    """Precomputed embeddings: prompt -> bfloat16 [n <= 512, width]. Raises ModelUnavailable where they are none."""
    tensors = reading(file, lambda: load_file(file))
    return {prompt: checked(tensor, width, f"'{prompt}' in {file}") for prompt, tensor in tensors.items()}


def write_embeddings(file: str | Path, embeddings: Mapping[str, Tensor]) -> None:
    """Keep contexts [1, 512, width] or embeddings [n, width] by their prompts, for a robot that has no T5."""
    write_atomically(Path(file), {
        prompt: tensor.reshape(-1, tensor.shape[-1]).to(torch.bfloat16).contiguous()
        for prompt, tensor in embeddings.items()
    })


def checked(embedding: Tensor, width: int, source: str) -> Tensor:
    """The embedding as bfloat16 [n, width]. Raises ModelUnavailable for another shape or a value that is not finite."""
    embedding = embedding[0] if embedding.ndim == 3 and len(embedding) == 1 else embedding
    if embedding.ndim != 2 or embedding.shape[1] != width or not 0 < len(embedding) <= CONTEXT_LENGTH:
        raise ModelUnavailable(
            f"{source} gives an embedding of shape {list(embedding.shape)}; "
            f"the model expects [1..{CONTEXT_LENGTH}, {width}]"
        )
    embedding = embedding.to(torch.bfloat16)
    if not embedding.isfinite().all():
        raise ModelUnavailable(f"{source} gives an embedding that is not finite; its weights are damaged")
    return embedding


def write_atomically(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Whoever reads the file finds it whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=file.parent, suffix=".draft")
    os.close(handle)
    try:
        save_file(dict(tensors), draft)
        Path(draft).replace(file)
    finally:
        Path(draft).unlink(missing_ok=True)


def transformers():
    """The transformers package, kept from the network. Raises ModelUnavailable where it is not installed."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    try:
        import transformers
    except ImportError as error:
        raise ModelUnavailable(
            f"prompts are read through T5, which needs transformers ({error}): pip install -r requirements-text.txt"
        ) from error
    return transformers


def reading(source: Path, read):
    """Whatever a damaged file makes a reader raise is ModelUnavailable here; running out of memory stays that."""
    try:
        return read()
    except (ModelUnavailable, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelUnavailable(f"{source} cannot be read ({type(error).__name__}: {error}): {REMEDY}") from error
