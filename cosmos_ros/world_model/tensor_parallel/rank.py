"""What runs in the process of one tensor-parallel rank, and what it and the process that started it tell each other."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import traceback
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from cosmos_ros.child_processes import end_with_parent
from cosmos_ros.device.out_of_memory import out_of_memory_as_error
from cosmos_ros.errors import ForesightError, RankLost
from cosmos_ros.world_model.checkpoints.transformer_weights import Checkpoint
from cosmos_ros.world_model.config import TransformerConfig
from cosmos_ros.world_model.decoding.engine import PASSES_AHEAD, DecodeEngine, WindowDecoder
from cosmos_ros.world_model.decoding.sampling import Sampling
from cosmos_ros.world_model.tensor_parallel.sharded_transformer import load_share

LOOPBACK = "lo"  # all ranks are on one host, whose name may resolve to an address that is not reachable


@dataclass(frozen=True)
class Share:
    """What a rank loads: its part of `ranks` of the checkpoint. window: positions that its passes look at."""

    checkpoint: Checkpoint
    config: TransformerConfig
    rank: int
    ranks: int
    device: torch.device
    dtype: torch.dtype
    window: int


@dataclass(frozen=True)
class Goal:
    """To every rank: complete videos. prompts int64 [B, P]; context float32 [1 or B, M, context_dim] or None."""

    number: int
    prompts: np.ndarray
    sampling: Sampling
    context: np.ndarray | None
    n_tokens: int | None


@dataclass(frozen=True)
class Loaded:
    """From every rank, once it is ready for goals."""


@dataclass(frozen=True)
class Passed:
    """From rank 0, after every pass: what a Pass says, and of each sample the tokens int64 that stand since then."""

    goal: int
    number: int
    done: tuple[int, ...]
    total: int
    fresh: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Failed:
    """From any rank, its last words. traceback: of an error that nobody foresaw."""

    error: ForesightError
    traceback: str = ""


class StopSign:
    """Shared memory by which all ranks end a goal after the same pass; else some would wait for others for good.

    The starting process asks. Rank 0 answers with a pass that no rank can have finished by then: each takes part in
    every pass, and rank 0 itself has launched at most PASSES_AHEAD beyond the one that it was just told is done.
    """

    def __init__(self, context: multiprocessing.context.BaseContext) -> None:
        self._asked = context.RawValue(ctypes.c_int64, 0)  # the goal that is to end
        # The goal, and in the lower half its last pass: one number, so that nobody reads half of the answer.
        self._answered = context.RawValue(ctypes.c_int64, 0)

    def ask(self, goal: int) -> None:
        self._asked.value = goal

    def answer(self, goal: int, number: int) -> None:
        """Called by rank 0 after every pass."""
        if self._asked.value == goal != self._answered.value >> 32:
            self._answered.value = (goal << 32) + number + PASSES_AHEAD + 2

    def reached(self, goal: int, number: int) -> bool:
        return self._answered.value == (goal << 32) + number


def serve(share: Share, store: Path, connection: Connection, stop_sign: StopSign, threads: int) -> None:
    """The process: load the share, then complete videos until the starting process is gone.

    store       file over which the ranks find each other
    connection  brings goals; takes Loaded, Passed and Failed
    threads     of one operation on the CPU
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the starting process's to answer
    end_with_parent()
    torch.set_num_threads(threads)
    try:
        with out_of_memory_as_error("running the model on several GPUs"):
            _join(share, store)
            engine = WindowDecoder(
                load_share(share.checkpoint, share.config, share.rank, share.ranks, share.device, share.dtype),
                share.window,
            )
            connection.send(Loaded())
            while True:
                _complete(engine, connection.recv(), share.rank, connection, stop_sign)
    except EOFError:
        pass
    except ForesightError as error:
        connection.send(Failed(error))
    except BaseException as error:
        said = f"rank {share.rank} on {share.device} failed: {type(error).__name__}: {error}"
        connection.send(Failed(RankLost(said), traceback.format_exc()))
    finally:
        os._exit(0)  # the others may hang in a collective with this one: no orderly goodbye


def _join(share: Share, store: Path) -> None:
    """Find the other ranks."""
    meeting = dist.FileStore(str(store), share.ranks)
    if share.device.type == "cuda":
        torch.cuda.set_device(share.device)
        # Bound to the device, NCCL connects now and not while a pass is being captured into a graph.
        dist.init_process_group("nccl", store=meeting, rank=share.rank, world_size=share.ranks, device_id=share.device)
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
        dist.init_process_group("gloo", store=meeting, rank=share.rank, world_size=share.ranks)


def _complete(engine: DecodeEngine, goal: Goal, rank: int, connection: Connection, stop_sign: StopSign) -> None:
    """All ranks draw the same tokens, hear of the same passes, and so launch the same number of them."""
    prompts = torch.from_numpy(goal.prompts)
    context = None if goal.context is None else torch.from_numpy(goal.context)
    before = (0,) * len(prompts)
    with closing(engine.passes(prompts, goal.sampling, context, goal.n_tokens)) as passes:
        for passed in passes:
            if rank == 0:
                fresh = tuple(passed.fresh(before))
                connection.send(Passed(goal.number, passed.number, passed.done, passed.total, fresh))
                stop_sign.answer(goal.number, passed.number)
                before = passed.done
            if stop_sign.reached(goal.number, passed.number):
                return
