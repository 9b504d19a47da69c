"""One model cut over several GPUs of this host: first that it is right there, then how fast it decodes.

    PYTHONPATH=. python bench/tensor_parallel.py --out DIRECTORY [--kinds 4B,12B] [--gpus 1,2,4]
                                                   [--whole] [--no-checks]

Checks, on a small model in float32 and every number of GPUs: the tokens are those of one GPU, greedy and sampled; a
cancel is answered; a killed rank ends the goal and the next one works. Then, for the published models at full size
with random weights: seconds to load, milliseconds of a pass early and late in a rollout after 9 frames, the memory
in use on each GPU, and, as ranks sum in another order in bfloat16, how many of the first new tokens are those of one
GPU: each seed's up to the first that differs, and how many seeds have none that does. The time of a rollout of 564
passes, as published for the 4B, is worked out from the early and the late ones; `--whole` measures a rollout of these
random weights. Every measurement goes to DIRECTORY/tensor_parallel_<kind>_<gpus>.json as soon as it is made. `--tiny`
shows within a minute, without a GPU, that the script works. Ends with status 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import synthetic_checkpoint
import torch
from synthetic_checkpoint import device_name, roomy_folder
from torch import Tensor

from cosmos_ros.errors import RankLost
from cosmos_ros.world_model import Sampling, TransformerConfig, load_transformer
from cosmos_ros.world_model.config import PUBLISHED_KINDS
from cosmos_ros.world_model.decoding.engine import DecodeEngine, WindowDecoder, completed
from cosmos_ros.world_model.tensor_parallel.tensor_parallel import TensorParallelDecoder

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
SMALL = TransformerConfig(2, 64, 8, 4, 16, 128, 512, 512, latent_shape=(5, 4, 8))
TINY = {"4B": SMALL, "12B": SMALL}
GREEDY, SAMPLED = Sampling(7, 0.0, 1.0), Sampling(7, 1.0, 0.9)
PASSES = 400  # of one measurement
ROOM = 30e9  # bytes of the largest checkpoint
SEEDS, NEW_TOKENS = 20, 128  # whose tokens are compared with those of one GPU
AT_FIRST = 50  # of these, not counted: the first one captures the graph


def engine_for(directory: Path, config: TransformerConfig, gpus: int, dtype: torch.dtype) -> DecodeEngine:
    if gpus == 1:
        return WindowDecoder(load_transformer(directory, config, device=DEVICE, dtype=dtype))
    engine = TensorParallelDecoder(directory, config, gpus=gpus, device=DEVICE, dtype=dtype)
    engine.start()
    return engine


def prompt_of(config: TransformerConfig, latent_frames: int) -> Tensor:
    n = latent_frames * config.tokens_per_latent_frame
    return torch.randint(config.vocab_out, (1, n), generator=torch.Generator().manual_seed(0))


def tokens_of(engine: DecodeEngine, sampling: Sampling) -> Tensor:
    return completed(engine.passes(prompt_of(SMALL, 2), sampling))


def check(directory: Path, gpus: int) -> dict:
    """What must hold on these GPUs; True where it does."""
    alone, cut = (engine_for(directory, SMALL, n, torch.float32) for n in (1, gpus))
    expected = {sampling: tokens_of(alone, sampling) for sampling in (GREEDY, SAMPLED)}
    found = {"same_tokens": all(torch.equal(tokens_of(cut, s), tokens) for s, tokens in expected.items())}
    processes = cut._group._processes

    with closing(cut.passes(prompt_of(SMALL, 2), SAMPLED)) as passes:
        for _ in islice(passes, 2):
            pass
    same = torch.equal(tokens_of(cut, SAMPLED), expected[SAMPLED])
    found["cancel_answered"] = same and cut._group._processes is processes
    began = time.monotonic()
    try:
        for passed in cut.passes(prompt_of(SMALL, 2), SAMPLED):
            if passed.number == 2:
                os.kill(processes[-1].pid, signal.SIGKILL)
    except RankLost as error:
        found["killed_rank_told"] = "SIGKILL" in str(error)
        found["killed_rank_told_after_s"] = round(time.monotonic() - began, 2)
    found["next_goal_works"] = torch.equal(tokens_of(cut, SAMPLED), expected[SAMPLED])
    cut.release()
    return found


def pass_ms(engine: DecodeEngine, config: TransformerConfig, latent_frames: int, passes: int) -> tuple[float, float]:
    """Milliseconds of a pass after so many latent frames, and the position at which the first of them is."""
    times = []
    with closing(engine.passes(prompt_of(config, latent_frames), SAMPLED)) as running:
        for _ in islice(running, passes):
            times.append(time.monotonic())
    first = min(AT_FIRST, len(times) // 2)
    return 1e3 * (times[-1] - times[first - 1]) / (len(times) - first), latent_frames * config.tokens_per_latent_frame


def first_tokens(engine: DecodeEngine, config: TransformerConfig) -> Tensor:
    """The first new tokens of each seed, int64 [seeds, tokens]."""
    prompt = prompt_of(config, 2)
    n = prompt.shape[1]
    new = min(NEW_TOKENS, config.n_tokens - n)
    return torch.cat(
        [
            completed(engine.passes(prompt, Sampling(s, 1.0, 0.8), n_tokens=n + new))[:, n:][:, :new]
            for s in range(SEEDS)
        ]
    )


def agreement(mine: Tensor, theirs: Tensor) -> dict:
    """Between the tokens of the same seeds."""
    same = mine == theirs
    return {
        "seeds": len(same),
        "of_new_tokens": same.shape[1],
        "whole_the_same": int(same.all(dim=1).sum()),
        "share_until_the_first_other": round(float(same.long().cumprod(dim=1).float().mean()), 4),
    }


def measure(
    directory: Path, kind: str, config: TransformerConfig, gpus: int, alone: dict[str, Tensor], whole: bool
) -> dict:
    """alone: by kind the first tokens of one GPU, which its own measurement puts there"""
    began = time.monotonic()
    engine = engine_for(directory, config, gpus, torch.bfloat16)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    result = {
        "kind": kind,
        "gpus": gpus,
        "device": device_name(),
        "torch": torch.__version__,
        "commit": os.environ.get("COMMIT", ""),
        "load_s": round(time.monotonic() - began, 2),
    }
    passes = min(PASSES, config.tokens_per_latent_frame)
    pass_ms(engine, config, 2, passes)  # captures, compiles
    time.sleep(1)  # the last passes of a canceled goal end meanwhile
    began = time.monotonic()
    pass_ms(engine, config, 2, 2)
    prefill_s = time.monotonic() - began
    (early, at), (late, then) = (pass_ms(engine, config, frames, passes) for frames in (2, 4))
    result |= {
        "window": engine.window,
        "prefill_s": round(prefill_s, 3),
        "pass_ms": {f"at_{at:.0f}": round(early, 3), f"at_{then:.0f}": round(late, 3)},
        # How many passes a rollout takes is not to be learned from random weights; 564 were published for the 4B.
        "s_of_564_passes": round(prefill_s + 564 * (early + late) / 2e3, 2),
        "memory_gb": memory_in_use()[:gpus],
    }
    if whole:
        began = time.monotonic()
        completed(engine.passes(prompt_of(config, 2), SAMPLED))
        result["generation_s_measured"] = round(time.monotonic() - began, 2)
    tokens = first_tokens(engine, config)
    if gpus == 1:
        alone[kind] = tokens
    elif kind in alone:
        result["against_one_gpu"] = agreement(tokens, alone[kind])
    engine.release()
    return result


def memory_in_use() -> list[float]:
    """GB on every GPU, whoever uses it."""
    if DEVICE.type != "cuda":
        return []
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    mebibytes = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()
    return [round(int(used) * 2**20 / 1e9, 2) for used in mebibytes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default="4B,12B", help="separated by commas")
    parser.add_argument("--gpus", default="", help="separated by commas; default: of 1, 2, 4 as many as there are")
    parser.add_argument("--work", type=Path, help="for the checkpoints; default: shared memory where there is room")
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--whole", action="store_true", help="also measure a whole generation")
    parser.add_argument("--no-checks", action="store_true", help="only measure")
    parser.add_argument("--tiny", action="store_true", help="small models only")
    args = parser.parse_args()
    there = torch.cuda.device_count() if DEVICE.type == "cuda" else 2
    numbers = [int(n) for n in args.gpus.split(",")] if args.gpus else [n for n in (1, 2, 4) if n <= there]
    args.out.mkdir(parents=True, exist_ok=True)
    failed, alone = False, {}
    folder = args.work or (None if args.tiny else roomy_folder(ROOM))
    with tempfile.TemporaryDirectory(dir=folder) as work:
        small = synthetic_checkpoint.write_transformer(Path(work) / "small", SMALL, DEVICE).parent
        for gpus in (n for n in numbers if n > 1 and not args.no_checks):
            found = check(small, gpus)
            failed |= not all(
                found.get(name) for name in ("same_tokens", "cancel_answered", "killed_rank_told", "next_goal_works")
            )
            keep(args.out / f"tensor_parallel_checks_{gpus}.json", {"gpus": gpus, "device": device_name()} | found)
        for kind in filter(None, args.kinds.split(",")):
            config = TINY[kind] if args.tiny else PUBLISHED_KINDS[kind].config
            directory = synthetic_checkpoint.write_transformer(Path(work) / kind, config, DEVICE).parent
            torch.cuda.empty_cache()
            for gpus in numbers:
                result = measure(directory, kind, config, gpus, alone, args.whole)
                torch.cuda.empty_cache()
                keep(args.out / f"tensor_parallel_{kind}_{gpus}.json", result)
            shutil.rmtree(directory)
    return 1 if failed else 0


def keep(file: Path, result: dict) -> None:
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    sys.exit(main())
