"""On the CPU in float32, decoding in windows gives exactly the tokens of decoding one by one: a grid of 500 seeds.

    CUDA_VISIBLE_DEVICES= PYTHONPATH=. python bench/decode_exactness.py --clips clips.npz --out FILE.json
                                                       [--workers 4] [--model DIRECTORY]

Temperatures 0, 0.5 and 1, top-p 0.5, 0.8 and 1, 9 frames and an image, B of 1 and 3: the model that ships on real clips
(bench/clip_tokens.py), and tiny random models of all four kinds, two of which read text. Every sample of a batch of 3
is also compared with its seed alone. Ends with status 1 where one differs. Part of the grid is a test.

FILE.json holds what is known so far after every cell; "cells" says how many are done, and of how many. Every cell by
itself stands in FILE.cells.json: where it is there, the next start goes on with the cells that are missing, and refuses
cells of other weights, other clips or another PyTorch.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from decode import SMALL, context_of, device, small_kinds, transformer
from torch import Tensor

from cosmos_ros.evaluation.measure import Settings
from cosmos_ros.evaluation.workers import WorkerDied, over_processes
from cosmos_ros.files import write_whole
from cosmos_ros.settings import ForesightConfig
from cosmos_ros.world_model import ModelSpec, Sampling, Transformer, load_transformer
from cosmos_ros.world_model.checkpoints.weight_files import fingerprint
from cosmos_ros.world_model.decoding.engine import WindowDecoder, completed
from cosmos_ros.world_model.decoding.packed_products import pack

TEMPERATURES, TOP_PS, BATCHES = (0.0, 0.5, 1.0), (0.5, 0.8, 1.0), (1, 3)
TINY_ROUNDS = 3  # cells of tiny models are small: so many seeds (of B = 1), or batches, in each
SHIPPED = "foresight-small"
CLIPS_APART = 37  # from a cell of the model that ships to the next: so they meet clips of all recordings


@dataclass(frozen=True)
class Cell:
    """One square of the grid."""

    model: str
    latent_frames: int  # of the condition: 2 are 9 frames, 1 is an image
    temperature: float
    top_p: float
    batch: int
    seed: int

    def __str__(self) -> str:
        condition = "9 frames" if self.latent_frames == 2 else "an image"
        return (
            f"{self.model} after {condition}, temperature {self.temperature}, top-p {self.top_p}, "
            f"B {self.batch}, seed {self.seed}"
        )


def cells() -> list[Cell]:
    """The largest first, so that none of them is begun when all others are through."""
    grid = itertools.product((2, 1), TEMPERATURES, TOP_PS, BATCHES)
    found = []
    for number, (latent_frames, temperature, top_p, batch) in enumerate(grid):
        for model in (SHIPPED, *small_kinds()):
            rounds = 1 if model == SHIPPED else TINY_ROUNDS if batch == 1 else TINY_ROUNDS // len(BATCHES)
            found += [
                Cell(model, latent_frames, temperature, top_p, batch, 100 * number + 10 * r) for r in range(rounds)
            ]
    return sorted(found, key=lambda cell: (cell.model != SHIPPED, -cell.batch, cell.latent_frames))


def prompts_in(clips: Path) -> Tensor:
    """int64 [n, tokens of 9 frames]."""
    with np.load(clips) as file:
        return torch.from_numpy(file["tokens"]).long()


class Checker:
    """Checks cells in a worker process. The cells of the model that ships follow each other, so it is kept."""

    def __init__(self, settings: Settings, clips: Path) -> None:
        self._directory, self._prompts = settings.foresight.checkpoint, prompts_in(clips)
        self._shipped: Transformer | None = None

    def __call__(self, cell: Cell) -> tuple[Cell, dict]:
        """How many seeds gave the same tokens, and in how many passes."""
        began = time.monotonic()
        model, prompt, context = self._made_for(cell)
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
        return cell, {
            "seeds": cell.batch,
            "same": sum(same),
            "alone": len(alone),
            "same_as_alone": sum(alone),
            "passes": last.number,
            "new_tokens": last.total,
            "seconds": round(time.monotonic() - began, 1),
        }

    def _made_for(self, cell: Cell) -> tuple[Transformer, Tensor, Tensor | None]:
        """Model, prompt int64 [1, tokens of 9 frames or more] and text embedding."""
        if cell.model == SHIPPED:
            if self._shipped is None:
                spec = ModelSpec.of_checkpoint(self._directory)
                self._shipped = load_transformer(
                    spec.directory, spec.config, device=torch.device("cpu"), dtype=torch.float32
                )
                pack(self._shipped)
            clip = cell.seed // 100 * CLIPS_APART % len(self._prompts)
            return self._shipped, self._prompts[clip][None], None
        config, text = small_kinds()[cell.model]
        random = torch.Generator().manual_seed(cell.seed)
        prompt = torch.randint(config.vocab_out, (1, 2 * config.tokens_per_latent_frame), generator=random)
        model = transformer(config, torch.float32)
        pack(model)
        return model, prompt, context_of(config) if text else None


class Tally:
    """What was found in all cells so far, kept in files: whoever gives it the same `made_with` goes on with it.

    made_with  what the tokens are a function of, besides the cell
    """

    def __init__(self, out: Path, made_with: dict) -> None:
        self._out, self._by_cell, self._made_with = out, out.with_suffix(".cells.json"), made_with
        self._rows: dict[str, dict] = {}
        if self._by_cell.exists():
            kept = json.loads(self._by_cell.read_text())
            if kept["made_with"] != made_with:
                raise SystemExit(
                    f"{self._by_cell} holds cells of another measurement ({kept['made_with']}), and this one has "
                    f"{made_with}: delete it or choose another --out"
                )
            self._rows = kept["cells"]

    def __contains__(self, cell: Cell) -> bool:
        return str(cell) in self._rows

    def add(self, cell: Cell, row: dict) -> None:
        self._rows[str(cell)] = row
        write_whole(self._by_cell, json.dumps({"made_with": self._made_with, "cells": self._rows}, indent=1))
        write_whole(self._out, json.dumps(self.result, indent=2) + "\n")

    @property
    def result(self) -> dict:
        everything = cells()
        models: dict[str, Counter] = {}
        for cell in filter(self.__contains__, everything):
            models.setdefault(cell.model, Counter()).update(self._rows[str(cell)])
        total = sum(models.values(), Counter())
        for each in models.values():
            each["seconds"] = round(each["seconds"])
        return {
            "device": device() | {"name": "CPU, float32"},
            **self._made_with,
            "cells": [len(self._rows), len(everything)],
            "seeds": total["seeds"],
            "differing": total["seeds"] - total["same"] + total["alone"] - total["same_as_alone"],
            "models": models,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    args = parser.parse_args()
    spec = ModelSpec.of_checkpoint(args.model or "")
    made_with = {
        "weights": [fingerprint(file) for file in spec.checkpoint.files],
        "clips": hashlib.sha256(prompts_in(args.clips).numpy().tobytes()).hexdigest(),
        "torch": torch.__version__,
        "window": WindowDecoder(transformer(SMALL, torch.float32)).window,
    }
    tally = Tally(args.out, made_with)
    todo = [cell for cell in cells() if cell not in tally]
    settings = Settings(ForesightConfig(device="cpu", checkpoint=str(args.model or "")))
    try:
        for cell, row in over_processes(todo, settings, args.workers, partial(Checker, clips=args.clips)):
            tally.add(cell, row)
    except WorkerDied as died:
        print(
            f"a worker process died (out of memory?) in: {died.window}. Start again to go on with it", file=sys.stderr
        )
        return 1
    print(json.dumps(tally.result, indent=2))
    return 1 if tally.result["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
