"""A clip and the rollout that follows it, guarded here or in a node: as mp4, contact sheet, or beside what happened.

Predicted frames are marked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from cosmos_ros.recordings import films
from cosmos_ros.recordings.contact_sheet import contact_sheet
from cosmos_ros.rollout import NANOSECONDS, Clip, Crop, GuardedRollout

CAMERA = (110, 118, 129)  # the border of frames that the camera took, RGB
PREDICTED = (242, 112, 36)  # the border of frames that the model predicted from the camera's
LATER = (136, 72, 168)  # of those that it predicted from predicted ones, in later stretches


@dataclass(frozen=True, eq=False)
class PublishedRollout:
    """A rollout that a node let out through its guardrail and `predict_client` wrote into a folder.

    Its pixels had left the node through the guardrail before. That is no seal: whoever can write to the folder could
    write pictures without this class as well.

    crop      what the frames show of the camera's image
    summary   rollout.json
    frames    uint8 [n, height, width, 3] RGB, read-only

    Raises OSError, ValueError where the folder does not hold one.
    """

    folder: InitVar[Path]
    crop: Crop
    summary: dict = field(init=False)
    frames: np.ndarray = field(init=False)

    def __post_init__(self, folder: Path) -> None:
        object.__setattr__(self, "summary", json.loads((folder / "rollout.json").read_text()))
        object.__setattr__(self, "frames", np.load(folder / "frames.npy"))
        self.frames.flags.writeable = False

    @property
    def conditioning_stamps_ns(self) -> tuple[int, ...]:
        return tuple(self.summary["conditioning_stamps_ns"])

    @property
    def stamps_ns(self) -> tuple[int, ...]:
        return tuple(self.summary["stamps_ns"])

    @property
    def seams(self) -> tuple[int, ...]:
        return tuple(self.summary["seams"])

    @property
    def frame_rate(self) -> float:
        return self.summary["frame_rate"]


def mp4_of(clip: Clip, rollout: GuardedRollout | PublishedRollout) -> bytes:
    """The conditioning frames, cropped to what the model saw, then the predicted ones, at the rollout's rate.

    H.264, which every browser plays. Raises TypeError for any other rollout.
    """
    return films.mp4(_marked(clip, rollout), rollout.frame_rate)


def contact_sheet_of(clip: Clip, rollout: GuardedRollout | PublishedRollout) -> bytes:
    """The same frames as one PNG, in reading order. Raises TypeError for any other rollout."""
    return _png(_marked(clip, rollout))


def comparison_of(clip: Clip, rollout: GuardedRollout | PublishedRollout, truth: Clip) -> bytes:
    """At the left what the camera saw, at the right the clip and then the prediction: an animated WebP without end.

    truth  the camera's frames at the rollout's stamps

    Raises TypeError for any other rollout.
    """
    right, now_ns = _marked(clip, rollout), clip.stamps_ns[-1]
    seen = rollout.crop.of(np.concatenate([clip.frames, truth.frames]))
    left = _labelled(seen, (*clip.stamps_ns, *rollout.stamps_ns), now_ns, "camera", CAMERA)
    pairs = [np.concatenate(pair, axis=1) for pair in zip(left, right, strict=True)]
    return films.animated_webp(pairs, rollout.frame_rate)


def _png(frames: Sequence[np.ndarray]) -> bytes:
    """Frames uint8 [H, W, 3] RGB of one size as one PNG."""
    sheet = contact_sheet(np.stack(frames), max_width=400)
    return cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes()


def _marked(clip: Clip, rollout: GuardedRollout | PublishedRollout) -> list[np.ndarray]:
    """Camera frames, then predicted ones, uint8 [H, W, 3] RGB: each bordered, with its time after the last seen."""
    if not isinstance(rollout, (GuardedRollout, PublishedRollout)):
        raise TypeError(f"only a GuardedRollout may be written, from Foresight.predict; got {type(rollout).__name__}")
    now_ns = clip.stamps_ns[-1]
    n = min(rollout.seams, default=len(rollout.frames) + 1) - 1  # frames of the first stretch
    return [
        *_labelled(rollout.crop.of(clip.frames), clip.stamps_ns, now_ns, "camera", CAMERA),
        *_labelled(rollout.frames[:n], rollout.stamps_ns[:n], now_ns, "predicted", PREDICTED),
        *_labelled(rollout.frames[n:], rollout.stamps_ns[n:], now_ns, "predicted", LATER),
    ]


def _labelled(
    frames: np.ndarray, stamps_ns: Iterable[int], now_ns: int, word: str, colour: tuple[int, int, int]
) -> list[np.ndarray]:
    offsets = ((stamp - now_ns) / NANOSECONDS for stamp in stamps_ns)
    return [
        films.labelled(frame, f"{word} {offset:+.2f} s", colour) for frame, offset in zip(frames, offsets, strict=True)
    ]
