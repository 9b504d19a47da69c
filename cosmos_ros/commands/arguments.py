"""The arguments that say which model runs, and how; `evaluate` and `predict` share them."""

from __future__ import annotations

import argparse

from cosmos_ros.device.plan import MODES
from cosmos_ros.foresight import ForesightConfig

GUARD_TIMEOUT = 120.0  # seconds; nobody waits for one rollout, and the workers share the machine


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="", metavar="DIR", help="checkpoint; default: the model that ships")
    group.add_argument("--guardrail", default="", metavar="DIR", help="Cosmos-1.0-Guardrail, for published models")
    group.add_argument("--tokenizer", default="", metavar="DIR", help="folder of encoder.jit and decoder.jit")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    group.add_argument("--dtype", default="auto", help="auto, bfloat16, float32 (default: %(default)s)")
    group.add_argument("--memory", default="auto", choices=MODES, help="what waits off the GPU (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="of the first sample (default: %(default)s)")
    group.add_argument("--temperature", type=float, help="0: greedy; default: what the model's makers recommend")
    group.add_argument("--top-p", type=float, help="nucleus, in (0, 1]; default: likewise")
    group.add_argument(
        "--frame-rate", type=float, default=0.0, metavar="HZ", help="of clips and rollouts; default: the model's own"
    )


def foresight_config(args: argparse.Namespace) -> ForesightConfig:
    return ForesightConfig(
        checkpoint=args.model,
        guardrail=args.guardrail,
        tokenizer=args.tokenizer,
        device=args.device,
        dtype=args.dtype,
        memory=args.memory,
        guard_timeout=GUARD_TIMEOUT,
    )
