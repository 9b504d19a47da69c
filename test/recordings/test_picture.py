"""Pictures: every format and depth, and those that move; what was converted is said."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.recordings.recording import BadRecording

COLOURS = np.zeros((20, 30, 3), np.uint8)
COLOURS[:10, :15], COLOURS[:10, 15:], COLOURS[10:] = (200, 40, 60), (30, 180, 90), (20, 60, 220)


def still(path: Path, **limits: int) -> tuple[np.ndarray, list[str]]:
    recording = open_recording(path, **limits)
    assert recording.is_still
    (frame,) = recording.frames()
    return frame.load(), recording.losses


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "gif"])
def test_every_format(tmp_path, suffix):
    Image.fromarray(COLOURS).save(tmp_path / f"view.{suffix}", quality=95)
    pixels, losses = still(tmp_path / f"view.{suffix}")
    assert np.abs(pixels[4::11, 5::20].astype(int) - COLOURS[4::11, 5::20]).max() < 12 and losses == []


def test_grey_pictures(tmp_path):
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "view.pgm")
    assert np.array_equal(still(tmp_path / "view.pgm")[0], np.repeat(COLOURS[..., :1], 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_sixteen_bits_are_scaled_by_what_is_used_of_them(tmp_path, suffix, bits):
    """A camera of 12 bits in a file of 16 would be black."""
    colours = COLOURS if suffix != "pgm" else COLOURS[..., 0]
    deep = np.rint(colours.astype(float) * (2**bits - 1) / colours.max()).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"deep.{suffix}"), deep if deep.ndim == 2 else deep[..., ::-1])
    pixels, losses = still(tmp_path / f"deep.{suffix}")
    expected = np.rint(colours.astype(float) * 255 / colours.max()).astype(int)
    assert np.abs(pixels - (expected if deep.ndim == 3 else expected[..., None])).max() <= 1
    assert losses == [f"deep.{suffix} holds 16 bits per sample, of which {bits} are used: these were scaled to 8"]


def test_samples_that_are_no_whole_numbers_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "depth.tif"), np.ones((4, 4), np.float32))
    with pytest.raises(BadRecording, match="holds samples of float32; whole numbers of 8 or 16 bits are read"):
        still(tmp_path / "depth.tif")


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_what_is_transparent_is_shown_on_white_and_hides_its_colour(tmp_path, suffix):
    rgba = np.dstack([COLOURS, np.full((20, 30), 255, np.uint8)])
    rgba[:10, :15, 3], rgba[:10, 15:, 3] = 0, 128
    Image.fromarray(rgba).save(tmp_path / f"cut_out.{suffix}", lossless=True)
    pixels, losses = still(tmp_path / f"cut_out.{suffix}")
    assert pixels[5, 5].tolist() == [255, 255, 255] and pixels[15, 5].tolist() == [20, 60, 220]
    assert np.abs(pixels[5, 20].astype(int) - (142, 217, 172)).max() <= 1
    assert losses == [f"cut_out.{suffix} is transparent in places, which were shown on white"]


LYING = {  # EXIF's orientations: how a camera that is held so stores what it sees
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: np.rot90,
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: lambda a: np.rot90(a, -1),
}


def stored(pixels: np.ndarray, orientation: int) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(np.ascontiguousarray(LYING[orientation](pixels))), exif


ALPHA = np.full(COLOURS.shape[:2], 255, np.uint8)
ALPHA[:4, :4] = 0
PHOTOS = {
    "colour": (COLOURS, ["jpg", "png", "webp", "tif"]),
    "grey": (COLOURS[..., 0], ["jpg", "png", "webp", "tif"]),
    "deep": (COLOURS[..., 0].astype(np.uint16) * 256, ["png", "tif"]),
    "transparent": (np.dstack([COLOURS, ALPHA]), ["png", "webp", "tif"]),
}


@pytest.mark.parametrize(("kind", "suffix"), [(kind, suffix) for kind in PHOTOS for suffix in PHOTOS[kind][1]])
@pytest.mark.parametrize("orientation", LYING)
def test_a_photo_is_turned_upright(tmp_path, kind, suffix, orientation):
    pixels = PHOTOS[kind][0]
    photo, exif = stored(pixels, orientation)
    photo.save(tmp_path / f"photo.{suffix}", quality=95, exif=exif)
    read, _ = still(tmp_path / f"photo.{suffix}")
    expected = COLOURS if pixels.ndim == 3 else np.repeat(COLOURS[..., :1], 3, -1)
    if kind == "deep":  # scaled by the bits that are used, which are all 16 of them
        expected = np.rint(expected * (256 / 257)).astype(np.uint8)
    assert np.abs(read[4::11, 5::20].astype(int) - expected[4::11, 5::20]).max() < 12


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_a_picture_that_moves_is_turned_upright(tmp_path, suffix):
    first, exif = stored(COLOURS, 6)
    second, _ = stored(COLOURS[::-1], 6)
    first.save(
        tmp_path / f"moving.{suffix}", save_all=True, append_images=[second], duration=100, lossless=True, exif=exif
    )
    read = [frame.load() for frame in open_recording(tmp_path / f"moving.{suffix}").frames()]
    assert np.array_equal(read, [COLOURS, COLOURS[::-1]])


def test_a_damaged_exif_block_costs_the_turn_and_not_the_picture(tmp_path):
    photo, exif = stored(COLOURS, 6)
    photo.save(tmp_path / "photo.webp", lossless=True, exif=exif)
    data = (tmp_path / "photo.webp").read_bytes()
    (tmp_path / "photo.webp").write_bytes(data.replace(b"MM\x00*", b"MM\xff*"))
    assert still(tmp_path / "photo.webp")[0].shape == (30, 20, 3)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_pictures_that_move_are_films(tmp_path, suffix):
    frames = [Image.fromarray(np.full((20, 30, 3), 20 * i, np.uint8)) for i in range(12)]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100, 200, *[100] * 10], lossless=True)
    recording = open_recording(path)
    read = list(recording.frames())
    assert not recording.is_still and recording.losses == [] and len(read) == 12
    assert [round((frame.stamp_ns - read[0].stamp_ns) / 1e6) for frame in read[:4]] == [0, 100, 300, 400]
    assert [int(frame.load()[3, 3, 0]) for frame in read] == [20 * i for i in range(12)]


def test_a_cut_animation_is_read_up_to_the_cut(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    frames = [Image.fromarray(each) for each in noise]
    frames[0].save(tmp_path / "cut.gif", save_all=True, append_images=frames[1:], duration=100)
    data = (tmp_path / "cut.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: len(data) // 2])
    recording = open_recording(tmp_path / "cut.gif")
    assert 3 < len(list(recording.frames())) < 8


@pytest.mark.parametrize(
    ("limit", "said"), [(100_000, "400x300, which is more than the 100,000"), (1000, "more than twice the 1,000")]
)
def test_a_frame_that_makes_its_film_larger_than_the_limit_is_not_decoded(tmp_path, limit, said):
    """The frames of a GIF state sizes of their own."""
    frames = [Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in (0, 99)]
    frames[0].save(tmp_path / "grows.gif", save_all=True, append_images=frames[1:])
    data = bytearray((tmp_path / "grows.gif").read_bytes())
    second = data.rindex(struct.pack("<BHHHH", 0x2C, 0, 0, 8, 8))
    struct.pack_into("<HH", data, second + 5, 400, 300)
    (tmp_path / "grows.gif").write_bytes(data)
    recording = open_recording(tmp_path / "grows.gif", max_pixels=limit)
    assert len(list(recording.frames())) == 1 and f"{said} pixels" in recording.losses[0]


def test_pages_are_no_film(tmp_path):
    pages = [Image.fromarray(COLOURS)] * 3
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    pixels, losses = still(tmp_path / "pages.tif")
    assert np.array_equal(pixels, COLOURS) and losses == ["pages.tif holds 3 pictures, of which the first was read"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif"])
def test_the_limit_on_pixels_holds_for_pictures(tmp_path, suffix):
    Image.fromarray(COLOURS).save(tmp_path / f"view.{suffix}")
    still(tmp_path / f"view.{suffix}", max_pixels=600)
    with pytest.raises(BadRecording, match=r"more than the 599 pixels .*\(max_pixels\)"):
        still(tmp_path / f"view.{suffix}", max_pixels=599)


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif"])
def test_our_limit_on_pixels_is_the_only_one(tmp_path, monkeypatch, suffix):
    """Pillow has its own, one for the whole process: it refuses at twice as many, and warns before."""
    Image.fromarray(COLOURS).save(tmp_path / f"view.{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    still(tmp_path / f"view.{suffix}", max_pixels=600)
    for limit, said in ((400, "30x20, which is more than the 400"), (200, "more than twice the 200")):
        with warnings.catch_warnings(), pytest.raises(BadRecording, match=rf"{said} pixels .*\(max_pixels\)"):
            warnings.simplefilter("error")
            still(tmp_path / f"view.{suffix}", max_pixels=limit)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_sizes_and_lengths_that_lie_are_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was asked"))
    for suffix in ("jpg", "png"):
        Image.fromarray(COLOURS).save(tmp_path / f"view.{suffix}")
    jpeg, png = (tmp_path / f"view.{suffix}" for suffix in ("jpg", "png"))
    data = jpeg.read_bytes()
    at = data.index(b"\xff\xc0") + 5
    jpeg.write_bytes(data[:at] + struct.pack(">HH", 64000, 64000) + data[at + 4 :])
    data = png.read_bytes()
    at = data.index(b"IDAT") - 4
    png.write_bytes(data[:at] + struct.pack(">I", 2**31 - 1) + data[at + 4 :])
    large = jpeg.with_name("large.jpg")
    large.write_bytes(jpeg.read_bytes().replace(struct.pack(">HH", 64000, 64000), struct.pack(">HH", 9000, 9000)))
    with pytest.raises(BadRecording, match=r"more than twice the 64,000,000 pixels that are taken \(max_pixels\)"):
        still(jpeg)
    with pytest.raises(BadRecording, match="9000x9000, which is more than the 64,000,000"):
        still(large)
    with pytest.raises(BadRecording, match="says that it is 2147483647 bytes long"):
        still(png)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "pgm"])
def test_no_cut_picture_is_worse_than_a_bad_recording(tmp_path, suffix):
    picture = Image.fromarray(COLOURS if suffix != "pgm" else COLOURS[..., 0])
    path = tmp_path / f"view.{suffix}"
    picture.save(path)
    whole = path.read_bytes()
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        try:
            assert next(iter(open_recording(path).frames())).load().shape == (20, 30, 3)
        except (BadRecording, StopIteration):
            continue
