"""Which transformer a checkpoint's tensor shapes are: one of NVIDIA's four, or one of somebody's own.

A published model with missing or changed tensors is refused and never taken for a model of somebody's own, which
would run without the guardrail that the licence requires.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from cosmos_ros.listing import listed
from cosmos_ros.world_model.config import (
    LAYER_TENSORS,
    OUTER_TENSORS,
    PUBLISHED_KINDS,
    TEXT_TENSORS,
    TEXT_TOKENS,
    PublishedKind,
    Shape,
    TransformerConfig,
    Yarn,
    transformer_shapes,
)

logger = logging.getLogger(__name__)

LAYER_NAME = re.compile(r"layers\.(\d{1,3})\.(.+)\.weight")
# The tensor that a size is taken from, and its axis.
TELLING = {
    "dim": ("tok_embeddings.weight", 1),
    "vocab_in": ("tok_embeddings.weight", 0),
    "vocab_out": ("output.weight", 0),
    "head_dim": ("layers.0.attention.q_norm.weight", 0),
    "q_rows": ("layers.0.attention.wq.weight", 0),
    "kv_rows": ("layers.0.attention.wk.weight", 0),
    "ffn_hidden": ("layers.0.feed_forward.w1.weight", 0),
}
TELLING_OF_TEXT = {"context_dim": ("layers.0.cross_attention.wk.weight", 1)}
# Keys of config.json, ours and the published ones -> the size of the tensors.
SIZE_KEYS = {
    "n_layers": "n_layers",
    "dim": "dim",
    "n_heads": "n_heads",
    "n_kv_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "ffn_hidden": "ffn_hidden",
    "ffn_hidden_size": "ffn_hidden",
    "vocab_size": "vocab_in",
}
SETTING_KEYS = {
    "latent_shape": ("latent_shape", "video_latent_shape"),
    "rope_theta": ("rope_theta",),
    "norm_eps": ("norm_eps",),
}
YARN_KEYS = {
    "scale": "yarn_scale",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
    "original_latent_shape": "original_latent_shape",
}


def is_of_layout(name: str) -> bool:
    """Whether a tensor of this name (without the `model.` prefix) has a place in a transformer of this family."""
    inside = LAYER_NAME.fullmatch(name)
    return name in OUTER_TENSORS or (inside is not None and inside[2] in LAYER_TENSORS | TEXT_TENSORS)


def shape_problems(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """In words, every tensor that is missing, unexpected or of another shape."""
    problems = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected {name} {list(shape)}" for name, shape in found.items() if name not in expected]
    problems += [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return problems


def config_from_shapes(shapes: Mapping[str, Shape], settings: Mapping | None = None) -> TransformerConfig:
    """The config that the tensors of a checkpoint describe.

    shapes    names (without the `model.` prefix) and shapes of all tensors
    settings  contents of config.json, for what shapes cannot say: latent_shape, rope_theta, yarn and norm_eps, under
              our names or the published ones. Of a published model all this is known; there only our `latent_shape`
              counts, for one that was post-trained on another size of video.

    Raises ValueError where the shapes are not those of one whole transformer, where the settings speak of more than
    there is, or where they make no sense.
    """
    settings = settings or {}
    if published := _nearest_published(shapes):
        _require_all_of(published, shapes)
        return _with_video_of(settings, published)
    sizes = _sizes(shapes)
    _require_no_part(sizes)
    _require_vocabulary(sizes)
    try:
        config = TransformerConfig(**sizes)
    except ValueError as error:
        raise ValueError(f"has tensors that do not fit together: {error}") from error
    _require_shapes(shapes, config)
    _require_nothing_more(settings, config)
    return _with_what_shapes_cannot_say(settings, config)


def _nearest_published(shapes: Mapping[str, Shape]) -> PublishedKind | None:
    """The published model that most of the tensors match by name and shape; None where there is none."""

    def matches(published: PublishedKind) -> int:
        return sum(shapes.get(name) == shape for name, shape in transformer_shapes(published.config).items())

    # Of equals the first: it expects no text where nothing in the checkpoint hints at text.
    nearest = max(PUBLISHED_KINDS.values(), key=matches)
    return nearest if 2 * matches(nearest) > len(shapes) else None


def _require_all_of(published: PublishedKind, shapes: Mapping[str, Shape]) -> None:
    if problems := shape_problems(shapes, transformer_shapes(published.config)):
        raise ValueError(
            f"is an incomplete or altered {' or '.join(published.names)}, which has most of its tensors; download it "
            f"again. What differs from the published model: {listed(problems)}"
        )


def _with_video_of(settings: Mapping, published: PublishedKind) -> TransformerConfig:
    try:
        return replace(published.config, latent_shape=settings.get("latent_shape", published.config.latent_shape))
    except ValueError as error:
        logger.warning("config.json: %s; ignored, since the video of %s is known", error, published.name)
        return published.config


def _sizes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """TransformerConfig's, each as one tensor has it; all tensors are compared with them afterwards."""
    layers = [int(inside[1]) for name in shapes if (inside := LAYER_NAME.fullmatch(name))]
    has_text = any(".cross_attention" in name for name in shapes)
    telling = TELLING | (TELLING_OF_TEXT if has_text else {})
    found = {name: shapes.get(name, ()) for name, _ in telling.values()}
    if absent := sorted({name for name, axis in telling.values() if axis >= len(found[name]) or not all(found[name])}):
        raise ValueError(f"does not hold the expected tensors: missing, or not of any use: {listed(absent)}")
    sizes = {size: shapes[name][axis] for size, (name, axis) in telling.items()}
    q_rows, kv_rows = sizes.pop("q_rows"), sizes.pop("kv_rows")
    return sizes | {
        "n_layers": max(layers) + 1,
        "n_heads": q_rows // sizes["head_dim"],
        "n_kv_heads": kv_rows // sizes["head_dim"],
        "context_dim": sizes.get("context_dim"),
    }


def _require_no_part(sizes: Mapping[str, Any]) -> None:
    if part := published_part(sizes):
        kind, share = part
        raise ValueError(
            f"is a tensor-parallel part of the {kind} model, {share} of 8 shares of its heads; give the directory "
            "with all its shards"
        )


def published_part(sizes: Mapping[str, int | None]) -> tuple[str, int] | None:
    """(kind, k) where heads and feed-forward are k of the 8 shares of a published model, k from 1 to 7; or None."""
    for kind, published in PUBLISHED_KINDS.items():
        whole = published.config
        for k in range(1, 8):
            part = {"dim": whole.dim, "head_dim": whole.head_dim, "context_dim": whole.context_dim} | {
                name: getattr(whole, name) * k // 8 for name in ("n_heads", "n_kv_heads", "ffn_hidden")
            }
            if part.items() <= sizes.items():
                return kind, k
    return None


def _require_shapes(shapes: Mapping[str, Shape], config: TransformerConfig) -> None:
    if problems := shape_problems(shapes, transformer_shapes(config)):
        raise ValueError(f"does not hold the expected tensors: {listed(problems)}")


def _require_vocabulary(sizes: Mapping[str, Any]) -> None:
    vocab_in, vocab_out, has_text = sizes["vocab_in"], sizes["vocab_out"], sizes["context_dim"] is not None
    rows = f"has {vocab_in} rows in tok_embeddings.weight and {vocab_out} in output.weight"
    if has_text and vocab_in != vocab_out + TEXT_TOKENS:
        raise ValueError(f"{rows}; with cross-attention expected {TEXT_TOKENS} more in tok_embeddings.weight, for BOV")
    if not has_text and vocab_in > vocab_out:
        missing = ", ".join(f"layers.*.{name}.weight" for name in TEXT_TENSORS)
        raise ValueError(
            f"{rows}, as in a Video2World model, which has {TEXT_TOKENS} more in tok_embeddings.weight; expected as "
            f"many, or that model's cross-attention: missing {missing}"
        )
    if not has_text and vocab_in < vocab_out:
        raise ValueError(f"{rows}; expected as many")


def _require_nothing_more(settings: Mapping, config: TransformerConfig) -> None:
    """Sizes in config.json are ignored, unless they are larger than the tensors': then tensors are missing."""
    more = [
        f"{key} is {settings[key]} in config.json and {getattr(config, size)} by the tensors"
        for key, size in SIZE_KEYS.items()
        if isinstance(settings.get(key), int) and settings[key] > getattr(config, size)
    ]
    if settings.get("insert_cross_attn") and not config.has_text:
        more.append("insert_cross_attn is set in config.json and there is no layers.*.cross_attention")
    if more:
        raise ValueError(
            f"holds less than its config.json says: {'; '.join(more)}. Complete the checkpoint, or correct config.json"
        )


def _with_what_shapes_cannot_say(settings: Mapping, config: TransformerConfig) -> TransformerConfig:
    for name, keys in SETTING_KEYS.items():
        for key in keys:
            if settings.get(key) is not None:
                config = _with_setting(config, name, key, settings[key])
                break
    return replace(config, yarn=_yarn(settings))


def _with_setting(config: TransformerConfig, name: str, key: str, value: Any) -> TransformerConfig:
    try:
        return replace(config, **{name: value})
    except ValueError as error:
        raise ValueError(f"has a config.json that makes no sense: {key}: {error}") from error


def _yarn(settings: Mapping) -> Yarn | None:
    if settings.get("yarn") is not None:
        return _make_yarn(settings["yarn"], "yarn", YARN_KEYS)
    if settings.get("apply_yarn"):
        given = {ours: settings[theirs] for ours, theirs in YARN_KEYS.items() if theirs in settings}
        return _make_yarn(given, "apply_yarn", YARN_KEYS.values())
    return None


def _make_yarn(given: Any, key: str, expected: Iterable[str]) -> Yarn:
    try:
        return Yarn(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"has a config.json that makes no sense: {key}: YaRN needs {', '.join(expected)}; {error}"
        ) from error
