"""The pass over a window on a GPU: fused layers, drawing and bookkeeping on the device, replayed as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cosmos_ros.world_model.decoding import layer_kernels, sampling_kernels
from cosmos_ros.world_model.decoding.cache_attention import attend_to_cache
from cosmos_ros.world_model.decoding.float8 import Rows
from cosmos_ros.world_model.decoding.graphs import graph_of
from cosmos_ros.world_model.decoding.projections import Projection
from cosmos_ros.world_model.decoding.sampling import Sampling
from cosmos_ros.world_model.decoding.window import Report, WindowPass, reports_in
from cosmos_ros.world_model.transformer import Block, Transformer


class FusedPass(WindowPass):
    """Computes what WindowPass computes, in fewer and larger steps, none of which waits for the host."""

    def __init__(self, transformer: Transformer, batch: int, window: int, one_by_one: bool) -> None:
        super().__init__(transformer, batch, window, one_by_one)
        self._layers = [_Layer(layer) for layer in transformer.layers]
        self._head = Projection(transformer.output)
        self._settings = torch.zeros(3, device=self.device)
        self._tokens = torch.zeros(batch, window, dtype=torch.long, device=self.device)
        self._report = torch.zeros(batch, 2 + window, dtype=torch.long, device=self.device)
        self._draws = sampling_kernels.Draws(
            batch * window, transformer.config.vocab_out, self._settings, self.batch.words, self.batch.filled
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured_for: object = None

    def begin(self, prompts: Tensor, sampling: Sampling, end: int, context: Tensor | None) -> int:
        first = super().begin(prompts, sampling, end, context)
        self._settings.copy_(
            torch.tensor([sampling.divisor, 1.0 if sampling.greedy else sampling.top_p, float(not sampling.greedy)])
        )
        return first

    def run(self) -> None:
        if self.device.type != "cuda":
            self._step()
            return
        places = (self.context[0][0].data_ptr() if self.context else 0, self.transformer.output.weight.data_ptr())
        if self._captured_for != places:
            batch = self.batch
            self._graph = None  # its memory first: the next one takes as much
            self._graph = graph_of(self._step, (batch.sequence, batch.filled, batch.guessed), self.device)
            self._captured_for = places
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    def report(self) -> Callable[[], list[Report]]:
        return reports_in(self._report)

    def _step(self) -> None:
        batch = self.batch
        self._guess()
        drawn = self._draws.draw(self._logits(), self.window)
        sampling_kernels.settle(
            batch.sequence,
            batch.filled,
            batch.guessed,
            batch.end,
            self._tokens,
            drawn,
            self._report,
            self.one_by_one,
        )

    def _guess(self) -> None:
        batch, per_frame = self.batch, self.transformer.config.tokens_per_latent_frame
        sampling_kernels.guess(batch.sequence, batch.filled, batch.guessed, per_frame, self._tokens)

    def _logits(self) -> Tensor:
        """[B * W, vocabulary] of the window's tokens."""
        transformer, config, filled, window = self.transformer, self.transformer.config, self.batch.filled, self.window
        batch = len(filled)
        x = transformer.tok_embeddings(self._tokens).flatten(0, 1)
        branch, absolute = None, transformer.absolute_positions
        tables = (transformer.rope_cos, transformer.rope_sin)

        def norm(weight: Tensor, branch: Tensor | None, absolute: Tensor | None = None, float8: bool = False) -> Rows:
            return layer_kernels.add_and_normalise(x, branch, weight, config.norm_eps, absolute, filled, window, float8)

        for i, (layer, products) in enumerate(zip(transformer.layers, self._layers, strict=True)):
            attention, keys, values = layer.attention, self.cache.keys[i], self.cache.values[i]
            queries = layer_kernels.rotate_and_store(
                products.heads(norm(layer.attention_norm.weight, branch, absolute, products.heads.float8)),
                (attention.q_norm.weight, attention.k_norm.weight),
                config.norm_eps,
                tables,
                keys,
                values,
                filled,
                window,
            )
            branch = products.out(attend_to_cache(queries, keys, values, filled, products.out.float8))
            if self.context is not None:
                normal = norm(layer.cross_attention_norm.weight, branch)
                assert isinstance(normal, Tensor)  # float8 was not asked for
                branch = layer.cross_attention(normal.unflatten(0, (batch, window)), self.context[i]).flatten(0, 1)
            branch = products.closing(
                products.opening(norm(layer.ffn_norm.weight, branch, None, products.opening.float8))
            )
        return self._head(norm(transformer.norm.weight, branch))


class _Layer:
    """The products of a layer."""

    def __init__(self, layer: Block) -> None:
        attention, feed_forward = layer.attention, layer.feed_forward
        self.heads = Projection(attention.wq, attention.wk, attention.wv)
        self.out = Projection(attention.wo, partial=True)
        self.opening = Projection(feed_forward.w1, feed_forward.w3, gate=True)
        self.closing = Projection(feed_forward.w2, partial=True)
