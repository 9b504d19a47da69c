"""How a refiner's hypotheses are trained on rollouts: number 0 to be the best single guess, the others to differ.

Some of a step's windows are for number 0. For each of the others every other hypothesis refines a rollout of its own,
and the one whose frames come nearest to what happened learns from that (winner takes all). What is rewarded is that one
of them is right, so that together they cover what may happen, where a single one would blend it: multiple choice
learning (Guzman-Rivera et al. 2012), on videos' frames and with a few that did not win (Rupprecht et al. 2017,
arXiv:1612.00197).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cosmos_ros.training.datasets.clips import shrunk
from cosmos_ros.training.losses import log_errors
from cosmos_ros.training.refiner_network import Refiner
from cosmos_ros.training.round_trips import RefinerPrograms, compiled, group_of

GUESS_SHARE = 0.5  # of windows, that number 0 learns from
# Share of the others' windows that any of them learns from: one that never wins would stay as it is.
ANY_HYPOTHESIS = 0.15


class Competition:
    """Which hypothesis learns from which window, and from which of its rollouts.

    decode  tokens int64 [B, t, h, w] -> video [B, 3, 33, h, w] in [-1, 1], whatever B
    """

    def __init__(self, refiner: Refiner, decode: Callable[[Tensor], Tensor], frame_size: tuple[int, int]) -> None:
        self._others = refiner.hypotheses - 1
        self._decode, self._frame_size = decode, frame_size
        self._refine = RefinerPrograms(refiner)
        self._log_errors = compiled(log_errors, refiner.exit.weight.device)

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
        predicted  all rollouts, or none, [samples, B, t, h, w]
        clean, camera  true frames as they were and as the refiner sees them, [B, 3, 33, H, W]
        n, groups  conditioning frames, and the groups after them that are refined in this step

        Where there is one hypothesis, or no rollout, number 0 learns from all.
        """
        hypothesis = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        n_open = self._n_open(len(tokens), generator) if self._others and len(predicted) else 0
        if not n_open:
            return self._decode(tokens), hypothesis
        order = torch.randperm(len(tokens), generator=generator).to(tokens.device)
        opened, guessed = order[:n_open], order[n_open:]
        rollouts = self._rollouts(len(predicted), generator)
        used = sorted(set(rollouts))
        of_opened = predicted[used][:, opened].long().flatten(0, 1)
        shown = self._decoded(torch.cat([tokens[guessed], of_opened]), len(tokens))
        candidates = shown[len(guessed) :].unflatten(0, (len(used), n_open))
        own = [used.index(rollout) for rollout in rollouts]  # of the candidates, each hypothesis's
        errors = self.errors([candidates[each] for each in own], clean[opened], camera[opened], n, groups)
        learns = self._drawn(errors.argmin(0), generator)
        of_learning = torch.tensor(own, device=learns.device)[learns]
        decoded = torch.empty_like(shown[: len(tokens)])
        decoded[guessed] = shown[: len(guessed)]
        decoded[opened] = candidates[of_learning, torch.arange(n_open, device=learns.device)]
        hypothesis[opened] = 1 + learns
        return decoded, hypothesis

    def errors(self, decoded: Sequence[Tensor], clean: Tensor, camera: Tensor, n: int, groups: Sequence[int]) -> Tensor:
        """Of hypotheses 1, 2, ... on each window, over all groups: one is to be right from beginning to end; [H-1, B].

        decoded  what each refines, [B, 3, 33, h, w]

        At the model's own resolution: what decides is what moves where, and it takes as many passes as hypotheses.
        """
        clean, camera = shrunk(clean, self._frame_size), shrunk(camera, self._frame_size)
        target = torch.cat([group_of(clean, n, group) for group in groups])
        errors = []
        for number, frames in enumerate(decoded, 1):
            which = torch.full((len(frames),), number, device=frames.device)
            refined, last = self._refine(frames, camera, camera, n, groups, which)
            each = self._log_errors(refined - target, target, last[:, :, None])
            errors.append(each.unflatten(0, (len(groups), len(frames))).mean((0, 2)))
        return torch.stack(errors)

    def _n_open(self, n: int, generator: torch.Generator) -> int:
        """How many are not for number 0. Always the same where that is whole: compiled programs have fixed shapes."""
        return int(n * (1 - GUESS_SHARE) + torch.rand((), generator=generator).item())

    def _rollouts(self, samples: int, generator: torch.Generator) -> list[int]:
        """Which rollout hypotheses 1, 2, ... refine: each its own, as the samples of a prediction do."""
        first = int(torch.randint(samples, (), generator=generator))
        return [(first + number) % samples for number in range(1, self._others + 1)]

    def _drawn(self, winners: Tensor, generator: torch.Generator) -> Tensor:
        """The winners, int64 [B] from 0 on, at times any other in their place."""
        chance = torch.rand(len(winners), generator=generator) < ANY_HYPOTHESIS
        any_of_them = torch.randint(self._others, (len(winners),), generator=generator)
        return torch.where(chance.to(winners.device), any_of_them.to(winners.device), winners)

    def _decoded(self, tokens: Tensor, at_once: int) -> Tensor:
        return torch.cat([self._decode(some) for some in tokens.split(at_once)])
