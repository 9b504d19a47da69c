"""Training of the published models at their full size, with random weights, cut over the GPUs of this host.

    PYTHONPATH=. torchrun --nproc-per-node 2 bench/train_published.py --out DIRECTORY [--kinds 4B] [--sizes 640x1024]
    PYTHONPATH=. torchrun --nproc-per-node 2 bench/train_published.py --out DIRECTORY --kinds "" --refiner

Steps and tokens per second of the loop that `cosmos_ros train world-model` runs, and the arithmetic that they need, one
clip on each GPU in a step, plain and with compiled blocks; the peak of each GPU's memory beside what is expected of it
(`sharding.need_per_rank`); and the time in which the weights are put together again. With `--refiner`, the same of the
refiner's training on frames of that size. Every measurement is printed and goes to
DIRECTORY/train_published_<kind or refiner>_<gpus>.json as soon as it is made. `--tiny` shows within seconds, also
without a GPU, that the script works.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from synthetic_checkpoint import device_name
from torch import Tensor

from cosmos_ros.device.out_of_memory import return_memory
from cosmos_ros.training.average import local
from cosmos_ros.training.fine_tuning import fine_tuning
from cosmos_ros.training.journal import Journal
from cosmos_ros.training.loop import Recipe, train
from cosmos_ros.training.ranks import Ranks
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.rollouts import RefinedRollout
from cosmos_ros.training.round_trips import draw_groups
from cosmos_ros.training.sharding import PublishedLoss, gathered, need_per_rank, require_fit, sharded
from cosmos_ros.training.sizes import CLIP_FRAMES, CONDITIONING_FRAMES, PublishedSizes
from cosmos_ros.world_model import TransformerConfig
from cosmos_ros.world_model.config import PUBLISHED_KINDS, transformer_shapes

WARM_UP = 3  # steps: the first ones compile, and AdamW makes its moments
TINY = TransformerConfig(2, 32, 4, 2, 8, 64, 1000, 1000, latent_shape=(5, 4, 4))
TEXT_TOKENS = 512


def filled(config: TransformerConfig, ranks: Ranks, compiling: bool) -> PublishedLoss:
    """Cut over the ranks, rows of its weights about one long."""
    context = None
    if config.context_dim is not None:
        context = torch.zeros(1, TEXT_TOKENS, config.context_dim, device=ranks.device, dtype=torch.bfloat16)
    loss = sharded(config, ranks, context, compiling)
    with torch.no_grad():
        for parameter in loss.parameters():
            mine = local(parameter)
            mine.normal_(0, parameter.shape[-1] ** -0.5) if mine.ndim > 1 else mine.fill_(1.0)
    return loss


def timed(recipe: Recipe, ranks: Ranks, folder: Path) -> list[float]:
    """Seconds of every step after the first ones; the loop's own note at the end is not among them."""
    began: list[float] = []
    draw = recipe.draw

    def drawn(generator: torch.Generator) -> tuple[Tensor, ...]:
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()
        began.append(time.monotonic())
        return draw(generator)

    journal = Journal(folder, ranks.is_first)
    train(replace(recipe, draw=drawn, measure=dict), ranks, journal, 0, lambda _step, _state: None)
    return [after - before for before, after in zip(began[WARM_UP:], began[WARM_UP + 1 :], strict=False)]


def flops(config: TransformerConfig) -> float:
    """Of one clip, forwards and backwards; what checkpointing computes anew is not counted, nor is what is masked."""
    matrices = {name: shape for name, shape in transformer_shapes(config).items() if len(shape) == 2}
    weights = sum(rows * columns for name, (rows, columns) in matrices.items() if name != "tok_embeddings.weight")
    return 6.0 * config.n_tokens * (weights + config.n_layers * config.n_tokens * config.q_rows)


def measure(kind: str, size: str, compiling: bool, steps: int, ranks: Ranks, tiny: bool, folder: Path) -> dict:
    height, width = map(int, size.split("x"))
    config = TINY if tiny else replace(PUBLISHED_KINDS[kind].config, latent_shape=(5, height // 16, width // 16))
    cuda = ranks.device.type == "cuda"
    return_memory()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    require_fit(config, ranks, kind)
    began = time.monotonic()
    loss = filled(config, ranks, compiling)
    made_s = time.monotonic() - began
    corpus = torch.randint(config.vocab_out, (4, config.n_tokens), dtype=torch.int32)
    began = time.monotonic()
    seconds = timed(fine_tuning(loss, corpus, corpus[:1], steps, 1, 1e-5), ranks, folder)
    whole_s = time.monotonic() - began
    step_s = sorted(seconds)[len(seconds) // 2]
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    result = {
        "kind": kind,
        "gpus": ranks.size,
        "size": size,
        "compiled": compiling,
        "device": device_name(),
        "torch": torch.__version__,
        "make_s": round(made_s, 2),
        "steps": steps,
        "all_steps_s": round(whole_s, 2),
        "step_s": round(step_s, 4),
        "tokens_per_s": round(ranks.size * config.n_tokens / step_s),
        "tflops_per_gpu": round(flops(config) / step_s / 1e12, 1),
        "peak_gb": [round(each / 1e9, 2) for each in ranks.gather(peak)],
        "expected_gb": round(need_per_rank(config, ranks.size) / 1e9, 2),
    }
    if cuda:
        torch.cuda.synchronize()
    began = time.monotonic()
    n = sum(weight.to(torch.bfloat16).cpu().numel() for _, weight in gathered(loss.transformer))
    return result | {"weights": n, "gather_s": round(time.monotonic() - began, 2)}


def measure_refiner(size: str, steps: int, ranks: Ranks, tiny: bool, folder: Path) -> dict:
    """A window in a step, as it is drawn: what decodes and resamples it is not included."""
    height, width = (32, 64) if tiny else map(int, size.split("x"))
    sizes, device = PublishedSizes(), ranks.device
    camera_size = tuple(round(side * sizes.camera_times) for side in (height, width))
    return_memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    refiner = Refiner((4, 4, 4, 4) if tiny else sizes.refiner_channels, sizes.refiner_hypotheses).to(device)
    first = torch.zeros(1, dtype=torch.int64, device=device)
    decoded, camera = (torch.rand(1, 3, CLIP_FRAMES, *shape, device=device) for shape in ((height, width), camera_size))

    def draw(generator: torch.Generator) -> tuple:
        groups = draw_groups(CONDITIONING_FRAMES, CLIP_FRAMES, generator)
        return decoded, camera, camera, CONDITIONING_FRAMES, groups, first

    recipe = Recipe(
        name="refiner",
        steps=steps,
        parameters=[{"params": list(refiner.parameters())}],
        loss=RefinedRollout(refiner, (height, width), device),
        draw=draw,
        tokens=1,
        rate=1e-4,
        betas=(0.9, 0.98),
        decay=0.998,
    )
    seconds = timed(recipe, ranks, folder)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "kind": "refiner",
        "gpus": ranks.size,
        "size": f"{height}x{width}",
        "camera": "x".join(map(str, camera_size)),
        "device": device_name(),
        "torch": torch.__version__,
        "step_s": round(sorted(seconds)[len(seconds) // 2], 4),
        "peak_gb": [round(each / 1e9, 2) for each in ranks.gather(peak)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default="4B", help="separated by commas")
    parser.add_argument("--sizes", default="640x1024", help="height x width, separated by commas")
    parser.add_argument("--steps", type=int, default=8, help="of each measurement")
    parser.add_argument("--plain-only", action="store_true", help="do not compile")
    parser.add_argument("--refiner", action="store_true", help="measure the refiner too")
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--tiny", action="store_true", help="a small model")
    args = parser.parse_args()
    ranks = Ranks.join("auto")
    args.out.mkdir(parents=True, exist_ok=True)
    for kind in filter(None, args.kinds.split(",")):
        results = []
        file = args.out / f"train_published_{kind}_{ranks.size}.json"
        for compiling in (False, True)[: 1 if args.plain_only else 2]:
            for size in args.sizes.split(","):
                with tempfile.TemporaryDirectory() as folder:
                    found = measure(kind, size, compiling, args.steps, ranks, args.tiny, Path(folder))
                results.append(found)
                keep(file, results, found, ranks)
    if args.refiner:
        with tempfile.TemporaryDirectory() as folder:
            found = measure_refiner(args.sizes.split(",")[0], args.steps, ranks, args.tiny, Path(folder))
        keep(args.out / f"train_published_refiner_{ranks.size}.json", found, found, ranks)
    ranks.leave()
    return 0


def keep(file: Path, results: object, newest: dict, ranks: Ranks) -> None:
    if ranks.is_first:
        file.write_text(json.dumps(results, indent=2) + "\n")
        print(json.dumps(newest), flush=True)


if __name__ == "__main__":
    sys.exit(main())
