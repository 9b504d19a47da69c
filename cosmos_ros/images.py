"""Image message <-> RGB array: every common encoding, with padded rows and either byte order.

Messages are duck-typed (sensor_msgs/Image and sensor_msgs/CompressedImage of rclpy or of rosbags), so that the live
node and the bag replay convert with the same code. Layouts follow sensor_msgs/msg/Image.msg and
sensor_msgs/image_encodings.hpp, compressed formats follow image_transport's compressed plugin.

Rows and byte order are undone here; the colour conversion then goes through cv_bridge where one works and through
OpenCV otherwise. cv_bridge never sees the padding: its Python side misreads rows whose `step` is no whole number of
pixels.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np


class BadImage(ValueError):
    """An image message that cannot be read. `cause` is a stable word for it: warn once per cause, not per frame.

    Causes: no_pixels, unknown_encoding, odd_size, step_small, data_short, unknown_format, corrupt.
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
class EncodedImage:
    """The fields of a sensor_msgs/Image. `data` is bytes: rclpy copies a NumPy array a hundred times slower."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: bytes


@dataclass(frozen=True)
class Layout:
    """How an encoding lies in memory.

    samples     per pixel in a row (4:2:2 packs two bytes per pixel, 4:2:0 one)
    dtype       of a sample
    even        the factors by which (height, width) must divide
    to_rgb      OpenCV's code from the unpacked array to RGB8; None: it already is RGB8
    to_samples  RGB8 [H, W, 3] -> samples [rows, width * samples]
    bridge      cv_bridge's name for the encoding; empty where some cv_bridge (1.16, say) does not convert it
    """

    samples: int
    to_rgb: int | None
    to_samples: Callable[[np.ndarray], np.ndarray]
    bridge: str = ""
    dtype: type = np.uint8
    even: tuple[int, int] = (1, 1)

    def rows(self, height: int) -> int:
        """Rows in memory: 4:2:0 keeps its chroma in half as many rows below the luma."""
        return height + height // 2 if self.even == (2, 2) else height

    def row_bytes(self, width: int) -> int:
        return width * self.samples * np.dtype(self.dtype).itemsize


def _converted(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rgb: cv2.cvtColor(rgb, code)


def _mosaic(pattern: str) -> Callable[[np.ndarray], np.ndarray]:
    def sample(rgb: np.ndarray) -> np.ndarray:
        mosaic = np.empty(rgb.shape[:2], np.uint8)
        for i, colour in enumerate(pattern):
            cell = np.s_[i // 2 :: 2, i % 2 :: 2]
            mosaic[cell] = rgb[cell][..., "rgb".index(colour)]
        return mosaic

    return sample


def _planes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y [H, W], U and V [H / 2, W / 2] of BT.601 in video range, as OpenCV converts them."""
    height, width = rgb.shape[:2]
    flat = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).ravel()
    luma, chroma = height * width, height * width // 4
    u, v = flat[luma : luma + chroma], flat[luma + chroma :]
    return flat[:luma].reshape(height, width), u.reshape(height // 2, -1), v.reshape(height // 2, -1)


def _packed_422(order: str) -> Callable[[np.ndarray], np.ndarray]:
    def pack(rgb: np.ndarray) -> np.ndarray:
        # OpenCV before 4.9 cannot write 4:2:2. 4:2:0 of the image with each row doubled is the same samples.
        y, u, v = _planes(np.repeat(rgb, 2, axis=0))
        y = y[::2]
        samples = {"y": y[:, 0::2], "Y": y[:, 1::2], "u": u, "v": v}
        return np.stack([samples[name] for name in order], axis=-1)

    return pack


def _semi_planar(order: str) -> Callable[[np.ndarray], np.ndarray]:
    def pack(rgb: np.ndarray) -> np.ndarray:
        y, u, v = _planes(rgb)
        chroma = np.stack([u, v] if order == "uv" else [v, u], axis=-1)
        return np.concatenate([y, chroma.reshape(len(u), -1)])

    return pack


def _bayer(pattern: str, code: int) -> Layout:
    return Layout(1, code, _mosaic(pattern), f"bayer_{pattern}8")


_UYVY = Layout(2, cv2.COLOR_YUV2RGB_UYVY, _packed_422("uyvY"), "yuv422", even=(1, 2))
_YUY2 = Layout(2, cv2.COLOR_YUV2RGB_YUY2, _packed_422("yuYv"), even=(1, 2))

# OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by its first row's first two.
LAYOUTS: dict[str, Layout] = {
    "rgb8": Layout(3, None, lambda rgb: rgb),
    "bgr8": Layout(3, cv2.COLOR_BGR2RGB, _converted(cv2.COLOR_RGB2BGR), "bgr8"),
    "rgba8": Layout(4, cv2.COLOR_RGBA2RGB, _converted(cv2.COLOR_RGB2RGBA), "rgba8"),
    "bgra8": Layout(4, cv2.COLOR_BGRA2RGB, _converted(cv2.COLOR_RGB2BGRA), "bgra8"),
    "mono8": Layout(1, cv2.COLOR_GRAY2RGB, _converted(cv2.COLOR_RGB2GRAY), "mono8"),
    "mono16": Layout(
        1, cv2.COLOR_GRAY2RGB, lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) * np.uint16(257), "mono16", np.uint16
    ),
    "bayer_rggb8": _bayer("rggb", cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _bayer("bggr", cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _bayer("gbrg", cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _bayer("grbg", cv2.COLOR_BayerGB2RGB),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUY2,
    "yuyv": _YUY2,
    "nv12": Layout(1, cv2.COLOR_YUV2RGB_NV12, _semi_planar("uv"), even=(2, 2)),
    "nv21": Layout(1, cv2.COLOR_YUV2RGB_NV21, _semi_planar("vu"), even=(2, 2)),
}


def check(message: Any) -> ImageInfo:
    """Whether the message can be an image, by its header alone; converts nothing. Raises BadImage."""
    if hasattr(message, "format"):
        return _compressed_info(message)
    height, width, encoding = message.height, message.width, message.encoding
    _layout(height, width, encoding, message.step, len(message.data))
    return ImageInfo(height, width, encoding)


def to_rgb(message: Any) -> np.ndarray:
    """The message's pixels: uint8 [H, W, 3] RGB, the caller's own copy. mono16 is scaled by 255/65535.

    Raises BadImage.
    """
    if hasattr(message, "format"):
        return _decompressed(message)
    height, width = message.height, message.width
    layout = _layout(height, width, message.encoding, message.step, len(message.data))
    samples = _unpacked(message, layout)
    if layout.to_rgb is None:
        return samples.copy()
    return _colour(samples, layout)


def from_rgb(frame: np.ndarray, encoding: str = "rgb8") -> EncodedImage:
    """The frame, uint8 [H, W, 3] RGB, as the fields of a sensor_msgs/Image.

    The YUV encodings hold BT.601 in video range. Raises BadImage for an unknown encoding and for an odd size that
    the encoding cannot hold.
    """
    height, width = frame.shape[:2]
    layout = _known(height, width, encoding)
    samples = layout.to_samples(np.ascontiguousarray(frame))
    return EncodedImage(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=layout.row_bytes(width),
        data=samples.tobytes(),
    )


def compress(frame: np.ndarray, codec: str = "jpeg", quality: int = 90) -> tuple[str, bytes]:
    """The frame, uint8 [H, W, 3] RGB, as `format` and `data` of a sensor_msgs/CompressedImage.

    codec is "jpeg" (at `quality` 1..100) or "png". Raises BadImage for any other.
    """
    if codec not in ("jpeg", "png"):
        raise BadImage("unknown_format", f"an image can be compressed as jpeg or png; asked for {codec!r}")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if codec == "jpeg" else []
    _, data = cv2.imencode(f".{codec}", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    return f"rgb8; {codec} compressed bgr8", data.tobytes()


@functools.lru_cache(maxsize=1)
def backend() -> str:
    """What converts colours here: "cv_bridge" where one works, else "opencv"."""
    return "opencv" if _bridge() is None else "cv_bridge"


# ---- raw images ----


def _known(height: int, width: int, encoding: str) -> Layout:
    if height <= 0 or width <= 0:
        raise BadImage("no_pixels", f"the image has no pixels: it is {width} wide and {height} high")
    layout = LAYOUTS.get(encoding)
    if layout is None:
        raise BadImage("unknown_encoding", f"unknown encoding {encoding!r}; known are {', '.join(LAYOUTS)}")
    if height % layout.even[0] or width % layout.even[1]:
        raise BadImage("odd_size", f"{encoding} shares its chroma between pixels: {width}x{height} cannot be odd")
    return layout


def _layout(height: int, width: int, encoding: str, step: int, size: int) -> Layout:
    layout = _known(height, width, encoding)
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
    if layout.bridge and (bridge := _bridge()) is not None:
        return _through_bridge(bridge, samples, layout.bridge)
    if samples.dtype == np.uint16:
        samples = cv2.convertScaleAbs(samples, alpha=255 / 65535)
    return cv2.cvtColor(samples, layout.to_rgb)


# ---- compressed images ----

_JPEG, _JPEG_END, _PNG, _PNG_END = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def _compressed_info(message: Any) -> ImageInfo:
    data = memoryview(message.data).tobytes()
    if data.startswith(_JPEG):
        size, end = _jpeg_size(data), _JPEG_END
    elif data.startswith(_PNG):
        # The header chunk comes first by the standard: length, "IHDR", width, height.
        size, end = (struct.unpack(">II", data[16:24])[::-1] if len(data) >= 24 else None), _PNG_END
    else:
        raise BadImage(
            "unknown_format", f"the data is neither JPEG nor PNG; format says {message.format!r}, {len(data)} bytes"
        )
    # A cut JPEG decodes without an error, its lower part grey: its end marker is what tells.
    if size is None or end not in data:
        raise BadImage("corrupt", f"the {message.format!r} image is cut off or corrupt ({len(data)} bytes)")
    if 0 in size:
        raise BadImage("no_pixels", f"the compressed image is {size[1]} wide and {size[0]} high")
    return ImageInfo(*size, message.format)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) from the frame header (ITU-T T.81, B.2.2); None where there is none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", data[at + 5 : at + 9])
        at += 1 if marker == 0xFF else 2 + length
    return None


def _decompressed(message: Any) -> np.ndarray:
    info = _compressed_info(message)
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
