"""Predicting the rest of a video's tokens. An engine may take its passes as it likes; this one goes token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from cosmos_ros.world_model.sampling import Sampling, sample
from cosmos_ros.world_model.transformer import KeysValues, KVCache, Transformer

# After every pass: new tokens done, new tokens in all, latent frames of new tokens complete. May raise, to stop.
OnPass = Callable[[int, int, int], None]


class DecodeEngine(Protocol):
    """Completes token videos."""

    def generate(
        self, prompt: Tensor, sampling: Sampling, context: Tensor | None, on_pass: OnPass
    ) -> Tensor:
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
    """One prefill over the prompt, then one token a pass, over a KV cache."""

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        self._cache: KVCache | None = None

    def generate(self, prompt: Tensor, sampling: Sampling, context: Tensor | None, on_pass: OnPass) -> Tensor:
        config, device = self.transformer.config, self.transformer.output.weight.device
        with torch.inference_mode():
            first = len(prompt) + config.has_text
            sequence = torch.zeros(1, config.sequence_length, dtype=torch.long, device=device)
            sequence[:, config.has_text : first] = prompt
            if config.has_text:
                sequence[:, 0] = config.bov
                context = self.transformer.project_context(context.to(device))
            self._complete(sequence, first, sampling, context, on_pass)
        return sequence[0, config.has_text :].clone()

    def release(self) -> None:
        self._cache = None

    def _complete(
        self, sequence: Tensor, first: int, sampling: Sampling, context: list[KeysValues] | None, on_pass: OnPass
    ) -> None:
        """Fill sequence [1, S] from index `first` on, in place."""
        cache = self._empty_cache()
        positions = torch.arange(sequence.shape[1], device=sequence.device)
        generator = sampling.generator(sequence.device)
        total = sequence.shape[1] - first
        begin = 0
        for end in range(first, sequence.shape[1]):
            cache.reach = end
            hidden = self.transformer.hidden(sequence[:, begin:end], positions[begin:end], cache, context)
            sequence[:, end] = sample(self.transformer.output(hidden[:, -1]), sampling, generator)
            done = end - first + 1
            on_pass(done, total, done // self.transformer.config.tokens_per_latent_frame)
            begin = end

    def _empty_cache(self) -> KVCache:
        if self._cache is None:
            weight = self.transformer.output.weight
            self._cache = KVCache(self.transformer.config, device=weight.device, dtype=weight.dtype)
        return self._cache
