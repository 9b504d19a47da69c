"""Picture files -> frames: stills in 8 or 16 bits, and pictures that move (GIF, animated WebP and PNG)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cosmos_ros.frame_buffer import StampedFrame
from cosmos_ros.images import MAX_PIXELS, BadImage, check_size
from cosmos_ros.picture_headers import DamagedPicture, stated_size
from cosmos_ros.recordings.recording import BadRecording, Recording
from cosmos_ros.rollout import NANOSECONDS

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".gif")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
_MOVING = ("GIF", "WEBP", "PNG")
_BYTES_PER_PIXEL = 8  # of the largest samples that are read, four of 16 bits; a larger file holds something else
_DEFAULT_MS = 100  # of a frame that says zero, as browsers take it
_WHITE = 255


class Picture(Recording):
    """One picture file. Raises BadRecording where it cannot be decoded."""

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(path, max_pixels)
        try:
            with Image.open(path, formats=_FORMATS) as image:
                check_size(image.height, image.width, max_pixels)
                self._transparent = "A" in image.getbands() or "transparency" in image.info
                self._format = image.format
                pages = _pages(image)
                self.is_still = pages == 1 or image.format not in _MOVING
        except (BadImage, Image.DecompressionBombError) as error:
            raise BadRecording(f"{path}: {error}") from error
        except Exception as error:  # whatever a damaged file makes of its reader
            raise BadRecording(f"{path} is no image that can be decoded ({error})") from error
        if self.is_still and pages > 1:
            self.losses.append(f"{self.name} holds {pages} pictures, of which the first was read")

    def _frames(self, topic: str) -> Iterator[StampedFrame]:
        if self.is_still:
            pixels = self._still()
            yield _frame(NANOSECONDS, pixels)
            return
        if self._transparent:
            self.losses.append(f"{self.name} is transparent in places, which were shown on white")
        time_ms = 0
        with Image.open(self.path, formats=_FORMATS) as image:
            for n in itertools.count():
                try:
                    image.seek(n)
                    check_size(image.height, image.width, self.max_pixels)  # a frame of a GIF may enlarge it
                    pixels = _on_white(np.asarray(image.convert("RGBA")))
                except EOFError:
                    break
                except Exception as error:  # whatever a damaged file makes of its reader
                    self.losses.append(f"{self.name} cannot be read beyond frame {n} ({error})")
                    break
                yield _frame(NANOSECONDS + time_ms * 1_000_000, pixels)
                time_ms += round(image.info.get("duration") or _DEFAULT_MS)

    def _still(self) -> np.ndarray:
        """uint8 [H, W, 3] RGB. Raises BadRecording."""
        if self.path.stat().st_size > _BYTES_PER_PIXEL * self.max_pixels + 2**26:
            raise BadRecording(f"{self.path} has more bytes than a picture of {self.max_pixels:,} pixels (max_pixels)")
        data = self.path.read_bytes()
        try:
            stated_size(data)
        except DamagedPicture as error:
            raise BadRecording(f"{self.path} is no image that can be decoded: {error}") from error
        if self._transparent and self._format != "PNG":  # OpenCV loses some of the alpha
            with Image.open(self.path, formats=_FORMATS) as image:
                return self._opaque(np.asarray(image.convert("RGBA")))
        # Turned upright as EXIF says, unless with alpha or as TIFF, which OpenCV reads in one way only.
        as_it_is = self._transparent or self._format == "TIFF"
        flags = cv2.IMREAD_UNCHANGED if as_it_is else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if pixels is None:
            raise BadRecording(f"{self.path} is no image that can be decoded")
        pixels = self._in_8_bits(pixels)
        if pixels.ndim == 2:
            return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        if pixels.shape[2] == 3:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return self._opaque(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))

    def _opaque(self, rgba: np.ndarray) -> np.ndarray:
        if rgba[..., 3].min() < _WHITE:
            self.losses.append(f"{self.name} is transparent in places, which were shown on white")
        return _on_white(rgba)

    def _in_8_bits(self, pixels: np.ndarray) -> np.ndarray:
        """Samples of 16 bits are scaled by the bits that are used: a camera of 12 bits leaves the upper ones zero."""
        if pixels.dtype == np.uint8:
            return pixels
        if pixels.dtype != np.uint16:
            raise BadRecording(f"{self.path} holds samples of {pixels.dtype}; whole numbers of 8 or 16 bits are read")
        colours = pixels[..., :3]
        bits = next(n for n in (8, 10, 12, 14, 16) if int(colours.max()) < 2**n)
        self.losses.append(f"{self.name} holds 16 bits per sample, of which {bits} are used: these were scaled to 8")
        scaled = cv2.convertScaleAbs(pixels, alpha=255 / (2**bits - 1))
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            scaled[..., 3] = cv2.convertScaleAbs(pixels[..., 3], alpha=255 / 65535).squeeze()
        return scaled


def _pages(image: Image.Image) -> int:
    """How many pictures the file holds; more than one of a film that is cut, whose end cannot be counted."""
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # whatever a damaged file makes of its reader
        return 2


def _frame(stamp_ns: int, pixels: np.ndarray) -> StampedFrame:
    load: Callable[[], np.ndarray] = pixels.copy
    height, width = pixels.shape[:2]
    return StampedFrame(stamp_ns, "", height, width, "picture", load, n_bytes=pixels.nbytes)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """RGBA [H, W, 4] over a white ground, as viewers show it: uint8 [H, W, 3]."""
    if rgba[..., 3].min() == _WHITE:
        return np.ascontiguousarray(rgba[..., :3])
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.rint(rgba[..., :3] * alpha + _WHITE * (1 - alpha)).astype(np.uint8)
