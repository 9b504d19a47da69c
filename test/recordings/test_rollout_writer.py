"""What is written of a rollout: marked frames, nothing that was not guarded."""

from __future__ import annotations

import dataclasses
import json

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from cosmos_ros.recordings.rollout_writer import (
    CAMERA,
    LATER,
    PREDICTED,
    PublishedRollout,
    comparison_of,
    contact_sheet_of,
    mp4_of,
)
from cosmos_ros.rollout import Clip, Crop

pytestmark = pytest.mark.slow  # as a whole


def test_the_video_plays_the_camera_then_the_prediction_each_marked(tmp_path, guarded):
    clip, rollout = guarded(96, 320)
    (tmp_path / "rollout.mp4").write_bytes(mp4_of(clip, rollout))
    with av.open(str(tmp_path / "rollout.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 10)
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(stream)]
    assert len(frames) == 33
    for i, frame in enumerate(frames):
        mark = CAMERA if i < 9 else PREDICTED
        assert np.abs(frame[:, 0] - mark).max() < 12
    # Border and bar aside, the pixels are those of the rollout.
    middle = frames[20][22:118, 4:324]
    assert np.abs(middle.mean(axis=-1) - rollout.frames[11].mean(axis=-1)).mean() < 4


def test_later_stretches_have_a_mark_of_their_own(tmp_path, guarded):
    clip, rollout = guarded(96, 320)
    summary = {
        "conditioning_stamps_ns": clip.stamps_ns,
        "stamps_ns": rollout.stamps_ns,
        "frame_rate": 10,
        "seams": [9, 17],
    }
    np.save(tmp_path / "frames.npy", rollout.frames)
    (tmp_path / "rollout.json").write_text(json.dumps(summary))
    (tmp_path / "rollout.mp4").write_bytes(mp4_of(clip, PublishedRollout(tmp_path, rollout.crop)))
    with av.open(str(tmp_path / "rollout.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]
    for mark, part in ((CAMERA, frames[:9]), (PREDICTED, frames[9:17]), (LATER, frames[17:])):
        assert all(np.abs(frame[:, 0] - mark).max() < 12 for frame in part)


def test_small_and_odd_pictures_are_enlarged_and_fit_the_codec(tmp_path, guarded):
    clip, rollout = guarded(48, 64, crop=Crop(3, 1, 55, 43))
    (tmp_path / "rollout.mp4").write_bytes(mp4_of(clip, rollout))
    with av.open(str(tmp_path / "rollout.mp4")) as video:
        context = video.streams.video[0].codec_context
        assert context.width >= 55 * 6 and context.width % 2 == 0 and context.height % 2 == 0


def test_the_contact_sheet_shows_every_frame(tmp_path, guarded):
    clip, rollout = guarded(96, 320)
    (tmp_path / "sheet.png").write_bytes(contact_sheet_of(clip, rollout))
    sheet = cv2.cvtColor(cv2.imread(str(tmp_path / "sheet.png")), cv2.COLOR_BGR2RGB).astype(int)
    cell_height, cell_width = sheet.shape[0] // 5, sheet.shape[1] // 7
    marks = [sheet[cell_height * (i // 7) + 2, cell_width * (i % 7) + 2] for i in range(33)]
    assert [np.abs(mark - PREDICTED).max() < 8 for mark in marks] == [False] * 9 + [True] * 24
    assert [np.abs(mark - CAMERA).max() < 8 for mark in marks] == [True] * 9 + [False] * 24


def test_the_comparison_plays_what_happened_beside_the_prediction(tmp_path, guarded):
    clip, rollout = guarded(96, 320)
    truth = Clip(255 - rollout.frames, rollout.stamps_ns, rollout.frame_rate)
    (tmp_path / "both.webp").write_bytes(comparison_of(clip, rollout, truth))
    with Image.open(tmp_path / "both.webp") as animation:
        assert animation.n_frames == 33
        for i in range(33):
            animation.seek(i)
            shown = np.asarray(animation.convert("RGB")).astype(int)
            middle = shown.shape[1] // 2
            left, right = shown[22:118, 4:324], shown[22:118, middle + 4 : middle + 324]
            assert np.abs(shown[60, 1] - CAMERA).max() < 12
            assert np.abs(shown[60, -2] - (CAMERA if i < 9 else PREDICTED)).max() < 12
            expected = clip.frames[i] if i < 9 else rollout.frames[i - 9]
            assert np.abs(right.mean(axis=-1) - expected.mean(axis=-1)).mean() < 6
            assert np.abs(left - (right if i < 9 else 255 - right)).mean() < 12


@pytest.fixture
def published(tmp_path_factory, guarded):
    """A rollout, and the same as a client of the node left it in a folder."""
    clip, rollout = guarded(crop=Crop(3, 1, 55, 43))
    folder = tmp_path_factory.mktemp("client")
    np.save(folder / "frames.npy", rollout.frames)
    times = {name: getattr(rollout, name) for name in ("conditioning_stamps_ns", "stamps_ns", "frame_rate", "seams")}
    (folder / "rollout.json").write_text(json.dumps(times))
    return clip, rollout, folder


@pytest.mark.parametrize("content_of", [mp4_of, contact_sheet_of])
def test_a_rollout_from_a_node_is_shown_as_one_from_here(published, content_of):
    clip, rollout, folder = published
    assert content_of(clip, rollout) == content_of(clip, PublishedRollout(folder, rollout.crop))


def test_a_published_rollout_is_made_of_a_clients_folder_alone(tmp_path, published):
    _, rollout, folder = published
    received = PublishedRollout(folder, rollout.crop)
    with pytest.raises(TypeError):
        PublishedRollout(rollout.frames, rollout.crop)
    with pytest.raises(dataclasses.FrozenInstanceError):
        received.frames = np.zeros_like(rollout.frames)
    with pytest.raises(ValueError, match="read-only"):
        received.frames[:] = 0
    with pytest.raises(OSError):
        PublishedRollout(tmp_path / "nowhere", rollout.crop)
    np.save(folder / "frames.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError):
        PublishedRollout(folder, rollout.crop)


@pytest.mark.parametrize("content_of", [mp4_of, contact_sheet_of])
def test_nothing_but_a_guarded_rollout_is_shown(guarded, content_of):
    clip, rollout = guarded()
    for impostor in (rollout.frames, clip, None):
        with pytest.raises(TypeError, match="only a GuardedRollout may be written"):
            content_of(clip, impostor)
