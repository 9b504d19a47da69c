"""Drawing tokens, and what the window does with them, as Triton kernels. The definition is `sampling.draw`.

The noise is made where it is used and never stored: hashing a number takes less time than reading it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosmos_ros.world_model.decoding.dependent_launch import overlap, take_turn

SPLIT = 4096  # logits of a row that one thread block looks at first
SWEEP = 4096  # and of each step of those that go over a whole row
GROUP = 256  # logits of whose scores the best is remembered


class Draws:
    """Draws one token for every row of logits, without the host.

    settings  float32 [3], on the device: divisor of the logits, top_p, and how much the noise counts (0: greedy)
    words     int32 [B, 2], the seeds'
    """

    def __init__(self, rows: int, vocabulary: int, settings: Tensor, words: Tensor, filled: Tensor) -> None:
        device = settings.device
        self._settings, self._words, self._filled = settings, words, filled
        self._splits = triton.cdiv(vocabulary, SPLIT)
        groups = self._splits * (SPLIT // GROUP)
        self._top, self._total = (torch.empty(rows, self._splits, device=device) for _ in range(2))
        self._score = torch.empty(rows, groups, device=device)
        self._best = torch.empty(rows, groups, device=device, dtype=torch.int32)
        self._drawn = torch.empty(rows, device=device, dtype=torch.int64)

    def draw(self, logits: Tensor, window: int) -> Tensor:
        """int64 [rows] of logits [rows, vocabulary]; NOT_FINITE where a row has a number that is not finite.

        Row r is of sample r // window, and its token for position filled + r % window.
        """
        rows, vocabulary = logits.shape
        splits = triton.next_power_of_2(self._splits)
        early = overlap(logits, rows)
        _find_top[(rows, self._splits)](logits, self._top, vocabulary, self._splits, SPLIT=SPLIT, **early)
        _race[(rows, self._splits)](
            logits,
            self._top,
            self._total,
            self._score,
            self._best,
            self._settings,
            self._words,
            self._filled,
            window,
            vocabulary,
            self._splits,
            SPLITS=splits,
            SPLIT=SPLIT,
            GROUP=GROUP,
            ON_GPU=logits.is_cuda,
            **early,
        )
        _keep_to_top_p[(rows,)](
            logits,
            self._top,
            self._total,
            self._score,
            self._best,
            self._settings,
            self._words,
            self._filled,
            self._drawn,
            window,
            vocabulary,
            self._splits,
            SPLITS=splits,
            SPLIT=SPLIT,
            GROUP=GROUP,
            ON_GPU=logits.is_cuda,
            SWEEP=SWEEP,
            num_warps=16,
            **early,
        )
        return self._drawn


def guess(sequence: Tensor, filled: Tensor, guessed: Tensor, per_frame: int, tokens: Tensor) -> None:
    """Fill in the window's tokens, int64 [B, W]: see WindowPass."""
    batch, window = tokens.shape
    _guess[(batch,)](
        sequence,
        filled,
        guessed,
        tokens,
        window,
        per_frame,
        sequence.stride(0),
        BLOCK=triton.next_power_of_2(window),
        **overlap(tokens, tokens.numel()),
    )


def settle(
    sequence: Tensor,
    filled: Tensor,
    guessed: Tensor,
    end: Tensor,
    tokens: Tensor,
    drawn: Tensor,
    report: Tensor,
    one_by_one: bool,
) -> None:
    """Accept what stands, keep the rest as guesses, and say so: report is int64 [B, 2 + W], filled, failed, drawn."""
    batch, window = tokens.shape
    _settle[(batch,)](
        sequence,
        filled,
        guessed,
        end,
        tokens,
        drawn,
        report,
        window,
        sequence.stride(0),
        ONE_BY_ONE=one_by_one,
        BLOCK=triton.next_power_of_2(window),
        **overlap(tokens, tokens.numel()),
    )


@triton.jit
def _mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _keys(words, filled, window, row):
    """The two keys of a row's noise, as `noise.bits` makes them."""
    sample = row // window
    place = (tl.load(filled + sample) + row % window).to(tl.uint32)
    first = tl.load(words + sample * 2).to(tl.uint32, bitcast=True)
    second = tl.load(words + sample * 2 + 1).to(tl.uint32, bitcast=True)
    golden = tl.full([], 0x9E3779B9, tl.uint32)
    return _mix(_mix(place ^ first) + second), _mix(_mix(place + second) ^ (first + golden))


@triton.jit
def _log2(x, ON_GPU: tl.constexpr):
    if ON_GPU:  # to some 2**-22 of it or of 1; the library's, to the last bit, takes half of the time of a draw
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.log2(x)


@triton.jit
def _gumbel(token, key, other, ON_GPU: tl.constexpr):
    bits = _mix(_mix(token.to(tl.uint32) * tl.full([], 0x9E3779B9, tl.uint32) + key) ^ other)
    fraction = ((bits >> 1).to(tl.int32).to(tl.float32) + 0.5) * 4.656612873077393e-10
    fraction = tl.minimum(fraction, 0.9999999403953552)
    # -log1p(-fraction): near 0, where clocks that win strike, by the series of 2 * atanh(fraction / (2 - fraction)).
    ratio = fraction / (2.0 - fraction)
    square = ratio * ratio
    early = ratio * (2.0 + square * (2 / 3 + square * (2 / 5 + square * (2 / 7 + square * (2 / 9)))))
    clock = tl.where(fraction < 0.25, early, -0.6931471805599453 * _log2(1.0 - fraction, ON_GPU))
    return -0.6931471805599453 * _log2(clock, ON_GPU)


@triton.jit
def _find_top(logits, top, vocabulary, splits, SPLIT: tl.constexpr, TURN: tl.constexpr):
    """The highest logit of each split; NaN where a number in it is not finite."""
    take_turn(TURN)
    row, split = tl.program_id(0), tl.program_id(1)
    token = split * SPLIT + tl.arange(0, SPLIT)
    real = token < vocabulary
    value = tl.load(logits + row.to(tl.int64) * vocabulary + token, mask=real, other=float("-inf")).to(tl.float32)
    strange = tl.max(tl.where(real & ~(tl.abs(value) < float("inf")), 1, 0), 0)
    highest = tl.max(value, 0)
    tl.store(top + row * splits + split, tl.where(strange > 0, float("nan"), highest))


@triton.jit
def _highest(top, row, splits, SPLITS: tl.constexpr):
    """The highest logit of a row, and whether a number of it is not finite."""
    split = tl.arange(0, SPLITS)
    tops = tl.load(top + row * splits + split, mask=split < splits, other=float("-inf"))
    strange = tl.max(tl.where(tops != tops, 1, 0), 0)
    return tl.max(tl.where(tops != tops, float("-inf"), tops), 0), strange


@triton.jit
def _race(
    logits,
    top,
    total,
    score,
    best,
    settings,
    words,
    filled,
    window,
    vocabulary,
    splits,
    SPLITS: tl.constexpr,
    SPLIT: tl.constexpr,
    GROUP: tl.constexpr,
    ON_GPU: tl.constexpr,
    TURN: tl.constexpr,
):
    """The sum of a split's weights; of each group in it, the token of the best score."""
    take_turn(TURN)
    row, split = tl.program_id(0), tl.program_id(1)
    highest, _ = _highest(top, row, splits, SPLITS)
    token = split * SPLIT + tl.arange(0, SPLIT)
    real = token < vocabulary
    value = tl.load(logits + row.to(tl.int64) * vocabulary + token, mask=real, other=float("-inf")).to(tl.float32)
    scaled = (value - highest) / tl.load(settings)
    key, other = _keys(words, filled, window, row)
    scores = tl.where(real, scaled + tl.load(settings + 2) * _gumbel(token, key, other, ON_GPU), float("-inf"))
    tl.store(total + row * splits + split, tl.sum(tl.exp(scaled), 0))
    groups: tl.constexpr = SPLIT // GROUP
    winner, leader = _leaders(tl.reshape(scores, [groups, GROUP]), tl.reshape(token, [groups, GROUP]), vocabulary)
    place = (row * splits + split) * groups + tl.arange(0, groups)
    tl.store(score + place, winner)
    tl.store(best + place, leader)


@triton.jit
def _keep_to_top_p(
    logits,
    top,
    total,
    score,
    best,
    settings,
    words,
    filled,
    drawn,
    window,
    vocabulary,
    splits,
    SPLITS: tl.constexpr,
    SPLIT: tl.constexpr,
    GROUP: tl.constexpr,
    ON_GPU: tl.constexpr,
    SWEEP: tl.constexpr,
    TURN: tl.constexpr,
):
    """The best token of a row that top_p keeps: while the best is not kept, the best of those likelier than it.

    A group's best score bounds that of its likelier tokens. So a group is looked through again only where it leads with
    a token that is not likelier.
    """
    take_turn(TURN)
    row = tl.program_id(0)
    split, group = tl.arange(0, SPLITS), tl.arange(0, SPLITS * (SPLIT // GROUP))
    inside = group < splits * (SPLIT // GROUP)
    highest, strange = _highest(top, row, splits, SPLITS)
    divisor, top_p, heat = tl.load(settings), tl.load(settings + 1), tl.load(settings + 2)
    allowed = top_p * tl.sum(tl.load(total + row * splits + split, mask=split < splits, other=0.0), 0)
    place = row * splits * (SPLIT // GROUP) + group
    scores = tl.load(score + place, mask=inside, other=float("-inf"))
    tokens = tl.load(best + place, mask=inside, other=vocabulary)
    key, other = _keys(words, filled, window, row)
    start = logits + row.to(tl.int64) * vocabulary
    refused = tl.full([], float("-inf"), tl.float32)
    _, leader = _leaders(scores[None, :], tokens[None, :], vocabulary)
    token = tl.where(strange > 0, 0, tl.minimum(tl.min(leader, 0), vocabulary - 1))
    searching = (strange == 0) & (top_p < 1.0) & (heat > 0.0)
    while searching:
        level = (tl.load(start + token).to(tl.float32) - highest) / divisor
        if level > refused:
            weight = tl.zeros([SWEEP], tl.float32)
            for begin in range(0, vocabulary, SWEEP):
                each = begin + tl.arange(0, SWEEP)
                value = tl.load(start + each, mask=each < vocabulary, other=float("-inf")).to(tl.float32)
                scaled = (value - highest) / divisor
                weight += tl.where(scaled > level, tl.exp(scaled), 0.0)
            searching = tl.sum(weight, 0) > allowed
            refused = level
        if searching:
            each = token // GROUP * GROUP + tl.arange(0, GROUP)
            value = tl.load(start + each, mask=each < vocabulary, other=float("-inf")).to(tl.float32)
            scaled = (value - highest) / divisor
            again = tl.where(scaled > refused, scaled + heat * _gumbel(each, key, other, ON_GPU), float("-inf"))
            winner, leader = _leaders(again[None, :], each[None, :], vocabulary)
            looked_at = group == token // GROUP
            scores = tl.where(looked_at, tl.max(winner, 0), scores)
            tokens = tl.where(looked_at, tl.min(leader, 0), tokens)
            _, leader = _leaders(scores[None, :], tokens[None, :], vocabulary)
            token = tl.minimum(tl.min(leader, 0), vocabulary - 1)
    tl.store(drawn + row, tl.where(strange > 0, -1, token).to(tl.int64))


@triton.jit
def _leaders(scores, tokens, vocabulary):
    """Of each row of scores the best, and its token; the smallest of those that are equal."""
    winner = tl.max(scores, 1)
    return winner, tl.min(tl.where(scores == winner[:, None], tl.minimum(tokens, vocabulary), vocabulary), 1)


@triton.jit
def _guess(sequence, filled, guessed, tokens, window, per_frame, stride, BLOCK: tl.constexpr, TURN: tl.constexpr):
    take_turn(TURN)
    sample = tl.program_id(0)
    offset = tl.arange(0, BLOCK)
    inside = offset < window
    place = tl.load(filled + sample) - 1 + offset
    start = sequence + sample * stride
    last_drawn = tl.load(start + place, mask=inside, other=0)
    frame_before = tl.load(start + tl.maximum(place - per_frame, 0), mask=inside, other=0)
    token = tl.where(place < tl.load(guessed + sample), last_drawn, frame_before)
    tl.store(tokens + sample * window + offset, token, mask=inside)


@triton.jit
def _settle(
    sequence,
    filled,
    guessed,
    end,
    tokens,
    drawn,
    report,
    window,
    stride,
    ONE_BY_ONE: tl.constexpr,
    BLOCK: tl.constexpr,
    TURN: tl.constexpr,
):
    take_turn(TURN)
    sample = tl.program_id(0)
    offset = tl.arange(0, BLOCK)
    inside = offset < window
    before = tl.load(filled + sample)
    draw = tl.load(drawn + sample * window + offset, mask=inside, other=0)
    after = tl.load(tokens + sample * window + offset + 1, mask=offset + 1 < window, other=0)
    wrong = (draw != after) & (offset + 1 < window)
    accepted = tl.minimum(tl.min(tl.where(wrong, offset, window), 0) + 1, window).to(tl.int64)
    if ONE_BY_ONE:
        accepted = tl.full([], 1, tl.int64)
    accepted = tl.minimum(accepted, tl.load(end) - before)
    unusable = tl.max(tl.where(inside & (draw < 0) & (offset < accepted), 1, 0), 0)
    draw = tl.maximum(draw, 0)  # looked up in the embedding, a stranger would end the CUDA context
    tl.store(sequence + sample * stride + before + offset, draw, mask=inside)
    tl.store(guessed + sample, before + window)
    tl.store(filled + sample, before + accepted)
    row = report + sample * (window + 2)
    tl.store(row, before + accepted)
    tl.store(row + 1, unusable.to(tl.int64))
    tl.store(row + 2 + offset, draw, mask=inside)
