"""The windows of many recordings: which are cut, which are left out and why."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cosmos_ros.errors import UnevenFrames
from cosmos_ros.evaluation.measure import moving_share
from cosmos_ros.listing import listed
from cosmos_ros.progress_bar import ProgressBar
from cosmos_ros.recordings.opening import open_recording
from cosmos_ros.recordings.recording import NAMED, BadRecording, Recording
from cosmos_ros.recordings.windows import Plan, Skipped, Window, WindowMaker

OTHER_RATE = "--frame-rate HZ picks frames, and predicts, at another rate"


@dataclass(frozen=True)
class Choice:
    """What of a recording is taken.

    image_topic   "": the only one
    max_pixels    of a picture
    least_motion  share of the pixels that change within the horizon, of those that a model of frame_size sees
    frame_size    (height, width)
    """

    image_topic: str
    max_pixels: int
    least_motion: float
    frame_size: tuple[int, int]


class RecordedWindows:
    """Those of all recordings that are not done yet.

    bags      gets what is said of each recording
    skipped   gets what was left out, and why
    expected  windows in all, as far as is known
    """

    def __init__(
        self,
        paths: Sequence[str],
        plan: Plan,
        done: Container[str],
        choice: Choice,
        bags: list[dict],
        skipped: list[dict],
    ) -> None:
        self._paths, self._plan, self._done, self._choice = paths, plan, done, choice
        self._bags, self._skipped = bags, skipped
        self.expected = 0

    def windows(self) -> Iterator[Window]:
        """One that cannot be read does not keep us from the others."""
        for index, path in enumerate(self._paths):
            try:
                recording = open_recording(path, self._choice.max_pixels)
                topic = recording.image_topic(self._choice.image_topic)
            except BadRecording as error:
                self._bags.append({"name": Path(path).name, "error": str(error)})
                ProgressBar.write(f"cosmos_ros: {error}", file=sys.stderr)
                continue
            yield from self._windows_of(recording, topic, index)
            for loss in recording.losses:
                ProgressBar.write(f"{recording.name}: {loss}", file=sys.stderr)

    def why_none(self) -> str:
        """Why there was no window, from what was said of the recordings."""
        remarks = listed([remark for bag in self._bags if (remark := _remark(bag))], NAMED)
        if any("error" in bag for bag in self._bags):
            return f"nothing could be evaluated: {remarks}"
        if self._skipped:
            skip = self._skipped[0]
            remedy = f"; {OTHER_RATE}" if skip["reason"] == UnevenFrames.code else ""
            return (
                f"nothing could be evaluated: all {len(self._skipped)} windows were skipped; {skip['message']}{remedy}"
            )
        return (
            f"nothing could be evaluated: a window needs {self._plan.span_s:.2f} s of unbroken images, and no "
            f"recording has them; {OTHER_RATE}{remarks and '; '}{remarks}"
        )

    def _windows_of(self, recording: Recording, topic: str, index: int) -> Iterator[Window]:
        """What else is to say of the recording goes to `bags`."""
        self.expected += self._expected(recording)
        maker = WindowMaker(recording.name, index, self._plan, self._done)
        self._bags.append({"name": recording.name, "topic": topic, "losses": recording.losses, "notes": maker.notes})
        some = False
        try:
            for window in maker.windows(recording.frames(topic)):
                some = True
                if not isinstance(window, Skipped):
                    window = self._unless_still(window)
                if isinstance(window, Skipped):
                    self._skipped.append(asdict(window))
                    self.expected -= 1
                else:
                    yield window
        except BadRecording as error:  # what was read until then counts
            recording.losses.append(str(error))
        if not some and recording.duration is not None and recording.duration < self._plan.span_s:
            maker.notes.append(f"it lasts {recording.duration:.2f} s, and a window {self._plan.span_s:.2f} s")

    def _unless_still(self, window: Window) -> Window | Skipped:
        """The window, unless less moves in it than is wanted."""
        least = self._choice.least_motion
        if least and (share := moving_share(window, self._choice.frame_size)) < least:
            why = f"{share:.1%} of the pixels change within the horizon, and --min-motion is {least:g}"
            return Skipped(window.bag, window.time_ns, "STILL", why)
        return window

    def _expected(self, recording: Recording) -> int:
        """Windows that an unbroken recording of this length holds."""
        spare = (recording.duration or 0.0) - self._plan.span_s
        return max(0, 1 + int(spare / self._plan.every_s)) if spare >= 0 else 0


def _remark(bag: dict) -> str:
    """What was said of a recording, the last of it: many cuts, or gaps, are alike. Empty where there is nothing."""
    if "error" in bag:
        return bag["error"]
    said = [*bag["losses"], *bag["notes"]][-3:]
    return f"{bag['name']}: {', '.join(said)}" if said else ""
