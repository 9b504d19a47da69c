"""A short check of everything that only a CUDA GPU can run; how exact and fast decoding is, bench/decode.py measures.

    PYTHONPATH=. python bench/cuda_smoke.py

Ends with status 1 where a check failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import synthetic_checkpoint
import torch
from torch import Tensor, nn

from cosmos_ros.device.devices import free_memory
from cosmos_ros.device.host_table import HostTable
from cosmos_ros.device.out_of_memory import out_of_memory_as_error
from cosmos_ros.device.placement import DeviceMemory
from cosmos_ros.device.plan import MemoryPlan
from cosmos_ros.device.tensors import bytes_of
from cosmos_ros.errors import OutOfMemory
from cosmos_ros.pipeline import PIPELINE
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig
from cosmos_ros.world_model.decoding import fused_pass
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed
from cosmos_ros.world_model.decoding.window import WindowPass
from cosmos_ros.world_model.t5 import T5, TEXT_ENCODER, t5_need

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


def generate(engine: WindowDecoder, sampling: Sampling, seed: int = 0) -> Tensor:
    config = engine.transformer.config
    torch.manual_seed(1)  # the context's
    return completed(engine.passes(prompt_of(config, seed)[None], sampling, context_of(config)))


def the_fused_pass_draws_what_the_plain_one_draws() -> None:
    for config in (TINY, TINY_TEXT):
        model = transformer(config, torch.float32)
        fused, plain = WindowDecoder(model, window=16), WindowDecoder(model, window=16)
        plain._pass = WindowPass(model, 1, 16, one_by_one=False)
        for sampling in (GREEDY, SAMPLED, Sampling(8, 1.0, 0.9), Sampling(8, 0.7, 0.5)):
            assert torch.equal(generate(fused, sampling), generate(plain, sampling)), f"{config}, {sampling}"


def without_a_graph_it_draws_the_same() -> None:
    model = transformer(MIDDLE, torch.bfloat16)
    expected = generate(WindowDecoder(model), SAMPLED)
    decoder = WindowDecoder(model)
    with patch.object(torch.cuda, "graph", side_effect=RuntimeError("not supported")):
        assert torch.equal(generate(decoder, SAMPLED), expected)
    assert decoder._pass._graph is None


def without_triton_it_draws_the_same() -> None:
    model = transformer(TINY, torch.float32)
    expected = generate(WindowDecoder(model), SAMPLED)
    decoder = WindowDecoder(model)
    with patch.dict(sys.modules, {"cosmos_ros.world_model.decoding.fused_pass": None}):
        assert torch.equal(generate(decoder, SAMPLED), expected)
    assert type(decoder._pass) is WindowPass


def too_little_memory_for_the_capture_ends_the_goal_and_not_the_engine() -> None:
    model = transformer(MIDDLE, torch.bfloat16)
    expected = generate(WindowDecoder(model), SAMPLED)
    torch.cuda.empty_cache()
    decoder, graph_of, filling = WindowDecoder(model), fused_pass.graph_of, []

    def graph_in_a_full_memory(*step: object) -> torch.cuda.CUDAGraph | None:
        for size in (2**30, 2**26, 2**21):
            with suppress(torch.OutOfMemoryError):
                while True:
                    filling.append(torch.empty(size, dtype=torch.uint8, device=DEVICE))
        return graph_of(*step)

    try:
        with patch.object(fused_pass, "graph_of", graph_in_a_full_memory), out_of_memory_as_error("predicting"):
            generate(decoder, SAMPLED)
        raise AssertionError("there was memory left")
    except OutOfMemory:
        pass
    finally:
        filling.clear()
        decoder.release()
        torch.cuda.empty_cache()
    assert torch.equal(generate(decoder, SAMPLED), expected)
    assert decoder._pass._graph is not None


def a_seed_gives_its_tokens_again() -> None:
    engine = WindowDecoder(transformer(TINY, torch.bfloat16))
    first, other = generate(engine, SAMPLED), generate(engine, Sampling(8, 1.0, 0.9))
    assert not torch.equal(first, other) and torch.equal(first, generate(engine, SAMPLED))
    engine.release()
    assert torch.equal(first, generate(engine, SAMPLED)), "after a release"


def a_cancel_is_answered_and_leaves_the_engine_fit() -> None:
    engine = WindowDecoder(transformer(MIDDLE, torch.bfloat16))
    expected = generate(engine, SAMPLED)
    passes = engine.passes(prompt_of(MIDDLE, 1)[None], SAMPLED)
    for _ in islice(passes, 20):
        pass
    asked = time.monotonic()
    passes.close()
    torch.cuda.synchronize()
    assert time.monotonic() - asked < 0.05
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
    engine = WindowDecoder(model)
    expected = generate(engine, SAMPLED)
    part = parking("transformer").hold("transformer", model, on_leave=engine.release)
    for _ in range(2):
        with part.in_use():
            assert torch.equal(generate(engine, SAMPLED), expected)


def an_embedding_table_in_host_memory_draws_the_same() -> None:
    model = transformer(MIDDLE, torch.bfloat16)
    expected = generate(WindowDecoder(model), SAMPLED)
    table = model.tok_embeddings.weight
    model.tok_embeddings = HostTable(table, DEVICE)
    rows = torch.tensor([[0, 63999, 17]], device=DEVICE)
    assert torch.equal(model.tok_embeddings(rows), table[rows])
    assert torch.equal(generate(WindowDecoder(model), SAMPLED), expected)


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
    the_fused_pass_draws_what_the_plain_one_draws,
    without_a_graph_it_draws_the_same,
    without_triton_it_draws_the_same,
    too_little_memory_for_the_capture_ends_the_goal_and_not_the_engine,
    a_seed_gives_its_tokens_again,
    a_cancel_is_answered_and_leaves_the_engine_fit,
    parts_come_and_go,
    a_parked_transformer_draws_the_same,
    an_embedding_table_in_host_memory_draws_the_same,
    a_t5_that_comes_block_by_block_gives_the_same,
)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
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
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
