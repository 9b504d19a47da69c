"""What is due by the stamps of frames alone: a recording makes the same things due however fast it is played."""

from __future__ import annotations


class Cadence:
    """Something every so often of the camera's time, from the first frame on; begun anew where stamps jump back."""

    def __init__(self) -> None:
        self._due_ns: int | None = None
        self._last_ns = 0

    def restart(self) -> None:
        """The next frame makes it due."""
        self._due_ns = None

    def is_due(self, stamp_ns: int, period_ns: int) -> bool:
        """Whether the frame with this stamp makes it due. A pause of the camera is not made up for.

        stamp_ns  of a buffer's newest frame: late ones are not asked about, so that one that goes back begins anew
        """
        if stamp_ns < self._last_ns or self._due_ns is None:
            self._due_ns = stamp_ns
        self._last_ns = stamp_ns
        if stamp_ns < self._due_ns:
            return False
        periods = (stamp_ns - self._due_ns) // period_ns + 1
        self._due_ns += periods * period_ns
        return True
