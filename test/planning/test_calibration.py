"""The conformal threshold keeps its promise, and a calibration is used where it is valid and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cosmos_ros.errors import SettingError
from cosmos_ros.planning.calibration import Calibration, Validity, Way, fit

HERE = Validity("tiny", "f" * 64, (32, 64), 10.0)
WAY = Way(9, 0.9, 0.8)
STEPS = 8


def predictions(rng: np.random.Generator, n: int, extra: float = 0.0) -> list:
    """Signs of nominal predictions: they grow with the step, and those of one prediction go together."""
    made = []
    for _ in range(n):
        common = rng.gamma(2.0)
        made.append(
            [
                (k, {"place": k * common * rng.gamma(3.0) + k * extra, "whole": common + 0.1 * rng.normal()})
                for k in range(1, STEPS + 1)
            ]
        )
    return made


@pytest.fixture(scope="module")
def nominal():
    rng = np.random.default_rng(1)
    return fit([predictions(rng, 10) for _ in range(40)])


def test_no_more_nominal_predictions_are_surprising_than_alpha_says():
    """Over many calibrations: the share of new nominal predictions with any frame over the threshold."""
    rng, alpha = np.random.default_rng(2), 0.1
    shares = []
    for _ in range(40):
        nominal = fit([predictions(rng, 1) for _ in range(60)])
        limit = nominal.limit(alpha)
        new = predictions(rng, 25)
        shares.append(np.mean([any(nominal.on_scale(*step) > limit for step in prediction) for prediction in new]))
    assert 0.5 * alpha < np.mean(shares) <= alpha + 3 * np.std(shares) / np.sqrt(len(shares))


def test_a_threshold_holds_at_every_step(nominal):
    """Late steps err more: on the common scale they do not."""
    rng = np.random.default_rng(3)
    values = np.array([[nominal.on_scale(*step) for step in prediction] for prediction in predictions(rng, 400)])
    over = (values > np.quantile(values, 0.9)).mean(axis=0)
    assert over.max() < 3 * over.min()


def test_what_is_far_from_nominal_is_over_the_threshold(nominal):
    limit = nominal.limit(0.05)
    strange = predictions(np.random.default_rng(4), 20, extra=200.0)
    assert all(nominal.on_scale(*step) > limit for prediction in strange for step in prediction)


def test_the_score_is_the_share_of_nominal_frames_below_and_goes_on_to_rise(nominal):
    fresh = [nominal.on_scale(*step) for each in predictions(np.random.default_rng(5), 300) for step in each]
    scores = [nominal.score(value) for value in fresh]
    assert np.quantile(scores, 0.5) == pytest.approx(0.5, abs=0.1)
    beyond = [nominal.score(nominal.shares[-1][0] + more) for more in (0, 1e-3, 10, 1e6)]
    assert beyond == sorted(beyond) and len(set(beyond)) == 4 and beyond[-1] <= 1
    assert nominal.score(-1e9) == 0


def test_a_step_that_was_not_calibrated_has_no_value(nominal):
    assert nominal.on_scale(STEPS + 1, {"place": 1e9}) is None
    assert nominal.on_scale(1, {"tokens": 1e9}) is None


def test_too_few_predictions_for_an_alpha_are_said(nominal):
    with pytest.raises(
        SettingError, match=r"surprise_alpha 0.001 needs 999 predictions .* has 200 .* at least 0.00498"
    ):
        nominal.limit(0.001)


def test_whole_recordings_go_to_one_half():
    """A recording whose frames are all alike must not be on both sides."""
    rng = np.random.default_rng(6)
    odd = [[(1, {"place": 1000.0 + rng.normal()})] for _ in range(5)]
    even = [[(1, {"place": rng.normal()})] for _ in range(5)]
    assert fit([even, odd, even]).greatest[0] > 100


def test_four_predictions_are_the_least():
    with pytest.raises(SettingError, match="four predictions"):
        fit([predictions(np.random.default_rng(7), 3)])


@pytest.fixture
def calibration(nominal) -> Calibration:
    return Calibration(HERE, WAY, nominal, nominal, 40, 400, {"every_s": 1.0})


def test_it_survives_the_file(calibration, tmp_path):
    calibration.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == calibration
    assert (tmp_path / "calibration.json").stat().st_size < 100_000


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"weights": "0" * 64}, "model tiny with weights 000000000000, and this is tiny with weights ffffffffffff"),
        ({"frame_rate": 5.0}, r"frame_rate 5.0 \(here 10.0\)"),
        ({"frame_size": (16, 32)}, r"frame_size \(16, 32\) \(here \(32, 64\)\)"),
    ],
)
def test_another_models_calibration_is_refused(calibration, there, says):
    calibration.require(HERE)
    with pytest.raises(SettingError, match=says):
        replace(calibration, validity=replace(HERE, **there)).require(HERE)


def with_model(text: str, **changes: object) -> str:
    content = json.loads(text)
    return json.dumps(content | {"model": content["model"] | changes})


def with_scale(text: str, **changes: object) -> str:
    scales = json.loads(text)["model"]["scales"]
    return with_model(text, scales=scales | {"place": scales["place"] | changes})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:100], "cannot be read"),
        (lambda text: "[]", "is no calibration"),
        (lambda text: text.replace("surprise/1", "surprise/9"), "got 'cosmos_ros/surprise/9'"),
        (lambda text: json.dumps(json.loads(text) | {"model": {}}), "is damaged"),
        (lambda text: json.dumps(json.loads(text) | {"way": {"top_p": 1}}), "is damaged"),
        (lambda text: text.replace('"greatest": [', '"greatest": [1e99,', 1), "must be finite and rise"),
        (lambda text: text.replace('"greatest": [', '"greatest": [NaN,', 1), "must be finite and rise"),
        (lambda text: text.replace('"recordings": 40', '"recordings": 1e999'), "is damaged"),
        (lambda text: with_model(text, scales={}), "nothing could ever be surprising"),
        (lambda text: with_model(text, shares=[[0.0, 0.0], [1.0, 7.0]]), "a share must lie in 0..1"),
        (lambda text: with_scale(text, steps=[1, 2, 2, 4, 5, 6, 7, 8]), "needs steps that rise from 1"),
        (lambda text: with_scale(text, median=[0.0]), "a median and a spread for each"),
        (lambda text: with_scale(text, median=[float("nan")] * STEPS), "medians must be finite"),
        (lambda text: with_scale(text, spread=[0.0] * STEPS), "above 0"),
        (lambda text: with_scale(text, spread=[None] * STEPS), "is damaged"),
        (lambda text: with_scale(text, breadth=[1.0] * STEPS), "is damaged"),
    ],
)
def test_what_is_no_calibration_is_refused(calibration, tmp_path, damage, says):
    file = tmp_path / "calibration.json"
    calibration.save(file)
    file.write_text(damage(file.read_text()))
    with pytest.raises(SettingError, match=says):
        Calibration.load(file)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SettingError, match="cannot be read"):
        Calibration.load(tmp_path / "none.json")


def test_no_sign_sets_the_threshold_for_the_others():
    """One that has a heavy tail on nominal recordings leaves another one as sharp as it is alone."""
    rng = np.random.default_rng(8)

    def made(n: int) -> list:
        return [[(1, {"still": rng.normal(), "place": rng.pareto(1.0)})] for _ in range(n)]

    nominal = fit([made(10) for _ in range(40)])
    assert nominal.on_scale(1, {"still": 6.0}) > nominal.limit(0.05)
