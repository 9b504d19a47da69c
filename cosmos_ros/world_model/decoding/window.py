"""One pass of decoding over a window of positions, and all that passes read and write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_ros.world_model.decoding.kv_cache import KVCache
from cosmos_ros.world_model.decoding.noise import NoiseRows, gumbel, words_of
from cosmos_ros.world_model.decoding.sampling import NOT_FINITE, Sampling, draw
from cosmos_ros.world_model.transformer import KeysValues, Transformer

# Rows of the cache that PyTorch's attention takes at a time on a CPU. Of whole steps more or less, of which it sees
# nothing, a query's result keeps its bits.
ROWS_AT_A_TIME = 512


@dataclass(frozen=True)
class Report:
    """What became of one sample by a pass.

    filled  tokens that stand for good
    failed  whether logits that are not finite were drawn from
    drawn   int64 [W], on the CPU; the first of them are those that stand since this pass
    """

    filled: int
    failed: bool
    drawn: Tensor


@dataclass
class Batch:
    """What a decoding has come to, for each of B samples. Tensors stay where they are, for a captured graph's sake.

    sequence  int64 [B, S + W]: tokens that stand for good, BOV in front where the model has it; then guesses
    filled    int64 [B], tokens that stand for good
    guessed   int64 [B], where the guesses of the last pass end
    end       int64 [1], of the sequence
    drawn     int64 [B, W], what the last pass drew for the positions from the old `filled` on
    failed    bool [B], whether logits that are not finite were drawn from
    words     int32 [B, 2], the seeds'
    """

    sequence: Tensor
    filled: Tensor
    guessed: Tensor
    end: Tensor
    drawn: Tensor
    failed: Tensor
    words: Tensor

    @classmethod
    def empty(cls, size: int, length: int, window: int, device: torch.device) -> Batch:
        return cls(
            sequence=torch.zeros(size, length + window, dtype=torch.long, device=device),
            filled=torch.zeros(size, dtype=torch.long, device=device),
            guessed=torch.zeros(size, dtype=torch.long, device=device),
            end=torch.zeros(1, dtype=torch.long, device=device),
            drawn=torch.zeros(size, window, dtype=torch.long, device=device),
            failed=torch.zeros(size, dtype=torch.bool, device=device),
            words=torch.zeros(size, 2, dtype=torch.int32, device=device),
        )


class WindowPass:
    """Passes of one batch, each over the same number of rows.

    Row 0 of a sample is its newest token that stands; the rows after it are guesses: what the last pass drew there,
    or, where no pass has been, the token at the same place of the latent frame before. Row i draws the token after
    it. The draw of row 0 stands; that of row i stands where all guesses before it were what was drawn for them: it then
    was drawn from the very logits that one-by-one decoding has there, with the same noise ("Jacobi decoding", Song et
    al. 2021, arXiv:2002.03629, with the noise held fixed, Wiggers & Hoogeboom 2020, arXiv:2002.09928).

    Rows beyond the end of the sequence compute what nobody reads.

    one_by_one  let only the draw of row 0 stand: the definition of what passes that accept more have to give
    """

    def __init__(self, transformer: Transformer, batch: int, window: int, one_by_one: bool) -> None:
        config, weight = transformer.config, transformer.output.weight
        self.transformer, self.window, self.one_by_one = transformer, window, one_by_one
        self.device = weight.device
        self.batch = Batch.empty(batch, config.sequence_length, window, self.device)
        rows = config.sequence_length + window
        self.cache = KVCache(config, batch, rows, device=self.device, dtype=weight.dtype)
        self.context: list[KeysValues] | None = None
        self._offsets = torch.arange(window, device=self.device)
        self._noise = NoiseRows(batch, window, config.vocab_out) if self.device.type == "cpu" else None

    def begin(self, prompts: Tensor, sampling: Sampling, end: int, context: Tensor | None) -> int:
        """Start with prompts int64 [B, P], up to `end` tokens of the sequence; how many stand, BOV included."""
        transformer, batch = self.transformer, self.batch
        config = transformer.config
        first = prompts.shape[1] + config.has_text
        if config.bov is not None:
            if context is None:
                raise ValueError("this model needs a text context")
            batch.sequence[:, 0] = config.bov
            self.context = _placed(self.context, transformer.project_context(context.to(self.device)))
        batch.sequence[:, config.has_text : first] = prompts
        frame = prompts[:, -config.tokens_per_latent_frame :].to(self.device)
        left = batch.sequence.shape[1] - first
        batch.sequence[:, first:] = frame.repeat(1, -(-left // frame.shape[1]))[:, :left]
        batch.filled.fill_(first)
        batch.guessed.fill_(first)
        batch.end.fill_(end)
        batch.failed.fill_(False)
        batch.words.copy_(words_of([sampling.noise_seed(sample) for sample in range(len(prompts))]))
        if self._noise is not None:
            self._noise.begin(batch.words)
        self.sampling = sampling
        return first

    def run(self) -> None:
        """One pass. Touches only tensors of its own."""
        places = self.batch.filled[:, None] - 1 + self._offsets
        if self.device.type == "cpu":
            steps = int(places.max()) // ROWS_AT_A_TIME + 1
            self.cache.reach = min(steps * ROWS_AT_A_TIME, len(self.cache.rows))
        tokens = self._guesses(places)
        logits = self.transformer(tokens, places, self.cache, self.context)
        noise = None
        if not self.sampling.greedy:
            after, vocabulary = places + 1, logits.shape[-1]
            noise = self._noise.of(after) if self._noise else gumbel(self.batch.words, after, vocabulary)
        self._settle(tokens, places, draw(logits, self.sampling, noise))

    def report(self) -> Callable[[], list[Report]]:
        """What to call for what became of the samples by the pass that was run last. It waits for the pass."""
        batch = self.batch
        return reports_in(torch.cat([batch.filled[:, None], batch.failed[:, None], batch.drawn], dim=1))

    @property
    def own_contexts(self) -> bool:
        """Whether each sample has a prompt of its own."""
        return self.context is not None and len(self.context[0][0]) > 1

    def context_of(self, sample: int) -> list[KeysValues] | None:
        if self.context is None or not self.own_contexts:
            return self.context
        return [(keys[sample : sample + 1], values[sample : sample + 1]) for keys, values in self.context]

    def _guesses(self, places: Tensor) -> Tensor:
        batch, per_frame = self.batch, self.transformer.config.tokens_per_latent_frame
        last_drawn = batch.sequence.gather(1, places)
        frame_before = batch.sequence.gather(1, (places - per_frame).clamp(min=0))
        return torch.where(places < batch.guessed[:, None], last_drawn, frame_before)

    def _settle(self, tokens: Tensor, places: Tensor, drawn: Tensor) -> None:
        """Accept what stands, and keep the rest as guesses."""
        batch = self.batch
        right = (drawn[:, :-1] == tokens[:, 1:]).long().cumprod(dim=1)
        accepted = torch.ones_like(batch.filled) if self.one_by_one else 1 + right.sum(dim=1)
        accepted = torch.minimum(accepted, batch.end - batch.filled)
        unusable = (drawn == NOT_FINITE) & (self._offsets < accepted[:, None])
        batch.failed.logical_or_(unusable.any(dim=1))
        batch.drawn.copy_(drawn.clamp(min=0))  # looked up in the embedding, a stranger would end a CUDA context
        batch.sequence.scatter_(1, places + 1, batch.drawn)
        batch.guessed.copy_(batch.filled + self.window)
        batch.filled.add_(accepted)


def reports_in(packed: Tensor) -> Callable[[], list[Report]]:
    """Of each sample, from int64 [B, 2 + W]: filled, failed, drawn. On a GPU they are fetched when the pass is done."""
    if packed.device.type != "cuda":
        return lambda: _unpacked(packed)
    host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    done = torch.cuda.Event(blocking=True)
    done.record()

    def wait() -> list[Report]:
        done.synchronize()
        return _unpacked(host)

    return wait


def _unpacked(packed: Tensor) -> list[Report]:
    return [Report(int(row[0]), bool(row[1]), row[2:].clone()) for row in packed]


def _placed(old: list[KeysValues] | None, new: list[KeysValues]) -> list[KeysValues]:
    """A prompt's keys and values, in the last one's place where they fit."""
    if old is None or old[0][0].shape != new[0][0].shape:
        return new
    for (keys, values), (new_keys, new_values) in zip(old, new, strict=True):
        keys.copy_(new_keys)
        values.copy_(new_values)
    return old
