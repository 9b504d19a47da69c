"""Frames as films: bordered and labelled pictures, H.264 video, animated WebP."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np
from PIL import Image

ANIMATION_WIDTH = 900  # pixels, at most
REST_MS = 1000  # of an animation on its last frame, before it begins again
MIN_WIDTH = 320  # pixels; smaller pictures are enlarged by a whole factor, so that their label can be read


def mp4(frames: Sequence[np.ndarray], frame_rate: float) -> bytes:
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


def animated_webp(frames: Sequence[np.ndarray], frame_rate: float) -> bytes:
    """Frames uint8 [H, W, 3] RGB as an animation of at most ANIMATION_WIDTH pixels, which rests on the last frame."""
    height, width = frames[0].shape[:2]
    size = min(width, ANIMATION_WIDTH), round(height * min(1.0, ANIMATION_WIDTH / width))
    pictures = [Image.fromarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA)) for frame in frames]
    file, last = io.BytesIO(), len(frames) - 1
    durations_ms = [round(1000 / frame_rate) + (REST_MS if i == last else 0) for i in range(len(frames))]
    pictures[0].save(
        file, "webp", save_all=True, append_images=pictures[1:], duration=durations_ms, loop=0, quality=80, method=4
    )
    return file.getvalue()


def labelled(frame: np.ndarray, text: str, colour: tuple[int, int, int]) -> np.ndarray:
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
