"""The size that a JPEG or PNG states, with its structure followed to the end, before any decoder allocates for it.

Decoders believe what they read: a JPEG of 631 bytes makes them allocate gigabytes, and so does one wrong length in a
PNG. Here every length is held against the bytes that are there.
"""

from __future__ import annotations

import struct

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"
# JPEG markers (ITU-T T.81, table B.1).
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_MOST_SCANS = 100  # encoders write a dozen at most
_BARE = {0x01, *range(0xD0, 0xD8)}  # no length follows
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the segments that hold the size


class DamagedPicture(ValueError):
    """The data begin as a JPEG or PNG and do not go on as one."""


def stated_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a whole JPEG or PNG; None where the data are neither. Raises DamagedPicture."""
    try:
        if data.startswith(_JPEG):
            return _jpeg_size(data)
        return _png_size(data) if data.startswith(_PNG) else None
    except (IndexError, struct.error) as error:
        raise DamagedPicture("it is cut off in its header") from error


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at, size = len(_JPEG), None
    while True:
        if data[at] != 0xFF:
            raise DamagedPicture(f"no marker where one is due, at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker == _END_OF_IMAGE:
            raise DamagedPicture("it ends before its pixels begin")
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            if length < 2 or at + 2 + length > len(data):
                raise DamagedPicture(f"the segment at byte {at} says that it is {length} bytes long")
            if marker in _FRAMES:
                if size is not None:
                    raise DamagedPicture("it states its size twice")
                size = struct.unpack_from(">HH", data, at + 5)
            if marker == _START_OF_SCAN:
                break
            at += 2 + length
    if size is None:
        raise DamagedPicture("its pixels begin before its size is stated")
    # Each scan costs the decoder a pass over all pixels, and takes a few bytes.
    if (scans := data.count(bytes((0xFF, _START_OF_SCAN)), at)) > _MOST_SCANS:
        raise DamagedPicture(f"it has {scans} scans")
    # One that is cut decodes without an error, its lower part grey: the end marker is what tells.
    if _JPEG_END not in data[at:]:
        raise DamagedPicture("its end is missing")
    return size


def _png_size(data: bytes) -> tuple[int, int]:
    """The PNG specification: chunks of length, type, content and checksum, from IHDR to IEND."""
    at, kind, width, height = len(_PNG), b"", 0, 0
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise DamagedPicture(f"the chunk at byte {at} says that it is {length} bytes long")
        if (kind == b"IHDR") is not (at == len(_PNG)):
            raise DamagedPicture("its header is not where it belongs")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, at + 8)
        elif kind == b"fcTL":  # a frame of an animation lies within the picture
            w, h, x, y = struct.unpack_from(">IIII", data, at + 12)
            if x + w > width or y + h > height:
                raise DamagedPicture("a frame of its animation is larger than the picture")
        at += 12 + length
    return height, width
