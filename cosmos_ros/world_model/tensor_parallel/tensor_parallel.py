"""Decoding on several GPUs of one host: one process for each, started and watched by this one.

Every rank runs the window decoder on its share of the transformer and draws every token itself, from the same
logits with the same noise, so that tokens need not be exchanged. This process sends goals and hears from rank 0 of
every pass. A rank that dies, fails or falls silent leaves the others waiting in a collective for good: then all are
killed, the goal ends with an error, and the next one starts them anew.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import weakref
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import Tensor, nn

from cosmos_ros.child_processes import fresh_processes
from cosmos_ros.errors import ForesightError, RankLost, SettingError
from cosmos_ros.scratch import scratch_folder
from cosmos_ros.world_model.checkpoints.transformer_weights import Checkpoint, open_checkpoint
from cosmos_ros.world_model.config import TransformerConfig
from cosmos_ros.world_model.decoding.engine import Pass, window_of
from cosmos_ros.world_model.decoding.sampling import Sampling
from cosmos_ros.world_model.tensor_parallel.rank import (
    Failed,
    Goal,
    Loaded,
    Passed,
    Share,
    StopSign,
    serve,
)
from cosmos_ros.world_model.tensor_parallel.sharded_transformer import require_divisible

logger = logging.getLogger(__name__)

START_PATIENCE = 900.0  # seconds without a word while ranks read their slices, perhaps from a slow disk
PASS_PATIENCE = 60.0  # without a finished pass; the first one compiles kernels and captures a graph
BLAME_GRACE = 1.0  # until the death that made another rank fail is known
NEXT = "the rollout is lost; the next one starts all of the model's processes anew"

Message = Loaded | Passed


class TensorParallelDecoder:
    """A decode engine on `gpus` devices, from `device` on; on the CPU as many processes.

    path    of the checkpoint; or one that was opened. Every rank loads from its files, and from no others that came in
            their place since
    config  of the whole transformer
    window  as WindowDecoder takes it

    The weights live in the ranks' processes, and so on no device of this one. A generation raises ModelUnavailable or
    OutOfMemory as loading and decoding do, and RankLost where a rank has died or hung.

    Raises SettingError where the transformer cannot be cut so, or the devices are not there.
    """

    def __init__(
        self,
        path: str | Path | Checkpoint,
        config: TransformerConfig,
        *,
        gpus: int,
        device: torch.device,
        dtype: torch.dtype,
        window: int = 0,
    ) -> None:
        require_divisible(config, gpus)
        devices = rank_devices(device, gpus)
        self.module = nn.Module()
        self.window = window_of(config, device, window)
        checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
        self._shares = [
            Share(checkpoint, config, rank, gpus, place, dtype, self.window) for rank, place in enumerate(devices)
        ]
        self._group: _Group | None = None

    def start(self) -> _Group:
        """Load every rank's share, where this has not been done. Raises ModelUnavailable, OutOfMemory, RankLost."""
        if self._group is not None and not self._group.alive():
            logger.warning("a process of the model died since the last rollout; starting all anew")
            self.release()
        if self._group is None:
            self._group = _Group(self._shares)
            for _ in self._shares:
                self._next_message(self._group, START_PATIENCE)
        return self._group

    def passes(
        self, prompts: Tensor, sampling: Sampling, context: Tensor | None = None, n_tokens: int | None = None
    ) -> Generator[Pass, None, None]:
        group = self.start()
        goal = group.begin(prompts, sampling, context, n_tokens)
        size, n_prompt = prompts.shape
        tokens = torch.zeros(size, self._shares[0].config.n_tokens, dtype=torch.long)
        tokens[:, :n_prompt] = prompts
        complete = False
        try:
            while not complete:
                message = self._next_message(group, PASS_PATIENCE)
                if not isinstance(message, Passed) or message.goal != goal:
                    continue  # the last passes of one that was stopped
                for row, end, fresh in zip(tokens, message.done, message.fresh, strict=True):
                    row[n_prompt + end - len(fresh) : n_prompt + end] = torch.from_numpy(fresh)
                passed = Pass(message.number, message.done, message.total, n_prompt, tokens)
                complete = passed.complete
                yield passed
        finally:
            if not complete and self._group is group:
                group.stop(goal)

    def release(self) -> None:
        """End the processes, which gives back what they hold. The next generation starts them again."""
        if self._group is not None:
            self._group.end()
            self._group = None

    def _next_message(self, group: _Group, patience: float) -> Message:
        try:
            return group.next_message(patience)
        except BaseException:
            self.release()  # whatever state the ranks are in, they would not agree on the next pass
            raise


class _Group:
    """The processes of all ranks, from their start to their end."""

    def __init__(self, shares: Sequence[Share]) -> None:
        processes = fresh_processes(serve.__module__)
        self._shares = shares
        self._stop_sign = StopSign(processes)
        self._goals = 0
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        scratch = contextlib.ExitStack()
        folder = scratch.enter_context(scratch_folder("ranks"))
        self.end = weakref.finalize(self, _end, self._processes, self._connections, scratch)
        threads = max(1, torch.get_num_threads() // len(shares))
        for share in shares:
            ours, theirs = processes.Pipe()
            process = processes.Process(
                target=serve,
                args=(share, folder / "store", theirs, self._stop_sign, threads),
                daemon=True,
                name=f"cosmos_ros rank {share.rank}",
            )
            process.start()
            theirs.close()  # so that its end is heard on ours
            self._connections.append(ours)
            self._processes.append(process)

    def alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def begin(self, prompts: Tensor, sampling: Sampling, context: Tensor | None, n_tokens: int | None) -> int:
        """Send a goal to all ranks; its number."""
        self._goals += 1
        given = None if context is None else context.float().cpu().numpy()
        goal = Goal(self._goals, prompts.cpu().numpy(), sampling, given, n_tokens)
        for connection in self._connections:
            with contextlib.suppress(OSError):  # of one that has just died, which `next_message` will tell
                connection.send(goal)
        return goal.number

    def stop(self, goal: int) -> None:
        """Let the ranks end a goal within a few passes. They take the next one as soon as they have."""
        self._stop_sign.ask(goal)

    def next_message(self, patience: float) -> Message:
        """Raises RankLost where a rank has died or none says a word for so many seconds; and what a rank raised."""
        heard = wait([*self._connections, *self._sentinels()], patience)
        for connection in self._connections:
            if connection in heard:
                with contextlib.suppress(EOFError, OSError):
                    message = connection.recv()
                    if isinstance(message, Failed):
                        raise self._reason(message)
                    return message
        if heard:
            raise self._death() or RankLost(f"a process of the model ended of itself; {NEXT}")
        devices = ", ".join(str(share.device) for share in self._shares)
        raise RankLost(f"no sign of life for {patience:g} s from the model's processes on {devices}; {NEXT}")

    def _reason(self, failed: Failed) -> ForesightError:
        """What a rank says that it failed of, unless it failed because another one died."""
        if not failed.traceback:
            return failed.error
        logger.error("%s", failed.traceback)
        return self._death() or failed.error

    def _death(self) -> RankLost | None:
        """Of a process that was killed or crashed; None where every end was the process's own."""
        ended = wait(self._sentinels(), BLAME_GRACE)
        for share, process in zip(self._shares, self._processes, strict=True):
            if process.sentinel in ended:
                process.join(BLAME_GRACE)  # a sentinel may be a little ahead of the exit status
            if code := process.exitcode:
                how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                return RankLost(f"the process of rank {share.rank} on {share.device} died ({how}); {NEXT}")
        return None

    def _sentinels(self) -> list[int]:
        return [process.sentinel for process in self._processes]


def _end(processes: list[BaseProcess], connections: list[Connection], scratch: contextlib.ExitStack) -> None:
    """At once: they keep nothing, and may hang where no request is heard."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for connection in connections:
        connection.close()
    scratch.close()


def rank_devices(first: torch.device, gpus: int) -> list[torch.device]:
    """One for each rank, from the first on; the CPU for all, where that is it.

    Raises SettingError where there are fewer.
    """
    if first.type != "cuda":
        return [first] * gpus
    begin, there = first.index or 0, torch.cuda.device_count()
    if begin + gpus > there:
        raise SettingError(
            f"gpus: {gpus} from {first} on are not there: this PyTorch sees {there} CUDA GPUs; ask for fewer"
        )
    return [torch.device("cuda", index) for index in range(begin, begin + gpus)]
