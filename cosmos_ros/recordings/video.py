"""Video files -> stamped frames, upright, a damaged packet passed over."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from cosmos_ros.frame_buffer import StampedFrame
from cosmos_ros.images import MAX_PIXELS, BadImage, check_size
from cosmos_ros.recordings.recording import BadRecording, Recording
from cosmos_ros.rollout import NANOSECONDS

if TYPE_CHECKING:
    import av
    from av.buffer import Buffer
    from av.video.reformatter import VideoReformatter

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".mts", ".mpg", ".mpeg")
# FFmpeg goes by content: a playlist under any of these names would have it open other files, and addresses.
_OPTIONS = {"format_whitelist": "mov,avi,matroska,webm,mpegts,mpeg,mpegvideo", "protocol_whitelist": "file"}


class Video(Recording):
    """One video file; its first video stream. Raises BadRecording where it has none that can be decoded."""

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(path, max_pixels)
        with self._open() as (container, _):
            self.duration = container.duration / 1e6 if container.duration else None

    def _frames(self, topic: str) -> Iterator[StampedFrame]:
        from av.error import FFmpegError
        from av.video.reformatter import VideoReformatter

        # One for all frames: a frame that converts itself starts a thread per core and keeps them as long as it lives.
        converter = VideoReformatter()
        n, damaged, reason = 0, 0, ""
        with self._open() as (container, stream):
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except FFmpegError as error:
                    self.losses.append(f"the video cannot be read beyond frame {n}: {error.strerror}")
                    break
                try:
                    frames = packet.decode()
                except FFmpegError as error:
                    damaged, reason = damaged + 1, str(error.strerror)
                    continue
                for frame in frames:
                    try:
                        check_size(frame.height, frame.width, self.max_pixels)
                    except BadImage as error:
                        self.losses.append(f"the video was read up to frame {n}: there {error}")
                        return
                    yield self._frame(frame, n, stream, converter)
                    n += 1
        if not n:
            raise BadRecording(f"{self.path} cannot be decoded: {reason or 'it holds no frames'}")
        if damaged:
            self.losses.append(f"{damaged} packets of the video are damaged and were passed over: {reason}")

    def _frame(
        self, frame: av.VideoFrame, index: int, stream: av.VideoStream, converter: VideoReformatter
    ) -> StampedFrame:
        time = frame.time
        if frame.pts is None:  # a bare stream of frames, without a container's times
            time = index / float(stream.average_rate or stream.guessed_rate or 25)
        turn = _turn_of(frame)
        height, width = (frame.width, frame.height) if turn.transposed else (frame.height, frame.width)
        # A second later than the file says: a stamp of zero means that there is none.
        stamp_ns = NANOSECONDS + round(time * NANOSECONDS)
        load = functools.partial(_pixels, frame, turn, converter)
        n_bytes = sum(plane.buffer_size for plane in frame.planes)
        return StampedFrame(stamp_ns, "", height, width, "video", load, n_bytes=n_bytes)

    def _open(self) -> _Opened:
        return _Opened(self.path, self.max_pixels)


class _Opened:
    """with _Opened(path, max_pixels) as (container, stream): ..."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path, self._max_pixels = path, max_pixels

    def __enter__(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        # Loaded here: a robot that only runs the node needs no video decoder.
        import av

        try:
            self._container = av.open(str(self._path), options=_OPTIONS)
        except av.error.FFmpegError as error:
            raise BadRecording(f"{self._path} cannot be decoded: {error.strerror}") from error
        if not self._container.streams.video:
            self._container.close()
            raise BadRecording(f"{self._path} holds no video stream")
        stream = self._container.streams.video[0]
        try:
            if stream.width and stream.height:
                check_size(stream.height, stream.width, self._max_pixels)
        except BadImage as error:
            self._container.close()
            raise BadRecording(f"{self._path}: {error}") from error
        # A stream may change its size on the way. FFmpeg counts the pixels that it allocates, which are more.
        stream.codec_context.options = {"max_pixels": str(2 * self._max_pixels + 2**20)}
        return self._container, stream

    def __exit__(self, *_: object) -> None:
        self._container.close()


class _Turn(NamedTuple):
    """How stored pixels become upright ones: first transposed, then mirrored."""

    transposed: bool = False
    left_right: bool = False
    up_down: bool = False


def _turn_of(frame: av.VideoFrame) -> _Turn:
    """Phones record as they are held, cameras for oneself mirrored, and say in a matrix how frames are shown.

    Its first rows are (a, b, u) and (c, d, v): what is stored at (x, y) is shown at (a x + c y, b x + d y).
    """
    data = cast("Buffer | None", frame.side_data.get("DISPLAYMATRIX"))
    if data is None:
        return _Turn()
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    return _Turn(True, c < 0, b < 0) if abs(b) + abs(c) > abs(a) + abs(d) else _Turn(False, a < 0, d < 0)


def _pixels(frame: av.VideoFrame, turn: _Turn, converter: VideoReformatter) -> np.ndarray:
    pixels = converter.reformat(frame, format="rgb24").to_ndarray()
    pixels = pixels.swapaxes(0, 1) if turn.transposed else pixels
    pixels = pixels[:, ::-1] if turn.left_right else pixels
    return np.ascontiguousarray(pixels[::-1] if turn.up_down else pixels)
