"""What surprise is nominal: made from nominal recordings, kept in a small file, valid for one model.

Split conformal prediction (Vovk et al., Algorithmic Learning in a Random World, 2005; Lei et al., JASA 2018). One half
of the nominal predictions says how large each sign is at each step of the horizon, so that all signs and steps come to
one scale. On the other half each prediction gives one number: the greatest that it came to in its whole horizon. The
threshold is their conformal quantile, and so

    P(any frame of a nominal prediction is called surprising) <= alpha

if that prediction is exchangeable with those of the second half: the same model, camera, rate and kind of scene.
Predictions of one recording are not independent of each other, which is why a prediction and not a frame is the unit,
why whole recordings go to one half, and why many short recordings are better than one long one.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from cosmos_ros.errors import SettingError
from cosmos_ros.files import check_regular, write_whole
from cosmos_ros.world_model import ModelSpec

SCHEMA = "cosmos_ros/surprise/1"
UPPER = 0.9  # the quantile of a sign at a step by which the steps are brought to one scale
SHARES = 200  # points of the table that turns the common scale into shares of nominal frames
LEAST_SPREAD = 1e-3  # of a sign, so that one that never varies in nominal recordings has a scale

Signs = Mapping[str, float]
StepSigns = tuple[int, Signs]  # step (1..n) and what was measured there


@dataclass(frozen=True)
class Validity:
    """For what a calibration holds. All must be the same where it is used."""

    model: str
    weights: str  # SHA-256 over the model's files
    frame_size: tuple[int, int]  # height, width that the model sees
    frame_rate: float  # Hz


@dataclass(frozen=True)
class Way:
    """How the predictions were made. Others are compared as well, but a calibration says nothing of them."""

    conditioning_frames: int
    temperature: float
    top_p: float

    @classmethod
    def of(cls, spec: ModelSpec, conditioning_frames: int, temperature: float | None, top_p: float | None) -> Way:
        """None: the model's own."""
        return cls(
            conditioning_frames,
            spec.temperature if temperature is None else temperature,
            spec.top_p if top_p is None else top_p,
        )


@dataclass(frozen=True)
class Scale:
    """What one sign is in nominal recordings, by step: its median counts as 0, what lies `spread` above it as 1."""

    steps: tuple[int, ...]
    median: tuple[float, ...]
    spread: tuple[float, ...]

    def of(self, step: int, value: float) -> float | None:
        """The value on the common scale; None at a step that was not calibrated."""
        at = bisect.bisect_left(self.steps, step)
        if at == len(self.steps) or self.steps[at] != step:
            return None
        return (value - self.median[at]) / self.spread[at]


@dataclass(frozen=True)
class Nominal:
    """How surprising nominal frames are, for one way to predict.

    scales   of each sign
    shares   (value on the common scale, share of nominal frames below it), rising
    greatest of each prediction of the second half, rising
    """

    scales: dict[str, Scale]
    shares: tuple[tuple[float, float], ...]
    greatest: tuple[float, ...]

    def on_scale(self, step: int, signs: Signs) -> float | None:
        """The greatest of the signs on the common scale; None where nothing at this step was calibrated."""
        values = (self.scales[name].of(step, value) for name, value in signs.items() if name in self.scales)
        return max((value for value in values if value is not None), default=None)

    def score(self, value: float) -> float:
        """The share of nominal frames below a value of the common scale, 0..1. It rises beyond all of them."""
        values, shares = zip(*self.shares, strict=True)
        if value <= values[-1]:
            return float(np.interp(value, values, shares, left=0.0))
        return 1 - (1 - shares[-1]) / (1 + value - values[-1])

    def limit(self, alpha: float) -> float:
        """The value of the common scale that a nominal prediction exceeds with a probability of at most alpha.

        Raises SettingError where there are too few predictions to say so.
        """
        n = len(self.greatest)
        rank = math.ceil((n + 1) * (1 - alpha))
        if rank > n:
            raise SettingError(
                f"surprise_alpha {alpha:g} needs {math.ceil(1 / alpha) - 1} predictions to calibrate by, and this "
                f"calibration has {n} (half of those that were made): take at least {1 / (n + 1):.3g}, or calibrate "
                "anew with more recordings"
            )
        return self.greatest[rank - 1]


@dataclass(frozen=True)
class Calibration:
    """What the file holds: for what it is valid, and what is nominal for the model and for the floor."""

    validity: Validity
    way: Way
    model: Nominal
    floor: Nominal
    recordings: int
    predictions: int
    made_by: dict = field(default_factory=dict)  # for people: versions, names of the recordings

    def require(self, here: Validity) -> None:
        """Raises SettingError where it was made for another model, or for another way to use it."""
        there, wanted = asdict(self.validity), asdict(here)
        if there["weights"] != wanted["weights"]:
            raise SettingError(
                f"this calibration was made for the model {there['model']} with weights {there['weights'][:12]}, and "
                f"this is {wanted['model']} with weights {wanted['weights'][:12]}: make one with cosmos_ros calibrate"
            )
        if differing := [name for name in there if there[name] != wanted[name]]:
            facts = ", ".join(f"{name} {there[name]} (here {wanted[name]})" for name in differing)
            raise SettingError(f"this calibration was made with {facts}: make one with cosmos_ros calibrate")

    def save(self, path: str | Path) -> None:
        """Raises NotWritten, an OSError."""
        write_whole(path, json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Raises SettingError for what is no calibration."""
        try:
            check_regular(path)
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise SettingError(f"the calibration {path} cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise SettingError(
                f"{path} is no calibration: its schema must be {SCHEMA}; got {found!r}: make one with cosmos_ros "
                "calibrate"
            )
        try:
            return _read(content)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SettingError(f"the calibration {path} is damaged ({error!r}): make it anew") from error


def fit(recordings: Sequence[Sequence[Sequence[StepSigns]]]) -> Nominal:
    """What is nominal, from the predictions of each recording; of each prediction what was measured at its steps.

    Raises SettingError for fewer than four predictions.
    """
    first, second = _halves([[prediction for prediction in each if prediction] for each in recordings])
    if min(len(first), len(second)) < 2:
        raise SettingError(
            f"a calibration needs four predictions at the very least; these recordings gave {len(first) + len(second)}"
        )
    scales = _levelled(_scales(first), first)
    half = Nominal(scales, (), ())
    values = [[half.on_scale(step, signs) for step, signs in prediction] for prediction in second]
    known = [[value for value in each if value is not None] for each in values]
    frames = np.array([value for each in known for value in each])
    shares = np.linspace(0, 1, SHARES + 1)
    table = dict(
        zip(np.quantile(frames, shares).tolist(), (shares * len(frames) / (len(frames) + 1)).tolist(), strict=True)
    )
    return Nominal(scales, tuple(sorted(table.items())), tuple(sorted(max(each) for each in known if each)))


def _halves(recordings: list[list]) -> tuple[list, list]:
    """Whole recordings by turns; of a single one its first and its second half."""
    if len(recordings) == 1:
        (only,) = recordings
        return only[: len(only) // 2], only[len(only) // 2 :]
    return (
        [prediction for recording in recordings[::2] for prediction in recording],
        [prediction for recording in recordings[1::2] for prediction in recording],
    )


def _scales(predictions: Sequence[Sequence[StepSigns]]) -> dict[str, Scale]:
    found: dict[str, dict[int, list[float]]] = {}
    for prediction in predictions:
        for step, signs in prediction:
            for name, value in signs.items():
                found.setdefault(name, {}).setdefault(step, []).append(value)
    scales = {}
    for name, by_step in found.items():
        steps = tuple(sorted(step for step, values in by_step.items() if len(values) > 1))
        median, upper = (np.array([np.quantile(by_step[step], share) for step in steps]) for share in (0.5, UPPER))
        spread = np.maximum(upper - median, LEAST_SPREAD)
        scales[name] = Scale(steps, tuple(median.tolist()), tuple(spread.tolist()))
    return scales


def _levelled(scales: dict[str, Scale], predictions: Sequence[Sequence[StepSigns]]) -> dict[str, Scale]:
    """The scales, stretched so that the most surprising of these predictions comes to 1 by each sign alone.

    Else the sign with the heaviest tail would set the threshold for all of them.
    """
    levelled = {}
    for name, scale in scales.items():
        values = [
            [scale.of(step, signs[name]) for step, signs in prediction if name in signs] for prediction in predictions
        ]
        reach = max((value for each in values for value in each if value is not None), default=1.0)
        levelled[name] = replace(scale, spread=tuple(spread * max(reach, 1.0) for spread in scale.spread))
    return levelled


def _read(content: dict) -> Calibration:
    """Raises KeyError, TypeError, ValueError, AttributeError, OverflowError for what is no calibration's content."""
    return Calibration(
        Validity(**content["validity"] | {"frame_size": tuple(content["validity"]["frame_size"])}),
        Way(**content["way"]),
        _nominal(content["model"]),
        _nominal(content["floor"]),
        int(content["recordings"]),
        int(content["predictions"]),
        dict(content["made_by"]),
    )


def _nominal(part: dict) -> Nominal:
    shares = tuple((float(value), float(share)) for value, share in part["shares"])
    greatest = tuple(map(float, part["greatest"]))
    numbers = [*greatest, *(number for pair in shares for number in pair)]
    rises = list(greatest) == sorted(greatest) and list(shares) == sorted(shares)
    if not (shares and greatest and rises and np.isfinite(numbers).all()):
        raise ValueError("its numbers must be finite and rise")
    if not all(0 <= share <= 1 for _, share in shares):
        raise ValueError("a share must lie in 0..1")
    if not part["scales"]:
        raise ValueError("it has no scales, so that nothing could ever be surprising")
    return Nominal({name: _scale(**scale) for name, scale in part["scales"].items()}, shares, greatest)


def _scale(steps: Sequence[int], median: Sequence[float], spread: Sequence[float]) -> Scale:
    """One that gives a finite number for every finite sign, as no other would ever exceed a threshold."""
    scale = Scale(tuple(map(int, steps)), tuple(map(float, median)), tuple(map(float, spread)))
    rises = all(a < b for a, b in pairwise((0, *scale.steps)))
    if not (rises and len(scale.steps) == len(scale.median) == len(scale.spread)):
        raise ValueError("a scale needs steps that rise from 1, and a median and a spread for each")
    if not (np.isfinite([*scale.median, *scale.spread]).all() and all(spread > 0 for spread in scale.spread)):
        raise ValueError("a scale's medians must be finite, and its spreads finite and above 0")
    return scale
