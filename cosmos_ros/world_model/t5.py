"""T5-11B's encoder out of a local folder, which makes a Video2World model's context of a prompt.

Source: google-t5/t5-11b (encoder half, d_model 1024) as used by NVIDIA's Cosmos-1.0-Autoregressive-*-Video2World:
512 positions, padded and truncated. It computes in float32 and its result is rounded to bfloat16, as published.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosmos_ros.device.placement import DeviceMemory, Part
from cosmos_ros.device.plan import Need
from cosmos_ros.device.tensors import not_finite
from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.huggingface import LocalModels
from cosmos_ros.reading import reading
from cosmos_ros.world_model.checkpoints.weight_files import size_and_ends

TEXT_ENCODER = "text encoder"  # the part's name in a memory plan
WORK_BYTES = 600_000_000  # of activations at their peak: twice what bench/published_models.py measured in bfloat16
MAX_TOKENS = 512
REPOSITORY = "google-t5/t5-11b"
# Of each kind a T5 folder has at least one file.
FILES = {"weights": ("*.safetensors", "*.bin"), "tokenizer": ("tokenizer.json", "spiece.model")}
SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")  # of its config.json
REMEDY = (
    f"fetch it with `hf download {REPOSITORY} --local-dir <checkpoints>/{REPOSITORY}`, where <checkpoints> is the "
    "directory that holds the model's, or put precomputed embeddings into the model's text_embeddings.safetensors"
)
MODELS = LocalModels(ModelUnavailable, user="reading prompts through T5", requirements="requirements/text.txt")


class T5:
    """The encoder of a folder. It is loaded when it is first used.

    Its blocks are parts of the device's memory one by one: it works once per new prompt, and where it waits in host
    memory, one block of 24 at a time takes 0.8 GB of the device instead of all together 19.4 GB.
    """

    def __init__(self, folder: Path, memory: DeviceMemory) -> None:
        self.folder = folder
        self._memory = memory
        self._shell = memory.hold(TEXT_ENCODER, self._load)

    def embed(self, prompt: str) -> Tensor:
        """bfloat16 [n, d_model] on the CPU, n the prompt's tokens with the closing one.

        Raises ModelUnavailable where the folder holds no whole T5.
        """
        tokens = self._tokenizer()(
            prompt, max_length=MAX_TOKENS, padding="max_length", truncation=True, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        with self._shell.in_use() as encoder, torch.inference_mode():
            device = self._memory.device
            hidden = encoder(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
            return hidden[0, : int(mask.sum())].to("cpu", torch.bfloat16).clone()

    def _tokenizer(self) -> Any:
        with reading_t5(self.folder):
            automatic = MODELS.transformers().AutoTokenizer
            tokenizer = automatic.from_pretrained(str(self.folder), local_files_only=True)
        # Looked up in the embedding, a token out of range triggers a device-side assert, which ends the CUDA context.
        if len(tokenizer) > (known := config_of(self.folder)["vocab_size"]):
            raise ModelUnavailable(
                f"the T5 folder {self.folder} has a tokenizer of {len(tokenizer)} tokens, and its model knows {known}: "
                f"one of them is another model's: {REMEDY}"
            )
        return tokenizer

    def _load(self) -> nn.Module:
        """The encoder in float32, on the CPU, every weight from the folder; its blocks held as parts of their own."""
        with reading_t5(self.folder):
            module = MODELS.load(MODELS.transformers().T5EncoderModel, self.folder, dtype=torch.float32)
        if bad := not_finite(dict(module.named_parameters())):
            raise ModelUnavailable(f"the T5 folder {self.folder} holds weights that are not finite: {bad[0]}")
        module.requires_grad_(False)
        blocks = module.encoder.block
        module.encoder.block = nn.ModuleList(_HeldBlock(self._memory.hold(TEXT_ENCODER, block)) for block in blocks)
        return module


class _HeldBlock(nn.Module):
    """A block that comes to the device while it works. Its weights are the part's, and move with no other module."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._part = part

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._part.in_use() as block:
            return block(*args, **kwargs)


def reading_t5(path: Path) -> Any:
    """Whatever reading the folder raises comes out as ModelUnavailable."""
    return reading(path, fault="cannot be read", remedy=REMEDY)


def find_t5(directory: Path) -> Path | None:
    """The local T5 folder next to or in a checkpoint: a plain snapshot (Cosmos-Predict1's layout), or one in a Hugging
    Face cache (Cosmos 1.0's); None where there is neither.

    Raises ModelUnavailable where a place in which it may lie cannot be looked at, and where a cache does not say which
    of its snapshots counts.
    """
    for root in (directory.absolute().parent, directory.absolute()):
        with reading_t5(root):
            if (root / REPOSITORY / "config.json").is_file():
                return root / REPOSITORY
            if MODELS.home(root, REPOSITORY).is_dir():
                return MODELS.snapshot(root, REPOSITORY)
    return None


def config_of(folder: Path) -> dict:
    """A T5 folder's config.json. Raises ModelUnavailable where that cannot be read or lacks a size."""
    file = folder / "config.json"
    with reading_t5(file):
        config = dict(json.loads(file.read_text(encoding="utf-8")))
    wrong = [size for size in SIZES if not isinstance(config.get(size), int) or config[size] < 1]
    if wrong:
        raise ModelUnavailable(f"{file} gives no positive whole number as {', '.join(wrong)}, as T5's does: {REMEDY}")
    return config


def t5_need(folder: Path) -> Need:
    """Of the encoder in float32, from the folder's config.json: 4.86 G parameters at 11B's size.

    Raises as config_of does.
    """
    config = config_of(folder)
    inner = config["num_heads"] * config["d_kv"]
    matrices_in = 2 if "gated" in str(config.get("feed_forward_proj")) else 1
    embedding = config["vocab_size"] * config["d_model"]
    block = 4 * config["d_model"] * inner + (matrices_in + 1) * config["d_model"] * config["d_ff"]
    return Need(
        TEXT_ENCODER,
        weights=4 * (embedding + config["num_layers"] * block),
        work=WORK_BYTES,
        piece=4 * (embedding + block),
    )


def identity_of(folder: Path) -> str:
    """Distinguishes one T5 folder from another without reading 45 GB: names, sizes, heads and tails of its files.

    Raises ModelUnavailable where one cannot be read, or weights or tokenizer are missing or empty.
    """
    with reading_t5(folder):
        MODELS.require_ordinary(folder)
        files = sorted(path for path in folder.iterdir() if path.is_file())
    for kind, names in FILES.items():
        if not any(file.match(name) for file in files for name in names):
            raise ModelUnavailable(f"the T5 folder {folder} holds no {kind} ({' or '.join(names)}): {REMEDY}")
    digest = hashlib.sha256()
    for file in files:
        with reading_t5(file):
            size, ends = size_and_ends(file)
        if not size and any(file.match(name) for names in FILES.values() for name in names):
            raise ModelUnavailable(f"{file} is empty: {REMEDY}")  # sentencepiece would take that for a model
        digest.update(f"{file.name}\0{size}\0".encode() + ends)
    return digest.hexdigest()
