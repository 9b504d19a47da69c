"""What recordings lie in a folder."""

from __future__ import annotations

from pathlib import Path

from cosmos_ros.recordings.video import SUFFIXES as VIDEOS


def recordings_in(folder: Path) -> list[Path]:
    """The bags and the videos that lie in a folder; none where it is a bag itself."""
    inside = sorted(folder.iterdir())
    if any(_is_bag_part(each) for each in inside):
        return []
    bags = [each for each in inside if each.is_dir() and any(_is_bag_part(file) for file in each.iterdir())]
    return bags + [each for each in inside if each.suffix.lower() in (".bag", *VIDEOS)]


def _is_bag_part(file: Path) -> bool:
    return file.name == "metadata.yaml" or not {".mcap", ".db3"}.isdisjoint(file.suffixes)
