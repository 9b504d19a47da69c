"""Picture files -> frames: stills in 8 or 16 bits, and pictures that move (GIF, animated WebP and PNG)."""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
import warnings
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
_ORIENTATION = 0x0112  # EXIF's tag
# Its values: how the pixels that are stored become upright.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels.swapaxes(0, 1), 2),
    8: np.rot90,
}
_pillow = threading.Lock()  # its limit on pixels is one for the whole process


class Picture(Recording):
    """One picture file. Raises BadRecording where it cannot be decoded."""

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(path, max_pixels)
        try:
            with _limited(max_pixels), Image.open(path, formats=_FORMATS) as image:
                check_size(image.height, image.width, max_pixels)
                self._transparent = "A" in image.getbands() or "transparency" in image.info
                self._format = image.format
                # OpenCV and Pillow both turn a TIFF by themselves.
                self._orientation = 1 if image.format == "TIFF" else _orientation(image)
                pages = _pages(image)
                self.is_still = pages == 1 or image.format not in _MOVING
        except BadImage as error:
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
                    with _limited(self.max_pixels):
                        image.seek(n)
                        check_size(image.height, image.width, self.max_pixels)  # a frame of a GIF may enlarge it
                        pixels = _on_white(np.asarray(image.convert("RGBA")))
                except EOFError:
                    break
                except Exception as error:  # whatever a damaged file makes of its reader
                    self.losses.append(f"{self.name} cannot be read beyond frame {n} ({error})")
                    break
                yield _frame(NANOSECONDS + time_ms * 1_000_000, self._upright(pixels))
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
            # From memory: Pillow does not turn a TIFF that it maps from a file.
            with _limited(self.max_pixels), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                rgba = np.asarray(image.convert("RGBA"))
            return self._opaque(self._upright(rgba))
        # OpenCV turns a picture upright as EXIF says, unless it is read as it is, which alpha and TIFF's depths need.
        as_it_is = self._transparent or self._format == "TIFF"
        flags = cv2.IMREAD_UNCHANGED if as_it_is else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if pixels is None:
            raise BadRecording(f"{self.path} is no image that can be decoded")
        pixels = self._in_8_bits(self._upright(pixels) if as_it_is else pixels)
        if pixels.ndim == 2:
            return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        if pixels.shape[2] == 3:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return self._opaque(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))

    def _upright(self, pixels: np.ndarray) -> np.ndarray:
        turn = _TURNS.get(self._orientation)
        return pixels if turn is None else np.ascontiguousarray(turn(pixels))

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


@contextlib.contextmanager
def _limited(max_pixels: int) -> Iterator[None]:
    """Hold Pillow to our limit on pixels for a while; its own would refuse what we take, and warn of what we refuse."""
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damage too: it is among the losses
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        except Image.DecompressionBombError as error:  # at twice as many, and before anything is allocated
            raise BadImage(
                "too_many_pixels",
                f"the image says that it has more than twice the {max_pixels:,} pixels that are taken (max_pixels)",
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _orientation(image: Image.Image) -> int:
    """As EXIF numbers them; 1, upright, where a damaged EXIF block says nothing."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever a damaged file makes of its reader
        return 1


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
