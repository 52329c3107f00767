"""How the clocks of image source and tracker relate to the node's clock, and to each other."""

from __future__ import annotations

from collections.abc import Iterable

from navnode.clock import Lateness, Stamp
from navnode.loop.topics import CLOCKS_APART_NS, FRAME_LATE_NS
from navnode.types import Frame, Input, Rejected, TrackedPose, WorkerState

__all__ = ["Clocks"]

_GAP_DRIFT = 2e-4
"""How fast the gap between two clocks may change, beyond their estimated drift."""


class Clocks:
    """The node's time, which comes from messages alone, and the clock of every device.

    Args:
        xray: device name of the image source.
        carm: device name of the marker whose poses are paired with the images.
        markers: device names of all markers.
    """

    def __init__(self, xray: str, carm: str, markers: Iterable[str]) -> None:
        self._xray, self._carm = xray, carm
        self._devices = (*markers, xray)
        self.now_ns = 0
        self.reset()

    def advance(self, message: Input) -> None:
        """Advance the node's time to the time of a message."""
        match message:
            case TrackedPose() | Frame() | Rejected():
                self.now_ns = max(self.now_ns, message.received_ns)
            case WorkerState():
                pass  # a heartbeat may have waited in a queue; its time says nothing
            case _:
                self.now_ns = max(self.now_ns, message.now_ns)

    def reset(self) -> None:
        """A source vanished: learn the clocks again."""
        self._lateness = {device: Lateness() for device in self._devices}
        self._first_gap_ns: float | None = None
        self._gap_ns = 0.0
        self._gap_at_ns = 0

    def stamp(self, device: str, timestamp_ns: int, received_ns: int) -> Stamp:
        """Learn from a device's message, and judge its time stamp."""
        lateness = self._lateness[device]
        stamp = lateness.observe(timestamp_ns, received_ns)
        if stamp is Stamp.CLOCK_SET and self._first_gap_ns is not None and device in (self._xray, self._carm):
            rise_ns = lateness.rise_ns if device == self._xray else -lateness.rise_ns
            self._gap_ns += rise_ns
            if not lateness.clock_set:
                self._first_gap_ns += rise_ns
        return stamp

    def late_ns(self, pose: TrackedPose) -> int:
        """By how much a pose was delayed beyond the shortest delay of its device."""
        return self._lateness[pose.device].age_ns(pose.timestamp_ns, pose.received_ns)

    def age_ns(self, device: str, timestamp_ns: int) -> int:
        """How old a measurement is now, beyond the shortest delay of its device."""
        return self._lateness[device].age_ns(timestamp_ns, self.now_ns)

    def image_age_ns(self, frame: Frame) -> int:
        """How old an X-ray is now, beyond the shortest delay of its source."""
        return self.age_ns(self._xray, frame.timestamp_ns)

    def apart(self, device: str, other: str) -> str:
        """Why the stamps of two markers cannot be compared, or ''."""
        one, two = self._lateness[device].offset_ns, self._lateness[other].offset_ns
        if one is None or two is None or abs(one - two) <= CLOCKS_APART_NS:
            return ""
        return f"the clocks of {device} and {other} differ by {abs(one - two) / 1e6:.0f} ms"

    def drifted(self) -> str:
        """Why images cannot be paired with poses now, or ''.

        The delays of the two differ by an unknown but steady time. Changes as slow as clock drift are followed; a
        faster one is a clock that was set, or a delay that cannot be told from one.
        """
        image, tracker = self._lateness[self._xray], self._lateness[self._carm]
        if image.offset_ns is None or tracker.offset_ns is None:
            return ""
        gap_ns, elapsed_ns = image.offset_ns - tracker.offset_ns, max(0, self.now_ns - self._gap_at_ns)
        self._gap_at_ns = self.now_ns
        if self._first_gap_ns is None:
            self._first_gap_ns = self._gap_ns = gap_ns
        drifted_ns, slack_ns = (image.drift - tracker.drift) * elapsed_ns, _GAP_DRIFT * elapsed_ns
        expected_ns = self._gap_ns + drifted_ns
        self._gap_ns = min(max(gap_ns, expected_ns - slack_ns), expected_ns + slack_ns)
        apart_ns = abs(gap_ns - self._gap_ns)
        if apart_ns <= CLOCKS_APART_NS:
            return ""
        return f"image and tracker clocks moved apart by {apart_ns / 1e6:.0f} ms"

    def in_tracker_time_ns(self, image_timestamp_ns: int) -> int:
        """When an image was taken, by the tracker's clock, relative to how the two clocks were related at first."""
        return image_timestamp_ns + round(self._gap_ns - (self._first_gap_ns or 0.0))

    def mistimed(self, frame: Frame, last_exposure_ns: int) -> tuple[str, bool]:
        """Learn from a frame; returns why its time stamp cannot be trusted, or '', and whether its clock was set."""
        stamp = self.stamp(self._xray, frame.timestamp_ns, frame.received_ns)
        if stamp is Stamp.CLOCK_SET:
            return "the clock of the X-ray source was set", True
        return self._doubted(frame, stamp, last_exposure_ns), False

    def _doubted(self, frame: Frame, stamp: Stamp, last_exposure_ns: int) -> str:
        late_ns = self._lateness[self._xray].age_ns(frame.timestamp_ns, frame.received_ns)
        if stamp is Stamp.AHEAD:
            return "the X-ray is stamped ahead of time"
        if late_ns > FRAME_LATE_NS:
            return f"the X-ray arrived {late_ns / 1e9:.1f} s late, or the clock of its source was set back"
        if frame.timestamp_ns < last_exposure_ns:
            return "the X-ray is older than the last one"
        return ""
