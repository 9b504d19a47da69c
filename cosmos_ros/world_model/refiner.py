"""The refiner: a decoder that looks at what the camera saw. An optional part of a checkpoint, `refiner.jit`.

A tokenizer repaints every pixel from a few bits, while the sharp conditioning frames are at hand. The refiner takes
both and gives the frames that leave: true pixels where they stay or only move, decoded ones where something is new.
It works in groups of frames, one latent frame each, as they are decoded.

In a later stretch of a rollout the refined frames before it stand for the camera's: of several ways measured
(docs/evaluation.md) none was better. The program's contract, all float in [-1, 1]:

    decoded       [1, 3, m, h, w]  every decoded frame from the first conditioning one up to the newest group
    conditioning  [1, 3, n, H, W]  the camera's own frames, of what the model sees; n as the model conditions on, or 1
    -> the newest group, refined   [1, 3, k, H, W], k the compression in time

It sees no frame after the group that it refines, so a group never changes when later tokens are decided. Nor does it
see what it made of the group before: what is guessed otherwise from one group to the next would jump there, so in a
rollout every later group begins with a fade (`faded`).

A program may have several hypotheses of what happens: number 0 the best single guess, the others alternatives. It then
has an attribute `hypotheses`, how many there are, and takes the number of one of them, an int, as its third argument. A
sample is refined throughout by the hypothesis `seed % hypotheses`: samples whose seeds follow each other by different
ones, seed 0 by the best guess. A program without the attribute has one. The attribute `trusting` names the hypothesis
that takes the tokens as they are, where a best guess allows for wrong ones: it refines the round trips of true futures.
Without the attribute number 0 does.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.device.plan import Need
from cosmos_ros.errors import ModelUnavailable, NotFinite
from cosmos_ros.world_model.preprocessing import camera_view, resized
from cosmos_ros.world_model.tokenizer.chunking import Chunking
from cosmos_ros.world_model.tokenizer.programs import load_network, run_program, trying_out
from cosmos_ros.world_model.tokenizer.video_tokenizer import to_levels

REFINER = "refiner"  # the part's name in a memory plan
PROGRAM = "refiner.jit"
# Larger cameras are refined at this many times the model's height and width, and enlarged afterwards: what the model
# adds is no finer than its own pixels, and the work grows with every pixel that is put together.
MOST_TIMES_THE_MODEL = 4
FETCH = "fetch the checkpoint again, or remove the file to do without a refiner"
WORK_BYTES_PER_PIXEL = 700  # at its peak, of a group of 8 frames, for each pixel of one frame that leaves
FADED = 2  # frames with which a group begins: after one alone, things still appear at once (bench/results/training.md)


def refiner_file(directory: Path) -> Path | None:
    """Of a checkpoint's refiner; None where it has none. A link that leads nowhere is one that was lost, to be told."""
    file = directory / PROGRAM
    return file if os.path.lexists(file) else None


class Refiner:
    """A refiner's program on a device. Raises ModelUnavailable where it does not fit the model's frames."""

    def __init__(self, program: nn.Module, chunking: Chunking, device: torch.device) -> None:
        self.program, self.chunking, self.device = program, chunking, device
        self.hypotheses: int = getattr(program, "hypotheses", 1)
        self.trusting: int = getattr(program, "trusting", 0)
        self._require_fit()

    @classmethod
    def load(cls, directory: Path, chunking: Chunking, device: torch.device, dtype: torch.dtype) -> Refiner | None:
        """Of a checkpoint's directory; None where it has none. Raises ModelUnavailable."""
        file = refiner_file(directory)
        if file is None:
            return None
        program = load_network(file, device, dtype, fetch=FETCH)
        try:
            return cls(program, chunking, device)
        except ModelUnavailable as error:
            raise ModelUnavailable(f"{file}: {error}; {FETCH}") from error

    def conditioning(self, frames: np.ndarray, whole: bool = False) -> Tensor:
        """What the refiner sees of camera frames uint8 [n, H, W, 3]: float32 [1, 3, n, H', W'], on the device.

        whole  they are refined ones, which show what the model sees and no more; they stay on the CPU until they are
               used, for each sample has its own
        """
        if whole:
            return resized(frames, frames.shape[1:3])
        model_size = self.chunking.frame_size
        crop = camera_view(frames.shape[1:3], model_size)
        pixels = torch.from_numpy(np.ascontiguousarray(crop.of(frames))).to(self.device)
        pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        scale = max(crop.height / model_size[0], crop.width / model_size[1]) / MOST_TIMES_THE_MODEL
        if scale > 1:
            size = round(crop.height / scale), round(crop.width / scale)
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        return pixels.transpose(0, 1)[None]

    def refine(self, decoded: Tensor, conditioning: Tensor, hypothesis: int = 0) -> Tensor:
        """The newest group: uint8 [k, H, W, 3] on the CPU. Raises NotFinite.

        decoded       float [3, m, h, w] in [-1, 1], up to the group
        conditioning  as `conditioning` gives it
        hypothesis    number of the one that is wanted
        """
        refined = self._run(decoded[None].float(), conditioning.to(self.device), hypothesis)[0]
        if not refined.isfinite().all():
            raise NotFinite("the refiner gave pixels that are no finite numbers; its weights may be damaged")
        return to_levels(refined).permute(1, 2, 3, 0).contiguous().cpu()

    def _run(self, decoded: Tensor, conditioning: Tensor, hypothesis: int) -> Tensor:
        which = (hypothesis,) if self.hypotheses > 1 else ()
        refined = run_program(self.program, decoded, conditioning, *which)
        expected = [1, 3, self.chunking.compression[0], *conditioning.shape[-2:]]
        if not (isinstance(refined, Tensor) and refined.is_floating_point() and list(refined.shape) == expected):
            got = list(refined.shape) if isinstance(refined, Tensor) else type(refined).__name__
            raise ModelUnavailable(f"the refiner gives {got}, and floating-point {expected} was expected")
        return refined

    def _require_fit(self) -> None:
        """Refine one group, of a camera half as large again as the model's frames, after a clip and after an image.

        After an image by the last hypothesis.
        """
        if not _is_whole(self.hypotheses) or self.hypotheses < 1:
            raise ModelUnavailable(f"the refiner says that it has {self.hypotheses!r} hypotheses, expected 1 or more")
        if not _is_whole(self.trusting) or not 0 <= self.trusting < self.hypotheses:
            raise ModelUnavailable(
                f"the refiner says that its hypothesis {self.trusting!r} trusts the tokens, and it has 0 to "
                f"{self.hypotheses - 1}"
            )
        step, (height, width) = self.chunking.compression[0], self.chunking.frame_size
        what = f"the refiner cannot take frames of {height}x{width} in groups of {step}"
        with trying_out(f"{what}, of which frame_size may be the reason (ours take multiples of 16)"):
            for n, hypothesis in ((1, self.hypotheses - 1), (1 + step, 0)):
                decoded = torch.zeros(1, 3, n + step, height, width, device=self.device)
                camera = torch.zeros(1, 3, n, height * 3 // 2, width * 3 // 2, device=self.device)
                if not self._run(decoded, camera, hypothesis).isfinite().all():
                    raise ModelUnavailable("the refiner gives pixels that are not finite; its file may be damaged")


def faded(group: np.ndarray, before: np.ndarray) -> np.ndarray:
    """A group uint8 [k, H, W, 3] that begins with the last frame [H, W, 3] of the group before, less and less of it."""
    mixed, old = group.copy(), before.astype(np.uint16)
    for number, new in enumerate(group[:FADED].astype(np.uint16), 1):
        rest = FADED + 1 - number
        mixed[number - 1] = (number * new + rest * old + (FADED + 1) // 2) // (FADED + 1)
    return mixed


def _is_whole(number: object) -> bool:
    """Whether it is an int; a program's attribute may be anything."""
    return isinstance(number, int) and not isinstance(number, bool)


def refiner_need(directory: Path, chunking: Chunking) -> Need | None:
    """Of a checkpoint's refiner; None where it has none."""
    file = directory / PROGRAM
    if not file.is_file():
        return None
    height, width = chunking.frame_size
    pixels = height * width * MOST_TIMES_THE_MODEL**2
    return Need(REFINER, weights=file.stat().st_size, work=WORK_BYTES_PER_PIXEL * pixels)
