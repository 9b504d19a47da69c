"""The checkpoint: each part that runs with it says of itself whether it is whole; then where all of it fits."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator, Mapping, Sequence

import torch

from cosmos_ros.commands.doctor.finding import Finding, fail, gigabytes, judged, note, ok
from cosmos_ros.commands.doctor.machine import available_host_memory
from cosmos_ros.device.devices import free_memory, resolve_device, resolve_dtype
from cosmos_ros.device.plan import MODES, MemoryPlan, plan_memory
from cosmos_ros.errors import ForesightError, ModelUnavailable
from cosmos_ros.guardrail import Guardrail
from cosmos_ros.guardrail.cosmos import folder as cosmos_guardrail
from cosmos_ros.pipeline import PIPELINE, needs_of
from cosmos_ros.settings import ForesightConfig
from cosmos_ros.world_model import ModelSpec, text_encoder
from cosmos_ros.world_model.diffusion_decoder.decoder import described
from cosmos_ros.world_model.t5 import t5_need
from cosmos_ros.world_model.tensor_parallel.sharded_transformer import TRANSFORMER_SHARE, require_divisible
from cosmos_ros.world_model.text_encoder import EMBEDDINGS_FILE, TextEncoder
from cosmos_ros.world_model.tokenizer import programs

GUARDRAIL_REMEDY, TEXT_REMEDY = (f"pip install -r requirements/{name}.txt" for name in ("guardrail", "text"))


def checkpoint(directory: str, frame_size: str = "") -> tuple[ModelSpec | None, Finding]:
    try:
        spec = ModelSpec.of_checkpoint(directory).at(frame_size)
    except ModelUnavailable as error:
        return None, fail("checkpoint", str(error), CHECKPOINT_REMEDY)
    except (ForesightError, OSError) as error:
        return None, fail("checkpoint", str(error))
    height, width = spec.frame_size
    what = f"{width}x{height} at {spec.frame_rate:g} Hz, {'reads a prompt' if spec.takes_prompt else 'takes no prompt'}"
    return spec, ok("checkpoint", f"{spec.name}: {what}; {spec.directory}")


# docs/published_checkpoints.md has the whole list.
CHECKPOINT_REMEDY = (
    "name a folder that holds a model, leave the setting empty for the one that ships, or fetch one: `hf download "
    "nvidia/Cosmos-1.0-Autoregressive-4B --local-dir <checkpoints>/Cosmos-1.0-Autoregressive-4B`; its tokenizer, "
    "guardrail and decoder go beside it (docs/published_checkpoints.md)"
)


def model(spec: ModelSpec, config: ForesightConfig) -> Generator[Finding, None, ModelSpec]:
    """What the checkpoint runs with, and where that fits. Returns the model with its frame decoder."""
    found = []
    if config.frame_decoder != "discrete":
        spec, finding = decoder(spec, config.frame_decoder)
        found.append(finding)
    found += parts(spec, config)
    yield from found
    if any(finding.mark == "FAIL" for finding in found):
        yield note("memory", "not planned: that needs all parts")
    else:
        yield from memory(spec, config)
    return spec


def decoder(spec: ModelSpec, frame_decoder: str) -> tuple[ModelSpec, Finding]:
    """The model with its frame decoder, where that is there, and what is to be said of it."""
    try:
        spec = spec.decoded_by(frame_decoder)
        found = spec.diffusion_decoder
        return spec, ok("decoder", described(found) if found else frame_decoder)
    except (ForesightError, OSError) as error:
        return spec, fail("decoder", str(error))


def parts(spec: ModelSpec, config: ForesightConfig) -> Iterator[Finding]:
    """What the checkpoint runs with."""
    yield judged("tokenizer", lambda: programs.check(spec.directory, config.tokenizer))
    yield judged("guardrail", lambda: Guardrail.check(spec, config.guardrail))
    if spec.takes_prompt:
        yield judged("text", lambda: text(spec))
    yield judged("device", lambda: str(resolve_device(config.device)))
    if config.gpus != 1:
        yield from shares(spec, config.gpus)


def text(spec: ModelSpec) -> str:
    """What turns prompts into the model's context."""
    encoder = TextEncoder.for_checkpoint(spec.directory, width=spec.config.context_dim or 0)
    if encoder.folder is None:
        t5 = "no T5"
    else:
        t5 = f"T5 of {gigabytes(t5_need(encoder.folder).weights)} in {encoder.folder}"
    return f"{t5}; prompts in {EMBEDDINGS_FILE}: {len(encoder.given)}" if encoder.given else t5


def shares(spec: ModelSpec, gpus: int) -> Iterator[Finding]:
    """Whether the transformer can be cut over this number of GPUs. Whether they have room: see `memory`."""
    try:
        require_divisible(spec.config, gpus)
    except ForesightError as error:
        yield fail("GPUs", str(error))
        return
    if not torch.cuda.is_available():
        yield note("GPUs", f"PyTorch sees none: {gpus} processes would share the CPU", "leave --gpus out")


def memory(spec: ModelSpec, config: ForesightConfig) -> Iterator[Finding]:
    """What fits in which mode, with the peak that is expected."""
    device = resolve_device(config.device)
    on_gpu = device.type == "cuda"
    try:
        needs = needs_of(
            spec,
            tokenizer=config.tokenizer,
            guardrail=config.guardrail,
            bytes_per_weight=resolve_dtype(config.dtype, device).itemsize,
            gpus=config.gpus if on_gpu else 1,
            window=config.window,
        )
    except (ForesightError, OSError) as error:
        yield fail("memory", str(error))
        return
    host = available_host_memory()
    if not on_gpu:
        peak = plan_memory(needs, PIPELINE, free=host, mode="fast").peak
        expected = f"expected peak {gigabytes(peak)} on the CPU of {gigabytes(host)} available"
        yield ok("memory", expected) if peak <= host else fail("memory", expected, "use a GPU or a smaller checkpoint")
        return
    try:
        visible = range(device.index or 0, torch.cuda.device_count())
        free = {index: free_memory(torch.device("cuda", index)) for index in visible}
    except RuntimeError:
        yield note("memory", "not planned: a GPU does not answer")
        return
    if config.gpus > 1:
        share = next(need.weights for need in needs if need.name == TRANSFORMER_SHARE)
        yield ranks(config.gpus, share, free)
    yield from modes({mode: plan_memory(needs, PIPELINE, free[visible[0]], mode) for mode in MODES}, host)


def ranks(gpus: int, share: int, free: Mapping[int, int]) -> Finding:
    """Whether each of the first `gpus` GPUs has room for its share of the transformer.

    share  bytes
    free   the number of each GPU that may be used -> bytes free there
    """
    words = f"cut over {gpus} GPUs the transformer takes {gigabytes(share)} of each"
    if gpus > len(free):
        return fail("GPUs", f"{words}, and PyTorch sees {len(free)} from `device` on", "ask for fewer")
    used = list(free.items())[:gpus]
    full = [f"GPU {index} has {gigabytes(room)} free" for index, room in used if room < share]
    if full:
        return fail("GPUs", f"{words}; {', '.join(full)}", "free memory there, or use more GPUs")
    return ok("GPUs", words)


def modes(plans: Mapping[str, MemoryPlan], host: int) -> Iterator[Finding]:
    """What the plan of each mode means for a GPU; `host` is the host memory available, in bytes."""
    for plan in plans.values():
        yield ok("memory", str(plan)) if plan.fits else note("memory", str(plan), "does not fit")
    if not plans["auto"].fits:
        yield fail("memory", "no mode fits", "free memory on the GPU, use several, or run a smaller checkpoint")
    elif plans["auto"].host > host:
        yield fail(
            "memory",
            f"{gigabytes(host)} of host memory are available, auto parks {gigabytes(plans['auto'].host)} there",
            "free host memory",
        )


def extras(spec: ModelSpec | None, guardrail: str) -> Iterator[Finding]:
    """Optional packages that are missing: a fault if this checkpoint needs them, else worth knowing."""
    published = reads_prompts = needs_t5 = False
    if spec is not None:
        published, reads_prompts = spec.published or bool(guardrail), spec.takes_prompt
        needs_t5 = reads_prompts and not (spec.directory / EMBEDDINGS_FILE).is_file()
    yield from missing("T5, which reads the prompts of Video2World checkpoints", text_encoder.PACKAGES, needs_t5)
    yield from missing("the published video guard", cosmos_guardrail.VIDEO_GUARD_PACKAGES, published)
    guards_prompts = published and reads_prompts
    yield from missing("the published prompt guard", cosmos_guardrail.PROMPT_GUARD_PACKAGES, guards_prompts)


def missing(purpose: str, packages: Sequence[str], needed: bool) -> Iterator[Finding]:
    """At most one finding: which of the packages, by the names to import, are not installed."""
    if absent := [name for name in packages if importlib.util.find_spec(name) is None]:
        judge, remedy = fail if needed else note, TEXT_REMEDY if packages is text_encoder.PACKAGES else GUARDRAIL_REMEDY
        yield judge("extra", f"{', '.join(absent)} missing, for {purpose}", remedy)
