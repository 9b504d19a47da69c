"""How much memory each part of a prediction needs, known from headers and file sizes before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from cosmos_ros.device.memory import PROMPT_GUARD, TEXT_ENCODER, TOKENIZER, TRANSFORMER, VIDEO_GUARD, resolve_device
from cosmos_ros.device.plan import DeviceMemory, Need, free_memory, plan_memory
from cosmos_ros.guardrail.cosmos.folder import find_folder, prompt_networks, video_networks
from cosmos_ros.world_model import ModelSpec, TransformerConfig
from cosmos_ros.world_model.config import transformer_shapes
from cosmos_ros.world_model.decoding.engine import PREFILL_TOKENS
from cosmos_ros.world_model.text_encoder import CONTEXT_LENGTH, find_t5, t5_bytes
from cosmos_ros.world_model.tokenizer.video_tokenizer import find_tokenizer, program_files
from cosmos_ros.world_model.world_model import resolve_dtype

# Activations at their peak, as measured with bench/published_models.py.
TOKENIZER_BYTES_PER_PIXEL = 75  # of a chunk of frames, in bfloat16
TEXT_ENCODER_WORK = 300_000_000
PROMPT_GUARD_WORK = 750_000_000
VIDEO_GUARD_WORK = 2_000_000_000
# Of a tensor-parallel rank's process beside its share: CUDA context, NCCL. By bench/tensor_parallel.py.
RANK_OVERHEAD = 2_300_000_000


def needs_of(
    spec: ModelSpec, *, tokenizer: str | Path = "", guardrail: str | Path = "", bytes_per_weight: int = 2
) -> tuple[Need, ...]:
    """What a checkpoint, its tokenizer, text encoder and guardrail need.

    tokenizer, guardrail   directories as ForesightConfig has them
    bytes_per_weight       of the transformer: 2 in bfloat16, 4 in float32

    Raises ModelUnavailable or GuardrailUnavailable where one of them is not there or damaged.
    """
    needs = [
        transformer_need(spec.config, bytes_per_weight),
        tokenizer_need(spec, find_tokenizer(spec.directory, tokenizer), bytes_per_weight),
    ]
    t5 = find_t5(spec.directory) if spec.takes_prompt else None
    if t5 is not None:
        needs.append(Need(TEXT_ENCODER, t5_bytes(t5), work=TEXT_ENCODER_WORK))
    if spec.published or guardrail:
        needs += guardrail_needs(find_folder(spec.directory, guardrail), spec.takes_prompt)
    return tuple(needs)


def planned_memory(
    spec: ModelSpec,
    mode: str,
    *,
    device: str,
    dtype: str,
    tokenizer: str | Path = "",
    guardrail: str | Path = "",
    gpus: int = 1,
) -> DeviceMemory:
    """The memory in which a checkpoint and its guardrail run on a device, planned for what is free there now.

    mode                    one of plan.MODES
    device, dtype, gpus     as WorldModel.from_checkpoint takes them

    Raises ModelUnavailable or GuardrailUnavailable where a part is not there.
    """
    place = resolve_device(device)
    if place.type != "cuda":
        return DeviceMemory(place)  # what computes on the CPU has nowhere else to wait
    needs = needs_of(
        spec, tokenizer=tokenizer, guardrail=guardrail, bytes_per_weight=resolve_dtype(dtype, place).itemsize
    )
    free = free_memory(place)
    if gpus > 1:
        needs, free = beside_a_rank(needs, free, gpus)
    return DeviceMemory(place, plan_memory(needs, free, mode))


def beside_a_rank(needs: Sequence[Need], free: int, gpus: int) -> tuple[tuple[Need, ...], int]:
    """What is left to plan, and for how many bytes, where a process of its own keeps one of `gpus` shares of the
    transformer on the device.
    """
    return tuple(need for need in needs if need.name != TRANSFORMER), free - bytes_of_a_rank(needs, gpus)


def bytes_of_a_rank(needs: Sequence[Need], gpus: int) -> int:
    """Of the process that keeps one of `gpus` shares of the transformer."""
    share = sum((need.weights + need.kept) // gpus + need.work for need in needs if need.name == TRANSFORMER)
    return share + RANK_OVERHEAD


def transformer_need(config: TransformerConfig, bytes_per_weight: int) -> Need:
    """Beside the weights the KV cache, and the activations of one pass of the prefill."""
    parameters = sum(math.prod(shape) for shape in transformer_shapes(config).values())
    row = config.n_layers * 2 * config.n_kv_heads * config.head_dim
    activations = PREFILL_TOKENS * (4 * config.ffn_hidden + 16 * config.dim)
    tables = config.position_rows * (2 * config.head_dim + (config.dim if config.has_text else 0))
    context = CONTEXT_LENGTH * row if config.has_text else 0
    return Need(
        TRANSFORMER,
        weights=(parameters + tables) * bytes_per_weight,
        kept=(config.position_rows * row + context) * bytes_per_weight,
        work=activations * bytes_per_weight,
        on_host=config.vocab_in * config.dim * bytes_per_weight,
    )


def tokenizer_need(spec: ModelSpec, directory: Path, bytes_per_weight: int) -> Need:
    pixels = spec.chunking.n_frames * math.prod(spec.frame_size)
    return Need(
        TOKENIZER,
        weights=bytes_in(program_files(directory)),
        work=TOKENIZER_BYTES_PER_PIXEL * pixels * bytes_per_weight // 2,
    )


def guardrail_needs(folder: Path, takes_prompt: bool) -> list[Need]:
    """Of a Cosmos-1.0-Guardrail folder: the files that its guards read. SigLIP's text half, about as large as the half
    in use, is counted with it.

    Raises GuardrailUnavailable where a network's snapshot is not there.
    """
    needs = [Need(VIDEO_GUARD, bytes_in(video_networks(folder).weights()), work=VIDEO_GUARD_WORK)]
    if takes_prompt:
        needs.append(Need(PROMPT_GUARD, bytes_in(prompt_networks(folder).weights()), work=PROMPT_GUARD_WORK))
    return needs


def bytes_in(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())
