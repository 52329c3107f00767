"""How the clocks of image source and markers stand to the node's, and to each other."""

from __future__ import annotations

from collections.abc import Iterable

from navnode.clock import Lateness, Stamp
from navnode.loop.topics import CLOCKS_APART_NS, FRAME_LATE_NS
from navnode.types import Frame, Input, Rejected, TrackedPose, WorkerState


class Clocks:
    """The node's time, which comes in messages alone, and what is known of the clock of every device.

    Args:
        xray: the device of the images.
        carm: the marker whose poses are paired with them.
        markers: all tracked devices.
    """

    def __init__(self, xray: str, carm: str, markers: Iterable[str]) -> None:
        self._xray, self._carm = xray, carm
        self._devices = (*markers, xray)
        self.now_ns = 0
        self.reset()

    def advance(self, message: Input) -> None:
        """It is as late as the latest message says."""
        match message:
            case TrackedPose() | Frame() | Rejected():
                self.now_ns = max(self.now_ns, message.received_ns)
            case WorkerState():
                pass  # a heartbeat that waited in a queue dates nothing
            case _:
                self.now_ns = max(self.now_ns, message.now_ns)

    def reset(self) -> None:
        """A source vanished: learn everything again."""
        self._lateness = {device: Lateness() for device in self._devices}
        self._gap_ns: float | None = None

    def stamp(self, device: str, timestamp_ns: int, received_ns: int) -> Stamp:
        """Learn from a message of a device, and say what its stamp is worth."""
        return self._lateness[device].observe(timestamp_ns, received_ns)

    def late_ns(self, pose: TrackedPose) -> int:
        """By how much a pose took longer than the shortest way."""
        return self._lateness[pose.device].age_ns(pose.timestamp_ns, pose.received_ns)

    def age_ns(self, device: str, timestamp_ns: int) -> int:
        """How old a measurement is now, beyond the shortest way it takes."""
        return self._lateness[device].age_ns(timestamp_ns, self.now_ns)

    def image_age_ns(self, frame: Frame) -> int:
        """How old an X-ray is now."""
        return self.age_ns(self._xray, frame.timestamp_ns)

    def apart(self, device: str, other: str) -> str:
        """Why the stamps of two markers cannot be compared, or ''."""
        one, two = self._lateness[device].offset_ns, self._lateness[other].offset_ns
        if one is None or two is None or abs(one - two) <= CLOCKS_APART_NS:
            return ""
        return f"the clocks of {device} and {other} differ by {abs(one - two) / 1e6:.0f} ms"

    def drifted(self) -> str:
        """Why images cannot be paired with poses any more, or ''.

        The ways of the two differ by an unknown but steady time: what is not steady is a clock that was set.
        """
        image, tracker = self._lateness[self._xray].offset_ns, self._lateness[self._carm].offset_ns
        if image is None or tracker is None:
            return ""
        if self._gap_ns is None:
            self._gap_ns = image - tracker
        moved_ns = image - tracker - self._gap_ns
        if abs(moved_ns) <= CLOCKS_APART_NS:
            return ""
        return f"the clocks of image and tracker have moved apart by {abs(moved_ns) / 1e6:.0f} ms; connect anew"

    def mistimed(self, frame: Frame, last_exposure_ns: int) -> str:
        """Learn from a frame; why its time stamp cannot be believed, or ''."""
        stamp = self.stamp(self._xray, frame.timestamp_ns, frame.received_ns)
        late_ns = self._lateness[self._xray].age_ns(frame.timestamp_ns, frame.received_ns)
        if stamp in (Stamp.AHEAD, Stamp.CLOCK_SET):
            return "the X-ray is stamped ahead of time"
        if late_ns > FRAME_LATE_NS:
            return f"the X-ray arrived {late_ns / 1e9:.1f} s late, or the clock of its source was set back"
        if frame.timestamp_ns < last_exposure_ns:
            return "the X-ray is older than the last one"
        return ""
