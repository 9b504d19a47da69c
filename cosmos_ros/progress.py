"""What a running prediction tells of itself."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


class Stage(enum.IntEnum):
    """Where a prediction stands. The values are the stage constants of Predict.action's feedback."""

    WAITING = 0
    PROMPT_GUARD = 1
    TEXT_ENCODING = 2
    TOKENIZING = 3
    GENERATING = 4
    DECODING = 5
    VIDEO_GUARD = 6
    DENOISING = 7


@dataclass(frozen=True)
class Progress:
    """One report on a running prediction."""

    stage: Stage
    fraction: float  # of the whole prediction, 0..1
    frames_ready: int = 0  # predicted frames whose tokens are complete
    tokens_per_second: float = 0.0
    remaining_s: float = -1.0  # estimate, seconds; negative where nothing is known yet


@dataclass(frozen=True)
class StageTime:
    stage: Stage
    seconds: float


class StageClock:
    """Times the stages of one stretch and reports the progress of the whole prediction.

    n_new              frames of the stretch
    n_before, n_after  frames of the earlier and of the later stretches
    denoises           whether the diffusion decoder turns tokens into frames

    The share of each stage is a rough guess, made once here so that progress never runs backwards;
    generation takes nearly all of it, but for the diffusion decoder, which takes longer.
    """

    STARTS = {
        Stage.TOKENIZING: 0.0,
        Stage.PROMPT_GUARD: 0.04,
        Stage.TEXT_ENCODING: 0.05,
        Stage.GENERATING: 0.06,
        Stage.DECODING: 0.92,
        Stage.VIDEO_GUARD: 0.96,
    }
    DENOISING_START = 0.25

    def __init__(
        self,
        on_progress: Callable[[Progress], None] | None,
        n_new: int,
        n_before: int = 0,
        n_after: int = 0,
        denoises: bool = False,
    ) -> None:
        self._on_progress = on_progress
        self.n_new, self._n_before, self._n_after = n_new, n_before, n_after
        self._starts = self.STARTS | ({Stage.DENOISING: self.DENOISING_START} if denoises else {})
        self._after_tokens = Stage.DENOISING if denoises else Stage.DECODING
        self._stage = Stage.WAITING
        self._times: list[StageTime] = []
        self._entered = time.monotonic()
        self._last = Progress(Stage.WAITING, 0.0)

    def __enter__(self) -> StageClock:
        return self

    def __exit__(self, *_: object) -> None:
        self._on_progress = None

    def enter(self, stage: Stage) -> None:
        """Close the running stage and begin the next."""
        now = time.monotonic()
        self._close(now)
        self._stage, self._entered = stage, now
        frames = self.n_new if stage in (Stage.DENOISING, Stage.DECODING, Stage.VIDEO_GUARD) else 0
        self._last = Progress(stage, self._of_all(self._starts[stage]), frames_ready=self._n_before + frames)
        self.report()

    def passed(self, done: int, total: int, frames_ready: int) -> None:
        """After a decoding pass: `done` of `total` new tokens are there. With the last one, decoding frames remains."""
        if self._stage is not Stage.GENERATING:
            self.report()
            return
        elapsed = max(time.monotonic() - self._entered, 1e-9)
        rate = done / elapsed
        start, end = self._starts[Stage.GENERATING], self._starts[self._after_tokens]
        self._last = Progress(
            Stage.GENERATING,
            fraction=self._of_all(start + (end - start) * done / total),
            frames_ready=self._n_before + frames_ready,
            tokens_per_second=rate,
            remaining_s=(total * (1 + self._n_after / self.n_new) - done) / rate if rate else -1.0,
        )
        self.report()
        if done == total:
            self.enter(self._after_tokens)

    def denoised(self, done: int, total: int) -> None:
        """`done` of `total` steps of the diffusion decoder are made. After the last one, latents become pixels."""
        if self._stage is not Stage.DENOISING:
            return
        start, end = self._starts[Stage.DENOISING], self._starts[Stage.DECODING]
        elapsed = time.monotonic() - self._entered
        self._last = replace(
            self._last,
            fraction=self._of_all(start + (end - start) * done / total),
            remaining_s=elapsed / done * (total * (1 + self._n_after / self.n_new) - done) if done else -1.0,
        )
        self.report()
        if done == total:
            self.enter(Stage.DECODING)

    def report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._last)

    def finish(self) -> tuple[StageTime, ...]:
        """Close the last stage; the times of all, in order."""
        self._close(time.monotonic())
        self._stage = Stage.WAITING
        return tuple(self._times)

    def _of_all(self, fraction: float) -> float:
        """Of the whole prediction, from a fraction of this stretch."""
        return (self._n_before + fraction * self.n_new) / (self._n_before + self.n_new + self._n_after)

    def _close(self, now: float) -> None:
        if self._stage is not Stage.WAITING:
            self._times.append(StageTime(self._stage, now - self._entered))


def summed(times: Sequence[StageTime]) -> tuple[StageTime, ...]:
    """The times of several stretches as one of each stage, in the order in which the stages came."""
    seconds: dict[Stage, float] = {}
    for each in times:
        seconds[each.stage] = seconds.get(each.stage, 0.0) + each.seconds
    return tuple(StageTime(stage, total) for stage, total in seconds.items())
