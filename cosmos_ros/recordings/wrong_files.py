"""Says what a file or folder is instead of a recording: "no recording" alone helps nobody."""

from __future__ import annotations

from pathlib import Path

from cosmos_ros.listing import listed
from cosmos_ros.recordings.folders import recordings_in

# The first bytes of what is often taken for a rosbag2 recording.
_BEGINNINGS = {
    b"#ROSBAG V": "it is a ROS 1 bag; rosbags-convert --src FILE.bag --dst FOLDER makes a rosbag2 recording of it",
    b"PK\x03\x04": "it is a zip archive; unpack it first",
    b"\x1f\x8b": "it is packed with gzip; unpack it first",
    b"BZh": "it is packed with bzip2; unpack it first",
    b"\xfd7zXZ": "it is packed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "it is packed with zstd; give it the suffix .zstd, after .mcap or .db3",
    b"version https://git-lfs": "it is a pointer of Git LFS and not the file itself; git lfs pull brings it",
}
_SHOWN = 5  # names of a folder's recordings that are listed


def what_it_is(path: Path, head: bytes | None = None) -> str:
    """Of something that holds no messages in its first bytes; empty where nothing can be told from them.

    head  the file's first bytes, where they are known
    """
    if path.is_dir():
        return _folder(path)
    if head is None:
        with path.open("rb") as file:
            head = file.read(4096)
    if not head:
        return "it is empty"
    for beginning, words in _BEGINNINGS.items():
        if head.startswith(beginning):
            return words
    return "it is text" if _is_text(head) else ""


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        # The last character may have been cut in two.
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character in "\r\n\t\f" for character in text)


def _folder(path: Path) -> str:
    names = [each.name for each in recordings_in(path)]
    if not names:
        return "it holds no .mcap or .db3 file that can be read"
    return f"it is a folder of recordings, {listed(names, _SHOWN, ', ')}; name those that are meant"
