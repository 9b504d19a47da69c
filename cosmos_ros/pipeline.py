"""What a prediction is made of, as the memory plan sees it: in which order its parts work, and what each takes."""

from __future__ import annotations

from pathlib import Path

from cosmos_ros.device.plan import Need, Pipeline
from cosmos_ros.guardrail import Guardrail
from cosmos_ros.guardrail.guard import PROMPT_GUARD, VIDEO_GUARD
from cosmos_ros.world_model import ModelSpec
from cosmos_ros.world_model.decoding.engine import CUDA_WINDOW, PREFILL_TOKENS
from cosmos_ros.world_model.diffusion_decoder.decoder import DIFFUSION_DECODER, diffusion_decoder_needs
from cosmos_ros.world_model.diffusion_decoder.latent_decoder import LATENT_DECODER
from cosmos_ros.world_model.refiner import REFINER, refiner_need
from cosmos_ros.world_model.t5 import TEXT_ENCODER, find_t5, t5_need
from cosmos_ros.world_model.tensor_parallel.sharded_transformer import share_need
from cosmos_ros.world_model.text_encoder import CONTEXT_LENGTH
from cosmos_ros.world_model.tokenizer.programs import find_tokenizer
from cosmos_ros.world_model.tokenizer.video_tokenizer import TOKENIZER, tokenizer_need
from cosmos_ros.world_model.transformer import TRANSFORMER, transformer_need


# `predict`, as the memory plan sees it: the prompt is judged while frames are tokenized; frames are decoded, refined
# and judged while later tokens are still being decided. The first to leave the GPU is what works once per new prompt,
# then what works once per rollout and is small compared with its work, then the transformer.
def _phases(parked: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    rest: tuple[tuple[str, ...], ...] = ((TRANSFORMER, TOKENIZER, REFINER, VIDEO_GUARD),)
    if TOKENIZER in parked:  # then frames are decoded once all tokens are there
        rest = (TRANSFORMER,), (TOKENIZER, REFINER, VIDEO_GUARD)
    # The diffusion decoder always is: it sees them all. Frames of one sample are judged while it works on the next.
    diffusion = (DIFFUSION_DECODER, REFINER, VIDEO_GUARD), (LATENT_DECODER, REFINER, VIDEO_GUARD)
    return (PROMPT_GUARD, TOKENIZER), (TEXT_ENCODER,), *rest, *diffusion


PIPELINE = Pipeline(
    phases=_phases,
    parking_order=(
        TEXT_ENCODER,
        PROMPT_GUARD,
        VIDEO_GUARD,
        REFINER,
        LATENT_DECODER,
        TOKENIZER,
        TRANSFORMER,
        DIFFUSION_DECODER,  # last: it would come anew, block by block, for each of its steps
    ),
    once_per_prompt=(TEXT_ENCODER, PROMPT_GUARD),
)


def needs_of(
    spec: ModelSpec,
    *,
    tokenizer: str | Path = "",
    guardrail: str | Path = "",
    bytes_per_weight: int = 2,
    gpus: int = 1,
    window: int = 0,
) -> tuple[Need, ...]:
    """What a checkpoint and all that runs with it take of the (first) device, from headers before anything is loaded.

    tokenizer, guardrail, gpus, window  as in ForesightConfig
    bytes_per_weight                    2 in bfloat16, 4 in float32

    Raises ModelUnavailable or GuardrailUnavailable where a part is missing or damaged.
    """
    transformer = transformer_need(
        spec.config,
        bytes_per_weight,
        tokens_per_pass=PREFILL_TOKENS,
        context_length=CONTEXT_LENGTH,
        window=window or CUDA_WINDOW,
    )
    needs = [
        transformer if gpus == 1 else share_need(transformer, gpus),
        tokenizer_need(find_tokenizer(spec.directory, tokenizer), spec.chunking, bytes_per_weight),
    ]
    if refiner := refiner_need(spec.directory, spec.chunking):
        needs.append(refiner)
    if spec.diffusion_decoder is not None:
        needs += diffusion_decoder_needs(spec.diffusion_decoder, spec.frame_size, bytes_per_weight)
    if spec.takes_prompt and (t5 := find_t5(spec.directory)):
        needs.append(t5_need(t5))
    return *needs, *Guardrail.needs_for(spec, guardrail)
