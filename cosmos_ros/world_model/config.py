"""What a Cosmos autoregressive transformer looks like, and how a checkpoint's tensor shapes say so."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

Shape = tuple[int, ...]

POSITION_ROWS_MULTIPLE = 64  # the published position tables are padded to a multiple of this


@dataclass(frozen=True)
class Yarn:
    """YaRN stretching of the rotary frequencies (Peng et al. 2023, arXiv:2309.00071), without attention scaling.

    original_latent_shape  (t, h, w) the model was trained on before it was stretched by `scale`
    """

    scale: float
    beta_fast: float
    beta_slow: float
    original_latent_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "original_latent_shape", _latent_shape(self.original_latent_shape))
        numbers = (self.scale, self.beta_fast, self.beta_slow)
        if not all(map(_is_positive, numbers)) or self.beta_fast <= self.beta_slow:
            raise ValueError(f"YaRN needs positive numbers with beta_fast above beta_slow; got {self}")


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer's sizes and switches.

    vocab_in      rows of the token embedding; a model with text has rows beyond vocab_out, the first of them BOV
    vocab_out     tokens that can be predicted
    latent_shape  (t, h, w) of the token video, in raster order
    context_dim   width of the text embedding; None: no cross-attention, no absolute positions, no BOV

    Raises ValueError where the sizes do not fit together.
    """

    n_layers: int
    dim: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_hidden: int
    vocab_in: int
    vocab_out: int
    latent_shape: tuple[int, int, int] = (5, 40, 64)
    rope_theta: float = 500000.0
    yarn: Yarn | None = None
    context_dim: int | None = None
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "latent_shape", _latent_shape(self.latent_shape))
        sizes = ("n_layers", "dim", "n_heads", "n_kv_heads", "head_dim", "ffn_hidden", "vocab_in", "vocab_out")
        if wrong := [name for name in sizes if not _is_size(getattr(self, name))]:
            raise ValueError(f"{', '.join(wrong)} must be positive whole numbers in {self}")
        if not (_is_positive(self.rope_theta) and _is_positive(self.norm_eps)):
            raise ValueError(f"rope_theta and norm_eps must be positive numbers in {self}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} must be a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim % 2 or self.head_dim < 6:
            raise ValueError(f"head_dim must be even and at least 6 to hold three rotary axes; got {self.head_dim}")
        if self.vocab_in < self.vocab_out + self.has_text:
            raise ValueError(
                f"vocab_in {self.vocab_in} cannot embed the {self.vocab_out} tokens"
                + (" and BOV" if self.has_text else "")
            )

    @property
    def has_text(self) -> bool:
        return self.context_dim is not None

    @property
    def bov(self) -> int | None:
        """The begin-of-video token in front of the video tokens; None in a model without text."""
        return self.vocab_out if self.has_text else None

    @property
    def tokens_per_latent_frame(self) -> int:
        return self.latent_shape[1] * self.latent_shape[2]

    @property
    def n_tokens(self) -> int:
        """Tokens of one video, without BOV."""
        return self.latent_shape[0] * self.tokens_per_latent_frame

    @property
    def sequence_length(self) -> int:
        """Tokens of one video, with BOV where there is one."""
        return self.n_tokens + self.has_text

    @property
    def position_rows(self) -> int:
        """Rows of the position tables and of the KV cache."""
        return -(-self.sequence_length // POSITION_ROWS_MULTIPLE) * POSITION_ROWS_MULTIPLE


def _is_size(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _latent_shape(value: object) -> tuple[int, int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(map(_is_size, value)):
        raise ValueError(f"latent_shape must be three positive whole numbers (t, h, w); got {value!r}")
    return tuple(value)


@dataclass(frozen=True)
class PublishedKind:
    """One of NVIDIA's four published models, with what its makers recommend (model card of Cosmos 1.0)."""

    name: str
    config: TransformerConfig
    top_p: float


def _published(name: str, top_p: float, n_layers: int, dim: int, yarn: Yarn | None, text: bool) -> PublishedKind:
    return PublishedKind(
        name,
        TransformerConfig(
            n_layers=n_layers, dim=dim, n_heads=32, n_kv_heads=8, head_dim=128, ffn_hidden=14336,
            vocab_in=64064 if text else 64000, vocab_out=64000, yarn=yarn, context_dim=1024 if text else None,
        ),
        top_p,
    )  # fmt: skip


_YARN = Yarn(scale=2, beta_fast=4, beta_slow=1, original_latent_shape=(3, 40, 64))

PUBLISHED_KINDS = {
    "4B": _published("Cosmos-1.0-Autoregressive-4B", 0.8, 16, 4096, None, text=False),
    "5B": _published("Cosmos-1.0-Autoregressive-5B-Video2World", 0.7, 16, 4096, None, text=True),
    "12B": _published("Cosmos-1.0-Autoregressive-12B", 0.9, 40, 5120, _YARN, text=False),
    "13B": _published("Cosmos-1.0-Autoregressive-13B-Video2World", 0.8, 40, 5120, _YARN, text=True),
}


def published_kind(config: TransformerConfig) -> str | None:
    """Which of the four it is, "4B", "5B", "12B" or "13B", whatever it was post-trained for; or None."""
    for kind, published in PUBLISHED_KINDS.items():
        if _body(config) == _body(published.config):
            return kind
    return None


def _body(config: TransformerConfig) -> tuple[int | bool, ...]:
    """What post-training leaves as it is: all sizes but the video's and the vocabulary's."""
    return (
        config.n_layers, config.dim, config.n_heads, config.n_kv_heads, config.head_dim, config.ffn_hidden,
        config.has_text,
    )  # fmt: skip


def published_shard(config: TransformerConfig) -> tuple[str, int] | None:
    """(kind, ranks) where the sizes are those of one tensor-parallel shard of a published model; or None."""
    for kind, published in PUBLISHED_KINDS.items():
        whole = published.config
        for ranks in (2, 4, 8):
            part = replace(
                whole,
                n_heads=whole.n_heads // ranks,
                n_kv_heads=whole.n_kv_heads // ranks,
                ffn_hidden=whole.ffn_hidden // ranks,
            )
            if _body(config) == _body(part):
                return kind, ranks
    return None


def transformer_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Every tensor of a checkpoint, in the published key format without the `model.` prefix, with its shape."""
    dim, hidden = config.dim, config.ffn_hidden
    q_rows, kv_rows = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes: dict[str, Shape] = {"tok_embeddings.weight": (config.vocab_in, dim)}
    for layer in range(config.n_layers):
        blocks = {"attention": dim} | ({"cross_attention": config.context_dim} if config.has_text else {})
        for block, source_dim in blocks.items():
            prefix = f"layers.{layer}.{block}"
            shapes |= {
                f"{prefix}_norm.weight": (dim,),
                f"{prefix}.wq.weight": (q_rows, dim),
                f"{prefix}.wk.weight": (kv_rows, source_dim),
                f"{prefix}.wv.weight": (kv_rows, source_dim),
                f"{prefix}.wo.weight": (dim, q_rows),
                f"{prefix}.q_norm.weight": (config.head_dim,),
                f"{prefix}.k_norm.weight": (config.head_dim,),
            }
        shapes |= {
            f"layers.{layer}.ffn_norm.weight": (dim,),
            f"layers.{layer}.feed_forward.w1.weight": (hidden, dim),
            f"layers.{layer}.feed_forward.w2.weight": (dim, hidden),
            f"layers.{layer}.feed_forward.w3.weight": (hidden, dim),
        }
    return shapes | {"norm.weight": (dim,), "output.weight": (config.vocab_out, dim)}


def config_from_shapes(shapes: Mapping[str, Shape], settings: Mapping | None = None) -> TransformerConfig:
    """The config that the tensors of a checkpoint describe.

    shapes    names (without the `model.` prefix) and shapes of all tensors
    settings  contents of config.json, for what shapes cannot say: latent_shape, rope_theta, yarn and norm_eps, under
              our names or the published ones. Nothing in it outranks a shape or the kind that the shapes are.

    Raises ValueError where the shapes are not a transformer's, or the settings make no sense.
    """
    layers = sorted({name.split(".")[1] for name in shapes if name.startswith("layers.")})

    def size(names: Iterable[str], axis: int) -> int:
        # Most layers outvote a damaged one, so that the damaged one is what gets reported.
        found = Counter(shapes[name][axis] for name in names if len(shapes.get(name, ())) > axis)
        if not found:
            raise ValueError(f"no tensor named {' or '.join(sorted(names)[:2])}")
        return found.most_common(1)[0][0]

    def layer_size(name: str, axis: int) -> int:
        return size([f"layers.{layer}.{name}.weight" for layer in layers] or [f"layers.0.{name}.weight"], axis)

    head_dim = layer_size("attention.q_norm", 0)
    has_text = any(".cross_attention." in name for name in shapes)
    config = TransformerConfig(
        n_layers=len(layers),
        dim=layer_size("attention_norm", 0),
        n_heads=layer_size("attention.wq", 0) // head_dim,
        n_kv_heads=layer_size("attention.wk", 0) // head_dim,
        head_dim=head_dim,
        ffn_hidden=layer_size("feed_forward.w1", 0),
        vocab_in=size(["tok_embeddings.weight"], 0),
        vocab_out=size(["output.weight"], 0),
        context_dim=layer_size("cross_attention.wk", 1) if has_text else None,
    )
    config = replace(config, **_what_shapes_cannot_say(settings or {}))
    if kind := published_kind(config):
        known = PUBLISHED_KINDS[kind].config
        config = replace(config, yarn=known.yarn, rope_theta=known.rope_theta, norm_eps=known.norm_eps)
    return config


def _what_shapes_cannot_say(settings: Mapping) -> dict:
    found = {
        "latent_shape": settings.get("latent_shape", settings.get("video_latent_shape")),
        "rope_theta": settings.get("rope_theta"),
        "norm_eps": settings.get("norm_eps"),
        "yarn": _yarn(settings),
    }
    return {name: value for name, value in found.items() if value is not None}


def _yarn(settings: Mapping) -> Yarn | None:
    try:
        if settings.get("yarn") is not None:
            return Yarn(**settings["yarn"])
        if settings.get("apply_yarn"):
            return Yarn(
                scale=settings["yarn_scale"],
                beta_fast=settings["yarn_beta_fast"],
                beta_slow=settings["yarn_beta_slow"],
                original_latent_shape=settings["original_latent_shape"],
            )
    except (TypeError, KeyError) as error:
        raise ValueError(f"its YaRN settings are incomplete: {error}") from error
    return None
