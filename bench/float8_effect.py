"""What 8-bit products do to the predictions of the model that ships: likelihood of the true tokens, PSNR and SSIM.

    PYTHONPATH=. python bench/float8_effect.py --out FILE.json [--clips 60] [--rollouts 15] RECORDING...

Each precision sees the same clips of 33 frames (bench/clip_tokens.py says how they are taken). Given all tokens before
it, how likely is each true token of the last 24 frames, and is the likeliest one float32's? And how near are rollouts
of some clips, with the same seeds, to the true frames, as the tokenizer decodes them? Where the device does not
multiply in 8 bits, operands are rounded to 8 bits by rows and multiplied in float32: the same up to the order of sums.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from clip_tokens import frames_of
from decode import DEVICE, device, has_float8, in_float8
from torch import Tensor, nn

from cosmos_ros.metrics.fidelity import psnr, ssim
from cosmos_ros.world_model import Sampling, Transformer, WorldModel, load_transformer
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed
from cosmos_ros.world_model.preprocessing import to_model_input
from cosmos_ros.world_model.tokenizer.video_tokenizer import to_levels

PRECISIONS = ("float32", "bfloat16", "fp8")
CONDITION, FRAMES = 9, 33
LARGEST = 448.0  # of float8_e4m3fn


@dataclass(frozen=True)
class Case:
    """tokens int64 [N] of 33 true frames; frames uint8 [24, h, w, 3], those after the clip at the model's size."""

    tokens: Tensor
    frames: np.ndarray


class RoundedLinear(nn.Module):
    """A linear layer whose operands have 8 bits and a scale for each row, multiplied in float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = in_8_bits(linear.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(in_8_bits(x), self.weight).bfloat16().to(x.dtype)


def in_8_bits(rows: Tensor) -> Tensor:
    scale = rows.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (rows / scale).to(torch.float8_e4m3fn).to(rows.dtype) * scale


def transformer(model: WorldModel, precision: str) -> Transformer:
    if precision == "fp8" and has_float8():
        return in_float8(
            load_transformer(model.spec.checkpoint, model.spec.config, device=DEVICE, dtype=torch.bfloat16)
        )
    dtype = torch.float32 if precision == "fp8" else getattr(torch, precision)
    found = load_transformer(model.spec.checkpoint, model.spec.config, device=DEVICE, dtype=dtype)
    for layer in found.layers if precision == "fp8" else ():
        for owner, names in ((layer.attention, ("wq", "wk", "wv", "wo")), (layer.feed_forward, ("w1", "w2", "w3"))):
            for name in names:
                setattr(owner, name, RoundedLinear(getattr(owner, name)))
    return found


def loaded(model: WorldModel, dtype: torch.dtype) -> Transformer:
    return load_transformer(model.spec.checkpoint, model.spec.config, device=DEVICE, dtype=dtype)


def cases(model: WorldModel, recordings: list[Path], clips: int) -> list[Case]:
    found = []
    for path in recordings:
        frames = frames_of(path)
        for first in np.linspace(0, len(frames) - FRAMES, -(-clips // len(recordings))).astype(int):
            window = np.stack(frames[first : first + FRAMES])
            seen = to_levels(to_model_input(window[CONDITION:], model.spec.frame_size)[0])
            found.append(Case(model.tokenize(window).cpu(), seen.permute(1, 2, 3, 0).contiguous().numpy()))
    return found[:clips]


@torch.inference_mode()
def log_probabilities(network: Transformer, tokens: Tensor, first: int) -> Tensor:
    """[tokens from `first` on, vocabulary], given all tokens before each; float32."""
    positions = torch.arange(len(tokens) - 1, device=DEVICE)
    return network(tokens[None, :-1].to(DEVICE), positions)[0, first - 1 :].float().log_softmax(-1)


def likelihoods(model: WorldModel, networks: dict[str, Transformer], given: list[Case]) -> dict:
    first = model.spec.chunking.latent_frames(CONDITION) * model.spec.config.tokens_per_latent_frame
    found: dict[str, dict[str, list[float]]] = {
        name: {"nats": [], "likeliest": [], "divergence": []} for name in networks
    }
    for case in given:
        exact, truth = log_probabilities(networks["float32"], case.tokens, first), case.tokens[first:].to(DEVICE)
        for name, network in networks.items():
            seen = log_probabilities(network, case.tokens, first)
            found[name]["nats"].append(float(-seen.gather(1, truth[:, None]).mean()))
            found[name]["likeliest"].append(float((seen.argmax(-1) == exact.argmax(-1)).float().mean()))
            found[name]["divergence"].append(float((exact.exp() * (exact - seen)).sum(-1).mean()))
    return {
        name: {
            "nats_per_true_token": round(statistics.mean(each["nats"]), 4),
            "likeliest_as_float32": round(statistics.mean(each["likeliest"]), 4),
            "divergence_from_float32_nats": round(statistics.mean(each["divergence"]), 5),
        }
        for name, each in found.items()
    }


def fidelity(model: WorldModel, network: Transformer, given: list[Case]) -> dict:
    """Of rollouts with the recommended sampling, decoded by the tokenizer alone, against the true frames."""
    decoder, spec = WindowDecoder(network), model.spec
    n_given = spec.chunking.latent_frames(CONDITION) * spec.config.tokens_per_latent_frame
    noise, structure = [], []
    for seed, case in enumerate(given):
        sampling = Sampling(seed, spec.temperature, spec.top_p)
        tokens = completed(decoder.passes(case.tokens[None, :n_given], sampling))[0]
        frames = np.concatenate(list(model.decode(tokens, CONDITION)))
        noise.append(float(np.mean(psnr(frames, case.frames))))
        structure.append(float(np.mean(ssim(frames, case.frames))))
    return {"psnr_db": round(statistics.mean(noise), 3), "ssim": round(statistics.mean(structure), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--rollouts", type=int, default=15)
    args = parser.parse_args()
    model = WorldModel.from_checkpoint(device=DEVICE.type)
    given = cases(model, args.recordings, args.clips)
    networks = {precision: transformer(model, precision) for precision in PRECISIONS}
    result = {"device": device(), "clips": len(given), "rollouts": args.rollouts}
    result["multiplied_in"] = "8 bits" if has_float8() else "float32, of operands rounded to 8 bits"
    result |= likelihoods(model, networks, given)
    for name, network in networks.items():
        spread = given[:: max(1, len(given) // args.rollouts)][: args.rollouts]
        result[name] |= fidelity(model, network, spread)
        print(name, json.dumps(result[name]), flush=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
