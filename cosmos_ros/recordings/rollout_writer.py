"""A clip and the rollout that follows it, guarded here or in a node: as mp4, contact sheet, or beside what happened.

Predicted frames are marked.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cosmos_ros.files import write_whole
from cosmos_ros.recordings.contact_sheet import contact_sheet
from cosmos_ros.rollout import NANOSECONDS, Clip, Crop, GuardedRollout

CAMERA = (110, 118, 129)  # the border of frames that the camera took, RGB
PREDICTED = (242, 112, 36)  # the border of frames that the model predicted
COMPARISON_WIDTH = 900  # pixels, of an animation
REST_MS = 1000  # of an animation, before it begins again
MIN_WIDTH = 320  # pixels; smaller pictures are enlarged by a whole factor, so that their label can be read


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
    def frame_rate(self) -> float:
        return self.summary["frame_rate"]


def write_mp4(path: str | Path, clip: Clip, rollout: GuardedRollout | PublishedRollout) -> None:
    """The conditioning frames, cropped to what the model saw, then the predicted ones, at the rollout's rate.

    H.264, which every browser plays. The file is there whole or not at all.
    Raises TypeError for any other rollout, OSError where the disk refuses.
    """
    write_whole(path, _mp4(_marked(clip, rollout), rollout.frame_rate))


def write_contact_sheet(path: str | Path, clip: Clip, rollout: GuardedRollout | PublishedRollout) -> None:
    """The same frames as one PNG, in reading order.

    Raises TypeError for any other rollout, OSError where the disk refuses.
    """
    write_whole(path, _png(_marked(clip, rollout)))


def write_comparison(path: str | Path, clip: Clip, rollout: GuardedRollout | PublishedRollout, truth: Clip) -> None:
    """At the left what the camera saw, at the right the clip and then the prediction: an animated WebP without end.

    truth  the camera's frames at the rollout's stamps

    Raises TypeError for any other rollout, OSError where the disk refuses.
    """
    right, now_ns = _marked(clip, rollout), clip.stamps_ns[-1]
    seen = rollout.crop.of(np.concatenate([clip.frames, truth.frames]))
    left = _labelled(seen, (*clip.stamps_ns, *rollout.stamps_ns), now_ns, "camera", CAMERA)
    pairs = [np.concatenate(pair, axis=1) for pair in zip(left, right, strict=True)]
    write_whole(path, _webp(pairs, rollout.frame_rate))


def _webp(frames: Sequence[np.ndarray], frame_rate: float) -> bytes:
    """Frames uint8 [H, W, 3] RGB as an animation of at most COMPARISON_WIDTH pixels, which rests on the last frame."""
    height, width = frames[0].shape[:2]
    size = min(width, COMPARISON_WIDTH), round(height * min(1.0, COMPARISON_WIDTH / width))
    pictures = [Image.fromarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA)) for frame in frames]
    file, last = io.BytesIO(), len(frames) - 1
    durations_ms = [round(1000 / frame_rate) + (REST_MS if i == last else 0) for i in range(len(frames))]
    pictures[0].save(
        file, "webp", save_all=True, append_images=pictures[1:], duration=durations_ms, loop=0, quality=80, method=4
    )
    return file.getvalue()


def _mp4(frames: Sequence[np.ndarray], frame_rate: float) -> bytes:
    """Frames uint8 [H, W, 3] RGB of even size as an H.264 mp4, colours tagged as BT.709."""
    # Loaded here: a robot that only runs the node needs no video encoder.
    import av
    from av.video.reformatter import ColorRange, Colorspace

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1001))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16", "preset": "fast"}
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue()


def _png(frames: Sequence[np.ndarray]) -> bytes:
    """Frames uint8 [H, W, 3] RGB of one size as one PNG."""
    sheet = contact_sheet(np.stack(frames), max_width=400)
    return cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes()


def _marked(clip: Clip, rollout: GuardedRollout | PublishedRollout) -> list[np.ndarray]:
    """Camera frames, then predicted ones, uint8 [H, W, 3] RGB: each bordered, with its time after the last seen."""
    if not isinstance(rollout, (GuardedRollout, PublishedRollout)):
        raise TypeError(f"only a GuardedRollout may be written, from Foresight.predict; got {type(rollout).__name__}")
    now_ns = clip.stamps_ns[-1]
    return [
        *_labelled(rollout.crop.of(clip.frames), clip.stamps_ns, now_ns, "camera", CAMERA),
        *_labelled(rollout.frames, rollout.stamps_ns, now_ns, "predicted", PREDICTED),
    ]


def _labelled(
    frames: np.ndarray, stamps_ns: Iterable[int], now_ns: int, word: str, colour: tuple[int, int, int]
) -> list[np.ndarray]:
    offsets = ((stamp - now_ns) / NANOSECONDS for stamp in stamps_ns)
    return [_label(frame, f"{word} {offset:+.2f} s", colour) for frame, offset in zip(frames, offsets, strict=True)]


def _label(frame: np.ndarray, text: str, colour: tuple[int, int, int]) -> np.ndarray:
    """The frame, pixels untouched, within a coloured border whose upper side carries the text; of even size."""
    factor = math.ceil(MIN_WIDTH / frame.shape[1])
    frame = np.repeat(np.repeat(frame, factor, axis=0), factor, axis=1)
    height, width = frame.shape[:2]
    # All even: 4:2:0 video has one colour sample for two pixels by two, which must not mix border and picture.
    border = 2 * max(2, width // 320)
    bar = 2 * max(11, width // 44)
    canvas = np.empty((height + height % 2 + bar + border, width + width % 2 + 2 * border, 3), np.uint8)
    canvas[:] = colour
    canvas[bar : bar + height, border : border + width] = frame
    scale = bar / 40
    thickness = max(1, round(scale * 1.6))
    cv2.putText(
        canvas,
        text,
        (2 * border, round(0.72 * bar)),
        cv2.FONT_HERSHEY_SIMPLEX,
        scale,
        (255, 255, 255),
        thickness,
        cv2.LINE_AA,
    )
    return canvas
