"""How far bfloat16 takes the published models' logits and T5's contexts from float32, at full size, random weights.

    PYTHONPATH=. python bench/precision.py --out DIRECTORY [--kinds 4B,5B,12B,13B,T5] [--tiny]

The weights are rounded to bfloat16, as published, before both passes: what differs is only how the pass computes. A
prompt of 9 frames' tokens goes through the KV cache as in a rollout, and the logits of its last 512 tokens are
compared: the error's root mean square in parts of the logits' standard deviation, its maximum, how often the likeliest
token is another one, and the mean divergence of the sampling distributions. Every measurement goes to
DIRECTORY/precision_<kind>.json as soon as it is made. Ends with status 1 where the error is above the stated bound.

T5 is T5-11B's encoder with weights in float32, on a prompt of 60 tokens. Its context is made in float32 and rounded to
bfloat16, as the package and the reference do, and compared with contexts made by weights and activations in bfloat16:
root mean square and maximum of the difference, in parts of the context's own root mean square, beside what the rounding
alone costs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from synthetic_checkpoint import T5_11B, device_name
from torch import Tensor

from cosmos_ros.world_model import Transformer, TransformerConfig
from cosmos_ros.world_model.config import PUBLISHED_KINDS, transformer_shapes
from cosmos_ros.world_model.decoding.engine import PREFILL_TOKENS
from cosmos_ros.world_model.decoding.kv_cache import KVCache

BOUND = 0.05  # root mean square of the error, in parts of the logits' standard deviation
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROMPT_TOKENS = 60
TINY_T5 = {"vocab_size": 192, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
TINY = TransformerConfig(2, 64, 4, 2, 16, 128, 512, 512, latent_shape=(5, 4, 8))


def random_transformer(config: TransformerConfig) -> Transformer:
    """In float32, of weights that bfloat16 holds exactly."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Transformer(config)
    for name, shape in transformer_shapes(config).items():
        weight = torch.empty(shape, device=DEVICE)
        weight = weight.fill_(1.0) if "norm" in name else weight.normal_(std=shape[-1] ** -0.5).bfloat16().float()
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, torch.nn.Parameter(weight, requires_grad=False))
    model.make_position_tables(DEVICE, torch.float32)
    return model.eval()


def in_bfloat16(model: Transformer) -> Transformer:
    """The same model, its weights converted one by one in place."""
    model.bfloat16().make_position_tables(DEVICE, torch.bfloat16)
    return model


@torch.inference_mode()
def last_logits(model: Transformer, tokens: Tensor, context: Tensor | None) -> Tensor:
    """[PREFILL_TOKENS, vocab_out] in float32, of the prompt's last tokens."""
    cache = KVCache(model.config, device=DEVICE, dtype=model.output.weight.dtype)
    projected = None if context is None else model.project_context(context)
    for begin in range(0, tokens.shape[1], PREFILL_TOKENS):
        end = cache.reach = min(begin + PREFILL_TOKENS, tokens.shape[1])
        hidden = model.hidden(tokens[:, begin:end], torch.arange(begin, end, device=DEVICE), cache, projected)
    return model.output(hidden)[0].float()


def measure(kind: str, config: TransformerConfig) -> dict:
    model = random_transformer(config)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_out, (1, 2 * config.tokens_per_latent_frame), generator=generator).to(DEVICE)
    context = torch.randn(1, 512, config.context_dim, generator=generator).to(DEVICE) if config.has_text else None
    expected = last_logits(model, tokens, context)
    found = last_logits(in_bfloat16(model), tokens, context)
    error = found - expected
    divergence = F.kl_div(F.log_softmax(found, -1), F.log_softmax(expected, -1), log_target=True, reduction="batchmean")
    return {
        "kind": kind,
        "device": device_name(),
        "torch": torch.__version__,
        "error_rms_of_logits_std": round((error.pow(2).mean().sqrt() / expected.std()).item(), 5),
        "error_max_of_logits_std": round((error.abs().max() / expected.std()).item(), 4),
        "likeliest_token_differs": round((found.argmax(-1) != expected.argmax(-1)).float().mean().item(), 4),
        "divergence_nats": round(divergence.item(), 6),
    }


@torch.inference_mode()
def measure_t5(sizes: dict) -> dict:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    with DEVICE:
        model = T5EncoderModel(T5Config(**sizes)).eval()
        tokens = torch.randint(2, sizes["vocab_size"], (1, 512))
    mask = (torch.arange(512, device=DEVICE) < PROMPT_TOKENS).long()[None]

    def context(precision: torch.dtype) -> Tensor:
        hidden = model.to(precision)(input_ids=tokens, attention_mask=mask).last_hidden_state
        return hidden[0, :PROMPT_TOKENS].float()

    exact = context(torch.float32)
    rounded, scale = exact.bfloat16().float(), exact.square().mean().sqrt()
    error, rounding = context(torch.bfloat16) - rounded, rounded - exact
    return {
        "kind": "T5",
        "device": device_name(),
        "torch": torch.__version__,
        "error_rms_of_context_rms": round((error.square().mean().sqrt() / scale).item(), 5),
        "error_max_of_context_rms": round((error.abs().max() / scale).item(), 4),
        "rounding_rms_of_context_rms": round((rounding.square().mean().sqrt() / scale).item(), 5),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default="4B,5B,12B,13B,T5", help="separated by commas")
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--tiny", action="store_true", help="a small model, to show that the script works")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for kind in args.kinds.split(","):
        if kind == "T5":
            result = measure_t5(TINY_T5 if args.tiny else T5_11B)
        else:
            result = measure(kind, TINY if args.tiny else PUBLISHED_KINDS[kind].config)
            failed |= result["error_rms_of_logits_std"] > BOUND
        (args.out / f"precision_{kind}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result), flush=True)
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
