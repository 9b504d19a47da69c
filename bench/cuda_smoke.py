"""A short check of everything that only a CUDA GPU can run, and the time of one decoding pass, kernel by kernel.

    PYTHONPATH=. python bench/cuda_smoke.py [--profile]

Ends with status 1 where a check failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import synthetic_checkpoint
import torch
from torch import Tensor, nn

from cosmos_ros.device.devices import free_memory
from cosmos_ros.device.host_table import HostTable
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import MemoryPlan
from cosmos_ros.device.tensors import bytes_of
from cosmos_ros.foresight import PIPELINE
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig
from cosmos_ros.world_model.config import PUBLISHED_KINDS
from cosmos_ros.world_model.decoding.engine import SequentialDecoder
from cosmos_ros.world_model.t5 import T5, TEXT_ENCODER, t5_need
from cosmos_ros.world_model.transformer import attend_grouped, cache_attention

DEVICE = torch.device("cuda")
TINY = TransformerConfig(2, 64, 8, 2, 16, 128, 512, 512, latent_shape=(3, 4, 8))
TINY_TEXT = TransformerConfig(2, 64, 8, 2, 16, 128, 576, 512, latent_shape=(3, 4, 8), context_dim=32)
MIDDLE = TransformerConfig(8, 2048, 16, 4, 128, 6144, 64000, 64000, latent_shape=(3, 16, 20))
MIDDLE_T5 = {"vocab_size": 2048, "d_model": 1024, "d_kv": 64, "d_ff": 16384, "num_layers": 8, "num_heads": 16}
SAMPLED, GREEDY = Sampling(7, 1.0, 0.9), Sampling(7, 0.0, 1.0)


def transformer(config: TransformerConfig, dtype: torch.dtype) -> Transformer:
    """Random weights, made on the device."""
    torch.manual_seed(0)
    with DEVICE:
        model = Transformer(config)
    for name, weight in model.named_parameters():
        weight.data = torch.ones_like(weight) if "norm" in name else torch.randn_like(weight) / weight.shape[-1] ** 0.5
    model.to(dtype).make_position_tables(DEVICE, dtype)
    return model.eval().requires_grad_(False)


def prompt_of(config: TransformerConfig, seed: int = 0) -> Tensor:
    n = 2 * config.tokens_per_latent_frame
    return torch.randint(config.vocab_out, (n,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def context_of(config: TransformerConfig) -> Tensor | None:
    return torch.randn(1, 512, config.context_dim).to(DEVICE) if config.has_text else None


class Eager(SequentialDecoder):
    """The same passes, launched one by one, over all rows as the graph's are."""

    def _captured_step(self, state, sampling):
        def step(filled: int) -> None:
            state.cache.reach = len(state.cache.rows)
            self._step(state, sampling)

        return step


def generate(engine: SequentialDecoder, sampling: Sampling, seed: int = 0, on_pass=lambda *_: None) -> Tensor:
    config = engine.transformer.config
    return engine.generate(prompt_of(config, seed), sampling, context_of(config), on_pass)


def attention_agrees() -> None:
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        for n, last in ((1, 0), (1, 5120), (1, 12799), (5, 300), (64, 6000)):
            q, k, v = (
                torch.randn(1, heads, rows, 128, device=DEVICE, dtype=dtype)
                for heads, rows in ((32, n), (8, 12800), (8, 12800))
            )
            positions = torch.arange(last - n + 1, last + 1, device=DEVICE)
            mask = torch.arange(12800, device=DEVICE) <= positions[:, None]
            expected = attend_grouped(q.double(), k.double(), v.double(), mask)
            k[:, :, last + 1 :], v[:, :, last + 1 :] = float("nan"), float("nan")
            error = (cache_attention.attend_to_cache(q, k, v, positions) - expected).abs().max().item()
            assert error < bound, f"{dtype}, {n} tokens up to row {last}: off by {error:.1e}"


def graph_draws_what_eager_draws() -> None:
    for config, dtype in (
        (TINY, torch.float32),
        (TINY_TEXT, torch.float32),
        (TINY, torch.bfloat16),
        (MIDDLE, torch.float32),
        (MIDDLE, torch.bfloat16),
    ):
        model = transformer(config, dtype)
        torch.manual_seed(1)  # the context's
        engine, eager = SequentialDecoder(model), Eager(model)
        for sampling in (GREEDY, SAMPLED, Sampling(8, 1.0, 0.9), Sampling(8, 0.7, 0.5)):
            torch.manual_seed(1)
            graph_tokens = generate(engine, sampling)
            torch.manual_seed(1)
            eager_tokens = generate(eager, sampling)
            same = (graph_tokens == eager_tokens).float().mean().item()
            assert same == 1.0, f"{config.dim} wide, {dtype}, {sampling}: only {same:.1%} of the tokens agree"


def a_seed_gives_its_tokens_again() -> None:
    engine = SequentialDecoder(transformer(TINY, torch.bfloat16))
    first, other = generate(engine, SAMPLED), generate(engine, Sampling(8, 1.0, 0.9))
    assert not torch.equal(first, other) and torch.equal(first, generate(engine, SAMPLED))
    engine.release()
    assert torch.equal(first, generate(engine, SAMPLED)), "after a release"


def a_cancel_is_answered_and_leaves_the_engine_fit() -> None:
    engine = SequentialDecoder(transformer(MIDDLE, torch.bfloat16))
    expected = generate(engine, SAMPLED)
    asked = []

    def cancel(done: int, total: int, frames: int) -> None:
        if done == 50:
            asked.append(time.monotonic())
            raise KeyboardInterrupt

    try:
        generate(engine, SAMPLED, 1, cancel)
    except KeyboardInterrupt:
        torch.cuda.synchronize()
        assert time.monotonic() - asked[0] < 0.2
    assert torch.equal(generate(engine, SAMPLED), expected)


def parts_come_and_go() -> None:
    net = nn.Sequential(nn.Linear(8192, 8192), nn.BatchNorm1d(8192)).to(DEVICE, torch.bfloat16).eval()
    net.requires_grad_(False)
    x = torch.randn(4, 8192, device=DEVICE, dtype=torch.bfloat16)
    before = net(x)
    part = parking("part").hold("part", net)
    part.rest()
    free, size = free_memory(DEVICE), bytes_of(net)
    for _ in range(3):
        with part.in_use() as used:
            assert torch.equal(used(x), before)
            assert free - free_memory(DEVICE) >= size
        assert abs(free_memory(DEVICE) - free) < size // 4, "the device's memory came back"


def parking(name: str) -> DeviceMemory:
    """The GPU's, with the part of this name in host memory between its uses."""
    return DeviceMemory(DEVICE, MemoryPlan("low", (), PIPELINE, parked=frozenset({name})))


def a_parked_transformer_draws_the_same() -> None:
    model = transformer(MIDDLE, torch.bfloat16)
    engine = SequentialDecoder(model)
    expected = generate(engine, SAMPLED)
    part = parking("transformer").hold("transformer", model, on_leave=engine.release)
    for _ in range(2):
        with part.in_use():
            assert torch.equal(generate(engine, SAMPLED), expected)


def an_embedding_table_in_host_memory_draws_the_same() -> None:
    model = transformer(MIDDLE, torch.bfloat16)
    expected = generate(SequentialDecoder(model), SAMPLED)
    table = model.tok_embeddings.weight
    model.tok_embeddings = HostTable(table, DEVICE)
    rows = torch.tensor([[0, 63999, 17]], device=DEVICE)
    assert torch.equal(model.tok_embeddings(rows), table[rows])
    assert torch.equal(generate(SequentialDecoder(model), SAMPLED), expected)


def a_t5_that_comes_block_by_block_gives_the_same() -> None:
    with tempfile.TemporaryDirectory() as folder:
        t5 = synthetic_checkpoint.write_t5(Path(folder), DEVICE, MIDDLE_T5)
        expected = T5(t5, DeviceMemory(DEVICE)).embed("a robot arm moves")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        parked = T5(t5, parking(TEXT_ENCODER))
        for _ in range(2):
            assert torch.equal(parked.embed("a robot arm moves"), expected)
        peak, need = torch.cuda.max_memory_allocated() - before, t5_need(t5)
        assert peak < need.piece + need.work < need.weights + need.work, f"{peak} bytes at once"


CHECKS = (
    attention_agrees,
    graph_draws_what_eager_draws,
    a_seed_gives_its_tokens_again,
    a_cancel_is_answered_and_leaves_the_engine_fit,
    parts_come_and_go,
    a_parked_transformer_draws_the_same,
    an_embedding_table_in_host_memory_draws_the_same,
    a_t5_that_comes_block_by_block_gives_the_same,
)


def time_passes(kind: str, profile: bool) -> None:
    """Milliseconds of a pass at the beginning and at the end of a rollout, and what that is of the bytes it reads."""
    config = PUBLISHED_KINDS[kind].config
    with torch.inference_mode():
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        model = transformer(config, torch.bfloat16)
        torch.set_default_dtype(default)
        engine = SequentialDecoder(model)
        state = engine._state_for(context_of(config))
        began = time.monotonic()
        step = engine._captured_step(state, SAMPLED)
        torch.cuda.synchronize()
        print(f"{kind}: captured in {time.monotonic() - began:.2f} s")
        weights = bytes_of(model) - model.tok_embeddings.weight.nbytes
        for position in (5120, 12500):
            state.position.fill_(position)
            milliseconds = timed(lambda: step(0), 100)
            cache = 2 * state.cache.keys[:, :, :, :position].nbytes
            rate = (weights + cache) / milliseconds / 1e6
            print(f"{kind} at {position}: {milliseconds:.3f} ms a pass, {rate:.0f} GB/s")
        if profile:
            state.position.fill_(9000)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
                for _ in range(3):
                    engine._step(state, SAMPLED)
                torch.cuda.synchronize()
            print(trace.key_averages().table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=70))
        tokens = prompt_of(config)
        began = time.monotonic()
        first = state.begin(config, tokens)
        engine._prefill(state, SAMPLED, first)
        torch.cuda.synchronize()
        print(f"{kind}: prefill of {first} tokens in {time.monotonic() - began:.3f} s")


def timed(run: Callable[[], None], times: int) -> float:
    """Milliseconds of one run."""
    run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="list the kernels of a pass by their time")
    parser.add_argument("--kinds", default="4B", help="whose passes are timed, separated by commas")
    args = parser.parse_args()
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__, flush=True)
    failed = 0
    for check in CHECKS:
        began = time.monotonic()
        try:
            check()
            outcome = "ok"
        except Exception as error:
            outcome, failed = f"FAILED: {type(error).__name__}: {error}", failed + 1
        print(f"{check.__name__}: {outcome} ({time.monotonic() - began:.1f} s)", flush=True)
        torch.cuda.empty_cache()
    for kind in filter(None, args.kinds.split(",")):
        time_passes(kind, args.profile)
        torch.cuda.empty_cache()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
