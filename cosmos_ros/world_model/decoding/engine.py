"""Completing token videos, pass by pass. An engine yields what each pass completed; whoever has enough closes it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_ros.errors import NotFinite
from cosmos_ros.world_model.config import TransformerConfig
from cosmos_ros.world_model.decoding.sampling import Sampling
from cosmos_ros.world_model.decoding.window import Report, WindowPass
from cosmos_ros.world_model.transformer import Transformer

logger = logging.getLogger(__name__)

T = TypeVar("T")

PREFILL_TOKENS = 1024  # of one pass over the prompt: larger ones are little faster, and their activations grow
PASSES_AHEAD = 2  # that may be queued on a GPU before the oldest is reported: hides the launching, not a cancel
LOGIT_ROWS = 128  # that are held at once where every token's logits are needed: 64,000 numbers each
CPU_WINDOW, CUDA_WINDOW = 32, 128  # positions of a pass: a CPU is soon bound by arithmetic, a GPU by reading weights


@dataclass(frozen=True)
class Pass:
    """What one pass completed.

    number  of the pass, from 1 on
    done    new tokens of each sample that stand for good
    total   new tokens that each sample will have
    first   tokens of the prompt
    tokens  int64 [B, tokens of the video], on the CPU: the prompt's, then `done` new ones, then zeros
    """

    number: int
    done: tuple[int, ...]
    total: int
    first: int
    tokens: Tensor

    @property
    def complete(self) -> bool:
        return min(self.done) == self.total

    def fresh(self, before: Sequence[int]) -> Iterator[np.ndarray]:
        """Of each sample the tokens int64 that stand since there were `before` new ones."""
        for row, begin, end in zip(self.tokens.numpy(), before, self.done, strict=True):
            yield row[self.first + begin : self.first + end]


class DecodeEngine(Protocol):
    """Completes token videos.

    module  what must be on the device for it
    window  positions that a pass looks at
    """

    @property
    def module(self) -> nn.Module: ...
    @property
    def window(self) -> int: ...

    def passes(
        self, prompts: Tensor, sampling: Sampling, context: Tensor | None = None, n_tokens: int | None = None
    ) -> Generator[Pass, None, None]:
        """Complete a batch of videos; the last pass is complete. Closing the iterator ends it; the engine stays fit.

        prompts   int64 [B, P], whole latent frames in raster order, without BOV
        sampling  sample b draws with the seed plus b, and gets the tokens that this seed gives alone
        context   text embedding [1 or B, M, context_dim], for a model with text
        n_tokens  of the video, the prompt's included; None: all that the model has

        Raises NotFinite where logits are no finite numbers.
        """
        ...

    def release(self) -> None:
        """Give the device's memory back; the next video takes it again."""
        ...


class WindowDecoder:
    """Decodes a window of positions in every pass, after a prefill over the prompt.

    window      positions that a pass looks at; 0: as many as suit the device
    one_by_one  accept one token per pass: slow, and the definition of what the passes give otherwise
    """

    def __init__(self, transformer: Transformer, window: int = 0, one_by_one: bool = False) -> None:
        self.module = self.transformer = transformer
        config, device = transformer.config, transformer.output.weight.device
        self.window = window_of(config, device, window)
        self.one_by_one = one_by_one
        self._pass: WindowPass | None = None

    def passes(
        self, prompts: Tensor, sampling: Sampling, context: Tensor | None = None, n_tokens: int | None = None
    ) -> Generator[Pass, None, None]:
        device = self.transformer.output.weight.device
        return stepwise(self._passes(prompts, sampling, context, n_tokens), lambda: at_work_on(device))

    def surprisal(self, tokens: Tensor, given: int, context: Tensor | None = None) -> Tensor:
        """How unlikely the tokens of a video are, each given all before it: one pass over them, teacher forced.

        tokens   int64 [N] in raster order, without BOV
        given    how many of them are not asked about: the prompt
        context  text embedding [1, M, context_dim], for a model with text

        Returns float32 [3, N - given] on the CPU: the negative log-likelihood of each token in nats, then what it would
        be on average if the token were drawn from the model's distribution (its entropy), and the variance of that.
        None of them knows a temperature. Raises NotFinite.
        """
        transformer, config = self.transformer, self.transformer.config
        device = transformer.output.weight.device
        with at_work_on(device):
            if self._pass is None:
                self._pass = make_pass(transformer, 1, self.window, self.one_by_one)
            cache = self._pass.cache.sample(0)
            keys = None if context is None else transformer.project_context(context.to(device))
            sequence = tokens.to(device)
            if config.bov is not None:
                sequence = torch.cat([sequence.new_tensor([config.bov]), sequence])
            first, end = given + config.has_text, len(sequence)
            found: list[Tensor] = []
            for begin in range(0, end - 1, PREFILL_TOKENS):
                upto = cache.reach = min(begin + PREFILL_TOKENS, end - 1)
                positions = torch.arange(begin, upto, device=device)
                hidden = transformer.hidden(sequence[None, begin:upto], positions, cache, keys)[0]
                asked = max(begin, first - 1)
                for row in range(asked, upto, LOGIT_ROWS):
                    rows = slice(row, min(row + LOGIT_ROWS, upto))
                    logits = transformer.output(hidden[rows.start - begin : rows.stop - begin]).float()
                    logs = F.log_softmax(logits, dim=-1)
                    after = sequence[rows.start + 1 : rows.stop + 1]
                    nats = -logs.gather(1, after[:, None])[:, 0]
                    shares, entropy = logs.exp(), -(logs.exp() * logs).sum(dim=1)
                    variance = (shares * (logs + entropy[:, None]).square()).sum(dim=1)
                    found.append(torch.stack([nats, entropy, variance]).cpu())
            surprisal = torch.cat(found, dim=1)
        if not bool(torch.isfinite(surprisal).all()):
            raise NotFinite("the transformer gave logits that are no finite numbers; its weights may be damaged")
        return surprisal

    def release(self) -> None:
        self._pass = None

    def _passes(
        self, prompts: Tensor, sampling: Sampling, context: Tensor | None, n_tokens: int | None
    ) -> Generator[Pass, None, None]:
        config = self.transformer.config
        end = (n_tokens or config.n_tokens) + config.has_text
        size, n_prompt = prompts.shape
        if self._pass is None or len(self._pass.batch.filled) != size:
            self.release()
            self._pass = make_pass(self.transformer, size, self.window, self.one_by_one)
        current = self._pass
        first = current.begin(prompts, sampling, end, context)
        prefill(current, prompts, first)
        tokens = torch.zeros(size, config.n_tokens, dtype=torch.long)
        tokens[:, :n_prompt] = prompts
        done = [0] * size
        for number, reports in enumerate(reports_of(current, end), 1):
            for sample, report in enumerate(reports):
                if report.failed:
                    raise NotFinite(
                        "the transformer gave logits that are no finite numbers; its weights may be damaged"
                    )
                begin, done[sample] = n_prompt + done[sample], report.filled - first
                tokens[sample, begin : n_prompt + done[sample]] = report.drawn[: n_prompt + done[sample] - begin]
            yield Pass(number, tuple(done), end - first, n_prompt, tokens)


def make_pass(transformer: Transformer, batch: int, window: int, one_by_one: bool) -> WindowPass:
    """The pass that suits the device: fused for a GPU, where Triton is there and knows the heads' size."""
    head_dim = transformer.config.head_dim
    if transformer.output.weight.device.type == "cuda" and head_dim >= 16 and head_dim & (head_dim - 1) == 0:
        try:
            from cosmos_ros.world_model.decoding.fused_pass import FusedPass
        except ImportError:  # Triton comes with PyTorch's CUDA builds, and not with all of them
            logger.warning("Triton is not installed: decoding takes several times as long; install PyTorch's own build")
        else:
            return FusedPass(transformer, batch, window, one_by_one)
    return WindowPass(transformer, batch, window, one_by_one)


def window_of(config: TransformerConfig, device: torch.device, wanted: int = 0) -> int:
    """How many positions a pass looks at; wanted 0: as many as suit the device."""
    return min(wanted or (CUDA_WINDOW if device.type == "cuda" else CPU_WINDOW), config.n_tokens)


def prefill(current: WindowPass, prompts: Tensor, first: int) -> None:
    """Take up all of the first tokens but the newest, which the first pass takes.

    One prompt at a time, whatever the batch, and each only once: so a sample has the same keys and values as alone.
    """
    taken: list[tuple[int, Tensor]] = []
    for sample, prompt in enumerate(prompts):
        twin = next((other for other, seen in taken if torch.equal(seen, prompt)), None)
        if twin is not None and not current.own_contexts:
            current.cache.duplicate(twin, sample, first)
            continue
        taken.append((sample, prompt))
        part = current.cache.sample(sample)
        for begin in range(0, first - 1, PREFILL_TOKENS):
            end = part.reach = min(begin + PREFILL_TOKENS, first - 1)
            positions = torch.arange(begin, end, device=current.device)
            tokens = current.batch.sequence[sample : sample + 1, begin:end]
            current.transformer.hidden(tokens, positions, part, current.context_of(sample))


def reports_of(current: WindowPass, end: int) -> Iterator[list[Report]]:
    """Run passes until every sample has reached the end; of each pass, what became of each sample.

    On a GPU a few more passes are queued by the time that one is reported. Those beyond the last change nothing.
    """
    ahead = PASSES_AHEAD if current.device.type == "cuda" else 0
    queued: deque[Callable[[], list[Report]]] = deque()
    while True:
        while len(queued) <= ahead:
            current.run()
            queued.append(current.report())
        reports = queued.popleft()()
        yield reports
        if all(report.filled == end for report in reports):
            return


def completed(passes: Iterator[Pass]) -> Tensor:
    """The tokens of the last pass, int64 [B, tokens of the video]: for callers with no interest in the way there."""
    return deque(passes, maxlen=1)[0].tokens


def stepwise(
    items: Generator[T, None, None], at_work: Callable[[], AbstractContextManager]
) -> Generator[T, None, None]:
    """The items, each made inside a fresh context: between them, whoever takes them works outside of it."""
    try:
        while True:
            with at_work():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
    finally:
        items.close()


@contextmanager
def at_work_on(device: torch.device) -> Iterator[None]:
    """Without gradients, and with the device as the current one: Triton's kernels and new streams go there."""
    with torch.inference_mode(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield
