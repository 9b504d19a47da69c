"""One window's numbers; a window that the model fails in is an outcome, and the evaluation goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_ros.commands import cli

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
