"""What turns tokens into frames, and the thread on which it works while later tokens are still being decided."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cosmos_ros.world_model.decoding.engine import Pass
from cosmos_ros.world_model.refiner import faded
from cosmos_ros.world_model.tokenizer.chunking import Chunking

POLL_S = 0.02  # between two looks at whether frames are there, so that a cancel is heard meanwhile


class FrameDecoder(Protocol):
    """Turns tokens into frames: `DiscreteDecoder` through the tokenizer that made them, or `DiffusionDecoder`.

    name       as rollouts carry it
    steps      of denoising, as rollouts carry them; 0: none
    by_groups  whether the frames of the first latent frames can be decoded before later tokens are known
    """

    name: str
    steps: int

    @property
    def by_groups(self) -> bool: ...

    def evaluations(self, latent_frames: int) -> int:
        """How many times `pixels` of so many latent frames reports that it has come further."""
        ...

    def brief(self) -> AbstractContextManager[None]:
        """Meanwhile `pixels` takes every path, and as little time as it can: for warming up."""
        ...

    def rest(self) -> None:
        """Bring everything to where it waits between rollouts, so that the first takes no longer than the next."""
        ...

    def pixels(self, tokens: Tensor, context: Tensor | None, seed: int) -> Generator[None, None, Tensor]:
        """All frames float [3, n, h, w] in [-1, 1] on the device; closing the generator ends the work.

        tokens   int64 [t, h', w'], of a whole chunk or, `by_groups`, of its first latent frames
        context  the prompt's text embedding [1, M, context_dim]; None: the model takes none
        seed     of what is drawn

        Raises NotFinite where a pixel is no finite number: as uint8, in which guards see it, it would be one.
        """
        ...


@dataclass(frozen=True)
class Conditions:
    """What a sample's frames depend on besides their tokens.

    context  the prompt's text embedding [1, M, context_dim]; None: the model takes none
    seed     of the sample's noise, in 0..2**64 - 1
    camera   the conditioning frames as the refiner sees them; None: unrefined
    hypothesis  the refiner's that refines them
    """

    context: Tensor | None = None
    seed: int = 0
    camera: Tensor | None = None
    hypothesis: int = 0


@dataclass(frozen=True)
class Decoded:
    """Some frames, in order.

    pixels     uint8 [k, h, w, 3] RGB, at the model's resolution or, refined, at the camera's
    unrefined  what a refiner made them of, uint8 [k, h', w', 3]; None without one
    """

    pixels: np.ndarray
    unrefined: np.ndarray | None = None


@dataclass(frozen=True)
class Frames(Decoded):
    """Some frames of one sample; each sample's come in order."""

    sample: int = 0


class FrameThread:
    """Decodes frames on a thread of its own, and on a CUDA stream of its own, in the order in which they are asked.

    decode  frames of tokens after the first ones, and None whenever it has come further without a frame; called on the
            thread, with the sample's conditions
    """

    def __init__(
        self, decode: Callable[[Tensor, int, Conditions], Iterator[Decoded | None]], device: torch.device
    ) -> None:
        self._decode = decode
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pool = self._new_pool()

    def rollout(
        self,
        chunking: Chunking,
        n_conditioning: int,
        n_frames: int,
        by_groups: bool,
        conditions: Sequence[Conditions],
    ) -> FramesOfRollout:
        """The frames of a batch that begins, with each sample's conditions."""
        if self._stream is None:
            # The thread of the batch before ends first. While it waits, OpenMP counts its helpers among the threads at
            # work: where these are more than the cores, all helpers sleep between two operations, and passes on two
            # threads take a fifth longer.
            self._pool.shutdown()
            self._pool = self._new_pool()
        return FramesOfRollout(partial(self._submit, conditions), chunking, n_conditioning, n_frames, by_groups)

    @staticmethod
    def _new_pool() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="frames")

    def close(self) -> None:
        """Wait for what is being decoded; what waits is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, conditions: Sequence[Conditions], job: Job) -> Future:
        return self._pool.submit(self._run, conditions[job.sample], job)

    def _run(self, conditions: Conditions, job: Job) -> None:
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            left = job.n_frames
            for some in self._decode(job.tokens, job.first, conditions):
                if job.dropped.is_set() or left <= 0:
                    return
                if some is None:
                    job.steps.put(None)
                    continue
                unrefined = None if some.unrefined is None else some.unrefined[:left]
                job.decoded.put(Frames(some.pixels[:left], unrefined, job.sample))
                left -= len(some.pixels)


@dataclass(frozen=True)
class Job:
    """Frames to decode: n_frames after the first ones. They go to `decoded`, unless nobody wants them any more.

    steps  gets a None for each step on the way to them
    """

    sample: int
    tokens: Tensor
    first: int
    n_frames: int
    decoded: queue.SimpleQueue
    steps: queue.SimpleQueue
    dropped: threading.Event


class FramesOfRollout:
    """The frames of a batch's samples, as their tokens become complete.

    n_frames   predicted frames that are wanted of each sample
    by_groups  decode each latent frame when it is complete, else all once all tokens are there. Which frames are
               decoded together never depends on what was complete when, so that their pixels do not
    """

    def __init__(
        self, submit: Callable[[Job], Future], chunking: Chunking, n_conditioning: int, n_frames: int, by_groups: bool
    ) -> None:
        self._submit, self._chunking = submit, chunking
        self._first, self._n_frames, self._by_groups = n_conditioning, n_frames, by_groups
        self._asked: dict[int, int] = {}  # predicted frames of each sample that are being decoded, or were
        self._last: dict[int, np.ndarray] = {}  # refined frame of each sample
        self._jobs: list[Future] = []
        self._decoded: queue.SimpleQueue[Frames] = queue.SimpleQueue()
        self._steps: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._dropped = threading.Event()

    def take(self, passed: Pass) -> None:
        """Begin to decode what has become complete by a pass."""
        for sample, done in enumerate(passed.done):
            while (job := self._next_job(sample, done, passed)) is not None:
                self._jobs.append(self._submit(job))
                self._asked[sample] = self._asked.get(sample, 0) + job.n_frames

    @property
    def steps(self) -> int:
        """Steps of denoising that have been made, of all samples together."""
        return self._steps.qsize()

    def ready(self) -> list[Frames]:
        """What has been decoded since the last call. Raises what decoding raised."""
        while self._jobs and self._jobs[0].done():
            self._jobs.pop(0).result()
        return [self._joined(self._decoded.get()) for _ in range(self._decoded.qsize())]

    def rest(self) -> Iterator[list[Frames]]:
        """Every now and then what has been decoded since, possibly nothing, until there is no more."""
        while self._jobs:
            wait(self._jobs[:1], POLL_S)
            yield self.ready()

    def drop(self) -> None:
        """Nobody wants the rest."""
        self._dropped.set()
        for job in self._jobs:
            job.cancel()

    def _joined(self, some: Frames) -> Frames:
        """A group that was refined by itself, with a fade from the one before."""
        if some.unrefined is None:
            return some
        before = self._last.get(some.sample)
        joined = some if before is None else replace(some, pixels=faded(some.pixels, before))
        self._last[some.sample] = joined.pixels[-1]
        return joined

    def _next_job(self, sample: int, done: int, passed: Pass) -> Job | None:
        asked = self._asked.get(sample, 0)
        per_latent, step = self._chunking.tokens_per_latent_frame, self._chunking.compression[0]
        complete = min(done // per_latent * step, self._n_frames)
        if asked >= self._n_frames or (complete <= asked if self._by_groups else done < passed.total):
            return None
        n_frames = min(step, self._n_frames - asked) if self._by_groups else self._n_frames
        latent_frames = self._chunking.latent_shape[0]
        if self._by_groups:
            latent_frames = self._chunking.latent_frames(self._first + asked + step)
        tokens = passed.tokens[sample, : latent_frames * per_latent].clone()
        return Job(sample, tokens, self._first + asked, n_frames, self._decoded, self._steps, self._dropped)
