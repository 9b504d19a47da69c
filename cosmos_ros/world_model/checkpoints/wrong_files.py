"""Files and directories that are given in place of a transformer by mistake, and what they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model.checkpoints.recognition import is_of_layout

EXPECTED = "expected a Cosmos autoregressive transformer"
FEW = 0.25  # of the names in a file are a transformer's: then it is something else

# How a key begins that gives it away, `model.` taken off -> what the file is.
FILES = {
    r"net\.(\w*_embedder|blocks|final_layer|affline_norm)\b": "a Cosmos diffusion model (net.*), such as the diffusion "
    "decoder",
    r".*layernorm_qkv\b": "a Cosmos transformer in TransformerEngine's key format",
    r".*self_attention\.linear_qkv\b|.*word_embeddings\b": "a NeMo (Megatron) checkpoint",
    r"(encoder|decoder)\.(conv_|down\b|mid\b|up\b|norm_out|(un)?patche|entrance)|(post_)?quant_conv|quanti[zs]er": "a "
    "video tokenizer",
}

# A name that gives it away -> what the directory is.
DIRECTORIES = {
    r"(en|de|autoen)coder\.jit": "a video tokenizer's directory (give it as the tokenizer)",
    r"aegis|blocklist|face_blur_filter|video_content_safety_filter": "a Cosmos-1.0-Guardrail folder (give it as the "
    "guardrail)",
    r"nemo|context|model_weights|model_config\.yaml|.*\.nemo|.*\.distcp": "a NeMo checkpoint (the same model is "
    "published as model.pt)",
    r"snapshots": "a Hugging Face cache (give the folder below its snapshots)",
}


def refuse_other_kind(file: Path, names: Collection[str]) -> None:
    """Raises ModelUnavailable where hardly any of the names, `model.` taken off, is one of this family's."""
    if sum(map(is_of_layout, names)) > FEW * len(names):
        return
    if kind := _first(FILES, names, re.match):
        raise ModelUnavailable(f"{file} is {kind}; {EXPECTED} (tok_embeddings, layers.*, norm, output)")
    raise ModelUnavailable(
        f"{file} is not a Cosmos autoregressive transformer, which has tok_embeddings.weight, layers.*, norm.weight "
        f"and output.weight; it holds {', '.join(list(names)[:5]) or 'nothing'}"
    )


def describe_directory(names: Collection[str], expected: str) -> str:
    """What a directory without weights is, of whose contents these are the names."""
    if kind := _first(DIRECTORIES, names, re.fullmatch):
        return f"is {kind}; {EXPECTED}, {expected}"
    return f"holds no {expected}; it holds {', '.join(list(names)[:8]) or 'nothing'}"


def _first(kinds: dict[str, str], names: Collection[str], matches: Callable[[str, str], object]) -> str | None:
    return next((kind for pattern, kind in kinds.items() if any(matches(pattern, name) for name in names)), None)
