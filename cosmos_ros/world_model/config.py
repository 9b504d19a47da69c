"""What a Cosmos autoregressive transformer looks like: its sizes, its tensors, and NVIDIA's four published models."""

from __future__ import annotations

from dataclasses import dataclass, replace

Shape = tuple[int, ...]

TEXT_TOKENS = 64  # rows that a model with text embeds beyond what it predicts: BOV, and others that are never used
LARGEST_NUMBER = 1e30  # of a setting; what is beyond it is a mistake, and overflows
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
        for name in ("rope_theta", "norm_eps"):
            if not _is_positive(getattr(self, name)):
                raise ValueError(f"{name} must be a positive number; got {getattr(self, name)!r}")
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
    def q_rows(self) -> int:
        """Channels of all query heads together."""
        return self.n_heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        """Channels of all key heads, or all value heads, together."""
        return self.n_kv_heads * self.head_dim

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
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < LARGEST_NUMBER


def _latent_shape(value: object) -> tuple[int, int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(map(_is_size, value)):
        raise ValueError(f"latent_shape must be three positive whole numbers (t, h, w); got {value!r}")
    return tuple(value)


# Every tensor of a checkpoint, in the published key format without the `model.` prefix and, inside a layer, without
# `layers.N.` and `.weight`; and its shape, in the names of TransformerConfig.
Layout = dict[str, tuple[str, ...]]


def _attention(block: str, source: str) -> Layout:
    return {
        f"{block}_norm": ("dim",),
        f"{block}.wq": ("q_rows", "dim"),
        f"{block}.wk": ("kv_rows", source),
        f"{block}.wv": ("kv_rows", source),
        f"{block}.wo": ("dim", "q_rows"),
        f"{block}.q_norm": ("head_dim",),
        f"{block}.k_norm": ("head_dim",),
    }


OUTER_TENSORS: Layout = {
    "tok_embeddings.weight": ("vocab_in", "dim"),
    "norm.weight": ("dim",),
    "output.weight": ("vocab_out", "dim"),
}
LAYER_TENSORS: Layout = _attention("attention", "dim") | {
    "ffn_norm": ("dim",),
    "feed_forward.w1": ("ffn_hidden", "dim"),
    "feed_forward.w2": ("dim", "ffn_hidden"),
    "feed_forward.w3": ("ffn_hidden", "dim"),
}
TEXT_TENSORS: Layout = _attention("cross_attention", "context_dim")


def tensor_layout(n_layers: int, has_text: bool) -> Layout:
    """Every tensor's full name, and its shape in names of sizes."""
    in_layer = LAYER_TENSORS | (TEXT_TENSORS if has_text else {})
    layers = {f"layers.{layer}.{name}.weight": sizes for layer in range(n_layers) for name, sizes in in_layer.items()}
    return OUTER_TENSORS | layers


def transformer_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Every tensor of a checkpoint, in the published key format without the `model.` prefix, with its shape."""
    layout = tensor_layout(config.n_layers, config.has_text)
    return {name: tuple(getattr(config, size) for size in sizes) for name, sizes in layout.items()}


@dataclass(frozen=True)
class PublishedKind:
    """One of NVIDIA's four published models, with what its makers recommend (model card of Cosmos 1.0).

    names  of its directories as published: Cosmos 1.0's, and Cosmos-Predict1's
    """

    names: tuple[str, str]
    config: TransformerConfig
    top_p: float

    @property
    def name(self) -> str:
        return self.names[0]


def _published(size: str, top_p: float, n_layers: int, dim: int, yarn: Yarn | None, text: bool) -> PublishedKind:
    return PublishedKind(
        (f"Cosmos-1.0-Autoregressive-{size}", f"Cosmos-Predict1-{size}"),
        TransformerConfig(
            n_layers=n_layers,
            dim=dim,
            n_heads=32,
            n_kv_heads=8,
            head_dim=128,
            ffn_hidden=14336,
            vocab_in=64000 + TEXT_TOKENS * text,
            vocab_out=64000,
            yarn=yarn,
            context_dim=1024 if text else None,
        ),
        top_p,
    )


_YARN = Yarn(scale=2, beta_fast=4, beta_slow=1, original_latent_shape=(3, 40, 64))

PUBLISHED_KINDS = {
    "4B": _published("4B", 0.8, 16, 4096, None, text=False),
    "5B": _published("5B-Video2World", 0.7, 16, 4096, None, text=True),
    "12B": _published("12B", 0.9, 40, 5120, _YARN, text=False),
    "13B": _published("13B-Video2World", 0.8, 40, 5120, _YARN, text=True),
}


def published_kind(config: TransformerConfig) -> str | None:
    """Which of the four it is, "4B", "5B", "12B" or "13B", for whatever size of video; or None."""
    for kind, published in PUBLISHED_KINDS.items():
        if config == replace(published.config, latent_shape=config.latent_shape):
            return kind
    return None
