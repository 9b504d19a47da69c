"""Windows' numbers -> means with 95 % intervals, and what they say in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from scipy import stats

from cosmos_ros.metrics.perceptual import FVD_CLIPS, frechet_distance

METRICS = ("psnr", "moving_psnr", "ssim", "motion_error", "sampson", "lpips")  # the last where its weights were given
HIGHER_IS_BETTER = ("psnr", "moving_psnr", "ssim")
OF_N = ("model_mean_of_n", "model_best_of_n")
BASELINES = ("repeat_last_frame", "constant_flow", "tokenizer_round_trip")
FAILURE_WORDS = {"solid_colour": "degraded to one solid colour", "sudden_object": "had a large object appear at once"}
SOLID_COLOUR = "Solid_Colour"  # the class by which the embedded guardrail refuses a rollout
RESAMPLES = 2000
FEWEST = 6  # windows for an interval: fewer are all on one side by chance alone more often than one time in twenty
CONFIDENCE = 0.95


def summarise(records: Sequence[Mapping]) -> dict:
    """Of the windows that were measured; those whose rollout was refused count as refused and nowhere else.

    Intervals are percentile bootstraps over windows, 2000 resamples, always the same ones; of fewer than FEWEST there
    is none. Windows that overlap, or lie close together in one recording, resemble each other: the true intervals are
    then wider.
    """
    measured = [record for record in records if "samples" in record]
    summary = {
        "windows": len(measured),
        "refused": len(records) - len(measured),
        "rows": {},
        "against": {},
        "failures": _failures(measured, [record["refused"] for record in records if "refused" in record]),
        "modified_by_guards": sum(any(s["modified_by_guards"] for s in record["samples"]) for record in measured),
    }
    if measured:
        tables = _tables(measured)
        summary["rows"] = {row: {name: _interval(table) for name, table in by.items()} for row, by in tables.items()}
        summary["against"] = {row: _against_row(tables["model"], tables[row]) for row in BASELINES}
        # What several samples are worth: their mean and the best of them.
        summary["of_n_against_floor"] = {
            row: _against_row(tables[row], tables["repeat_last_frame"]) for row in OF_N if row in tables
        }
        summary["moving_share"] = bootstrap(np.array([record["moving_share"] for record in measured]))
        if "video_features" in measured[0]:
            summary["fvd"] = _frechet_video_distances(measured)
    summary["verdict"] = verdict(summary)
    return summary


def window_means(record: Mapping) -> dict[str, dict[str, float | None]]:
    """Row -> metric -> mean over the horizon of one measured window."""
    tables = _tables([record])
    return {row: {metric: _number(_mean(table)) for metric, table in by.items()} for row, by in tables.items()}


def verdict(summary: Mapping) -> list[str]:
    """What the numbers say, in sentences, the bad news as plainly as the good."""
    if not summary["windows"]:
        return ["No window could be evaluated: there is nothing to say about the model."]
    sentences = [
        _against("repeat_last_frame", "repeating the last frame, the floor", summary),
        _against("constant_flow", "going on with constant optical flow", summary),
        *_samples(summary),
    ]
    if _above_floor(summary) < 0:
        sentences.insert(0, _hopeless(summary))
    else:
        sentences.append(_ceiling(summary))
    if "fvd" in summary and summary["windows"] < FVD_CLIPS:
        sentences.append(f"FVD over {summary['windows']} windows means little: it takes about {FVD_CLIPS:,}.")
    for kind, words in FAILURE_WORDS.items():
        rollouts, decoded, truths = (
            summary["failures"][name][kind] for name in ("model", "tokenizer_round_trip", "truth")
        )
        sentences.append(
            f"{rollouts['count']} of {rollouts['of']} rollouts {words}; that detector's false alarms: "
            f"{truths['count']} on {truths['of']} true futures, {decoded['count']} on their tokenizer round trips."
        )
    if refused := summary["refused"]:
        sentences.append(
            f"{refused} more windows are left out: the rollout or the round trip was refused, or was not finite."
        )
    if modified := summary["modified_by_guards"]:
        sentences.append(
            f"In {modified} of {summary['windows']} windows a guard changed predicted pixels before they were measured."
        )
    return sentences


def _above_floor(summary: Mapping) -> float:
    """By how much the tokenizer's round trip of the true future is better than the floor, dB PSNR."""
    rows = summary["rows"]
    return rows["tokenizer_round_trip"]["psnr"]["mean"] - rows["repeat_last_frame"]["psnr"]["mean"]


def _hopeless(summary: Mapping) -> str:
    return (
        "No rollout of this model can beat repeating the last frame, the floor, here: its tokenizer's round trip of "
        f"the true future, the ceiling, already lies {-_above_floor(summary):.2f} dB PSNR below it."
    )


def _ceiling(summary: Mapping) -> str:
    above = -summary["against"]["tokenizer_round_trip"]["psnr"]["mean"]
    side = "above" if above >= 0 else "below"
    return f"Its tokenizer's round trip of the true future, the ceiling, lies {abs(above):.2f} dB PSNR {side} it."


def _samples(summary: Mapping) -> list[str]:
    """What the mean and the best of several samples are worth; nothing where there is one."""
    if "model_best_of_n" not in summary["of_n_against_floor"]:
        return []
    mean, best = (summary["of_n_against_floor"][row]["psnr"]["mean"] for row in OF_N)
    return [f"Against the floor, the mean of its samples has {mean:+.2f} dB PSNR, and the best of them {best:+.2f} dB."]


def _against(row: str, words: str, summary: Mapping) -> str:
    by = summary["against"][row]
    psnr, better = by["psnr"], by["psnr"]["better"]
    numbers = f"{_decibels(psnr)}, better in {better['count']} of {better['of']} windows"
    if by["moving_psnr"]["mean"] is not None:
        numbers += f"; {_decibels(by['moving_psnr'])} on the pixels that move"
    if "ssim" in by:
        numbers += f"; {by['ssim']['mean']:+.3f} SSIM"
    if psnr["mean"] <= 0:
        return f"The model does not beat {words}: {numbers}."
    if psnr["low"] is None:
        few = "one window is" if better["of"] == 1 else f"{better['of']} windows are"
        return f"The model is ahead of {words}, but {few} too few to tell whether by more than chance: {numbers}."
    if psnr["low"] <= 0:
        return f"The model is ahead of {words}, but not beyond chance: {numbers}."
    return f"The model beats {words}: {numbers}."


def _decibels(difference: Mapping) -> str:
    mean, low, high = (difference[name] for name in ("mean", "low", "high"))
    interval = "" if low is None else f" (95 % interval {low:+.2f} to {high:+.2f})"
    return f"{mean:+.2f} dB PSNR{interval}"


def _tables(records: Sequence[Mapping]) -> dict[str, dict[str, np.ndarray]]:
    """Row -> metric -> float64 [windows, steps], NaN where a metric could not tell."""
    metrics = [metric for metric in METRICS if metric in records[0]["repeat_last_frame"]]

    def table(curve: Callable[[Mapping, str], np.ndarray]) -> dict[str, np.ndarray]:
        return {metric: np.stack([curve(record, metric) for record in records]) for metric in metrics}

    tables = {"model": table(_one_sample)}
    if len(records[0]["samples"]) > 1:
        tables["model_mean_of_n"] = table(lambda record, metric: _array(record["mean_of_samples"][metric]))
        tables["model_best_of_n"] = table(_best_of_samples)
    for row in BASELINES:
        tables[row] = table(partial(_of_row, row))
    if "sampson" in metrics:
        tables["truth"] = {"sampson": np.stack([_array(record["truth"]["sampson"]) for record in records])}
    return tables


def _of_row(row: str, record: Mapping, metric: str) -> np.ndarray:
    return _array(record[row][metric])


def _frechet_video_distances(records: Sequence[Mapping]) -> dict[str, float | None]:
    """Row -> FVD between its videos, all samples of all windows, and the true futures; None of fewer than two."""
    features = {
        row: np.array([values for record in records for values in record["video_features"][row]])
        for row in ("model", *BASELINES, "truth")
    }
    truth = features.pop("truth")
    if len(truth) < 2:
        return dict.fromkeys(features)
    return {row: _number(frechet_distance(of_row, truth)) for row, of_row in features.items()}


def _one_sample(record: Mapping, metric: str) -> np.ndarray:
    """The mean of the curves of those samples that are refined as the first is: what that one can expect.

    Other hypotheses of a refiner are alternatives, which are worse guesses each by itself.
    """
    samples = record["samples"]
    alike = [sample for sample in samples if sample["hypothesis"] == samples[0]["hypothesis"]]
    return _mean(np.stack([_array(sample[metric]) for sample in alike]), axis=0)


def _best_of_samples(record: Mapping, metric: str) -> np.ndarray:
    """The curve of the sample that is best in the mean over the horizon, by this metric."""
    curves = np.stack([_array(sample[metric]) for sample in record["samples"]])
    means = _mean(curves, axis=1) * _sign(metric)
    return curves[0 if np.isnan(means).all() else int(np.nanargmax(means))]


def _interval(table: np.ndarray) -> dict:
    """Mean over windows and steps, and per step, each with its interval."""
    steps = [bootstrap(table[:, step]) for step in range(table.shape[1])]
    return bootstrap(_mean(table, axis=1)) | {
        "per_step": {key: [step[key] for step in steps] for key in ("mean", "low", "high")}
    }


def _against_row(row: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict:
    """Metric -> row minus other, window by window, and in how many windows the row is the better one."""
    against = {}
    for metric, table in other.items():
        differences = _mean(row[metric] - table, axis=1)
        known = differences[~np.isnan(differences)]
        better = rate(int((known * _sign(metric) > 0).sum()), len(known))
        against[metric] = bootstrap(differences) | {"better": better}
    return against


def _sign(metric: str) -> int:
    return 1 if metric in HIGHER_IS_BETTER else -1


def bootstrap(values: np.ndarray) -> dict:
    """Mean of one number per window, and its percentile bootstrap interval; NaN are windows that could not tell.

    Of fewer than FEWEST windows there is no interval: two of them span only the two numbers that they have.
    """
    values = values[~np.isnan(values)]
    if len(values) < FEWEST:
        return {"mean": _number(values.mean()) if len(values) else None, "low": None, "high": None}
    low, high = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return {"mean": _number(values.mean()), "low": _number(low), "high": _number(high)}


def _failures(records: Sequence[Mapping], refusals: Sequence[Mapping]) -> dict:
    """How often each detector fires: on rollouts, and falsely, on what the camera truly saw and on its round trip.

    A rollout that the guardrail refused for its solid colour never came here, but failed no less.
    """
    judged = {
        "model": [sample["failures"] for record in records for sample in record["samples"]]
        + [[{"kind": "solid_colour"}] if SOLID_COLOUR in refusal["reasons"] else [] for refusal in refusals],
        "tokenizer_round_trip": [record["tokenizer_round_trip"]["failures"] for record in records],
        "truth": [record["truth"]["failures"] for record in records],
    }
    return {
        name: {kind: rate(sum(kind in _kinds(found) for found in each), len(each)) for kind in FAILURE_WORDS}
        for name, each in judged.items()
    }


def _kinds(found: Sequence[Mapping]) -> set[str]:
    return {failure["kind"] for failure in found}


def rate(count: int, of: int) -> dict:
    """A share with its 95 % Wilson interval."""
    if not of:
        return {"count": 0, "of": 0, "rate": None, "low": None, "high": None}
    low, high = stats.binomtest(count, of).proportion_ci(CONFIDENCE, method="wilson")
    return {"count": count, "of": of, "rate": _number(count / of), "low": _number(low), "high": _number(high)}


def _mean(table: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Over the numbers that are there; NaN where there is none."""
    there = ~np.isnan(table)
    count = there.sum(axis=axis)
    return np.where(count > 0, np.where(there, table, 0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _number(value: float | np.ndarray) -> float | None:
    """For JSON, which has no NaN; rounded, so that the last bit of a sum is no difference."""
    return None if np.isnan(value) else round(float(value), 6)
