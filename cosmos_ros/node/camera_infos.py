"""The camera's calibrations, each kept with the time from which it holds."""

from __future__ import annotations

import collections
import copy

from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from cosmos_ros.node.log import Complaints
from cosmos_ros.node.messages import nanoseconds_of

KEPT = 100  # different calibrations; a camera that repeats one with every image fills one place


class CameraInfos:
    """What came on `camera_info`. Thread-safe: entries are only added."""

    def __init__(self, complaints: Complaints) -> None:
        self._complaints = complaints
        self._kept: collections.deque[tuple[int, CameraInfo]] = collections.deque(maxlen=KEPT)

    @property
    def newest(self) -> CameraInfo | None:
        """The calibration that came last; None where none has come."""
        return self._kept[-1][1] if self._kept else None

    def add(self, info: CameraInfo) -> None:
        if not self._kept or _undated(info) != _undated(self._kept[-1][1]):
            self._kept.append((nanoseconds_of(info.header.stamp), info))

    def clear(self) -> None:
        """Forget all but the last one: the clock by which they were stamped was set back."""
        if (newest := self.newest) is not None:
            self._kept.clear()
            self._kept.append((0, newest))

    def at(self, stamp_ns: int, frame_id: str) -> CameraInfo | None:
        """The camera's calibration when it took the image with this stamp; None where it has none.

        That is the last one with the image's frame_id that is not stamped after it, or the first.
        """
        kept = [(since_ns, info) for since_ns, info in tuple(self._kept) if info.header.frame_id in (frame_id, "")]
        if not kept:
            if self._kept:
                theirs = self._kept[-1][1].header.frame_id
                self._complaints.say(
                    "camera_info", f"camera_info of '{theirs}' is not used: the images are of '{frame_id}'"
                )
            return None
        before = [info for since_ns, info in kept if since_ns <= stamp_ns]
        return before[-1] if before else kept[0][1]


def _undated(info: CameraInfo) -> CameraInfo:
    undated = copy.copy(info)
    undated.header = Header(frame_id=info.header.frame_id)
    return undated
