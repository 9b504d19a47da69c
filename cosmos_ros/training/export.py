"""A trained model to and from the published directory layout: model.safetensors, config.json and the .jit files."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import torch
from safetensors.torch import save

from cosmos_ros.files import check_place, write_whole
from cosmos_ros.reading import reading
from cosmos_ros.torchscript import load_program
from cosmos_ros.training.datasets.simulated import FRAME_RATE
from cosmos_ros.training.tokenizer_network import (
    SPACE_COMPRESSION,
    TIME_COMPRESSION,
    IndicesToPixels,
    PixelsToIndices,
    VideoTokenizer,
)
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig

FILES = ("encoder.jit", "decoder.jit", "model.safetensors", "config.json")


def check_directory(directory: Path) -> None:
    """Raise the OSError that exporting into this directory would end in, before anything is trained."""
    for name in FILES:
        check_place(directory / name)


def export_tokenizer(tokenizer: VideoTokenizer, directory: Path) -> None:
    """Write encoder.jit and decoder.jit, weights in half precision; they run in whatever they are moved to.

    Each file is replaced whole. Raises OSError where the disk refuses.
    """
    tokenizer = copy.deepcopy(tokenizer).cpu().half().eval()
    for name, program in {"encoder": PixelsToIndices(tokenizer), "decoder": IndicesToPixels(tokenizer)}.items():
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(program.eval()), file)
        write_whole(directory / f"{name}.jit", file.getbuffer())


def export_transformer(transformer: Transformer, directory: Path, sampling: Sampling) -> None:
    """Write model.safetensors in bfloat16 with the published key names, and config.json.

    Each file is replaced whole. Raises OSError where the disk refuses.
    """
    tensors = {f"model.{key}": value.to("cpu", torch.bfloat16) for key, value in transformer.state_dict().items()}
    write_whole(directory / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    settings = describe(transformer.config, sampling, directory.name)
    write_whole(directory / "config.json", json.dumps(settings, indent=2) + "\n")


def describe(config: TransformerConfig, sampling: Sampling, name: str) -> dict:
    """What config.json says: the sizes for people, and what cannot be read off the tensors for the loader."""
    return {
        "name": name,
        "input_types": ["video"],
        "n_layers": config.n_layers,
        "dim": config.dim,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "ffn_hidden_size": config.ffn_hidden,
        "vocab_size": config.vocab_out,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "latent_shape": list(config.latent_shape),
        "compression": [TIME_COMPRESSION, SPACE_COMPRESSION, SPACE_COMPRESSION],
        "frame_rate": FRAME_RATE,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }


def load_exported_tokenizer(tokenizer: VideoTokenizer, directory: Path) -> None:
    """Fill a tokenizer with the weights of encoder.jit and decoder.jit. Raises RuntimeError where sizes
    differ, ModelUnavailable where a file is missing, damaged or could do more than compute.
    """
    for name in ("encoder", "decoder"):
        file = directory / f"{name}.jit"
        with reading(file, remedy="train the tokenizer anew"):
            program = load_program(file, "cpu")
        getattr(tokenizer, name).load_state_dict(getattr(program, name).state_dict())
