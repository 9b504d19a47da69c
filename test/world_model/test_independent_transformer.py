"""Against the published transformer written down a second time: loops and explicit formulas, nothing of the package.

It follows the description of the published models (NVIDIA, arXiv:2501.03575, and the layout of their checkpoints), in
float32 and without a cache. Both may misread that description alike; the fixtures of the reference are for that.
"""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cosmos_ros.world_model import Sampling, load_transformer
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed

VIDEO, ORIGINAL, VOCABULARY, CONTEXT = (5, 3, 4), (3, 3, 4), 64, 32


@dataclass
class Published:
    """The published transformer, small. dim is heads * head_dim in 4B and 5B, and larger in 12B and 13B."""

    dim: int
    head_dim: int
    text: bool
    yarn: bool
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 160

    def weights(self):
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {"tok_embeddings": (VOCABULARY + 64 * self.text, self.dim), "norm": (self.dim,)}
        shapes["output"] = (VOCABULARY, self.dim)
        for layer in range(self.layers):
            for block, source in [("attention", self.dim)] + [("cross_attention", CONTEXT)] * self.text:
                at = f"layers.{layer}.{block}"
                shapes |= {
                    f"{at}_norm": (self.dim,),
                    f"{at}.wq": (q, self.dim),
                    f"{at}.wo": (self.dim, q),
                    f"{at}.wk": (kv, source),
                    f"{at}.wv": (kv, source),
                    f"{at}.q_norm": (self.head_dim,),
                    f"{at}.k_norm": (self.head_dim,),
                }
            at = f"layers.{layer}.feed_forward"
            shapes |= {
                f"{at}.w1": (self.hidden, self.dim),
                f"{at}.w3": (self.hidden, self.dim),
                f"{at}.w2": (self.dim, self.hidden),
                f"layers.{layer}.ffn_norm": (self.dim,),
            }
        torch.manual_seed(0)
        return {
            f"model.{name}.weight": 1 + 0.2 * torch.randn(shape) if len(shape) == 1 else 0.3 * torch.randn(shape)
            for name, shape in shapes.items()
        }

    def angles(self):
        """[tokens, head_dim // 2]: time, height, width of every token, each times its frequencies."""
        spatial = self.head_dim // 6 * 2
        temporal = self.head_dim - 2 * spatial
        frequencies = [[500000.0 ** (-2 * i / size) for i in range(size // 2)] for size in (temporal, spatial, spatial)]
        if self.yarn:
            # The width goes by the height's original length.
            for axis, length in enumerate((ORIGINAL[0], ORIGINAL[1], ORIGINAL[1])):
                high, low = 2 * math.pi * 4 / length, 2 * math.pi * 1 / length
                keep = [min(max((f - low) / (high - low), 0.0), 1.0) for f in frequencies[axis]]
                frequencies[axis] = [f * ((1 - k) / 2 + k) for f, k in zip(frequencies[axis], keep, strict=True)]
        rows = [[p * f for axis, p in enumerate(place) for f in frequencies[axis]] for place in np.ndindex(*VIDEO)]
        return torch.tensor([[0.0] * (self.head_dim // 2)] * self.text + rows)

    def absolute(self):
        """[tokens, dim]: sines and cosines of time, height and width, rounded to bfloat16; nothing for BOV."""
        spatial = self.dim // 6 * 2
        rows = [[0.0] * self.dim]
        for place in np.ndindex(*VIDEO):
            row = []
            for p, size in zip(place, (self.dim - 2 * spatial, spatial, spatial), strict=True):
                turns = [p * 10000.0 ** (-i / (size / 2)) for i in range(size // 2)]
                row += [math.sin(turn) for turn in turns] + [math.cos(turn) for turn in turns]
            rows.append(row)
        return torch.tensor(rows, dtype=torch.float64).bfloat16().float()

    def logits(self, weights, tokens, context):
        """[N, vocabulary] of tokens [N]."""
        n, w = len(tokens), {name.removeprefix("model.").removesuffix(".weight"): v for name, v in weights.items()}
        angles = self.angles()[:n]

        def norm(x, weight):
            return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight

        def turned(head):
            a, b = head.chunk(2, dim=-1)
            return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)

        def attention(at, x, source, is_self):
            seen = []
            for head in range(self.heads):
                kv = head // (self.heads // self.kv_heads)
                rows, kv_rows = (slice(i * self.head_dim, (i + 1) * self.head_dim) for i in (head, kv))
                query = norm(x @ w[f"{at}.wq"][rows].T, w[f"{at}.q_norm"])
                key = norm(source @ w[f"{at}.wk"][kv_rows].T, w[f"{at}.k_norm"])
                scores = (turned(query) @ turned(key).T if is_self else query @ key.T) / math.sqrt(self.head_dim)
                if is_self:
                    scores = scores + torch.full((n, n), -math.inf).triu(1)
                seen.append(scores.softmax(dim=-1) @ (source @ w[f"{at}.wv"][kv_rows].T))
            return torch.cat(seen, dim=-1) @ w[f"{at}.wo"].T

        x = w["tok_embeddings"][tokens]
        for layer in range(self.layers):
            at = f"layers.{layer}"
            if self.text:
                x = x + self.absolute()[:n]
            inner = norm(x, w[f"{at}.attention_norm"])
            x = x + attention(f"{at}.attention", inner, inner, is_self=True)
            if self.text:
                inner = norm(x, w[f"{at}.cross_attention_norm"])
                x = x + attention(f"{at}.cross_attention", inner, context, is_self=False)
            inner = norm(x, w[f"{at}.ffn_norm"])
            gate, up = inner @ w[f"{at}.feed_forward.w1"].T, inner @ w[f"{at}.feed_forward.w3"].T
            x = x + (F.silu(gate) * up) @ w[f"{at}.feed_forward.w2"].T
        return norm(x, w["norm"]) @ w["output"].T


KINDS = {
    "4B": Published(dim=96, head_dim=24, text=False, yarn=False),
    "5B": Published(dim=96, head_dim=24, text=True, yarn=False),
    "12B": Published(dim=144, head_dim=32, text=False, yarn=True),
    "13B": Published(dim=144, head_dim=32, text=True, yarn=True),
    "published head": Published(dim=256, head_dim=128, text=False, yarn=False, layers=2, heads=2),
}


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_greedy_tokens_are_those_of_the_description(kind, tmp_path):
    published = KINDS[kind]
    weights = published.weights()
    torch.save(weights, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "video_latent_shape": VIDEO,
                "apply_yarn": published.yarn,
                "yarn_scale": 2,
                "yarn_beta_fast": 4,
                "yarn_beta_slow": 1,
                "original_latent_shape": ORIGINAL,
            }
        )
    )
    model = load_transformer(tmp_path)
    context = torch.randn(8, CONTEXT) if published.text else None
    given = None if context is None else context[None]

    tokens = torch.tensor([VOCABULARY] * published.text + torch.randint(VOCABULARY, (math.prod(VIDEO),)).tolist())
    ours = model(tokens[None], torch.arange(len(tokens)), context=given)[0]
    torch.testing.assert_close(ours, published.logits(weights, tokens, context), atol=1e-4, rtol=0)

    drawn = tokens[: 24 + published.text].tolist()
    while len(drawn) < len(tokens):
        drawn.append(int(published.logits(weights, torch.tensor(drawn), context)[-1].argmax()))
    prompt = tokens[published.text : 24 + published.text]
    greedy = completed(WindowDecoder(model).passes(prompt[None], Sampling(0, 0.0, 1.0), given))[0]
    assert greedy.tolist() == drawn[published.text :]
