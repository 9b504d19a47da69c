"""Image messages in every common encoding, against arrays packed by hand after sensor_msgs/image_encodings.hpp."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cosmos_ros import images
from cosmos_ros.images import LAYOUTS, BadImage, check, compress, to_rgb

COLOURS = [(200, 40, 60), (30, 180, 90), (25, 70, 210), (128, 128, 128), (250, 240, 20), (8, 8, 8)]
BLOCK = 8


def blocks() -> np.ndarray:
    """uint8 [16, 24, 3]: six blocks of one colour each, so that subsampled colour is exact in their middles."""
    rows = [np.repeat([COLOURS[i : i + 3]], BLOCK, axis=0).repeat(BLOCK, axis=1) for i in (0, 3)]
    return np.concatenate(rows).astype(np.uint8)


def grey(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def bt601(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y, U, V in video range, all at full resolution (ITU-R BT.601-7, quantised after its table 3)."""
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    planes = 16 + 219 * luma, 128 + 224 * (b - luma) / 1.772, 128 + 224 * (r - luma) / 1.402
    return tuple(np.rint(plane).astype(np.uint8) for plane in planes)


def pack_422(rgb: np.ndarray, luma_first: bool) -> np.ndarray:
    y, u, v = bt601(rgb)
    chroma = np.where(np.arange(rgb.shape[1]) % 2, v, u)
    return np.stack([y, chroma] if luma_first else [chroma, y], axis=-1).reshape(len(rgb), -1)


def pack_420(rgb: np.ndarray, u_first: bool) -> np.ndarray:
    y, u, v = bt601(rgb)
    pair = np.stack([u, v] if u_first else [v, u], axis=-1)[::2, ::2]
    return np.concatenate([y, pair.reshape(len(rgb) // 2, -1)])


def pack_bayer(rgb: np.ndarray, pattern: str) -> np.ndarray:
    channel = np.array(["rgb".index(c) for c in pattern]).reshape(2, 2)
    tiled = np.tile(channel, (rgb.shape[0] // 2, rgb.shape[1] // 2))
    return np.take_along_axis(rgb, tiled[..., None], axis=-1)[..., 0]


def with_alpha(rgb: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 77)], axis=-1)


# encoding: (rows in memory, packed by hand; the largest error of the decoded colour in the middle of a block)
CASES = {
    "rgb8": (lambda rgb: rgb, 0),
    "bgr8": (lambda rgb: rgb[..., ::-1], 0),
    "rgba8": (with_alpha, 0),
    "bgra8": (lambda rgb: with_alpha(rgb[..., ::-1]), 0),
    "mono8": (grey, 0),
    "mono16": (lambda rgb: grey(rgb).astype("<u2") * 257, 0),
    "bayer_rggb8": (lambda rgb: pack_bayer(rgb, "rggb"), 0),
    "bayer_bggr8": (lambda rgb: pack_bayer(rgb, "bggr"), 0),
    "bayer_gbrg8": (lambda rgb: pack_bayer(rgb, "gbrg"), 0),
    "bayer_grbg8": (lambda rgb: pack_bayer(rgb, "grbg"), 0),
    "yuv422": (lambda rgb: pack_422(rgb, luma_first=False), 3),
    "uyvy": (lambda rgb: pack_422(rgb, luma_first=False), 3),
    "yuv422_yuy2": (lambda rgb: pack_422(rgb, luma_first=True), 3),
    "yuyv": (lambda rgb: pack_422(rgb, luma_first=True), 3),
    "nv12": (lambda rgb: pack_420(rgb, u_first=True), 3),
    "nv21": (lambda rgb: pack_420(rgb, u_first=False), 3),
}


def message(rows: np.ndarray, encoding: str, padding: int = 0, is_bigendian: int = 0) -> SimpleNamespace:
    rgb = blocks()
    raw = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    padded = np.pad(raw, ((0, 0), (0, padding)), constant_values=0xAB)
    return SimpleNamespace(
        height=rgb.shape[0],
        width=rgb.shape[1],
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=padded.shape[1],
        data=padded.tobytes(),
    )


def png(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


def compressed(image_format: str, data: bytes) -> SimpleNamespace:
    return SimpleNamespace(format=image_format, data=data)


# Every converter that this machine has, by turns.
@pytest.fixture(params=["opencv", "cv_bridge"] if images.backend() == "cv_bridge" else ["opencv"])
def converter(request, monkeypatch):
    if request.param == "opencv":
        monkeypatch.setattr(images, "_bridge", lambda: None)


@pytest.mark.skipif(
    images.backend() != "cv_bridge",
    reason="no cv_bridge here that imports (it is not on PyPI, and one built for NumPy 1 does not serve)",
)
@pytest.mark.parametrize("encoding", CASES)
def test_cv_bridge_and_opencv_give_the_same_arrays(encoding, monkeypatch):
    picture = message(np.random.default_rng(1).permuted(CASES[encoding][0](blocks())), encoding, padding=5)
    through_cv_bridge = to_rgb(picture)
    monkeypatch.setattr(images, "_bridge", lambda: None)
    assert np.array_equal(through_cv_bridge, to_rgb(picture))


def test_the_table_of_cases_names_every_encoding():
    assert set(CASES) == set(LAYOUTS)


@pytest.mark.parametrize("encoding", CASES)
@pytest.mark.parametrize("padding", [0, 1, 40])
def test_reads(converter, encoding, padding):
    pack, tolerance = CASES[encoding]
    rgb = blocks()
    picture = message(pack(rgb), encoding, padding)
    read = to_rgb(picture)
    assert check(picture) == (*rgb.shape[:2], encoding)
    assert read.dtype == np.uint8 and read.shape == rgb.shape and read.flags.writeable
    expected = np.repeat(grey(rgb)[..., None], 3, axis=-1) if encoding.startswith("mono") else rgb
    middle = np.s_[3::BLOCK, 3::BLOCK]
    assert np.abs(read[middle].astype(int) - expected[middle]).max() <= tolerance
    if encoding in ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16"):
        assert np.array_equal(read, expected)


@pytest.mark.parametrize("padding", [0, 6])
def test_mono16_honours_the_byte_order(converter, padding):
    values = (np.arange(16 * 24, dtype=np.uint32) * 170).astype(np.uint16).reshape(16, 24)
    little = to_rgb(message(values.astype("<u2"), "mono16", padding))
    big = to_rgb(message(values.astype(">u2"), "mono16", padding, is_bigendian=1))
    assert np.array_equal(little, big)
    assert np.array_equal(little[..., 0], np.rint(values / 257))


def test_the_byte_order_flag_is_ignored_where_samples_are_bytes(converter):
    assert np.array_equal(to_rgb(message(blocks(), "rgb8", is_bigendian=1)), blocks())


def test_an_odd_size_that_needs_no_shared_chroma_converts(converter):
    for encoding in ("rgb8", "bgra8", "mono16", "bayer_rggb8"):
        rows = CASES[encoding][0](blocks())[:15, :23]
        picture = message(rows, encoding)
        picture.height, picture.width = 15, 23
        assert to_rgb(picture).shape == (15, 23, 3)


def test_the_pixels_are_the_callers_own():
    picture = message(blocks(), "rgb8")
    picture.data = bytearray(picture.data)
    read = to_rgb(picture)
    picture.data[:] = bytes(len(picture.data))
    assert np.array_equal(read, blocks())


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_compressed_images(converter, codec):
    rgb = cv2.resize(blocks(), (96, 64), interpolation=cv2.INTER_LINEAR)
    image_format, data = compress(rgb) if codec == "jpeg" else ("rgb8; png compressed bgr8", png(rgb))
    assert type(data) is bytes and image_format == f"rgb8; {codec} compressed bgr8"
    picture = compressed(image_format, data)
    assert check(picture) == (64, 96, image_format)
    assert np.abs(to_rgb(picture).astype(int) - rgb).mean() < (3 if codec == "jpeg" else 1e-9)


def test_older_publishers_say_plain_jpeg_and_some_say_nothing():
    _, data = compress(blocks())
    expected = to_rgb(compressed("rgb8; jpeg compressed bgr8", data))
    assert np.array_equal(to_rgb(compressed("jpeg", data)), expected)
    assert np.array_equal(to_rgb(compressed("", data)), expected)


def test_compressed_planes(converter):
    """PNG of 8 and 16 bits of grey, of a Bayer mosaic, and with alpha."""
    rgb = blocks()
    grey3 = np.repeat(grey(rgb)[..., None], 3, axis=-1)

    def png(array: np.ndarray) -> bytes:
        return cv2.imencode(".png", array)[1].tobytes()

    assert np.array_equal(to_rgb(compressed("mono8; png compressed mono8", png(grey(rgb)))), grey3)
    sixteen = grey(rgb).astype(np.uint16) * 257
    assert np.array_equal(to_rgb(compressed("mono16; png compressed mono16", png(sixteen))), grey3)
    assert np.array_equal(to_rgb(compressed("bgra8; png compressed", png(with_alpha(rgb[..., ::-1])))), rgb)
    mosaic = to_rgb(compressed("bayer_gbrg8; png compressed ", png(pack_bayer(rgb, "gbrg"))))
    assert np.array_equal(mosaic[3::BLOCK, 3::BLOCK], rgb[3::BLOCK, 3::BLOCK])


def changed(**fields) -> SimpleNamespace:
    picture = message(blocks(), "rgb8")
    for name, value in fields.items():
        setattr(picture, name, value)
    return picture


JPEG = compress(blocks())[1]
PNG = png(blocks())

BAD = [
    ("no_pixels", changed(width=0)),
    ("no_pixels", changed(height=0)),
    ("unknown_encoding", changed(encoding="32FC1")),
    ("unknown_encoding", changed(encoding="")),
    ("step_small", changed(step=71)),
    ("step_small", changed(width=4_000_000_000)),
    ("data_short", changed(data=bytes(72 * 16 - 1))),
    ("data_short", changed(data=b"")),
    ("data_short", changed(height=4_000_000_000)),
    ("data_short", changed(encoding="nv12", data=bytes(72 * 16))),
    ("odd_size", changed(encoding="yuv422", width=23)),
    ("odd_size", changed(encoding="nv21", height=15)),
    ("unknown_format", compressed("16UC1; compressedDepth", bytes(64))),
    ("unknown_format", compressed("jpeg", b"")),
    ("corrupt", compressed("jpeg", JPEG[:100])),
    ("corrupt", compressed("jpeg", JPEG[:-2])),
    ("corrupt", compressed("jpeg", b"\xff\xd8\xff\xd9")),
    ("corrupt", compressed("png", PNG[:20])),
    ("corrupt", compressed("png", PNG[:-8])),
    ("no_pixels", compressed("png", PNG[:16] + bytes(8) + PNG[24:])),
]


# What takes gigabytes where a decoder is the first to look: the size that two bytes each state, and a chunk's length.
SOF = JPEG.index(b"\xff\xc0") + 5
IDAT = PNG.index(b"IDAT")
BAD += [
    ("too_many_pixels", compressed("jpeg", JPEG[:SOF] + struct.pack(">HH", 32000, 32000) + JPEG[SOF + 4 :])),
    ("too_many_pixels", compressed("png", PNG[:16] + struct.pack(">II", 100_000, 100_000) + PNG[24:])),
    ("corrupt", compressed("png", PNG[: IDAT - 4] + struct.pack(">I", 2**31 - 1) + PNG[IDAT:])),
    ("corrupt", compressed("png", PNG[:33] + PNG[8:])),
    ("corrupt", compressed("jpeg", JPEG[:-2] + b"\xff\xda\x00\x02" * 200 + JPEG[-2:])),
    ("corrupt", compressed("jpeg", JPEG[: SOF - 3] + b"\xff\xff" + JPEG[SOF - 1 :])),
    ("corrupt", compressed("jpeg", JPEG[:2] + JPEG[SOF - 5 : SOF + 14] + JPEG[2:])),
    ("corrupt", compressed("jpeg", JPEG[: SOF - 5] + JPEG[SOF + 14 :])),
]


@pytest.mark.parametrize(("cause", "picture"), BAD)
def test_bad_images_are_refused_with_their_cause_before_any_conversion(cause, picture):
    for door in (check, to_rgb):
        with pytest.raises(BadImage) as refused:
            door(picture)
        assert refused.value.cause == cause


def test_the_limit_on_pixels_is_the_callers_and_holds_for_every_kind_of_image():
    for picture in (message(blocks(), "rgb8"), compressed("jpeg", JPEG), compressed("png", PNG)):
        for door in (check, to_rgb):
            door(picture, 16 * 24)
            with pytest.raises(BadImage, match=r"24x16, which is more than the 383 pixels .*\(max_pixels\)") as refused:
                door(picture, 383)
            assert refused.value.cause == "too_many_pixels"


def test_no_cut_jpeg_or_png_comes_to_a_decoder_and_no_changed_byte_of_a_header_is_an_error_of_another_kind():
    for data in (JPEG, PNG):
        for end in range(len(data)):
            with pytest.raises(BadImage):
                check(compressed("", data[:end]))
        for at in range(60):
            for value in (0x00, 0x01, 0x7F, 0xFF):
                with contextlib.suppress(BadImage):
                    to_rgb(compressed("", data[:at] + bytes([value]) + data[at + 1 :]), 10_000)


def test_a_png_with_a_damaged_middle_is_refused_when_it_is_decoded():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = bytearray(png(noise))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BadImage, match="cannot be decoded") as refused:
        to_rgb(compressed("png", bytes(data)))
    assert refused.value.cause == "corrupt"


def test_the_message_says_what_was_expected():
    with pytest.raises(BadImage, match="1151 bytes, but 16 rows of 72 bytes take 1152"):
        check(changed(data=bytes(1151)))
    with pytest.raises(BadImage, match="unknown encoding '32FC1'; known are rgb8, bgr8"):
        check(changed(encoding="32FC1"))


@pytest.mark.parametrize(
    "body",
    ["raise ImportError('_ARRAY_API not found')", "import os; os.abort()", "class CvBridge: pass"],
    ids=["does not import", "ends the interpreter", "does not convert"],
)
@pytest.mark.processes
def test_a_broken_cv_bridge_is_passed_over(tmp_path, body):
    (tmp_path / "cv_bridge.py").write_text(body)
    script = (
        "from types import SimpleNamespace; from cosmos_ros import images;"
        "image = SimpleNamespace(height=1, width=1, step=3, encoding='bgr8', is_bigendian=0, data=bytes([1, 2, 3]));"
        "assert images.to_rgb(image).tolist() == [[[3, 2, 1]]]; print(images.backend())"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "opencv"
