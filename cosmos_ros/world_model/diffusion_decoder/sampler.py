"""From noise to latents: the schedule of noise levels and the two solvers with which the decoder was published.

Both start at a noise level of 80 and take Karras' schedule (arXiv:2206.00364, rho 7) down to 0.02. Cosmos-Predict1
takes Euler steps, the last of them to 0. Cosmos 1.0 takes second-order multistep steps (RES 2ab, arXiv:2308.02157,
an exponential Adams-Bashforth) and gives what the network sees at 0.02. Which one made a published figure decides
which one a folder is run with: the weights do not differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

SIGMA_MAX, SIGMA_MIN = 80.0, 0.02
SIGMA_DATA = 0.5  # standard deviation of latents, by which they are scaled
RHO = 7.0
PUBLISHED_STEPS = 15

Denoise = Callable[[Tensor, float], Tensor]  # noisy latents at a noise level -> what they would be without noise
Sampling = Generator[None, None, Tensor]  # gives None after every evaluation, and latents in the end


@dataclass(frozen=True)
class Solver:
    """One of the two.

    name         in the log
    noise_scale  by which standard normal noise is multiplied at the start
    extra        evaluations beyond one for each step
    run          noisy latents, number of steps, what removes noise -> latents
    """

    name: str
    noise_scale: float
    extra: int
    run: Callable[[Tensor, int, Denoise], Sampling]

    def sample(self, noise: Tensor, steps: int, denoise: Denoise) -> Sampling:
        """Latents, in float64, of standard normal noise. Closing the generator ends it.

        steps  15 as published; fewer take less time and come less close

        Raises ValueError for fewer than one step.
        """
        require_steps(steps)
        return self.run(noise.double() * self.noise_scale, steps, denoise)


def require_steps(steps: int) -> None:
    """Raises ValueError for fewer than one: what came out would be noise."""
    if steps < 1:
        raise ValueError(f"the diffusion decoder takes at least one step; got {steps}")


def levels(count: int) -> list[float]:
    """That many noise levels from the highest to the lowest."""
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [(high + i / max(count - 1, 1) * (low - high)) ** RHO for i in range(count)]


def _euler(x: Tensor, steps: int, denoise: Denoise) -> Sampling:
    for sigma, lower in pairwise([*levels(steps), 0.0]):
        x = _first_order(x, sigma, lower, denoise(x, sigma))
        yield
    return x


def _multistep(x: Tensor, steps: int, denoise: Denoise) -> Sampling:
    before: tuple[Tensor, float] | None = None
    for sigma, lower in pairwise(levels(steps + 1)):
        clean = denoise(x, sigma)
        here = (x, sigma, lower, clean)
        x = _first_order(*here) if before is None else _second_order(*here, *before)
        before = (clean, sigma)
        yield
    clean = denoise(x, SIGMA_MIN)
    yield
    return clean


def _first_order(x: Tensor, sigma: float, lower: float, clean: Tensor) -> Tensor:
    return clean + (x - clean) * (lower / sigma)


def _second_order(
    x: Tensor, sigma: float, lower: float, clean: Tensor, earlier: Tensor, earlier_sigma: float
) -> Tensor:
    """A step of the logarithm of the noise level, with what the network saw at this level and at the one before."""
    step = math.log(sigma / lower)
    back = math.log(sigma / earlier_sigma) / step  # of the level before, in steps; negative
    phi1 = -math.expm1(-step) / step
    phi2 = (1 - phi1) / step
    newer, older = phi1 - phi2 / back, phi2 / back
    return math.exp(-step) * x + step * (newer * clean + older * earlier)


EULER = Solver("EDM Euler", math.hypot(SIGMA_MAX, 1.0), 0, _euler)
MULTISTEP = Solver("RES 2ab", SIGMA_MAX, 1, _multistep)
