"""What a prediction is expected to take of the GPU before anything is loaded, against what loading takes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_ros.device.plan import Need, plan_memory
from cosmos_ros.device.tensors import bytes_of
from cosmos_ros.errors import ModelUnavailable, OutOfMemory
from cosmos_ros.foresight import Foresight
from cosmos_ros.guardrail.cosmos.folder import PROMPT_GUARD_WORK, VIDEO_GUARD_WORK
from cosmos_ros.pipeline import PIPELINE, needs_of
from cosmos_ros.rollout import Clip
from cosmos_ros.world_model import ModelSpec, Transformer
from cosmos_ros.world_model.config import PUBLISHED_KINDS, TransformerConfig
from cosmos_ros.world_model.decoding.engine import CUDA_WINDOW, PREFILL_TOKENS
from cosmos_ros.world_model.decoding.kv_cache import KVCache
from cosmos_ros.world_model.tensor_parallel.sharded_transformer import RANK_OVERHEAD
from cosmos_ros.world_model.text_encoder import CONTEXT_LENGTH
from cosmos_ros.world_model.tokenizer.video_tokenizer import WORK_BYTES_PER_PIXEL
from cosmos_ros.world_model.transformer import transformer_need

GB = 1_000_000_000
RESULTS = Path(__file__).parents[1] / "bench" / "results"


def need_of(config: TransformerConfig) -> Need:
    return transformer_need(
        config, 2, tokens_per_pass=PREFILL_TOKENS, context_length=CONTEXT_LENGTH, window=CUDA_WINDOW
    )


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_a_published_transformer_needs_its_weights_and_its_cache(kind):
    config = PUBLISHED_KINDS[kind].config
    need = need_of(config)
    with torch.device("meta"):
        model = Transformer(config).bfloat16()
        cache = KVCache(config, device="meta", dtype=torch.bfloat16)
    assert need.weights == pytest.approx(bytes_of(model), rel=0.01)
    assert need.tables == model.tok_embeddings.weight.nbytes
    assert need.kept == pytest.approx(cache.keys.nbytes + cache.values.nbytes, rel=0.05)
    # The widest activations of a pass of the prefill are the three of the feed-forward.
    assert need.work > 3 * PREFILL_TOKENS * config.ffn_hidden * 2


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_the_peaks_that_were_measured_are_expected(kind):
    """bench/published_models.py's, on an H100; the sizes are those of its stand-ins for the other parts."""
    needs = [
        need_of(PUBLISHED_KINDS[kind].config),
        Need("tokenizer", int(0.42 * GB), work=WORK_BYTES_PER_PIXEL * 33 * 640 * 1024),
        Need("video guard", int(1.82 * GB), work=VIDEO_GUARD_WORK),
    ]
    if PUBLISHED_KINDS[kind].config.has_text:
        needs.append(Need("text encoder", int(9.66 * GB), work=300_000_000))  # it was measured in bfloat16, and whole
        needs.append(Need("prompt guard", int(13.56 * GB), work=PROMPT_GUARD_WORK))
    modes = json.loads((RESULTS / f"published_{kind}.json").read_text())["modes"]
    peaks = {mode: result.get("peak_gpu_of_pytorch_gb") for mode, result in modes.items()}
    measured = {mode: peak for mode, peak in peaks.items() if peak}  # other modes have the plan of one of these
    assert {"fast", "low"} <= set(measured)
    for mode, peak in measured.items():
        assert peak <= plan_memory(needs, PIPELINE, free=80 * GB, mode=mode).peak / GB <= 1.08 * peak


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_each_further_sample_needs_a_cache_of_its_own(kind):
    config = PUBLISHED_KINDS[kind].config
    need = need_of(config)
    cache = KVCache(config, 4, config.sequence_length + CUDA_WINDOW, device="meta", dtype=torch.bfloat16)
    assert cache.keys.nbytes + cache.values.nbytes < 4 * need.another < 1.2 * (cache.keys.nbytes + cache.values.nbytes)
    plan = plan_memory([need, Need("tokenizer", GB // 2, work=3 * GB)], PIPELINE, 80 * GB)
    assert plan.peak_of(1) == plan.peak and plan.peak_of(5) - plan.peak == 4 * need.another


def test_samples_that_will_not_fit_are_refused_before_any_work(tiny_checkpoint, monkeypatch):
    foresight = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu"})
    foresight.load()
    needs = (Need("transformer", 2 * GB, another=GB),)
    foresight._memory.plan = plan_memory(needs, PIPELINE, free=5 * GB)
    monkeypatch.setattr(foresight._model, "tokenize_batch", lambda *_, **__: pytest.fail("work began"))
    clip = Clip(np.zeros((9, 32, 64, 3), np.uint8), tuple(range(9)), 10.0)
    with pytest.raises(OutOfMemory, match=r"4 samples together .* 5\.4 GB .* at most 3"):
        foresight.predict_samples(clip, 4)


@pytest.mark.parametrize(("kind", "card"), [("4B", 16 * GB), ("5B", 16 * GB), ("12B", 24 * 2**30)])
def test_the_lowest_mode_does_with_the_cards_that_it_is_meant_for(kind, card):
    """With the video guard; the CUDA context takes half a gigabyte of the card."""
    needs = [
        need_of(PUBLISHED_KINDS[kind].config),
        Need("tokenizer", GB // 2, work=3 * GB),
        Need("video guard", 2 * GB, work=2 * GB),
    ]
    assert plan_memory(needs, PIPELINE, card - GB // 2, "low").fits


def test_every_part_of_a_checkpoint_is_counted(tiny_text_checkpoint):
    spec = ModelSpec.of_checkpoint(tiny_text_checkpoint)
    needs = {need.name: need for need in needs_of(spec, bytes_per_weight=4)}
    assert set(needs) == {"transformer", "tokenizer"}, "without a T5 beside it, embeddings serve"
    programs = sum((tiny_text_checkpoint / name).stat().st_size for name in ("encoder.jit", "decoder.jit"))
    assert needs["tokenizer"].weights == programs
    t5 = tiny_text_checkpoint.parent / "google-t5" / "t5-11b"
    t5.mkdir(parents=True)
    (t5 / "config.json").write_text(
        '{"vocab_size": 192, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}'
    )
    try:
        assert "text encoder" in {need.name for need in needs_of(spec)}
    finally:
        (t5 / "config.json").unlink()


def test_a_damaged_t5_is_told(tiny_text_checkpoint, tmp_path):
    directory = Path(shutil.copytree(tiny_text_checkpoint, tmp_path / "model"))
    t5 = tmp_path / "google-t5" / "t5-11b"
    t5.mkdir(parents=True)
    (t5 / "config.json").write_text("{")
    with pytest.raises(ModelUnavailable, match=r"config\.json cannot be read"):
        needs_of(ModelSpec.of_checkpoint(directory))


def test_a_missing_tokenizer_is_told(tiny_checkpoint, tmp_path):
    spec = ModelSpec.of_checkpoint(tiny_checkpoint)
    with pytest.raises(ModelUnavailable, match="decoder.jit"):
        needs_of(spec, tokenizer=tmp_path)


def test_on_the_cpu_there_is_nothing_to_plan(tiny_checkpoint):
    foresight = Foresight.from_config({"checkpoint": str(tiny_checkpoint), "device": "cpu", "memory": "low"})
    foresight.load()
    assert foresight._memory.plan is None and not foresight._memory.tables_on_host


def test_of_a_model_on_several_gpus_the_first_keeps_a_share_and_the_rest_is_planned_for_what_it_leaves(tiny_checkpoint):
    spec = ModelSpec.of_checkpoint(tiny_checkpoint)
    whole, tokenizer = needs_of(spec)
    share, rest = needs_of(spec, gpus=2)
    assert rest == tokenizer
    assert share.weights == (whole.weights + whole.kept) // 2 + whole.work + RANK_OVERHEAD
    low = plan_memory((share, rest), PIPELINE, free=10**12, mode="low")
    assert low.parked == {"tokenizer"}, "another process's memory cannot be parked"
    assert low.peak - plan_memory((rest,), PIPELINE, free=10**12, mode="low").peak == share.weights
