"""On the CPU in float32, decoding in windows gives exactly the tokens of decoding one by one: a grid of 500 seeds.

    CUDA_VISIBLE_DEVICES= PYTHONPATH=. python bench/decode_exactness.py --clips clips.npz --out FILE.json
                                                       [--workers 4] [--model DIRECTORY]

Temperatures 0, 0.5 and 1, top-p 0.5, 0.8 and 1, 9 frames and an image, B of 1 and 3: the model that ships on real clips
(bench/clip_tokens.py), and tiny random models of all four kinds, two of which read text. Every sample of a batch of 3
is also compared with its seed alone. Ends with status 1 where one differs. Part of the grid is a test. FILE.json holds
what is known so far after every cell; "cells" says how many are done, and of how many.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from decode import SMALL, context_of, device, small_kinds, transformer

from cosmos_ros.world_model import ModelSpec, Sampling, load_transformer
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed

TEMPERATURES, TOP_PS, BATCHES = (0.0, 0.5, 1.0), (0.5, 0.8, 1.0), (1, 3)
TINY_ROUNDS = 3  # cells of tiny models are small: so many seeds (of B = 1), or batches, in each
SHIPPED = "foresight-small"


@dataclass(frozen=True)
class Cell:
    """One square of the grid."""

    model: str
    latent_frames: int  # of the condition: 2 are 9 frames, 1 is an image
    temperature: float
    top_p: float
    batch: int
    seed: int


def cells() -> list[Cell]:
    grid = itertools.product((2, 1), TEMPERATURES, TOP_PS, BATCHES)
    found = []
    for number, (latent_frames, temperature, top_p, batch) in enumerate(grid):
        for model in (SHIPPED, *small_kinds()):
            rounds = 1 if model == SHIPPED else TINY_ROUNDS if batch == 1 else TINY_ROUNDS // len(BATCHES)
            found += [
                Cell(model, latent_frames, temperature, top_p, batch, 100 * number + 10 * r) for r in range(rounds)
            ]
    return found


def check(cell: Cell, clips: Path, directory: Path | None) -> dict:
    """How many seeds gave the same tokens, and in how many passes."""
    torch.set_num_threads(1)
    context = None
    if cell.model == SHIPPED:
        spec = ModelSpec.of_checkpoint(directory or "")
        model = load_transformer(spec.directory, spec.config, device=torch.device("cpu"), dtype=torch.float32)
        with np.load(clips) as file:
            tokens = torch.from_numpy(file["tokens"]).long()
        prompt = tokens[cell.seed % len(tokens)][None]
    else:
        config, text = small_kinds()[cell.model]
        model = transformer(replace(config, vocab_out=config.vocab_out), torch.float32)
        context = context_of(config) if text else None
        random = torch.Generator().manual_seed(cell.seed)
        prompt = torch.randint(config.vocab_out, (1, 2 * config.tokens_per_latent_frame), generator=random)
    prompt = prompt[:, : cell.latent_frames * model.config.tokens_per_latent_frame]
    sampling = Sampling(cell.seed, cell.temperature, cell.top_p)
    fast, slow = (WindowDecoder(model, one_by_one=one_by_one) for one_by_one in (False, True))
    *_, last = fast.passes(prompt.expand(cell.batch, -1), sampling, context)
    expected = completed(slow.passes(prompt.expand(cell.batch, -1), sampling, context))
    same = [torch.equal(mine, theirs) for mine, theirs in zip(last.tokens, expected, strict=True)]
    alone = []
    if cell.batch > 1 and cell.temperature:
        for sample, tokens in enumerate(last.tokens):
            one = WindowDecoder(model).passes(prompt, replace(sampling, seed=cell.seed + sample), context)
            alone.append(torch.equal(completed(one)[0], tokens))
    return {
        "model": cell.model,
        "seeds": cell.batch,
        "same": sum(same),
        "alone": len(alone),
        "same_as_alone": sum(alone),
        "passes": last.number,
        "new_tokens": last.total,
    }


class Tally:
    """What was found in all cells so far, kept in a file."""

    def __init__(self, out: Path, cells: int) -> None:
        self._out, self._began = out, time.monotonic()
        self._models: dict[str, dict[str, int]] = {}
        self.result: dict = {
            "device": device() | {"name": "CPU, float32"},
            "window": WindowDecoder(transformer(SMALL, torch.float32)).window,
            "cells": [0, cells],
            "seeds": 0,
            "differing": 0,
            "models": self._models,
        }

    def add(self, row: dict) -> None:
        total = self._models.setdefault(row.pop("model"), {})
        for key, value in row.items():
            total[key] = total.get(key, 0) + value
        self.result["cells"][0] += 1
        self.result["seeds"] += row["seeds"]
        self.result["differing"] += row["seeds"] - row["same"] + row["alone"] - row["same_as_alone"]
        self.result["seconds"] = round(time.monotonic() - self._began)
        self._out.write_text(json.dumps(self.result, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    # The largest first, so that none of them is begun when all others are through.
    todo = sorted(cells(), key=lambda cell: (cell.model == SHIPPED, cell.batch), reverse=True)
    tally = Tally(args.out, len(todo))
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for row in pool.imap_unordered(partial(check, clips=args.clips, directory=args.model), todo):
            tally.add(row)
    print(json.dumps(tally.result, indent=2))
    return 1 if tally.result["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
