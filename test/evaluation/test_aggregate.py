"""Means, intervals and the words for them."""

from __future__ import annotations

import numpy as np
import pytest

from cosmos_ros.evaluation.aggregate import summarise, verdict, window_means

STEPS = 4


def curves(psnr: float, sampson: float | None = 0.2) -> dict:
    return {
        "psnr": [psnr - k for k in range(STEPS)],
        "moving_psnr": [None, *([psnr - 9] * (STEPS - 1))],
        "ssim": [psnr / 50] * STEPS,
        "motion_error": [1 / psnr] * STEPS,
        "sampson": [sampson] * STEPS,
    }


def record(
    i: int, model: list[float], floor: float = 20.0, failing: bool = False, false: bool = False, hypotheses: int = 1
) -> dict:
    failure = [{"kind": "sudden_object", "frame": 2, "detail": "x"}]
    return {
        "key": f"000-{i}",
        "time_ns": i,
        "moving_share": 0.1 * i,
        "mean_of_samples": curves(sum(model) / len(model) + 1),
        "samples": [
            curves(psnr)
            | {
                "seed": s,
                "hypothesis": s % hypotheses,
                "failures": failure if failing else [],
                "modified_by_guards": [],
            }
            for s, psnr in enumerate(model)
        ],
        "repeat_last_frame": curves(floor, sampson=None),
        "constant_flow": curves(21.0),
        "tokenizer_round_trip": curves(30.0) | {"failures": []},
        "truth": {"sampson": [0.2] * STEPS, "failures": failure if false else []},
    }


def test_means_over_windows_and_steps():
    summary = summarise([record(i, [psnr]) for i, psnr in enumerate([24.0, 26.0] * 3)])
    psnr = summary["rows"]["model"]["psnr"]
    assert psnr["mean"] == pytest.approx(25.0 - 1.5)
    assert psnr["per_step"]["mean"] == pytest.approx([25.0, 24.0, 23.0, 22.0])
    assert 24.0 - 1.5 <= psnr["low"] < psnr["mean"] < psnr["high"] <= 26.0 - 1.5
    assert summary["rows"]["repeat_last_frame"]["sampson"]["mean"] is None
    assert "model_best_of_n" not in summary["rows"]


@pytest.mark.slow
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
    summary = summarise([record(0, [20.0, 26.0, 23.0]), record(1, [25.0, 19.0, 22.0])])
    rows, against = summary["rows"], summary["of_n_against_floor"]
    assert [against[row]["psnr"]["mean"] for row in ("model_mean_of_n", "model_best_of_n")] == pytest.approx([3.5, 5.5])
    assert "the mean of its samples has +3.50 dB PSNR, and the best of them +5.50 dB" in " ".join(summary["verdict"])
    assert rows["model"]["psnr"]["mean"] == pytest.approx((23.0 + 22.0) / 2 - 1.5)
    assert rows["model_mean_of_n"]["psnr"]["mean"] == pytest.approx((24.0 + 23.0) / 2 - 1.5)
    assert rows["model_best_of_n"]["psnr"]["mean"] == pytest.approx((26.0 + 25.0) / 2 - 1.5)
    assert rows["model_best_of_n"]["motion_error"]["mean"] == pytest.approx((1 / 26 + 1 / 25) / 2, abs=1e-6)


def test_what_one_sample_can_expect_is_told_by_those_that_the_same_hypothesis_refines():
    summary = summarise([record(0, [20.0, 26.0, 23.0, 5.0], hypotheses=2)])
    assert summary["rows"]["model"]["psnr"]["mean"] == pytest.approx((20.0 + 23.0) / 2 - 1.5)
    assert summary["rows"]["model_best_of_n"]["psnr"]["mean"] == pytest.approx(26.0 - 1.5)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ([24.0, 25.0, 26.0] * 2, "The model beats repeating the last frame, the floor: +5.00 dB PSNR"),
        ([15.0, 16.0, 14.0] * 2, "The model does not beat repeating the last frame, the floor: -5.00 dB PSNR"),
        ([10.0, 31.0] * 3, "The model is ahead of repeating the last frame, the floor, but not beyond chance"),
        ([20.0] * 6, "The model does not beat repeating the last frame, the floor: +0.00 dB PSNR"),
    ],
)
def test_the_verdict_says_plainly_whether_the_floor_is_beaten(model, words):
    summary = summarise([record(i, [value]) for i, value in enumerate(model)])
    assert summary["verdict"][0].startswith(words)
    assert verdict(summary) == summary["verdict"]


@pytest.mark.parametrize(("n", "few"), [(1, "one window is"), (2, "2 windows are"), (5, "5 windows are")])
def test_few_windows_have_no_interval_and_prove_nothing(n, few):
    summary = summarise([record(i, [25.0 + i]) for i in range(n)])
    assert summary["rows"]["model"]["psnr"]["low"] is None and summary["rows"]["model"]["psnr"]["mean"] is not None
    said = summary["verdict"][0]
    assert said.startswith(f"The model is ahead of repeating the last frame, the floor, but {few} too few to tell")
    assert f"better in {n} of {n} windows" in said and "interval" not in said


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


def test_a_tokenizer_that_loses_to_the_floor_by_itself_is_told_so_first():
    said = summarise([record(i, [19.0], floor=20.0) for i in range(3)])["verdict"]
    assert any("the ceiling, lies 11.00 dB PSNR above it" in sentence for sentence in said)
    assert not any("No rollout of this model can" in sentence for sentence in said)
    said = summarise([record(i, [32.0], floor=20.0) for i in range(3)])["verdict"]
    assert any("the ceiling, lies 2.00 dB PSNR below it" in sentence for sentence in said)
    said = summarise([record(i, [19.0], floor=33.0) for i in range(3)])["verdict"]
    assert said[0].startswith("No rollout of this model can beat repeating the last frame")
    assert said[0].endswith("the ceiling, already lies 3.00 dB PSNR below it.")


def test_differences_are_paired_and_windows_better_than_the_floor_are_counted():
    """Windows differ by 2 dB from each other, and by 1 dB from the floor each: the pairing tells."""
    records = [record(i, [20.0 + 2 * i + 1], floor=20.0 + 2 * i) for i in range(5)] + [record(5, [18.0], floor=20.0)]
    summary = summarise(records)
    floor = summary["against"]["repeat_last_frame"]
    for metric in ("psnr", "moving_psnr"):
        assert floor[metric]["mean"] == pytest.approx(0.5)
        assert -1 <= floor[metric]["low"] < floor[metric]["mean"] < floor[metric]["high"] <= 1
        assert (floor[metric]["better"]["count"], floor[metric]["better"]["of"]) == (5, 6)
    assert floor["motion_error"]["better"]["count"] == 5
    assert "better in 5 of 6 windows; +0.50 dB PSNR (95 % interval" in summary["verdict"][0]
    assert summary["moving_share"]["mean"] == pytest.approx(0.25)


def test_intervals_are_those_of_our_own_formulas():
    """What SciPy replaced: the same resamples of the windows, and Wilson's formula."""
    values = np.random.default_rng(3).normal(25, 2, 17)
    psnr = summarise([record(i, [value]) for i, value in enumerate(values)])["rows"]["model"]["psnr"]
    picks = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile((values - 1.5)[picks].mean(axis=1), [0.025, 0.975])
    assert (psnr["low"], psnr["high"]) == pytest.approx((low, high), abs=2e-6)
    false = summarise([record(i, [25.0]) for i in range(17)])["failures"]["truth"]["sudden_object"]
    assert (false["low"], false["high"]) == pytest.approx((0.0, 0.184318), abs=1e-6)
