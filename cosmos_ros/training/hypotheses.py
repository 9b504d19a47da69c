"""How a refiner's hypotheses are trained: number 0 to guess best, the last to trust the tokens, the others to differ.

Some of the rolled-out windows of a step are for number 0. Each of the others shows one of its rollouts to every
hypothesis in between, and the one whose frames come nearest to what happened learns from it (winner takes all). What is
rewarded is that one of them is right, so that together they cover what may happen, where a single one would blend it:
multiple choice learning (Guzman-Rivera et al. 2012), on videos' frames and with a few that did not win (Rupprecht et
al. 2017, arXiv:1612.00197). All are shown the same rollout. With one of its own for each, as a prediction's samples
have, chance decides who wins, and the hypotheses stay alike (bench/results/training.md).

The last one learns from round trips alone. A hypothesis that has seen wrong tokens trusts the right ones less, and what
it makes of a round trip is worse; one that has often seen true tokens believes the wrong ones more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cosmos_ros.training.datasets.clips import shrunk
from cosmos_ros.training.losses import frame_log_errors
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.round_trips import RefinerPrograms, compiled, group_of

GUESS_SHARE = 0.25  # of rolled-out windows, that number 0 learns from
# Share of the rivals' windows that any of them learns from: one that never wins would stay as it is.
ANY_RIVAL = 0.1


class Competition:
    """Which hypothesis learns from which window.

    decode  tokens int64 [B, t, h, w] -> video [B, 3, 33, h, w] in [-1, 1]
    """

    def __init__(self, refiner: Refiner, decode: Callable[[Tensor], Tensor], frame_size: tuple[int, int]) -> None:
        self._rivals = range(1, refiner.trusting)
        self._decode, self._frame_size = decode, frame_size
        self._refine = RefinerPrograms(refiner)
        self._log_errors = compiled(frame_log_errors, refiner.exit.weight.device)

    @torch.no_grad()
    def __call__(
        self,
        tokens: Tensor,
        predicted: Tensor,
        clean: Tensor,
        camera: Tensor,
        n: int,
        groups: Sequence[int],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Decoded frames [B, 3, 33, h, w] of every window, and the hypothesis that learns from them, int64 [B].

        tokens     that number 0 would learn from, int64 [B, t, h, w]
        predicted  all rollouts [samples, B, t, h, w]
        clean, camera  true frames as they were and as the refiner sees them, [B, 3, 33, H, W]
        n, groups  conditioning frames, and the groups after them that are refined in this step

        Of one or two hypotheses none are rivals: number 0 learns from all.
        """
        hypothesis = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        n_open = self._n_open(len(tokens), generator) if self._rivals else 0
        if not n_open:
            return self._decode(tokens), hypothesis
        opened = torch.randperm(len(tokens), generator=generator)[:n_open].to(tokens.device)
        which = torch.randint(len(predicted), (n_open,), generator=generator).to(tokens.device)
        decoded = self._decode(tokens.index_copy(0, opened, predicted[which, opened].long()))
        errors = self.errors(decoded[opened], clean[opened], camera[opened], n, groups)
        hypothesis[opened] = 1 + self._drawn(errors.argmin(0), generator)
        return decoded, hypothesis

    def errors(self, decoded: Tensor, clean: Tensor, camera: Tensor, n: int, groups: Sequence[int]) -> Tensor:
        """Of each rival on each window, over all groups: one is to be right from beginning to end; [rivals, B].

        At the model's own resolution: what decides is what moves where, and it takes as many passes as rivals. By PSNR
        alone, which is what they are measured by: with moving pixels counted apart, others win than the nearest.
        """
        clean, camera = shrunk(clean, self._frame_size), shrunk(camera, self._frame_size)
        target = torch.cat([group_of(clean, n, group) for group in groups])
        errors = []
        for number in self._rivals:
            same = torch.full((len(decoded),), number, device=decoded.device)
            refined, _ = self._refine(decoded, camera, camera, n, groups, same)
            each = self._log_errors(refined - target)
            errors.append(each.unflatten(0, (len(groups), len(decoded))).mean((0, 2)))
        return torch.stack(errors)

    def _n_open(self, n: int, generator: torch.Generator) -> int:
        """How many are not for number 0. Always the same where that is whole: compiled programs have fixed shapes."""
        return int(n * (1 - GUESS_SHARE) + torch.rand((), generator=generator).item())

    def _drawn(self, winners: Tensor, generator: torch.Generator) -> Tensor:
        """The winners, int64 [B] from 0 on, at times any other in their place."""
        chance = torch.rand(len(winners), generator=generator) < ANY_RIVAL
        any_of_them = torch.randint(len(self._rivals), (len(winners),), generator=generator)
        return torch.where(chance.to(winners.device), any_of_them.to(winners.device), winners)
