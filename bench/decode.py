"""How fast and how exactly tokens are decoded: passes by window, size and precision, prefill, samples, cancel.

    PYTHONPATH=. python bench/decode.py --out FILE.json [--parts checks,passes,...] [--kinds 4B,12B] [--tiny]

Models have the published sizes and random weights: a pass costs what a real one costs, and how many passes a rollout
takes is not measured on them. What is measured stands in FILE.json as soon as each part is done, with the device, the
versions, the commit (environment variable COMMIT) and the bandwidth of a copy measured in the same run. `--tiny` shows
within a minute, without a GPU, that the script works. Ends with status 1 where a part failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosmos_ros.device.threads import CORES
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig
from cosmos_ros.world_model.config import PUBLISHED_KINDS, Yarn
from cosmos_ros.world_model.decoding import engine as engine_module
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed, make_pass, prefill
from cosmos_ros.world_model.transformer import attend_grouped

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SAMPLED, GREEDY = Sampling(7, 1.0, 0.8), Sampling(7, 0.0, 1.0)
SIZES = {"640x1024": (5, 40, 64), "320x512": (5, 20, 32)}
MIDDLE = TransformerConfig(8, 2048, 16, 4, 128, 6144, 64000, 64000, latent_shape=(3, 16, 20))
SMALL = TransformerConfig(2, 128, 8, 2, 16, 256, 512, 512, latent_shape=(3, 8, 8))
PUBLISHED_PASSES = 564  # of a rollout of the 4B at 640x1024 with a window of 128 (arXiv:2510.24211, table of Cosmos)


def transformer(config: TransformerConfig, dtype: torch.dtype, seed: int = 0) -> Transformer:
    """Random weights, made on the device."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = Transformer(config)
    for name, parameter in list(model.named_parameters()):
        shape = parameter.shape
        weight = torch.empty(shape, device=DEVICE, dtype=dtype)
        weight = weight.fill_(1.0) if "norm" in name else weight.normal_(std=shape[-1] ** -0.5)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(weight, requires_grad=False))
    model.make_position_tables(DEVICE, dtype)
    return model.eval()


def in_float8(model: Transformer) -> Transformer:
    from cosmos_ros.world_model.decoding.float8 import to_float8

    with torch.inference_mode():
        to_float8(model)
    return model


def prompts_of(config: TransformerConfig, batch: int = 1, latent_frames: int = 2, seed: int = 0) -> Tensor:
    n = latent_frames * config.tokens_per_latent_frame
    given = torch.randint(config.vocab_out, (1, n), generator=torch.Generator().manual_seed(seed))
    return given.expand(batch, -1)


def context_of(config: TransformerConfig) -> Tensor | None:
    return (
        torch.randn(1, 512, config.context_dim, generator=torch.Generator().manual_seed(0)) if config.has_text else None
    )


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def milliseconds(run: Callable[[], object], times: int = 20, repeats: int = 5) -> float:
    """Of one run: the median over repeats of the mean over times."""
    run()
    synchronize()
    found = []
    for _ in range(repeats):
        if DEVICE.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(times):
                run()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / times)
        else:
            began = time.perf_counter()
            for _ in range(times):
                run()
            found.append(1e3 * (time.perf_counter() - began) / times)
    return round(statistics.median(found), 4)


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """The same, as a CUDA graph where there is one."""
    if DEVICE.type != "cuda":
        return run
    for _ in range(3):
        run()
    synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.result: dict = {"device": device()}

    # Parts: each gives what stands in the results under its name.

    def copy(self) -> dict:
        """Bandwidth of a copy on the device, bytes read and written."""
        block = torch.randn(64 if self.args.tiny else 2**30, dtype=torch.bfloat16, device=DEVICE)
        other = torch.empty_like(block)
        took = milliseconds(lambda: other.copy_(block))
        return {"gigabytes_per_s": round(2 * block.nbytes / took / 1e6, 1)}

    def checks(self) -> dict:
        """What must hold on this device before a time means something."""
        found = {}
        for name, dtype, bound in (("float32", torch.float32, 1e-5), ("bfloat16", torch.bfloat16, 2e-2)):
            found[f"attention_{name}"] = max(attention_error(dtype, *case) for case in ATTENTION_CASES)
            assert found[f"attention_{name}"] < bound, found
        if DEVICE.type == "cuda":
            found["products"] = products_error()
        found["draws"] = draws_agree()
        for kind, (config, text) in small_kinds().items():
            for batch in (1, 2):
                model = transformer(config, torch.float32)
                found[f"fused_{kind}_{batch}"] = fused_tokens_agree(model, batch, context_of(config) if text else None)
        found["logits_bfloat16"] = fused_logits_deviate(
            transformer(MIDDLE if not self.args.tiny else SMALL, torch.bfloat16)
        )
        return found

    def float8(self) -> dict:
        """Logits in 8 bits against bfloat16: deviation over the standard deviation, and likeliest tokens that agree."""
        config = MIDDLE if not self.args.tiny else SMALL
        plain = last_logits(transformer(config, torch.bfloat16))
        eight = last_logits(in_float8(transformer(config, torch.bfloat16)))
        return {
            "relative_rms": float((eight - plain).pow(2).mean().sqrt() / plain.std()),
            "same_likeliest": float((eight.argmax(-1) == plain.argmax(-1)).float().mean()),
        }

    def exactness(self) -> dict:
        """Seeds whose tokens in windows are those of one by one; of batches also samples that are those alone."""
        found: dict[str, dict] = {}
        config = replace(MIDDLE, latent_shape=(3, 8, 10)) if not self.args.tiny else SMALL
        wanted = self.args.seeds
        for precision in self.precisions(config):
            model = self.model(config, precision)
            for window, batch in ((64, 1), (128, 1), (64, 3)):
                fast, slow = (WindowDecoder(model, window, one_by_one) for one_by_one in (False, True))
                alone = WindowDecoder(model, window)
                same = share = passes = same_as_alone = 0
                seeds = max(1, wanted if batch == 1 and window == 64 else wanted // 5)
                for seed in range(seeds):
                    sampling = Sampling(seed, (0.0, 0.5, 1.0)[seed % 3] * 0.3, (0.5, 0.8, 1.0)[seed // 3 % 3])
                    given = prompts_of(config, batch, seed=seed)
                    *_, last = fast.passes(given, sampling)
                    expected = completed(slow.passes(given, sampling))
                    same += torch.equal(last.tokens, expected)
                    share += float((last.tokens == expected).float().mean())
                    passes += last.number
                    for sample in range(batch if batch > 1 else 0):
                        single = completed(alone.passes(given[:1], replace(sampling, seed=seed + sample)))
                        same_as_alone += torch.equal(last.tokens[sample], single[0])
                found[f"{precision}_window_{window}_batch_{batch}"] = {
                    "seeds": seeds,
                    "same": same,
                    "tokens_same": round(share / seeds, 5),
                    "passes": round(passes / seeds, 1),
                    "new_tokens": config.n_tokens - given.shape[1],
                }
                if batch > 1:
                    key = f"{precision}_window_{window}_batch_{batch}"
                    found[key] |= {"samples": seeds * batch, "samples_as_alone": same_as_alone}
        return found

    def passes(self) -> dict:
        """Milliseconds of a whole pass, and the share of the copy's bandwidth at which it reads weights and cache."""
        found = {}
        for kind in self.args.kinds:
            for precision in self.precisions(PUBLISHED_KINDS[kind].config):
                model = self.model(self.config(kind), precision)
                for size, latent_shape in SIZES.items():
                    config = replace(
                        model.config, latent_shape=latent_shape if not self.args.tiny else SMALL.latent_shape
                    )
                    model.config = config
                    model.make_position_tables(DEVICE, torch.bfloat16)
                    for window in self.args.windows:
                        found[f"{kind}_{precision}_{size}_{window}"] = self.pass_of(model, window)
                model = None
                release()
        return found

    def pass_of(self, model: Transformer, window: int, batch: int = 1) -> dict:
        config = model.config
        current = make_pass(model, batch, window, one_by_one=True)
        with torch.inference_mode():
            began = time.perf_counter()
            current.begin(prompts_of(config, batch), SAMPLED, config.sequence_length, context_of(config))
            current.run()
            synchronize()
            capture_s = time.perf_counter() - began
            row = {"capture_s": round(capture_s, 2)}
            for name, filled in (("middle", config.n_tokens * 7 // 10), ("end", config.n_tokens - window - 40)):
                current.batch.filled.fill_(max(filled, 2))
                row[name] = milliseconds(lambda: (current.batch.filled.fill_(max(filled, 2)), current.run()), times=10)  # noqa: B023
            read = model_bytes(model) + 2 * batch * current.cache.keys[:, 0].nbytes
            row["share_of_copy"] = round(read / row["end"] / 1e6 / self.bandwidth(), 3)
        return row

    def gaps(self) -> dict:
        """Wall time of a pass within a rollout against its time on the device: what the host adds."""
        found = {}
        for kind in self.args.kinds[:1]:
            model = self.model(self.config(kind), "bfloat16")
            decoder = WindowDecoder(model, self.args.windows[-1])
            times = []
            n_tokens = prompts_of(model.config).shape[1] + min(200, model.config.tokens_per_latent_frame)
            began = time.perf_counter()
            for _ in decoder.passes(prompts_of(model.config), SAMPLED, context_of(model.config), n_tokens):
                times.append(time.perf_counter())
            with torch.inference_mode():
                took = milliseconds(decoder._pass.run, times=10)
            per_pass = 1e3 * (times[-1] - times[5]) / (len(times) - 6)
            found[kind] = {"device_ms": took, "wall_ms": round(per_pass, 4), "first_s": round(times[0] - began, 3)}
            found[kind]["passes"] = len(times)
            stream = decoder.passes(prompts_of(model.config), SAMPLED, context_of(model.config))
            for _, _ in zip(range(20), stream, strict=False):
                pass
            began = time.perf_counter()
            stream.close()
            synchronize()
            found[kind]["cancel_ms"] = round(1e3 * (time.perf_counter() - began), 2)
        return found

    def prefill(self) -> dict:
        """Milliseconds of a prefill over 9 frames' tokens, by how many are taken at a time."""
        found, before = {}, engine_module.PREFILL_TOKENS
        for kind in self.args.kinds:
            for precision in self.precisions(self.config(kind)):
                model = self.model(self.config(kind), precision)
                given = prompts_of(model.config)
                current = make_pass(model, 1, 64, one_by_one=False)
                with torch.inference_mode():
                    first = current.begin(given, SAMPLED, model.config.sequence_length, context_of(model.config))
                    for tokens in (512, 1024, 2560, 5120):
                        engine_module.PREFILL_TOKENS = tokens
                        take = partial(prefill, current, given, first)
                        found[f"{kind}_{precision}_{tokens}"] = milliseconds(take, times=1, repeats=3)
                current = model = take = None
                release()
        engine_module.PREFILL_TOKENS = before
        return found

    def samples(self) -> dict:
        """Milliseconds of a pass over several samples."""
        found = {}
        model = self.model(self.config("4B"), "bfloat16")
        for batch in (1, 2, 4):
            for window in (64, 128):
                found[f"4B_batch_{batch}_window_{window}"] = self.pass_of(model, window, batch)
                release()
        return found

    def clips(self) -> dict:
        """The model that ships on tokenized clips (bench/clip_tokens.py): passes, tokens per pass, seconds."""
        from cosmos_ros.world_model import load_transformer

        with np.load(self.args.clips) as file:
            tokens, names = torch.from_numpy(file["tokens"]).long(), [str(name) for name in file["names"]]
        tokens = tokens[: self.args.most_clips]
        found = {}
        for precision in ("float32", "bfloat16"):
            model = load_transformer(self.args.model, device=DEVICE, dtype=getattr(torch, precision))
            for window in self.args.clip_windows:
                decoder = WindowDecoder(model, window)
                completed(decoder.passes(tokens[:1], SAMPLED))
                passes, began = [], time.perf_counter()
                for seed, clip in enumerate(tokens):
                    *_, last = decoder.passes(clip[None], replace(SAMPLED, seed=seed, top_p=0.8))
                    passes.append(last.number)
                seconds = (time.perf_counter() - began) / len(tokens)
                new = last.total
                found[f"{precision}_{window}"] = {
                    "clips": len(tokens),
                    "passes": by_name(names, passes),
                    "mean_passes": round(statistics.mean(passes), 1),
                    "tokens_per_pass": round(statistics.mean(new / n for n in passes), 2),
                    "seconds": round(seconds, 4),
                    "ms_per_pass": round(1e3 * seconds / statistics.mean(passes), 3),
                }
        return found

    def shipped_exactness(self) -> dict:
        """The model that ships: seeds whose tokens in windows are those of one by one, and of passes of one token."""
        from cosmos_ros.world_model import load_transformer

        with np.load(self.args.clips) as file:
            tokens = torch.from_numpy(file["tokens"]).long()
        found = {}
        for precision in ("float32", "bfloat16"):
            model = load_transformer(self.args.model, device=DEVICE, dtype=getattr(torch, precision))
            fast, slow = (WindowDecoder(model, one_by_one=one_by_one) for one_by_one in (False, True))
            single = WindowDecoder(model, 1)
            same = same_as_single = 0
            seeds = self.args.seeds if precision == "bfloat16" else self.args.seeds // 4
            for seed in range(seeds):
                sampling = Sampling(seed, (0.5, 1.0)[seed % 2], (0.5, 0.8, 1.0)[seed // 2 % 3])
                clip = tokens[seed % len(tokens)][None]
                mine = completed(fast.passes(clip, sampling))
                same += torch.equal(mine, completed(slow.passes(clip, sampling)))
                if seed < seeds // 4:
                    same_as_single += torch.equal(mine, completed(single.passes(clip, sampling)))
            found[precision] = {
                "window": fast.window,
                "seeds": seeds,
                "same": same,
                "against_single_tokens": {"seeds": seeds // 4, "same": same_as_single},
            }
        return found

    def tokenizer(self) -> dict:
        """Milliseconds of encoding 9 frames and of decoding, of a stand-in for the published tokenizer at its size."""
        import synthetic_checkpoint

        from cosmos_ros.world_model.tokenizer.chunking import Chunking
        from cosmos_ros.world_model.tokenizer.video_tokenizer import VideoTokenizer

        found = {}
        with tempfile.TemporaryDirectory() as folder:
            directory = synthetic_checkpoint.write_tokenizer(Path(folder))
            for size, latent_shape in SIZES.items():
                chunking = Chunking(latent_shape, (8, 16, 16))
                tokenizer = VideoTokenizer.load(directory, chunking, 64000, DEVICE, torch.bfloat16)
                frames = torch.rand(1, 3, 9, *chunking.frame_size, device=DEVICE) * 2 - 1
                tokens = torch.randint(64000, (math.prod(latent_shape),))
                found[size] = {
                    "encode_9": milliseconds(partial(tokenizer.encode, frames), times=2, repeats=3),
                    "decode_33": milliseconds(lambda: list(tokenizer.decode(tokens, 9)), times=2, repeats=3),  # noqa: B023
                    "by_groups": tokenizer.by_groups,
                }
                release()
        return found

    # What the parts share.

    def config(self, kind: str) -> TransformerConfig:
        return PUBLISHED_KINDS[kind].config if not self.args.tiny else SMALL

    def precisions(self, config: TransformerConfig) -> list[str]:
        return ["bfloat16", "fp8"] if has_float8() else ["bfloat16"]

    def model(self, config: TransformerConfig, precision: str) -> Transformer:
        model = transformer(config, torch.bfloat16)
        return in_float8(model) if precision == "fp8" else model

    def bandwidth(self) -> float:
        """Gigabytes per second."""
        return self.result.get("copy", {}).get("gigabytes_per_s", math.inf)


ATTENTION_CASES = ((1, 1), (1, 5120), (1, 12_800), (5, 300), (64, 6000), (128, 12_000), (17, 2), (128, 3))


def attention_error(dtype: torch.dtype, window: int, filled: int) -> float:
    from cosmos_ros.world_model.decoding.cache_attention import attend_to_cache

    torch.manual_seed(filled)
    head_dim = 128 if DEVICE.type == "cuda" else 16
    rows = filled + window + 40
    queries, keys, values = (
        torch.randn(2, heads, n, head_dim, device=DEVICE, dtype=dtype)
        for heads, n in ((8, window), (2, rows), (2, rows))
    )
    before = torch.tensor([filled, max(filled // 2, 1)], device=DEVICE)
    places = before[:, None] - 1 + torch.arange(window, device=DEVICE)
    mask = (torch.arange(rows, device=DEVICE) <= places[..., None])[:, None]
    expected = attend_grouped(queries.double(), keys.double(), values.double(), mask)
    for sample in range(2):
        keys[sample, :, places[sample, -1] + 1 :] = values[sample, :, places[sample, -1] + 1 :] = float("nan")
    seen = attend_to_cache(queries, keys, values, before).view(2, window, 8, head_dim).transpose(1, 2)
    return float((seen - expected).abs().max())


def products_error() -> float:
    """The largest relative error of the products' kernels, bfloat16 and float8, against PyTorch's own."""
    from cosmos_ros.world_model.decoding import layer_kernels, products
    from cosmos_ros.world_model.decoding.float8 import multiply_rows, quantise

    errors = []
    for rows in (1, 16, 64, 128):
        for outer, inner in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (5120, 14336)):
            x, weight = (torch.randn(n, inner, device=DEVICE, dtype=torch.bfloat16) for n in (rows, outer))
            expected = x @ weight.t()
            pairs = [(products.multiply(x, weight), expected)]
            pairs.append((products.multiply(x, weight, gate=True), layer_kernels.gate(expected)))
            if has_float8():
                (small, scale), (narrow, weight_scale) = quantise(x), quantise(weight)
                scales = (scale, weight_scale[:, 0].contiguous())
                pairs.append((products.multiply(small, narrow, scales), multiply_rows(small, scale, narrow, scales[1])))
            errors += [float((found - expected).float().norm() / expected.float().norm()) for found, expected in pairs]
    assert max(errors) < 0.01, errors
    return max(errors)


def draws_agree() -> float:
    """The kernel's draws against the definition's: the share that agrees (logarithms may differ in the last bit)."""
    from cosmos_ros.world_model.decoding.noise import gumbel, words_of
    from cosmos_ros.world_model.decoding.sampling import draw
    from cosmos_ros.world_model.decoding.sampling_kernels import Draws

    rows, window, vocabulary = 64, 32, 64000 if DEVICE.type == "cuda" else 300
    same = []
    for sampling in (
        SAMPLED,
        GREEDY,
        Sampling(2**62, 0.5, 0.5),
        Sampling(3, 1.0, 0.1),
        Sampling(3, 1.0, 1.0),
        Sampling(3, 1e-40, 0.9),
    ):
        for spread in (1.0, 4.0):
            logits = torch.randn(rows, vocabulary, device=DEVICE) * spread
            words = words_of([sampling.seed, sampling.seed + 1]).to(DEVICE)
            filled = torch.tensor([400, 77], device=DEVICE)
            settings = [sampling.divisor, 1.0 if sampling.greedy else sampling.top_p, float(not sampling.greedy)]
            draws = Draws(rows, vocabulary, torch.tensor(settings, device=DEVICE), words, filled)
            found = draws.draw(logits, window).clone().view(2, window)
            places = filled[:, None] + torch.arange(window, device=DEVICE)
            expected = draw(logits.view(2, window, -1), sampling, gumbel(words, places, vocabulary))
            same.append(float((found == expected).float().mean()))
            logits[5, 7] = float("nan")
            assert draws.draw(logits, window)[5] == -1
    assert min(same) > 0.99, same
    return min(same)


def small_kinds() -> dict:
    yarn = Yarn(2, 4, 1, (3, 8, 8))
    return {
        "4B": (SMALL, False),
        "5B": (replace(SMALL, vocab_in=576, context_dim=32), True),
        "12B": (replace(SMALL, yarn=yarn), False),
        "13B": (replace(SMALL, yarn=yarn, vocab_in=576, context_dim=32), True),
    }


def fused_tokens_agree(model: Transformer, batch: int, context: Tensor | None) -> float:
    """Tokens of the fused, captured pass against those of the plain one, float32."""
    from cosmos_ros.world_model.decoding.window import WindowPass

    fused = completed(WindowDecoder(model, 16).passes(prompts_of(model.config, batch), SAMPLED, context))
    plain_decoder = WindowDecoder(model, 16)
    plain_decoder._pass = WindowPass(model, batch, 16, one_by_one=False)
    plain = completed(plain_decoder.passes(prompts_of(model.config, batch), SAMPLED, context))
    return float((fused == plain).float().mean())


def last_logits(model: Transformer) -> Tensor:
    """Of a window in the middle of a rollout, by the fused pass where it is the device's; float32."""
    current = make_pass(model, 1, 64, one_by_one=False)
    with torch.inference_mode():
        given = prompts_of(model.config)
        first = current.begin(given, SAMPLED, model.config.sequence_length, None)
        prefill(current, given, first)
        if hasattr(current, "_logits"):
            current._guess()
            return current._logits().float()
        places = current.batch.filled[:, None] - 1 + current._offsets
        return model(current._guesses(places), places, current.cache, None)[0].float()


def fused_logits_deviate(model: Transformer) -> float:
    """Relative RMS of the fused pass's logits against the plain transformer's without a cache, bfloat16."""
    fused = last_logits(model)
    with torch.inference_mode():
        given = prompts_of(model.config).to(DEVICE)
        frame = given[:, -model.config.tokens_per_latent_frame :]
        tokens = torch.cat([given, frame[:, : len(fused) - 1]], dim=1)
        plain = model(tokens, torch.arange(tokens.shape[1], device=DEVICE))[0, given.shape[1] - 1 :].float()
    deviation = float((fused - plain).pow(2).mean().sqrt() / plain.std())
    assert deviation < 0.05, deviation
    return deviation


def model_bytes(model: Transformer) -> int:
    """What a pass reads of the weights: all but the embedding table."""
    from cosmos_ros.device.tensors import tensors_of

    return sum(tensor.nbytes for tensor in tensors_of(model)) - model.tok_embeddings.weight.nbytes


def by_name(names: list[str], passes: list[int]) -> dict:
    """Mean passes of the clips of each recording."""
    groups: dict[str, list[int]] = {}
    for name, n in zip(names, passes, strict=False):
        groups.setdefault(name, []).append(n)
    return {name: round(statistics.mean(each), 1) for name, each in groups.items()}


def has_float8() -> bool:
    return DEVICE.type == "cuda" and torch.cuda.get_device_capability() >= (8, 9)


def release() -> None:
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def device() -> dict:
    cuda = DEVICE.type == "cuda"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        import triton

        versions["triton"] = triton.__version__
    except ImportError:
        pass
    return {
        "name": torch.cuda.get_device_name() if cuda else f"CPU, {CORES} cores",
        "cuda": torch.version.cuda if cuda else None,
        "versions": versions,
        "commit": os.environ.get("COMMIT", ""),
    }


PARTS = (
    "copy",
    "checks",
    "float8",
    "passes",
    "prefill",
    "gaps",
    "samples",
    "exactness",
    "clips",
    "shipped_exactness",
    "tokenizer",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS[:8]))
    parser.add_argument("--kinds", default="4B", type=lambda text: text.split(","))
    parser.add_argument("--windows", default=[1, 16, 64, 128, 256], type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--clips", type=Path, help="tokenized clips, from bench/clip_tokens.py")
    parser.add_argument("--most-clips", type=int, default=100)
    parser.add_argument("--clip-windows", default=[32, 64, 160], type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--model", type=Path, help="directory of the model that ships")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.windows, args.seeds = [4], 3
    bench, failed = Bench(args), 0
    for part in args.parts.split(","):
        began = time.perf_counter()
        try:
            bench.result[part] = getattr(bench, part)()
        except Exception as error:
            failed += 1
            bench.result[part] = {"failed": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        release()
        args.out.write_text(json.dumps(bench.result, indent=2) + "\n")
        print(part, round(time.perf_counter() - began, 1), "s", json.dumps(bench.result[part]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
