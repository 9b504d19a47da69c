"""One window -> its numbers: the model and what it is held against, on the same frames."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import cv2
import numpy as np

from cosmos_ros.device.devices import resolve_device
from cosmos_ros.errors import NotFinite, VideoBlocked
from cosmos_ros.foresight import Foresight, ForesightConfig
from cosmos_ros.goal_checks import check_prompt, sampling_of
from cosmos_ros.guardrail_report import Verdict
from cosmos_ros.metrics import fidelity
from cosmos_ros.metrics.baselines import constant_flow, repeat_last
from cosmos_ros.metrics.failures import Failure, failures
from cosmos_ros.metrics.perceptual import Perceptual
from cosmos_ros.recordings.windows import Window
from cosmos_ros.rollout import Clip, Crop, GuardedRollout
from cosmos_ros.world_model import ModelSpec, Sampling
from cosmos_ros.world_model.preprocessing import camera_view

PLAYER_WIDTH = 320  # pixels, of the pictures that the report plays
PLAYER_QUALITY = 80  # JPEG
DIFFERENCE_GAIN = 2  # of the difference that the report shows
METRICS = ("psnr", "moving_psnr", "ssim", "motion_error", "sampson")  # per horizon step; LPIPS where its weights are
DECODED = ("model", "tokenizer_round_trip")  # the rows whose frames a decoder made


@dataclass(frozen=True)
class Settings:
    """What decides the numbers, besides the recordings.

    seed     of the first sample; sample i takes seed + i, in every window, as a goal with that seed would
    samples  rollouts per window
    frames   of each rollout, as Foresight.predict takes them; None: the model's own number
    temperature, top_p  None: what the model's makers recommend
    lpips_weights, fvd_weights  files as Perceptual takes them; empty: without that metric
    metrics  those of METRICS that are computed; both kinds of PSNR always are
    """

    foresight: ForesightConfig
    seed: int = 0
    samples: int = 1
    frames: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    prompt: str = ""
    lpips_weights: str = ""
    fvd_weights: str = ""
    metrics: tuple[str, ...] = METRICS

    def sampling(self, spec: ModelSpec) -> Sampling:
        """How this model's tokens are drawn. Raises InvalidGoal for what it could predict no window with."""
        check_prompt(spec, self.prompt)
        return sampling_of(spec, self.seed, self.temperature, self.top_p, self.samples)


@dataclass(frozen=True)
class Videos:
    """What one window's rows show, each uint8 [n, H, W, 3]: the part of the camera's image that the model sees.

    camera, decoded_camera  what goes before true and before decoded frames
    truth                   the true frames
    rows                    frames of each row, of the model's first sample
    crop                    where they lie in the camera's image
    """

    camera: np.ndarray
    decoded_camera: np.ndarray
    truth: np.ndarray
    rows: dict[str, np.ndarray]
    crop: Crop
    _failures: dict[str, list[Failure]] = field(default_factory=dict, repr=False)

    def before(self, row: str) -> np.ndarray:
        """The frames that this row goes on from."""
        return self.decoded_camera if row in DECODED else self.camera

    def failures(self, row: str) -> list[Failure]:
        """Of a row, or of the true frames ("truth"); looked for once."""
        if row not in self._failures:
            frames = self.truth if row == "truth" else self.rows[row]
            self._failures[row] = failures(self.before(row)[-1], frames)
        return self._failures[row]


@dataclass(frozen=True)
class Outcome:
    """record is JSON-able and the same each time; pictures is JSON for the report's player, empty where refused."""

    key: str
    record: dict
    pictures: str
    seconds: dict[str, float] = field(default_factory=dict)


def moving_share(window: Window, frame_size: tuple[int, int]) -> float:
    """Of the pixels that a model of this (height, width) sees, those that change within the horizon."""
    crop = camera_view(window.clip.frames.shape[1:3], frame_size)
    moving = fidelity.moving(crop.of(window.clip.frames)[-1], crop.of(window.truth.frames))
    return float(moving.any(axis=0).mean())


class WindowEvaluator:
    """Evaluates windows with a model of its own, on one device. Raises BadWeights, ForesightError."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.foresight = Foresight(settings.foresight)
        self.foresight.load()
        device = resolve_device(settings.foresight.device)
        self.perceptual = Perceptual(settings.lpips_weights, settings.fvd_weights, device)

    def __call__(self, window: Window, also: Callable[[Videos], dict] | None = None) -> Outcome:
        """A rollout that was refused is part of the outcome; every other ForesightError is raised.

        also  gives what else the record is to hold
        """
        started = time.monotonic()
        record = {
            "key": window.key,
            "bag": window.bag,
            "time_ns": window.time_ns,
            "conditioning_stamps_ns": list(window.clip.stamps_ns),
            "truth_stamps_ns": list(window.truth.stamps_ns),
        }
        try:
            rollouts = [self._predict(window, sample) for sample in range(self.settings.samples)]
            predicted = time.monotonic()
            round_trip = self._round_trip(window)
        except (VideoBlocked, NotFinite) as error:
            return Outcome(window.key, record | {"refused": _refusal(error)}, "")
        videos = _videos(window, rollouts[0], round_trip)
        record |= _measured(videos, rollouts, self.perceptual, self.settings.metrics)
        record |= also(videos) if also else {}
        pictures = _pictures(window, rollouts[0])
        seconds = {"predicting": predicted - started, "measuring": time.monotonic() - predicted}
        return Outcome(window.key, record, pictures, seconds)

    def _predict(self, window: Window, sample: int) -> GuardedRollout:
        settings = self.settings
        return self.foresight.predict(
            window.clip,
            settings.prompt,
            seed=settings.seed + sample,
            temperature=settings.temperature,
            top_p=settings.top_p,
            frames=settings.frames,
        )

    def _round_trip(self, window: Window) -> np.ndarray:
        """The true frames through the tokenizer, from the second one of the clip on: uint8 [n, H, W, 3].

        Chunk by chunk, each with the frames after a clip's length: as the stretches of a rollout are decoded.
        """
        spec, clip, truth = self.foresight.spec, window.clip, window.truth
        frames, stamps = np.concatenate([clip.frames, truth.frames]), clip.stamps_ns + truth.stamps_ns
        chunk, step = 1 + spec.new_frames(1), spec.new_frames(spec.conditioning_lengths[0])
        last = len(frames) - chunk
        decoded: list[np.ndarray] = []
        for begin in (min(begin, last) for begin in range(0, last + step, step)):
            part = slice(begin, begin + chunk)
            of_chunk = Clip(frames[part], stamps[part], clip.frame_rate)
            decoded.extend(self.foresight.reconstruct(of_chunk, self.settings.prompt).frames[len(decoded) - begin :])
        return np.stack(decoded)


def _refusal(error: VideoBlocked | NotFinite) -> dict:
    decisions = error.report.decisions if error.report is not None else ()
    reasons = [decision.detail for decision in decisions if decision.verdict is Verdict.REFUSED]
    return {"code": error.code, "message": str(error), "reasons": reasons}


def _videos(window: Window, rollout: GuardedRollout, round_trip: np.ndarray) -> Videos:
    """Every row's frames, at the camera's pixel scale."""
    crop, n, n_camera = rollout.crop, len(rollout.frames), len(window.clip.frames)
    camera = np.ascontiguousarray(crop.of(window.clip.frames))
    # Decoded frames are never as sharp as the camera's. Their motion is measured from the decoded clip on: the step
    # from camera to decoder would count as motion, and as an object that appears. An image's own round trip is not
    # to be had: the first frame of a chunk is the one that a reconstruction goes on from.
    decoded = round_trip[: n_camera - 1]
    return Videos(
        camera=camera,
        decoded_camera=decoded if len(decoded) else camera,
        truth=np.ascontiguousarray(crop.of(window.truth.frames[:n])),
        rows={
            "model": rollout.frames,
            "repeat_last_frame": repeat_last(camera, n),
            "constant_flow": constant_flow(camera, n),
            "tokenizer_round_trip": round_trip[n_camera - 1 : n_camera - 1 + n],
        },
        crop=crop,
    )


def _measured(
    videos: Videos, rollouts: Sequence[GuardedRollout], perceptual: Perceptual, metrics: Sequence[str]
) -> dict:
    """Every row's numbers."""
    camera, truth, rows = videos.camera, videos.truth, videos.rows
    decoded_camera, decoded_truth = videos.decoded_camera, rows["tokenizer_round_trip"]
    moving = fidelity.moving(camera[-1], truth)
    motion = fidelity.motion(camera[-1], truth) if "motion_error" in metrics else None
    measure = _Measure(truth, motion, moving, perceptual, metrics)
    # The floor stands still from the last frame on: it has no geometry that could be right or wrong.
    still = repeat_last(camera, len(camera))
    return {
        "crop": asdict(videos.crop),
        "seams": list(rollouts[0].seams),
        "moving_share": round(float(moving.any(axis=0).mean()), 5),
        "samples": [
            measure.row(decoded_camera, rollout.frames)
            | {
                "seed": rollout.seed,
                "hypothesis": rollout.decoding.hypothesis,
                "failures": _listed(found),
                "modified_by_guards": [
                    decision.guard for decision in rollout.guardrail.decisions if decision.verdict is Verdict.MODIFIED
                ],
            }
            for rollout, found in zip(rollouts, _failures(videos, rollouts), strict=True)
        ],
        **_mean_row(measure, decoded_camera, rollouts),
        "repeat_last_frame": measure.row(still, rows["repeat_last_frame"]),
        "constant_flow": measure.row(camera, rows["constant_flow"]),
        "tokenizer_round_trip": measure.row(decoded_camera, decoded_truth)
        | {"failures": _listed(videos.failures("tokenizer_round_trip"))},
        "truth": measure.geometry(camera, truth) | {"failures": _listed(videos.failures("truth"))},
        **perceptual.of_videos(
            {
                "model": [rollout.frames for rollout in rollouts],
                **{row: [frames] for row, frames in rows.items() if row != "model"},
                "truth": [truth],
            }
        ),
    }


@dataclass(frozen=True)
class _Measure:
    """Holds frames against one window's truth, uint8 [n, H, W, 3].

    motion  its optical flow, [n, h, w, 2]; None where it is not asked for
    moving  its pixels that have changed since the last camera frame, bool [n, H, W]
    """

    truth: np.ndarray
    motion: np.ndarray | None
    moving: np.ndarray
    perceptual: Perceptual
    metrics: Sequence[str]

    def row(self, before: np.ndarray, frames: np.ndarray) -> dict[str, list[float | None]]:
        """Per horizon step; `before` are the frames that `frames` go on from."""
        numbers = {
            "psnr": _rounded(fidelity.psnr(frames, self.truth)),
            "moving_psnr": _rounded(fidelity.moving_psnr(frames, self.truth, self.moving)),
        }
        if "ssim" in self.metrics:
            numbers["ssim"] = _rounded(fidelity.ssim(frames, self.truth))
        if self.motion is not None:
            errors = fidelity.endpoint_error(fidelity.motion(before[-1], frames), self.motion)
            numbers["motion_error"] = _rounded(errors)
        perceptual = self.perceptual.per_step(frames, self.truth)
        return numbers | self.geometry(before, frames) | {name: _rounded(each) for name, each in perceptual.items()}

    def geometry(self, before: np.ndarray, frames: np.ndarray) -> dict[str, list[float | None]]:
        """What needs no truth."""
        return {"sampson": _rounded(fidelity.sampson_error(before, frames))} if "sampson" in self.metrics else {}


def _mean_row(measure: _Measure, before: np.ndarray, rollouts: Sequence[GuardedRollout]) -> dict[str, dict]:
    """The pixel-wise mean of several rollouts, measured like one of them and shown to nobody; of one, nothing."""
    if len(rollouts) == 1:
        return {}
    mean = np.mean([rollout.frames for rollout in rollouts], axis=0, dtype=np.float32)
    return {"mean_of_samples": measure.row(before, np.rint(mean).astype(np.uint8))}


def _failures(videos: Videos, rollouts: Sequence[GuardedRollout]) -> list[list[Failure]]:
    """Of each rollout; the first one is the model's row."""
    before = videos.decoded_camera[-1]
    return [videos.failures("model"), *(failures(before, rollout.frames) for rollout in rollouts[1:])]


def _listed(found: Sequence[Failure]) -> list[dict]:
    return [asdict(failure) for failure in found]


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 5) for value in values]


def _pictures(window: Window, rollout: GuardedRollout) -> str:
    """What the report's player shows of a window, as JSON with JPEG frames in base64."""
    truth = rollout.crop.of(window.truth.frames[: len(rollout.frames)])
    difference = np.abs(rollout.frames.astype(np.int16) - truth) * DIFFERENCE_GAIN
    return json.dumps(
        {
            "frame_rate": rollout.frame_rate,
            "camera": _jpegs(rollout.crop.of(window.clip.frames)),
            "predicted": _jpegs(rollout.frames),
            "truth": _jpegs(truth),
            "difference": _jpegs(np.minimum(difference, 255).astype(np.uint8)),
        }
    )


def _jpegs(frames: np.ndarray) -> list[str]:
    """Frames uint8 [n, H, W, 3] as JPEG in base64, at most PLAYER_WIDTH wide."""
    height, width = frames.shape[1:3]
    scale = min(1.0, PLAYER_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = (cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames)
    coded = (
        cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, PLAYER_QUALITY])[1]
        for frame in small
    )
    return [base64.b64encode(jpeg.tobytes()).decode() for jpeg in coded]
