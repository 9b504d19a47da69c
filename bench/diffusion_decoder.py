"""The diffusion decoder at its full size, with random weights made on the device: time, memory, precision, fewer steps.

    PYTHONPATH=. python bench/diffusion_decoder.py --out bench/results/diffusion_decoder.json

One rollout is 5 latent frames of 640x1024: a chunk of 8, of 20,480 patches, and for each evaluation a guided pair of
forwards. Random weights cost what real ones cost, and say nothing about pictures: how much fewer steps or 8 bits change
a rollout of NVIDIA's weights, nobody here has seen. `--tiny` shows within seconds, also without a GPU, that the script
works. `published_models.py --frame-decoder diffusion` measures it together with a transformer and the guardrail.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from synthetic_checkpoint import LATENT_TOKENIZER, LatentsToPixels, device_name
from torch import Tensor

from cosmos_ros.device.devices import has_float8
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.training.sizes import TokenizerSizes
from cosmos_ros.world_model.diffusion_decoder import between_products
from cosmos_ros.world_model.diffusion_decoder import network as network_module
from cosmos_ros.world_model.diffusion_decoder.config import CHUNK, PUBLISHED, DiffusionDecoderConfig
from cosmos_ros.world_model.diffusion_decoder.decoder import DiffusionDecoder, speed_up
from cosmos_ros.world_model.diffusion_decoder.latent_decoder import LatentDecoder
from cosmos_ros.world_model.diffusion_decoder.network import DiffusionTransformer
from cosmos_ros.world_model.diffusion_decoder.sampler import EULER, MULTISTEP

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = DiffusionDecoderConfig(2, 64, 2, 32, 128, 16, 16, 640, 8, 16)
FEWER = (8, 4, 2, 1)


class Bench:
    def __init__(self, out: Path, tiny: bool) -> None:
        self.out, self.config = out, TINY if tiny else PUBLISHED
        self.grid = (2, 3) if tiny else (40, 64)  # tokens of a latent frame
        self.dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
        self.result: dict = {"device": device_name(), "torch": torch.__version__, "parameters": 0}
        torch.manual_seed(0)
        shape = (CHUNK, *self.grid)
        self.tokens = torch.randint(self.config.vocabulary, shape, device=DEVICE)
        self.text = torch.randn(1, 512, self.config.context_dim, device=DEVICE, dtype=self.dtype)
        self.latents = torch.randn(2, self.config.latent_channels, CHUNK, *(2 * size for size in self.grid)).to(DEVICE)
        self.network = self.made()
        self.result["parameters"] = sum(weight.numel() for weight in self.network.parameters())

    def made(self) -> DiffusionTransformer:
        """Rows of about unit length, so that activations stay in range through any number of blocks."""
        with torch.device("meta"):
            network = DiffusionTransformer(self.config)
        network = network.to(self.dtype).to_empty(device=DEVICE).eval().requires_grad_(False)
        for weight in network.parameters():
            if weight.ndim == 1:
                weight.fill_(1.0)
            else:
                weight.normal_(std=weight.shape[1] ** -0.5)
        return network

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """The guided pair of an evaluation, at a noise level of 2."""
        both = torch.stack([self.tokens, torch.zeros_like(self.tokens)])
        return self.network(self.latents.to(self.dtype), 0.173, both, self.text)

    def measure_forward(self, name: str, repeats: int = 3) -> Tensor:
        """Times a guided pair; returns what it gives."""
        clear()
        before = allocated()
        found = self.forward()  # compiles
        seconds = timed(self.forward, repeats)
        self.keep("forward", name, {"seconds": seconds, "work_gb": gigabytes(peak() - before)})
        return found

    def forwards(self) -> None:
        """What each of the choices brings, on the same weights."""
        self.network.between = between_products
        plain = self.measure_forward("plain")
        speed_up(self.network, DEVICE)
        fused = self.measure_forward("kernels")
        self.keep("forward", "kernels_differ_by", relative(fused, plain))
        if DEVICE.type == "cuda":
            backends = network_module.BACKENDS
            for backend in backends[:2]:
                network_module.BACKENDS = [backend]
                self.measure_forward(f"kernels, {backend.name}", repeats=2)
            network_module.BACKENDS = backends
        self.one_by_one()
        self.precision()

    @torch.inference_mode()
    def one_by_one(self) -> None:
        def halves() -> None:
            given = self.latents.to(self.dtype)
            self.network(given[:1], 0.173, self.tokens[None], self.text)
            self.network(given[1:], 0.173, torch.zeros_like(self.tokens)[None], self.text[:0])

        clear()
        before = allocated()
        halves()
        seconds = timed(halves, 2)
        work = gigabytes(peak() - before)
        self.keep("forward", "kernels, one after the other", {"seconds": seconds, "work_gb": work})

    def rollouts(self, name: str, decoder: DiffusionDecoder) -> Tensor:
        """A whole rollout by Predict1's sampler, then by Cosmos 1.0's, whose latents are returned."""
        decoder.solver = EULER
        self.timed_once(f"{name}, {EULER.name}, with pixels", lambda: drain(decoder, self.tokens[:5]))
        decoder.solver = MULTISTEP
        return self.timed_once(f"{name}, {MULTISTEP.name}, latents alone", lambda: self.sampled(decoder, decoder.steps))

    def timed_once(self, name: str, work: Callable[[], Tensor]) -> Tensor:
        clear()
        began = time.monotonic()
        found = work()
        finish()
        self.keep("rollout", name, {"seconds": round(time.monotonic() - began, 2), "peak_gb": gigabytes(peak())})
        return found

    @torch.inference_mode()
    def precision(self) -> None:
        """How far one forward in the network's precision, and in 8 bits, is from one in float32."""
        given = (self.latents[:1], 0.173, self.tokens[None], self.text)
        found = self.network(given[0].to(self.dtype), *given[1:])
        with torch.device("meta"):
            exact = DiffusionTransformer(self.config)
        exact.load_state_dict({name: w.float() for name, w in self.network.state_dict().items()}, assign=True)
        self.exact = exact(*given).cpu()
        self.keep("forward", f"{self.dtype} differs from float32 by", relative(found.cpu(), self.exact))

    def sampled(self, decoder: DiffusionDecoder, steps: int) -> Tensor:
        noise = decoder.noise(0, CHUNK, *(2 * size for size in self.grid))[0]
        return decoder.denoise(self.tokens, noise, steps=steps)

    def fewer(self, name: str, decoder: DiffusionDecoder, whole: Tensor) -> None:
        for steps in FEWER:
            began = time.monotonic()
            found = self.sampled(decoder, steps)
            finish()
            seconds = round(time.monotonic() - began, 2)
            self.keep("fewer_steps", f"{name}, {steps}", {"seconds": seconds} | relative(found, whole))

    def run(self) -> None:
        self.forwards()
        latents = TokenizerSizes((8, 8), (1, 1), (1, 1), levels=(2,) * 16) if self.config is TINY else LATENT_TOKENIZER
        program = torch.jit.script(LatentsToPixels(latents).eval().requires_grad_(False)).to(DEVICE, self.dtype)
        statistics_ = torch.zeros(16, CHUNK, 1, 1), torch.ones(16, CHUNK, 1, 1)
        decoder = DiffusionDecoder(
            self.network,
            LatentDecoder(program, statistics_).to(DEVICE),
            self.text,
            MULTISTEP,
            DeviceMemory(DEVICE),
            self.dtype,
        )
        whole = self.rollouts(name := str(self.dtype).removeprefix("torch."), decoder)
        self.fewer(name, decoder, whole)
        if not has_float8(DEVICE):
            return
        from cosmos_ros.world_model.diffusion_decoder import kernels

        for part in decoder._parts:
            if isinstance(part.network, network_module.Block):
                kernels.to_float8(part.network, DEVICE)
        clear()
        self.keep("forward", "fp8", {"seconds": timed(self.forward, 3)})
        with torch.inference_mode():
            found = self.network(self.latents[:1].to(self.dtype), 0.173, self.tokens[None], self.text)
        self.keep("forward", "fp8 differs from float32 by", relative(found.cpu(), self.exact))
        self.keep("fp8_differs_by", "15 steps", relative(self.rollouts("fp8", decoder), whole))

    def keep(self, group: str, name: str, found: object) -> None:
        self.result.setdefault(group, {})[name] = found
        print(f"{group}: {name}: {json.dumps(found)}", flush=True)
        self.out.write_text(json.dumps(self.result, indent=2) + "\n")


def drain(decoder: DiffusionDecoder, tokens: Tensor) -> Tensor:
    """All frames, as FrameDecoder gives them in the end."""
    steps = decoder.pixels(tokens, None, seed=0)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def gigabytes(count: int) -> float:
    return round(count / 1e9, 2)


def relative(found: Tensor, expected: Tensor) -> dict[str, float]:
    difference = (found.double() - expected.double()).square().mean().sqrt()
    return {"relative_rms": round(float(difference / expected.double().square().mean().sqrt()), 5)}


def timed(work: Callable[[], object], repeats: int) -> float:
    """Seconds, the median."""
    seconds = []
    for _ in range(repeats):
        finish()
        began = time.monotonic()
        work()
        finish()
        seconds.append(time.monotonic() - began)
    return round(statistics.median(seconds), 4)


def finish() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def clear() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def allocated() -> int:
    return torch.cuda.memory_allocated() if DEVICE.type == "cuda" else 0


def peak() -> int:
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench/results/diffusion_decoder.json"))
    parser.add_argument("--tiny", action="store_true", help="a small network, to show that the script works")
    args = parser.parse_args()
    Bench(args.out, args.tiny).run()


if __name__ == "__main__":
    main()
