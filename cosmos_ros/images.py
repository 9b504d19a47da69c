"""Image message -> RGB array: every common encoding, with padded rows and either byte order.

Messages are duck-typed (sensor_msgs/Image and sensor_msgs/CompressedImage of rclpy or of rosbags), so that the live
node and the bag replay convert with the same code. Layouts follow sensor_msgs/msg/Image.msg and
sensor_msgs/image_encodings.hpp, compressed formats follow image_transport's compressed plugin.

Rows and byte order are undone here; the colour conversion then goes through cv_bridge where one works and through
OpenCV otherwise. cv_bridge never sees the padding: its Python side misreads rows whose `step` is no whole number of
pixels.

No size is believed. A raw image must hold as many bytes as its size takes; a compressed image's headers are followed
to its end, and its pixels counted, before a decoder allocates anything.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np

from cosmos_ros.picture_headers import DamagedPicture, stated_size

MAX_PIXELS = 64_000_000  # of one image, where nobody says otherwise; no camera that ROS drives has more


class BadImage(ValueError):
    """An image message that cannot be read. `cause` is a stable word for it: warn once per cause, not per frame.

    Causes: no_pixels, too_many_pixels, unknown_encoding, odd_size, step_small, data_short, unknown_format, corrupt.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class ImageInfo(NamedTuple):
    """What an image message says of itself: pixels, and the encoding (a CompressedImage: its format)."""

    height: int
    width: int
    encoding: str


@dataclass(frozen=True)
class Layout:
    """How an encoding lies in memory.

    samples     per pixel in a row (4:2:2 packs two bytes per pixel, 4:2:0 one)
    dtype       of a sample
    even        the factors by which (height, width) must divide
    to_rgb      OpenCV's code from the unpacked array to RGB8; None: it already is RGB8
    bridge      cv_bridge's name for the encoding; empty where some cv_bridge (1.16, say) does not convert it
    """

    samples: int
    to_rgb: int | None
    bridge: str = ""
    dtype: type = np.uint8
    even: tuple[int, int] = (1, 1)

    def rows(self, height: int) -> int:
        """Rows in memory: 4:2:0 keeps its chroma in half as many rows below the luma."""
        return height + height // 2 if self.even == (2, 2) else height

    def row_bytes(self, width: int) -> int:
        return width * self.samples * np.dtype(self.dtype).itemsize


def _bayer(pattern: str, code: int) -> Layout:
    return Layout(1, code, f"bayer_{pattern}8")


_UYVY = Layout(2, cv2.COLOR_YUV2RGB_UYVY, "yuv422", even=(1, 2))
_YUY2 = Layout(2, cv2.COLOR_YUV2RGB_YUY2, even=(1, 2))

# OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by its first row's first two.
LAYOUTS: dict[str, Layout] = {
    "rgb8": Layout(3, None),
    "bgr8": Layout(3, cv2.COLOR_BGR2RGB, "bgr8"),
    "rgba8": Layout(4, cv2.COLOR_RGBA2RGB, "rgba8"),
    "bgra8": Layout(4, cv2.COLOR_BGRA2RGB, "bgra8"),
    "mono8": Layout(1, cv2.COLOR_GRAY2RGB, "mono8"),
    "mono16": Layout(1, cv2.COLOR_GRAY2RGB, "mono16", np.uint16),
    "bayer_rggb8": _bayer("rggb", cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _bayer("bggr", cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _bayer("gbrg", cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _bayer("grbg", cv2.COLOR_BayerGB2RGB),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUY2,
    "yuyv": _YUY2,
    "nv12": Layout(1, cv2.COLOR_YUV2RGB_NV12, even=(2, 2)),
    "nv21": Layout(1, cv2.COLOR_YUV2RGB_NV21, even=(2, 2)),
}


def check(message: Any, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Whether the message can be an image, by its headers alone; converts nothing. Raises BadImage."""
    if hasattr(message, "format"):
        return _compressed_info(message, max_pixels)
    height, width, encoding = message.height, message.width, message.encoding
    _layout(height, width, encoding, message.step, len(message.data), max_pixels)
    return ImageInfo(height, width, encoding)


def to_rgb(message: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The message's pixels: uint8 [H, W, 3] RGB, the caller's own copy. mono16 is scaled by 255/65535.

    Raises BadImage.
    """
    if hasattr(message, "format"):
        return _decompressed(message, max_pixels)
    height, width = message.height, message.width
    layout = _layout(height, width, message.encoding, message.step, len(message.data), max_pixels)
    samples = _unpacked(message, layout)
    return _colour(samples, layout)


def compress(frame: np.ndarray, quality: int = 90) -> tuple[str, bytes]:
    """The frame, uint8 [H, W, 3] RGB, as `format` and `data` of a sensor_msgs/CompressedImage: JPEG."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return "rgb8; jpeg compressed bgr8", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raise BadImage for a picture of no pixels, or of more than the limit."""
    if height <= 0 or width <= 0:
        raise BadImage("no_pixels", f"the image has no pixels: it is {width} wide and {height} high")
    if height * width > max_pixels:
        raise BadImage(
            "too_many_pixels",
            f"the image says that it is {width}x{height}, which is more than the {max_pixels:,} pixels that are taken "
            "(max_pixels)",
        )


@functools.lru_cache(maxsize=1)
def backend() -> str:
    """What converts colours here: "cv_bridge" where one works, else "opencv"."""
    return "opencv" if _bridge() is None else "cv_bridge"


# ---- raw images ----


def _layout(height: int, width: int, encoding: str, step: int, size: int, max_pixels: int) -> Layout:
    layout = LAYOUTS.get(encoding)
    if layout is None:
        raise BadImage("unknown_encoding", f"unknown encoding {encoding!r}; known are {', '.join(LAYOUTS)}")
    if height % layout.even[0] or width % layout.even[1]:
        raise BadImage("odd_size", f"{encoding} shares its chroma between pixels: {width}x{height} cannot be odd")
    if step < layout.row_bytes(width):
        raise BadImage(
            "step_small",
            f"step is {step} bytes, but a row of {width} pixels in {encoding} takes {layout.row_bytes(width)}",
        )
    if size < (needed := step * layout.rows(height)):
        raise BadImage(
            "data_short",
            f"data holds {size} bytes, but {layout.rows(height)} rows of {step} bytes take {needed}: "
            "the message was cut, or step and height are wrong",
        )
    check_size(height, width, max_pixels)
    return layout


def _unpacked(message: Any, layout: Layout) -> np.ndarray:
    """The samples without padding, in this machine's byte order: [rows, W] or [rows, W, samples]."""
    height, width, step = message.height, message.width, message.step
    rows = layout.rows(height)
    raw = np.frombuffer(message.data, np.uint8, rows * step).reshape(rows, step)
    samples = np.ascontiguousarray(raw[:, : layout.row_bytes(width)])
    if layout.dtype is np.uint16:
        samples = samples.view(">u2" if message.is_bigendian else "<u2").astype(np.uint16)
    return samples if layout.samples == 1 else samples.reshape(rows, width, layout.samples)


def _colour(samples: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.to_rgb is None:
        return samples.copy()
    if layout.bridge and (bridge := _bridge()) is not None:
        return _through_bridge(bridge, samples, layout.bridge)
    if samples.dtype == np.uint16:
        samples = cv2.convertScaleAbs(samples, alpha=255 / 65535)
    return cv2.cvtColor(samples, layout.to_rgb)


# ---- compressed images ----


def _compressed_info(message: Any, max_pixels: int) -> ImageInfo:
    data = memoryview(message.data).tobytes()
    try:
        size = stated_size(data)
    except DamagedPicture as error:
        raise BadImage(
            "corrupt", f"the {message.format!r} image is cut off or corrupt: {error} ({len(data)} bytes)"
        ) from error
    if size is None:
        raise BadImage(
            "unknown_format", f"the data is neither JPEG nor PNG; format says {message.format!r}, {len(data)} bytes"
        )
    check_size(*size, max_pixels)
    return ImageInfo(*size, message.format)


def _decompressed(message: Any, max_pixels: int) -> np.ndarray:
    info = _compressed_info(message, max_pixels)
    try:
        # UNCHANGED: no rotation by EXIF, or the pixels would no longer be those of camera_info.
        pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadImage("corrupt", f"the {info.encoding!r} image cannot be decoded: {error.err}") from error
    if pixels is None or pixels.shape[:2] != (info.height, info.width):
        raise BadImage("corrupt", f"the {info.encoding!r} image cannot be decoded")
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    if pixels.ndim == 2:
        return _decompressed_plane(pixels, info.encoding)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGB)


def _decompressed_plane(plane: np.ndarray, image_format: str) -> np.ndarray:
    """A Bayer camera's mosaic is compressed as it is: `format` begins with its encoding."""
    original = image_format.split(";")[0].strip()
    layout = LAYOUTS[original if original.startswith("bayer_") and original in LAYOUTS else "mono8"]
    return _colour(plane, layout)


# ---- cv_bridge ----

# Run in a process of its own: a cv_bridge built against NumPy 1 may end an interpreter that has NumPy 2.
_PROBE = """
import numpy, types, cv_bridge
image = types.SimpleNamespace(height=1, width=2, step=6, encoding="bgr8", is_bigendian=0, data=bytes(range(6)))
assert cv_bridge.CvBridge().imgmsg_to_cv2(image, "rgb8").tolist() == [[[2, 1, 0], [5, 4, 3]]]
"""


@functools.lru_cache(maxsize=1)
def _bridge() -> Any | None:
    """A CvBridge that was seen to convert, or None."""
    if importlib.util.find_spec("cv_bridge") is None:
        return None
    try:
        probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=30, check=False)
        if probe.returncode:
            return None
        return importlib.import_module("cv_bridge").CvBridge()
    except (ImportError, OSError, subprocess.SubprocessError):
        return None


def _through_bridge(bridge: Any, samples: np.ndarray, encoding: str) -> np.ndarray:
    height, width = samples.shape[:2]
    packed = SimpleNamespace(
        height=height,
        width=width,
        step=samples.nbytes // height,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        data=samples,
    )
    return bridge.imgmsg_to_cv2(packed, "rgb8")
