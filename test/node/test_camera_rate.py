"""No camera image is lost while predictions run: the benchmark itself, with a load that any machine bears."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "camera_rate.py"


def test_the_buffer_loses_no_image_while_predictions_run(tiny_checkpoint, tmp_path):
    out = tmp_path / "rate.json"
    done = subprocess.run(
        [
            sys.executable,
            BENCH,
            "--rate",
            "15",
            "--size",
            "240x320",
            "--seconds",
            "3",
            "--checkpoint",
            tiny_checkpoint,
            "--out",
            out,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert (result["published"], result["lost"]) == (45, 0), result
    assert result["goals_with_a_rollout"] >= 1, "predictions ran meanwhile"
