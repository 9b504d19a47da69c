"""What people give for a transformer's checkpoint by mistake, named for what it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from cosmos_ros.errors import ModelUnavailable
from cosmos_ros.world_model.checkpoints.recognition import is_of_layout

EXPECTED = "expected a Cosmos autoregressive transformer"
FEW = 0.25  # of the names in a file are a transformer's: then it is something else
# Language models in Meta's key format have the names of this family, and even its shapes, all but these norms.
QUERIES, HEAD_NORMS = ".attention.wq.weight", (".attention.q_norm.weight", ".attention.k_norm.weight")

# How a key begins that gives it away, `model.` taken off -> what the file is.
FILES = {
    r"net\.(\w*_embedder|blocks|final_layer|affline_norm)\b": "a Cosmos diffusion model (net.*), such as the diffusion "
    "decoder",
    r".*layernorm_qkv\b": "a Cosmos transformer in TransformerEngine's key format",
    r".*self_attention\.linear_qkv\b|.*word_embeddings\b": "a NeMo (Megatron) checkpoint",
    r"(vision|text)_model\.": "a SigLIP or CLIP model, such as the guardrail's",
    r"(module\.)?(body|fpn|ssh\d|ClassHead)\.": "a RetinaFace detector, such as the guardrail's",
    r"network\.layers\.": "the classifier of the guardrail's video content filter",
    r"(encoder|decoder)\.layers\.": "an encoder-decoder in Hugging Face's key format",
    r"embed_tokens\.|lm_head\.|.*self_attn\.q_proj\b": "a language model in Hugging Face's key format",
    r"transformer_blocks\.": "a diffusers model",
    r"(encoder|decoder)\.block\.\d+|shared\.weight": "a T5 text encoder",
    r"(encoder|decoder)\.(conv_|down\b|mid\b|up\b|norm_out|(un)?patche|entrance)|(post_)?quant_conv|quanti[zs]er": "a "
    "video tokenizer",
    r"exp_avg|param_groups|state$|optimizer": "optimizer state",
    r"scheduler|grad_scaler|iteration": "trainer state without a model",
}

# A name that gives it away -> what the directory is.
DIRECTORIES = {
    r"(en|de|autoen)coder\.jit": "a video tokenizer's directory (give it as the tokenizer)",
    r"aegis|blocklist|face_blur_filter|video_content_safety_filter": "a Cosmos-1.0-Guardrail folder (give it as the "
    "guardrail)",
    r"aux_vars\.pt|mean_std\.pt": "part of a Cosmos diffusion model",
    r"model_index\.json": "a diffusers pipeline",
    r"nemo|context|model_weights|model_config\.yaml|.*\.nemo|.*\.distcp": "a NeMo checkpoint (the same model is "
    "published as model.pt)",
    r"spiece\.model": "a T5 text encoder's folder",
    r"snapshots": "a Hugging Face cache (give the folder below its snapshots)",
    r"pytorch_model.*\.bin|model-\d+-of-\d+\.safetensors": "a model in Hugging Face's layout",
}


def refuse_other_kind(file: Path, names: Collection[str]) -> None:
    """Raises ModelUnavailable where hardly any of the names, `model.` taken off, is a transformer's of this family, or
    where all are that a language model has.
    """
    if sum(map(is_of_layout, names)) > FEW * len(names):
        if any(name.endswith(QUERIES) for name in names) and not any(name.endswith(HEAD_NORMS) for name in names):
            raise ModelUnavailable(
                f"{file} is a language model in Meta's key format, such as Llama or Mistral; {EXPECTED}, which has "
                "attention.q_norm and attention.k_norm as well"
            )
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
