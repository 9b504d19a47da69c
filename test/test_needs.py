"""What is expected of memory before anything is loaded, against what loading takes."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cosmos_ros.device.memory import bytes_of
from cosmos_ros.device.plan import Need, plan_memory
from cosmos_ros.errors import GuardrailUnavailable, ModelUnavailable
from cosmos_ros.needs import (
    PROMPT_GUARD_WORK,
    RANK_OVERHEAD,
    TEXT_ENCODER_WORK,
    TOKENIZER_BYTES_PER_PIXEL,
    VIDEO_GUARD_WORK,
    beside_a_rank,
    guardrail_needs,
    needs_of,
    planned_memory,
    tokenizer_need,
    transformer_need,
)
from cosmos_ros.world_model import ModelSpec, Transformer
from cosmos_ros.world_model.config import PUBLISHED_KINDS
from cosmos_ros.world_model.decoding.engine import PREFILL_TOKENS
from cosmos_ros.world_model.transformer import KVCache

GB = 1_000_000_000
RESULTS = Path(__file__).parents[1] / "bench" / "results"


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_a_published_transformer_needs_its_weights_and_its_cache(kind):
    config = PUBLISHED_KINDS[kind].config
    need = transformer_need(config, bytes_per_weight=2)
    with torch.device("meta"):
        model = Transformer(config).bfloat16()
        cache = KVCache(config, device="meta", dtype=torch.bfloat16)
    assert need.weights == pytest.approx(bytes_of(model), rel=0.01)
    assert need.on_host == model.tok_embeddings.weight.nbytes
    assert need.kept == pytest.approx(cache.keys.nbytes + cache.values.nbytes, rel=0.05)
    # The widest activations of a pass of the prefill are the three of the feed-forward.
    assert need.work > 3 * PREFILL_TOKENS * config.ffn_hidden * 2


@pytest.mark.parametrize("kind", PUBLISHED_KINDS)
def test_the_peaks_that_were_measured_are_expected(kind):
    """bench/published_models.py's, on an H100; the sizes are those of its stand-ins for the other parts."""
    needs = [
        transformer_need(PUBLISHED_KINDS[kind].config, bytes_per_weight=2),
        Need("tokenizer", int(0.42 * GB), work=TOKENIZER_BYTES_PER_PIXEL * 33 * 640 * 1024),
        Need("video guard", int(1.82 * GB), work=VIDEO_GUARD_WORK),
    ]
    if PUBLISHED_KINDS[kind].config.has_text:
        needs.append(Need("text encoder", int(9.66 * GB), work=TEXT_ENCODER_WORK))
        needs.append(Need("prompt guard", int(13.56 * GB), work=PROMPT_GUARD_WORK))
    modes = json.loads((RESULTS / f"published_{kind}.json").read_text())["modes"]
    peaks = {mode: result.get("peak_gpu_of_pytorch_gb") for mode, result in modes.items()}
    measured = {mode: peak for mode, peak in peaks.items() if peak}  # other modes have the plan of one of these
    assert {"fast", "low"} <= set(measured)
    for mode, peak in measured.items():
        assert peak <= plan_memory(needs, free=80 * GB, mode=mode).peak / GB <= 1.08 * peak


@pytest.mark.parametrize(("kind", "card"), [("4B", 16 * GB), ("5B", 16 * GB), ("12B", 24 * 2**30)])
def test_the_lowest_mode_does_with_the_cards_that_it_is_meant_for(kind, card):
    """With the video guard; the CUDA context takes half a gigabyte of the card."""
    needs = [
        transformer_need(PUBLISHED_KINDS[kind].config, bytes_per_weight=2),
        Need("tokenizer", GB // 2, work=3 * GB),
        Need("video guard", 2 * GB, work=2 * GB),
    ]
    assert plan_memory(needs, card - GB // 2, "low").fits


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


def test_an_autoencoder_counts_where_it_is_what_is_loaded(tiny_checkpoint, tmp_path):
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    spec = ModelSpec.of_checkpoint(directory)
    (directory / "autoencoder.jit").write_bytes(bytes(1234))
    both = sum((directory / name).stat().st_size for name in ("encoder.jit", "decoder.jit"))
    assert tokenizer_need(spec, directory, bytes_per_weight=4).weights == both
    (directory / "decoder.jit").unlink()
    assert tokenizer_need(spec, directory, bytes_per_weight=4).weights == 1234


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


LLAMA = "aegis/models--meta-llama--LlamaGuard-7b"
ADAPTER = "aegis/models--nvidia--Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0/snapshots/2"
SIGLIP = "video_content_safety_filter/models--google--siglip-so400m-patch14-384/snapshots/3"
OF_PROMPTS = {
    f"{LLAMA}/snapshots/1/model-00001-of-00002": 1000,
    f"{LLAMA}/snapshots/1/model-00002-of-00002": 200,
    f"{ADAPTER}/adapter_model": 30,
}


@pytest.fixture
def write(tmp_path):
    """write(files): so many bytes in each, below the guardrail's folder."""

    def write(files):
        for name, size in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(bytes(size))

    return write


def weights_counted(folder, takes_prompt=True):
    return {need.name: need.weights for need in guardrail_needs(folder, takes_prompt)}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_of_a_guardrail_folder_the_files_count_that_its_guards_read(suffix, write, tmp_path):
    write({name + suffix: size for name, size in (OF_PROMPTS | {f"{SIGLIP}/model": 4000}).items()})
    write({"video_content_safety_filter/safety_filter.pt": 5, "face_blur_filter/Resnet50_Final.pth": 60})
    assert weights_counted(tmp_path) == {"prompt guard": 1230, "video guard": 4065}
    assert weights_counted(tmp_path, takes_prompt=False) == {"video guard": 4065}
    # Read by no guard: an older revision, other formats and other files than those that a guard asks for.
    write(
        {
            f"{LLAMA}/refs/main": 0,
            f"{LLAMA}/snapshots/0/model{suffix}": 7,
            f"{LLAMA}/snapshots/1/consolidated.pth": 7,
            f"{SIGLIP}/onnx/model{suffix}": 7,
            "face_blur_filter/mobilenet0.25_Final.pth": 7,
        }
    )
    (tmp_path / LLAMA / "refs" / "main").write_text("1")
    write({name + ".bin": 9 * size for name, size in OF_PROMPTS.items() if suffix != ".bin"})
    assert weights_counted(tmp_path) == {"prompt guard": 1230, "video guard": 4065}


def test_weights_that_a_cache_links_to_count_with_their_own_size(write, tmp_path):
    link = tmp_path / SIGLIP / "model.safetensors"
    write({f"{Path(SIGLIP).parents[1]}/blobs/1234": 4000, "face_blur_filter/Resnet50_Final.pth": 60})
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/1234")
    (link.parent / "circle.safetensors").symlink_to("circle.safetensors")
    assert weights_counted(tmp_path, takes_prompt=False) == {"video guard": 4060}


def test_a_guard_without_weights_is_told(write, tmp_path):
    write({f"{SIGLIP}/model.safetensors": 1, **{f"{name}.txt": 1 for name in OF_PROMPTS}})
    with pytest.raises(GuardrailUnavailable, match=r"snapshots/1 holds no weights"):
        guardrail_needs(tmp_path, takes_prompt=True)


def test_on_the_cpu_there_is_nothing_to_plan(tiny_checkpoint):
    memory = planned_memory(ModelSpec.of_checkpoint(tiny_checkpoint), "low", device="cpu", dtype="auto")
    assert memory.plan is None and not memory.lean


def test_beside_a_tensor_parallel_rank_the_rest_is_planned_for_what_its_share_leaves():
    transformer = Need("transformer", 20_000, kept=4_000, work=300, on_host=500)
    needs = (transformer, Need("tokenizer", 100), Need("video guard", 10))
    rest, free = beside_a_rank(needs, 10**12, gpus=4)
    assert rest == needs[1:]
    assert free == 10**12 - 6_300 - RANK_OVERHEAD
