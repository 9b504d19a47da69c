"""Which of a refiner's hypotheses a measure is of, and what a refiner in training is measured by."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cosmos_ros.training.evaluation import HeldOutRollouts, evaluate
from cosmos_ros.world_model import Sampling, Transformer, TransformerConfig

SIZE = (16, 32)
CONFIG = TransformerConfig(1, 16, 2, 1, 8, 16, 12, 12, latent_shape=(5, 1, 2))


class Brighter(nn.Module):
    """The last conditioning frame, brighter by a tenth for each hypothesis."""

    def __init__(self, hypotheses: int, trusting: int | None) -> None:
        super().__init__()
        self.hypotheses = hypotheses
        if trusting is not None:
            self.trusting = trusting

    def forward(self, decoded: torch.Tensor, conditioning: torch.Tensor, hypothesis: int) -> torch.Tensor:
        return conditioning[:, :, -1:].expand(-1, -1, 8, -1, -1) + 0.1 * hypothesis


class Alone(nn.Module):
    """Takes no number."""

    def forward(self, decoded: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        return conditioning[:, :, -1:].expand(-1, -1, 8, -1, -1) + 0.1


@pytest.mark.parametrize(
    ("refine", "rollout", "ceiling"),
    [(Brighter(4, 3), 0, 3), (Brighter(4, 1), 0, 1), (Brighter(4, None), 0, 0), (Alone(), 1, 1)],
)
def test_the_ceiling_is_refined_by_the_hypothesis_that_trusts_the_tokens_and_a_rollout_by_the_best_guess(
    refine, rollout, ceiling
):
    """Of a scene that stands still: all that is wrong is what a hypothesis adds."""
    torch.manual_seed(0)
    clips = torch.full((3, 33, *SIZE, 3), 100, dtype=torch.uint8)
    figures = evaluate(
        lambda video: torch.zeros(len(video), *CONFIG.latent_shape, dtype=torch.int64),
        lambda tokens: torch.zeros(len(tokens), 3, 33, *SIZE),
        refine,
        Transformer(CONFIG).eval(),
        clips,
        SIZE,
        Sampling(seed=0, temperature=1.0, top_p=0.9),
        batch=2,
    )
    psnr = [20 * torch.log10(255 / torch.tensor(12.75 * steps).round()) for steps in (1, 2, 3)]
    expected = [figures["repeat_last"], *psnr]
    assert figures["clips"] == 3 and figures["repeat_last"] > 70
    assert figures["rollout"] == pytest.approx(float(expected[rollout]), abs=0.4)
    assert figures["ceiling"] == pytest.approx(float(expected[ceiling]), abs=0.4)


def rolled_out(clips: torch.Tensor, decode=lambda tokens: torch.zeros(len(tokens), 3, 33, *SIZE)) -> HeldOutRollouts:
    torch.manual_seed(0)
    return HeldOutRollouts.of(
        lambda video: torch.zeros(len(video), 10, dtype=torch.int64),
        decode,
        Transformer(CONFIG).eval(),
        clips,
        SIZE,
        Sampling(seed=0, temperature=1.0, top_p=0.9),
    )


def test_a_refiner_in_training_is_measured_by_its_best_guess_and_by_each_clips_best_hypothesis():
    clips = torch.full((2, 33, *SIZE, 3), 100, dtype=torch.uint8)
    clips[0, 9:] += 26  # what hypothesis 2 says, but for rounding
    gains = rolled_out(clips).gains(Brighter(3, None), torch.device("cpu"))
    floor, right = (20 * math.log10(255 / error) for error in (26, 0.5))
    assert gains["held_out_gain"] == pytest.approx(0)
    assert gains["held_out_best_gain"] > (right - floor) / 2, "nothing is gained where the last frame stays right"


def test_a_refiner_in_training_refines_what_was_predicted():
    """One that shows the decoded frames is measured by these."""

    class Decoded(nn.Module):
        def forward(self, decoded: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
            return decoded[:, :, -8:]

    clips = torch.full((9, 33, *SIZE, 3), 100, dtype=torch.uint8)
    clips[:, 9:] += 50
    tokens_seen: list[torch.Tensor] = []

    def decode(tokens: torch.Tensor) -> torch.Tensor:
        tokens_seen.append(tokens)
        return torch.full((len(tokens), 3, 33, *SIZE), 140 / 127.5 - 1)

    gains = rolled_out(clips, decode).gains(Decoded(), torch.device("cpu"))
    assert {tokens.shape[1:] for tokens in tokens_seen} == {CONFIG.latent_shape}
    assert sum(map(len, tokens_seen)) == len(clips)
    gain = 20 * math.log10(50 / 10)
    assert gains == pytest.approx({"held_out_gain": gain, "held_out_best_gain": gain}, abs=0.1)
