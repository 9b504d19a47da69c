"""Any recording by its path: a bag, a video or a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cosmos_ros.files import check_regular
from cosmos_ros.images import MAX_PIXELS
from cosmos_ros.recordings import bag, picture, video
from cosmos_ros.recordings.recording import BadRecording, Recording, bad_recording
from cosmos_ros.recordings.wrong_files import what_it_is

_KINDS: dict[str, Callable[[Path, int], Recording]] = {
    **dict.fromkeys(bag.SUFFIXES, bag.Bag),
    **dict.fromkeys(video.SUFFIXES, video.Video),
    **dict.fromkeys(picture.SUFFIXES, picture.Picture),
}


def open_recording(path: str | Path, max_pixels: int = MAX_PIXELS) -> Recording:
    """The recording that lies there. Raises BadRecording, with what it is instead."""
    path = Path(path)
    if not path.exists():
        raise BadRecording(f"{path} does not exist")
    with bad_recording(path):
        if path.is_dir():
            return bag.Bag(path, max_pixels)
        check_regular(path)
        if kind := _KINDS.get(path.suffix.lower()):
            return kind(path, max_pixels)
        if path.suffix == ".bag":
            raise BadRecording(f"{path} is no rosbag2 recording: {what_it_is(path) or 'its name says ROS 1'}")
    known = ", ".join((*video.SUFFIXES, *picture.SUFFIXES, *bag.STORAGES))
    raise BadRecording(f"{path}: no video, image or recording by its name; known are {known} and folders of rosbag2")
