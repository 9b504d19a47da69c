"""Predicting the rest of a video's tokens. An engine may take its passes as it likes; this one goes token by token."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from cosmos_ros.world_model.decoding.sampling import Sampling, sample
from cosmos_ros.world_model.transformer import KeysValues, KVCache, Transformer

# After every pass: new tokens done, new tokens in all, latent frames of new tokens complete. May raise, to stop.
OnPass = Callable[[int, int, int], None]

PREFILL_TOKENS = 512  # of one pass over the prompt: its activations stay small beside the KV cache
PASSES_AHEAD = 4  # that may be queued on a GPU before the oldest is reported: hides the launching, not a cancel


class DecodeEngine(Protocol):
    """Completes token videos.

    module  what must be on the device for it
    """

    module: nn.Module

    def generate(self, prompt: Tensor, sampling: Sampling, context: Tensor | None, on_pass: OnPass) -> Tensor:
        """All tokens of the video, int64 [n_tokens], the prompt's first.

        prompt   int64 [P], whole latent frames in raster order, without BOV
        context  text embedding [1, M, context_dim], for a model with text
        on_pass  called after every pass; what it raises ends the generation and leaves the engine fit for the next
        """
        ...

    def release(self) -> None:
        """Give the device's memory back; the next generation takes it again."""
        ...


class SequentialDecoder:
    """A prefill over the prompt, then one token a pass, over a KV cache.

    On CUDA the pass, sampling included, is captured into a graph once and replayed: launching its kernels one by one
    would take longer than running them.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.module = self.transformer = transformer
        self._state: _State | None = None
        self._graph: _Graph | None = None

    def generate(self, prompt: Tensor, sampling: Sampling, context: Tensor | None, on_pass: OnPass) -> Tensor:
        with torch.inference_mode(), on(self.transformer.output.weight.device):
            return self._generate(prompt, sampling, context, on_pass)

    def release(self) -> None:
        self._state = self._graph = None

    def _generate(self, prompt: Tensor, sampling: Sampling, context: Tensor | None, on_pass: OnPass) -> Tensor:
        config = self.transformer.config
        state = self._state_for(context)
        step = self._captured_step(state, sampling) if state.device.type == "cuda" else self._step_for(state, sampling)
        first = state.begin(config, prompt)
        state.generator.manual_seed(sampling.seed)
        self._prefill(state, sampling, first)
        total = config.sequence_length - first
        reported = _Reports(state.device, lambda done: on_pass(done, total, done // config.tokens_per_latent_frame))
        reported.passed()
        for filled in range(first + 1, config.sequence_length):
            step(filled)
            reported.passed()
        reported.finish()
        return state.sequence[0, config.has_text :].clone()

    def _prefill(self, state: _State, sampling: Sampling, first: int) -> None:
        """Take up the first tokens and draw the one after them."""
        for begin in range(0, first, PREFILL_TOKENS):
            end = min(begin + PREFILL_TOKENS, first)
            state.cache.reach = end
            positions = torch.arange(begin, end, device=state.device)
            hidden = self.transformer.hidden(state.sequence[:, begin:end], positions, state.cache, state.context)
        self._draw(state, sampling, hidden[:, -1])

    def _step_for(self, state: _State, sampling: Sampling) -> Callable[[int], None]:
        """A pass that draws one more token where `filled` are there; it reads no row beyond these."""

        def step(filled: int) -> None:
            state.cache.reach = filled
            self._step(state, sampling)

        return step

    def _captured_step(self, state: _State, sampling: Sampling) -> Callable[[int], None]:
        """The same pass as a CUDA graph. It may read every row: where it stands, it learns on the device."""
        made_for = (sampling.temperature, sampling.top_p, self.transformer.output.weight.data_ptr())
        if self._graph is None or self._graph.made_for != made_for:
            self._graph = None
            state.cache.reach = len(state.cache.rows)
            self._graph = _Graph(lambda: self._step(state, sampling), state, made_for)
        graph = self._graph.graph
        return lambda filled: graph.replay()

    def _step(self, state: _State, sampling: Sampling) -> None:
        """Draw the token after the one at `state.position`. Touches only tensors of the state, for a graph's sake."""
        token = state.sequence.index_select(1, state.position)
        hidden = self.transformer.hidden(token, state.position, state.cache, state.context)
        self._draw(state, sampling, hidden[:, -1])

    def _draw(self, state: _State, sampling: Sampling, hidden: Tensor) -> None:
        token = sample(self.transformer.output(hidden), sampling, state.generator)
        state.position.add_(1)
        state.sequence.index_copy_(1, state.position, token[:, None])

    def _state_for(self, context: Tensor | None) -> _State:
        """The tensors that all passes share, with the context's keys and values in place."""
        projected = None
        if self.transformer.config.has_text:
            projected = self.transformer.project_context(context.to(self.transformer.output.weight.device))
        if self._state is None or not self._state.takes(projected):
            self.release()
            self._state = _State.for_transformer(self.transformer, projected)
        elif projected is not None:
            for (keys, values), (new_keys, new_values) in zip(self._state.context, projected, strict=True):
                keys.copy_(new_keys)
                values.copy_(new_values)
        return self._state


@dataclass
class _State:
    """What passes read and write. The tensors stay where they are, so that a graph that knows them stays good.

    sequence  int64 [1, S], BOV in front where the model has it
    position  int64 [1], of the newest token
    context   keys and values of the prompt for every layer
    """

    sequence: Tensor
    position: Tensor
    cache: KVCache
    context: list[KeysValues] | None
    generator: torch.Generator

    @classmethod
    def for_transformer(cls, transformer: Transformer, context: list[KeysValues] | None) -> _State:
        config, weight = transformer.config, transformer.output.weight
        return cls(
            sequence=torch.zeros(1, config.sequence_length, dtype=torch.long, device=weight.device),
            position=torch.zeros(1, dtype=torch.long, device=weight.device),
            cache=KVCache(config, device=weight.device, dtype=weight.dtype),
            context=context,
            generator=torch.Generator(weight.device),
        )

    @property
    def device(self) -> torch.device:
        return self.sequence.device

    def takes(self, context: list[KeysValues] | None) -> bool:
        """Whether a prompt's keys and values fit the place of the last one's."""
        return context is None or context[0][0].shape == self.context[0][0].shape

    def begin(self, config, prompt: Tensor) -> int:
        """Start a video with the prompt; how many tokens stand, BOV included."""
        first = len(prompt) + config.has_text
        self.sequence[:, config.has_text : first] = prompt
        if config.has_text:
            self.sequence[:, 0] = config.bov
        self.position.fill_(first - 1)
        return first


class _Graph:
    """A captured pass.

    made_for  what the capture has fixed: with anything else it must be made anew
    """

    def __init__(self, step: Callable[[], None], state: _State, made_for: tuple) -> None:
        self.made_for = made_for
        self.graph = torch.cuda.CUDAGraph()
        # Replays then go on in the generator's own sequence of noise, and begin anew where it is seeded.
        self.graph.register_generator_state(state.generator)
        # The first run compiles and sizes what cannot be captured; what it writes is overwritten before it is read.
        state.position.zero_()
        aside = torch.cuda.Stream(state.device)
        aside.wait_stream(torch.cuda.current_stream(state.device))
        with torch.cuda.stream(aside):
            step()
        torch.cuda.current_stream(state.device).wait_stream(aside)
        # Other threads may go on with the GPU meanwhile.
        with torch.cuda.graph(self.graph, stream=aside, capture_error_mode="thread_local"):
            step()


def on(device: torch.device) -> AbstractContextManager:
    """Make the device the current one: Triton's kernels and new streams go there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class _Reports:
    """Reports passes once they are done, in order, while a few more are already queued on the device.

    What `report` raises ends the generation; the passes that are queued by then end by themselves.
    """

    def __init__(self, device: torch.device, report: Callable[[int], None]) -> None:
        self._report = report
        self._ahead = PASSES_AHEAD if device.type == "cuda" else 0
        self._queued: deque[torch.cuda.Event | None] = deque()
        self._done = 0

    def passed(self) -> None:
        """A pass was queued."""
        done = None
        if self._ahead:
            done = torch.cuda.Event(blocking=True)
            done.record()
        self._queued.append(done)
        while len(self._queued) > self._ahead:
            self._report_oldest()

    def finish(self) -> None:
        while self._queued:
            self._report_oldest()

    def _report_oldest(self) -> None:
        if done := self._queued.popleft():
            done.synchronize()
        self._done += 1
        self._report(self._done)
