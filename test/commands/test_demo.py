"""`cosmos_ros demo`: what it makes of a prediction. That it runs from every install is shown in test/packaging."""

from __future__ import annotations

import json
import signal

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from cosmos_ros.commands import demo
from cosmos_ros.recordings.rollout_writer import PublishedRollout
from cosmos_ros.rollout import Clip, Crop

pytestmark = pytest.mark.processes

RATE = 10.0


@pytest.fixture
def comparison(tmp_path_factory) -> demo.Comparison:
    """A square that moves right; the prediction has it 40 grey levels too dark. The model sees the left 96 pixels."""

    def clip(stamps_ns: list[int]) -> Clip:
        pictures = np.full((len(stamps_ns), 64, 100, 3), 60, np.uint8)
        for picture, stamp in zip(pictures, stamps_ns, strict=True):
            x = 2 * stamp // 10**8
            picture[20:40, x : x + 20] = 200
        return Clip(pictures, tuple(stamps_ns), RATE)

    summary = {
        "conditioning_stamps_ns": [k * 10**8 for k in range(9)],
        "stamps_ns": [(9 + k) * 10**8 for k in range(24)],
        "timing_s": {"tokenizing": 0.25, "prompt_guard": 0.0, "generating": 3.5},
        "frame_rate": RATE,
        "seams": [],
        "seed": 7,
    }
    seen, truth = clip(summary["conditioning_stamps_ns"]), clip(summary["stamps_ns"])
    folder, crop = tmp_path_factory.mktemp("published"), Crop(0, 0, 96, 64)
    np.save(folder / "frames.npy", crop.of(truth.frames) - 40)
    (folder / "rollout.json").write_text(json.dumps(summary))
    return demo.Comparison(PublishedRollout(folder, crop), seen, truth)


def test_psnr_is_taken_of_each_frame_against_the_truth(comparison):
    psnr = comparison.psnr_db()
    assert psnr["predicted"] == pytest.approx([20 * np.log10(255 / 40)] * 24)
    # The last frame repeated is the further from the truth the further the square has moved, until they part.
    assert len(psnr["last frame repeated"]) == 24
    assert psnr["last frame repeated"][0] > psnr["last frame repeated"][5] > psnr["last frame repeated"][9]
    assert psnr["last frame repeated"][15] == pytest.approx(psnr["last frame repeated"][23])


def test_the_table_names_stages_and_both_rows(comparison):
    table = demo.table(comparison)
    rows = dict(line.rsplit(maxsplit=1) for line in table.splitlines() if line[-1:].isdigit())
    assert rows["tokenizing"] == "0.25"
    assert rows["prompt guard"] == "0.00"
    assert rows["all"] == "3.75"
    assert rows["predicted"] == "16.09"
    assert float(rows["last frame repeated"]) > 0
    assert "mean over the frames" in table


def test_video_sheet_and_numbers_are_written(comparison, tmp_path):
    assert demo.write(comparison, tmp_path) == [
        tmp_path / n for n in ("rollout.mp4", "contact_sheet.png", "comparison.webp", "rollout.json")
    ]
    with av.open(str(tmp_path / "rollout.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 33
        assert video.streams.video[0].average_rate == RATE
    assert cv2.imread(str(tmp_path / "contact_sheet.png")).ndim == 3
    with Image.open(tmp_path / "comparison.webp") as animation:
        assert animation.n_frames == 33 and animation.info["loop"] == 0
    written = json.loads((tmp_path / "rollout.json").read_text())
    assert written["seed"] == 7
    assert written["psnr_db_per_frame"]["predicted"] == pytest.approx([20 * np.log10(255 / 40)] * 24, abs=1e-3)


def test_a_place_that_refuses_is_an_error_in_one_line_before_anything_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(demo, "predict_over_ros", None)  # nothing is predicted that could not be written
    from cosmos_ros.commands.cli import main

    assert main(["demo", "--out", str(tmp_path / "file")]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("cosmos_ros demo: ") and errors.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_the_imports_are_through(number):
    """In an import it might be swallowed, or end the demo at once while its processes run on."""
    before, through = signal.signal(number, signal.default_int_handler), False
    try:
        with pytest.raises(KeyboardInterrupt), demo._interrupts_held_back():
            signal.raise_signal(number)
            through = True
        assert through and signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
