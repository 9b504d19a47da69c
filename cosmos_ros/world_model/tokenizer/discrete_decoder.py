"""The discrete frame decoder: the decoder of the tokenizer that made the tokens."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

from torch import Tensor

from cosmos_ros.device.placement import Part
from cosmos_ros.device.threads import cpu_threads
from cosmos_ros.world_model.tokenizer.video_tokenizer import VideoTokenizer


class DiscreteDecoder:
    """A video tokenizer as a FrameDecoder. It needs no text, and draws nothing.

    programs  the tokenizer's, as a part of the device's memory
    """

    name = "discrete"
    steps = 0

    def __init__(self, tokenizer: VideoTokenizer, programs: Part) -> None:
        self._tokenizer, self._programs = tokenizer, programs

    @cached_property
    def by_groups(self) -> bool:
        with self._programs.in_use(), cpu_threads():
            return self._tokenizer.by_groups

    def evaluations(self, latent_frames: int) -> int:
        return 0

    def brief(self) -> AbstractContextManager[None]:
        return nullcontext()

    def rest(self) -> None:
        self._programs.rest()

    def pixels(self, tokens: Tensor, context: Tensor | None, seed: int) -> Generator[None, None, Tensor]:
        yield from ()
        with self._programs.in_use(), cpu_threads():
            return self._tokenizer.pixels(tokens)
