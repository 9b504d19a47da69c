"""MODEL_CARD.md of a model that was trained here, filled from the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cosmos_ros.listing import listed
from cosmos_ros.training.sizes import CLIP_FRAMES, CONDITIONING_FRAMES, TIME_COMPRESSION
from cosmos_ros.world_model import ModelSpec

CARD = "MODEL_CARD.md"  # the last file of a run
# What has to be said of a model that was made from one of NVIDIA's, as its licence asks.
OF_NVIDIA = (
    "Built on NVIDIA Cosmos. Licensed by NVIDIA Corporation under the NVIDIA Open Model License. It runs under the "
    "Cosmos-1.0-Guardrail, as the checkpoint that it was made from: put that folder beside this one. "
)


def card(
    name: str,
    spec: ModelSpec,
    millions: Mapping[str, float],
    recordings: Mapping[str, Sequence[str]],
    data: Mapping[str, int],
    stages: Sequence[Mapping[str, Any]],
    figures: Mapping[str, float],
    device: str,
    origin: str,
    hypotheses: int,
) -> str:
    """The card as Markdown.

    spec        what was exported
    millions    parameters of each part
    recordings  names, "trained" and "held_out"; and "robots", with their models' licences
    data        films, frames and held_out clips
    stages      of each its name, steps, tokens, seconds and last loss
    figures     as training.evaluation measures them, dB
    origin      where the weights came from before: a model's name, or nothing
    hypotheses  of the refiner, where `millions` has one
    """
    height, width = spec.frame_size
    step = "{1} x {2}".format(*spec.compression)
    future = CLIP_FRAMES - CONDITIONING_FRAMES
    gain = figures["rollout"] - figures["repeat_last"]
    seconds = future / spec.frame_rate
    return "\n".join(
        [
            f"# {name}",
            "",
            f"A world model trained with `cosmos_ros train`: from {CONDITIONING_FRAMES} frames of a camera at "
            f"{spec.frame_rate:g} Hz it predicts the next {future}, {seconds:.1f} s. "
            + (f"Its training went on from {origin}." if origin else "Every weight was trained from random numbers."),
            "",
            "## What it is",
            "",
            f"- frames of {height} x {width} pixels; a token for {TIME_COMPRESSION} frames of {step} pixels, "
            f"of {spec.config.vocab_out} codes; {' x '.join(map(str, spec.config.latent_shape))} tokens for a clip",
            *(f"- {part}: {count:.1f} million parameters" for part, count in millions.items()),
            *([_seeds(hypotheses)] if "refiner" in millions else []),
            f"- sampling: temperature {spec.temperature:g}, top-p {spec.top_p:g}",
            "",
            "## What it was trained on",
            "",
            f"{data['films']} films, {data['frames']} frames: {len(recordings['trained'])} recordings and "
            f"{data['simulated']} films of simulated cameras.",
            "",
            *_listed("Trained on", recordings["trained"]),
            *_listed("Held out", recordings["held_out"]),
            *_listed("Robots in simulated films, by the packages that bring their models", recordings["robots"]),
            "",
            "| stage | steps | tokens | seconds | last loss |",
            "| --- | --- | --- | --- | --- |",
            *(
                f"| {each['stage']} | {each['steps']:,} | {each['tokens']:,} | {each['seconds']:,.0f} "
                f"| {each['loss']:.4f} |"
                for each in stages
            ),
            "",
            f"On {device}.",
            "",
            "## How good it is",
            "",
            f"On {figures['clips']} held-out clips, mean PSNR of {future} frames:",
            "",
            "| | dB |",
            "| --- | --- |",
            f"| repeat the last frame (floor) | {figures['repeat_last']:.2f} |",
            f"| one rollout | {figures['rollout']:.2f} |",
            f"| tokenizer and refiner on the true future (ceiling) | {figures['ceiling']:.2f} |",
            "",
            f"It is {abs(gain):.2f} dB {'better' if gain > 0 else 'worse'} than repeating the last frame. "
            "`cosmos_ros evaluate` on other recordings says how sure that is, and at which horizon it ends.",
            "",
            *_other_tokens([each["stage"] for each in stages]),
            "## Licence",
            "",
            (OF_NVIDIA if spec.published else "")
            + "Say here what the recordings' licences ask for, and under which one you give the weights away.",
            "",
        ]
    )


def _seeds(hypotheses: int) -> str:
    if hypotheses == 1:
        return "- hypotheses of the refiner: 1, the best single guess"
    return (
        f"- hypotheses of the refiner: {hypotheses}; a sample is refined by number `seed % {hypotheses}`, and 0 is the "
        f"best single guess. Number {hypotheses - 1} trusts the tokens, as it was trained on true ones: it refines the "
        "ceiling below, whose tokens are right, and no prediction of seed 0"
    )


def _other_tokens(stages: Sequence[str]) -> list[str]:
    if "tokenizer" not in stages or "world-model" in stages:
        return []
    return [
        "**The transformer does not know these tokens**: the tokenizer alone was trained, and what is predicted is "
        "noise until `cosmos_ros train world-model` has gone on from here (`--init`), and then `train refiner`.",
        "",
    ]


def _listed(title: str, names: Sequence[str]) -> list[str]:
    return [f"{title}: {listed(names, between=', ')}.", ""] if names else []
