"""Videos: every container, upright, and as far as they can be decoded."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.recordings.recording import BadRecording

N = 40
KINDS = {"mp4": "libx264", "m4v": "mpeg4", "mov": "mpeg4", "avi": "mpeg4", "mkv": "libx264", "webm": "libvpx"}
KINDS |= {"ts": "mpeg2video", "mpg": "mpeg1video", "mpeg": "mpeg1video", "mts": "mpeg2video"}


def scene(n: int = N, height: int = 48, width: int = 64) -> np.ndarray:
    """Noise on the left, a level that rises with time elsewhere, and a bright upper edge."""
    frames = np.zeros((n, height, width, 3), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None] * 4
    frames[:, :, : width // 4] = np.random.default_rng(0).integers(0, 256, (n, height, width // 4, 3), np.uint8)
    frames[:, : height // 4, width // 4 :] = 250
    return frames


def write_video(path: Path, frames: np.ndarray, codec: str = "libx264", rate: int = 25, rotation: int = 0) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.gop_size = 10
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", KINDS)
def test_every_kind_of_video(tmp_path, suffix):
    frames = scene()
    recording = open_recording(write_video(tmp_path / f"film.{suffix}", frames, KINDS[suffix]))
    assert (
        not recording.is_still and recording.image_topic() == "" and recording.duration == pytest.approx(1.6, abs=0.1)
    )
    read = list(recording.frames())
    assert len(read) == N and recording.losses == []
    steps = np.diff([frame.stamp_ns for frame in read])
    assert np.abs(steps - 40_000_000).max() < 2_000_000 and read[0].stamp_ns > 0
    pixels = read[20].load()
    assert pixels.shape == (48, 64, 3) == (read[20].height, read[20].width, 3)
    assert np.abs(pixels.astype(int) - frames[20])[:, 20:].mean() < 8


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_phone_that_was_held_upright_has_its_pictures_upright(tmp_path, rotation):
    frames = scene()
    lying = np.ascontiguousarray(np.rot90(frames, -rotation // 90, axes=(1, 2)))
    read = next(open_recording(write_video(tmp_path / "phone.mp4", lying, rotation=rotation)).frames())
    assert (read.height, read.width) == (48, 64)
    assert np.abs(read.load().astype(int) - frames[0])[:, 20:].mean() < 8


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_what_is_stored_mirrored_is_shown_as_players_show_it(tmp_path, rotation):
    """As a camera for oneself records: stored mirrored and turned, with a matrix that mirrors it back."""
    frames = scene()
    lying = np.ascontiguousarray(np.rot90(frames, -rotation // 90, axes=(1, 2))[:, :, ::-1])
    path = write_video(tmp_path / "mirrored.mp4", lying, rotation=rotation)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # of a track's header: nine numbers, (a, b, u), (c, d, v), (x, y, w)
    a, b = struct.unpack_from(">2i", data, at)
    struct.pack_into(">2i", data, at, -a, -b)
    path.write_bytes(data)
    read = next(open_recording(path).frames())
    assert (read.height, read.width) == (48, 64)
    assert np.abs(read.load().astype(int) - frames[0])[:, 20:].mean() < 8


def test_a_damaged_packet_is_passed_over_and_counted(tmp_path):
    path = write_video(tmp_path / "film.mp4", scene())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for at, size in (packets[15], packets[25]):
        data[at : at + size] = bytes(size)
    path.write_bytes(data)
    recording = open_recording(path)
    assert len(list(recording.frames())) == N - 2
    assert recording.losses == [
        "2 packets of the video are damaged and were passed over: Invalid data found when processing input"
    ]


def test_a_cut_video_is_read_up_to_the_cut(tmp_path):
    path = write_video(tmp_path / "film.ts", scene(), "mpeg2video")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert N // 4 < len(list(open_recording(path).frames())) < N


@pytest.mark.parametrize("size", [(64, 48), (48, 64)])
def test_the_limit_on_pixels_holds_for_videos(tmp_path, size):
    path = write_video(tmp_path / "film.mp4", scene(5, *size))
    assert len(list(open_recording(path, max_pixels=64 * 48).frames())) == 5
    with pytest.raises(BadRecording, match=r"more than the 3,071 pixels .*\(max_pixels\)"):
        open_recording(path, max_pixels=64 * 48 - 1)


def test_a_stream_that_grows_on_the_way_is_read_up_to_there(tmp_path):
    small, large = (write_video(tmp_path / f"{n}.ts", scene(10, n, 64), "mpeg2video") for n in (48, 96))
    (tmp_path / "both.ts").write_bytes(small.read_bytes() + large.read_bytes())
    recording = open_recording(tmp_path / "both.ts", max_pixels=64 * 48)
    assert {frame.height for frame in recording.frames()} == {48} and recording.losses
    assert {frame.height for frame in open_recording(tmp_path / "both.ts").frames()} == {48, 96}


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.ts\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no video at all", "cannot be decoded"), (PLAYLIST.encode(), "cannot be decoded"), (b"", "")],
)
def test_what_is_no_video_is_said_and_a_playlist_opens_nothing(tmp_path, content, said):
    write_video(tmp_path / "secret.ts", scene(5), "mpeg2video")
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(BadRecording, match=f"film.mp4.*{said}"):
        list(open_recording(tmp_path / "film.mp4").frames())


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(BadRecording, match="holds no video stream"):
        open_recording(tmp_path / "sound.mp4")


def test_frames_that_are_kept_keep_no_threads(tmp_path):
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    video = open_recording(write_video(tmp_path / "video.mp4", scene()))
    frames = list(video.frames(""))
    before = threads()
    pixels = [frame.load() for frame in frames]
    assert len(pixels) == N and threads() - before < N, "two per frame, on two cores, ran a machine out of threads"
