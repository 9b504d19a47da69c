"""One window's numbers; a window that the model fails in is an outcome, and the evaluation goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_ros.commands import cli
from cosmos_ros.evaluation.measure import Settings, WindowEvaluator
from cosmos_ros.recordings.windows import Window
from cosmos_ros.rollout import Clip
from cosmos_ros.settings import ForesightConfig

pytestmark = pytest.mark.slow  # as a whole

START = 1_700_000_000_000_000_000


class BreaksOnGrey(torch.nn.Module):
    """A decoder whose pixels are no numbers where the first frame is grey (170, token 42) all over."""

    def __init__(self, decoder: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        pixels = self.decoder(tokens)
        if bool((tokens[:, 0] == 42).all()):
            pixels = pixels * float("nan")
        return pixels


@pytest.fixture
def breaking_checkpoint(tiny_checkpoint, tmp_path) -> Path:
    checkpoint = tmp_path / "breaking"
    shutil.copytree(tiny_checkpoint, checkpoint)
    decoder = torch.jit.load(str(checkpoint / "decoder.jit"))
    torch.jit.script(BreaksOnGrey(decoder)).save(str(checkpoint / "decoder.jit"))
    return checkpoint


@pytest.fixture(scope="module")
def measured(tiny_checkpoint, moving_scene):
    """measured(frames): the record of one window of 9 + 48 frames, measured over so many."""
    scene = moving_scene(57)
    stamps = tuple(START + k * 10**8 for k in range(57))
    window = Window("key", "bag", stamps[8], Clip(scene[:9], stamps[:9], 10.0), Clip(scene[9:], stamps[9:], 10.0))
    config = ForesightConfig(checkpoint=str(tiny_checkpoint), device="cpu")
    evaluator = WindowEvaluator(Settings(config, metrics=()))

    def measure(frames: int | None) -> dict:
        evaluator.settings = replace(evaluator.settings, frames=frames)
        return evaluator(window).record

    return measure


@pytest.mark.parametrize(("frames", "n", "seams"), [(8, 8, []), (None, 24, []), (33, 40, [25]), (48, 48, [25])])
def test_every_horizon_is_measured_on_the_same_frames(measured, frames, n, seams):
    record, longest = measured(frames), measured(48)
    assert record["seams"] == seams
    for row in ("repeat_last_frame", "constant_flow", "tokenizer_round_trip"):
        assert len(record[row]["psnr"]) == n
        assert record[row]["psnr"] == longest[row]["psnr"][:n]
    assert record["samples"][0]["psnr"] == longest["samples"][0]["psnr"][:n]
    assert min(record["tokenizer_round_trip"]["psnr"]) > max(record["samples"][0]["psnr"]), "the ceiling"


@pytest.mark.processes
def test_windows_whose_pixels_are_no_numbers_count_as_refused_and_the_others_are_measured(
    breaking_checkpoint, tmp_path, write_bag, moving_scene
):
    grey = np.full((20, 48, 64, 3), 170, np.uint8)
    frames = np.concatenate([grey, moving_scene(33)])
    bag = write_bag(tmp_path / "bag", frames, [START + k * 10**8 for k in range(len(frames))])
    options = [
        "--out",
        str(tmp_path / "out"),
        "--checkpoint",
        str(breaking_checkpoint),
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    assert cli.main(["evaluate", str(bag), *options]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["complete"]
    *refused, measured = metrics["windows"]
    assert [window["refused"]["code"] for window in refused] == ["MODEL_UNAVAILABLE"] * 2
    assert all("no finite numbers" in window["refused"]["message"] for window in refused)
    assert len(measured["samples"][0]["psnr"]) == 24 and "refused" not in measured
    assert (metrics["summary"]["windows"], metrics["summary"]["refused"]) == (1, 2)
    assert refused[0]["refused"]["message"] in (tmp_path / "out" / "report.html").read_text()
