"""Means, intervals and the words for them."""

from __future__ import annotations

import numpy as np
import pytest

from cosmos_ros.evaluation.aggregate import summarise, verdict, window_means

STEPS = 4


def curves(psnr: float, sampson: float | None = 0.2) -> dict:
    return {
        "psnr": [psnr - k for k in range(STEPS)],
        "ssim": [psnr / 50] * STEPS,
        "motion_error": [1 / psnr] * STEPS,
        "sampson": [sampson] * STEPS,
    }


def record(i: int, model: list[float], floor: float = 20.0, failing: bool = False, false: bool = False) -> dict:
    failure = [{"kind": "sudden_object", "frame": 2, "detail": "x"}]
    return {
        "key": f"000-{i}",
        "time_ns": i,
        "samples": [
            curves(psnr) | {"seed": s, "failures": failure if failing else [], "modified_by_guards": []}
            for s, psnr in enumerate(model)
        ],
        "repeat_last_frame": curves(floor, sampson=None),
        "constant_flow": curves(21.0),
        "tokenizer_round_trip": curves(30.0) | {"failures": []},
        "truth": {"sampson": [0.2] * STEPS, "failures": failure if false else []},
    }


def test_means_over_windows_and_steps():
    summary = summarise([record(0, [24.0]), record(1, [26.0])])
    psnr = summary["rows"]["model"]["psnr"]
    assert psnr["mean"] == pytest.approx(25.0 - 1.5)
    assert psnr["per_step"]["mean"] == pytest.approx([25.0, 24.0, 23.0, 22.0])
    assert psnr["low"] == pytest.approx(24.0 - 1.5) and psnr["high"] == pytest.approx(26.0 - 1.5)
    assert summary["rows"]["repeat_last_frame"]["sampson"]["mean"] is None
    assert "model_best_of_n" not in summary["rows"]


def test_the_interval_covers_the_mean_as_often_as_it_says():
    """Forty evaluations of thirty windows each, drawn around 25 dB: about 38 intervals hold it."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(40):
        psnr = summarise([record(i, [value]) for i, value in enumerate(rng.normal(25, 2, 30))])["rows"]["model"]["psnr"]
        hits += psnr["low"] <= 25 - 1.5 <= psnr["high"]
    assert 34 <= hits <= 40


def test_the_same_windows_give_the_same_summary_in_any_order_of_evaluation():
    records = [record(i, [20.0 + i]) for i in range(7)]
    assert summarise(records) == summarise(list(records))


def test_mean_of_n_and_best_of_n():
    rows = summarise([record(0, [20.0, 26.0, 23.0]), record(1, [25.0, 19.0, 22.0])])["rows"]
    assert rows["model"]["psnr"]["mean"] == pytest.approx((23.0 + 22.0) / 2 - 1.5)
    assert rows["model_best_of_n"]["psnr"]["mean"] == pytest.approx((26.0 + 25.0) / 2 - 1.5)
    assert rows["model_best_of_n"]["motion_error"]["mean"] == pytest.approx((1 / 26 + 1 / 25) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ([24.0, 25.0, 26.0, 25.0], "The model beats repeating the last frame, the floor: +5.00 dB PSNR"),
        ([15.0, 16.0, 15.0, 14.0], "The model does not beat repeating the last frame, the floor: -5.00 dB PSNR"),
        ([10.0, 31.0, 12.0, 30.0], "The model is ahead of repeating the last frame, the floor, but not beyond chance"),
        ([20.0, 20.0, 20.0, 20.0], "The model does not beat repeating the last frame, the floor: +0.00 dB PSNR"),
    ],
)
def test_the_verdict_says_plainly_whether_the_floor_is_beaten(model, words):
    summary = summarise([record(i, [value]) for i, value in enumerate(model)])
    assert summary["verdict"][0].startswith(words)
    assert verdict(summary) == summary["verdict"]


def test_one_window_has_no_interval_and_is_not_proof():
    summary = summarise([record(0, [25.0])])
    assert summary["rows"]["model"]["psnr"]["low"] is None
    assert "not beyond chance: +5.00 dB PSNR (one window: no interval)" in summary["verdict"][0]


def test_false_alarms_stand_beside_the_failures():
    records = [record(i, [25.0], failing=i < 3, false=i < 1) for i in range(10)]
    summary = summarise(records)
    found = summary["failures"]
    assert (found["model"]["sudden_object"]["count"], found["truth"]["sudden_object"]["count"]) == (3, 1)
    assert found["truth"]["sudden_object"]["rate"] == 0.1
    # Wilson's interval of 1 in 10, from the textbook.
    assert found["truth"]["sudden_object"]["low"] == pytest.approx(0.0179, abs=1e-4)
    assert found["truth"]["sudden_object"]["high"] == pytest.approx(0.4042, abs=1e-4)
    assert "3 of 10 rollouts had a large object appear at once; that detector's false alarms: 1 on 10" in " ".join(
        summary["verdict"]
    )


def test_refused_windows_are_counted_and_left_out_of_every_row():
    refusal = {"code": "BLOCKED_VIDEO", "message": "no", "reasons": ["Solid_Colour"]}
    summary = summarise([record(0, [25.0]), {"key": "000-9", "time_ns": 9, "refused": refusal}])
    assert (summary["windows"], summary["refused"]) == (1, 1)
    # It never came to the detector, but it is what the detector looks for.
    solid = summary["failures"]["model"]["solid_colour"]
    assert (solid["count"], solid["of"]) == (1, 2)
    assert summary["rows"]["repeat_last_frame"]["psnr"]["mean"] == pytest.approx(18.5)
    assert any("1 more windows are left out" in sentence for sentence in summary["verdict"])


def test_nothing_evaluated_is_said():
    summary = summarise([])
    assert summary["rows"] == {} and summary["verdict"] == [
        "No window could be evaluated: there is nothing to say about the model."
    ]


def test_window_means():
    means = window_means(record(0, [25.0]))
    assert means["model"]["psnr"] == pytest.approx(23.5) and means["repeat_last_frame"]["sampson"] is None


@pytest.mark.parametrize(("floor", "hopeless"), [(20.0, False), (33.0, True)])
def test_a_tokenizer_that_loses_to_the_floor_by_itself_is_told_so(floor, hopeless):
    summary = summarise([record(i, [19.0], floor=floor) for i in range(3)])
    ceiling = next(sentence for sentence in summary["verdict"] if "the ceiling" in sentence)
    assert "lies 11.00 dB PSNR above it" in ceiling
    assert ("3.00 dB below the floor: no rollout of this model could" in ceiling) is hopeless
