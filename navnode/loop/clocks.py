"""How the clocks of image source and tracker relate to the node's clock, and to each other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from navnode.clock import Change, Lateness, Stamp
from navnode.loop.pairing import Pairing
from navnode.loop.topics import CLOCKS_APART_NS, FRAME_LATE_NS, FRAME_WAITS_NS
from navnode.types import Frame, Input, Matrix, Rejected, TrackedPose, WorkerState

__all__ = ["Clocks"]

_GAP_DRIFT = 2e-4
"""How fast the gap between two clocks may change, beyond their estimated drift."""
_SAME_NS = 20_000_000
"""Gaps that differ by less are the same, measured twice."""
_CONSISTENT = 10
"""X-rays whose delays agree before a new gap between the clocks is believed."""
_AHEAD_NS = 100_000_000
"""An X-ray that is stamped so far ahead of the clock of its source was stamped wrongly."""
_TRANSIT_NS = 500_000_000
"""No connection changes the time that messages travel by more."""

_ONE_CLOCK_NS = -60_000_000, 2_000_000_000
"""By how much X-rays may arrive later than the poses that carry their stamps; otherwise their clocks are apart."""
_STEP_NS = 10_000_000
_DELAYS = range(-15, 61)
"""Differences in delay between images and poses that are possible, in steps."""
_AS_STAMPED = 10
"""How far around the shift by which stamps are as they say others are tried, in steps."""


_CHANGED = {
    Change.CLOCK: "the clock of the X-ray source was set",
    Change.SILENCE: "the clock of the X-ray source was set, or its X-rays take longer to arrive",
    Change.DELAY: "X-rays take less time to arrive than before",
    Change.MISJUDGED: "the usual delay of X-rays was misjudged",
}


class Clocks:
    """The node's time, which comes from messages alone, and the clock of every device.

    Args:
        xray: device name of the image source.
        carm: device name of the marker whose poses are paired with the images.
        markers: device names of all markers.
    """

    def __init__(self, xray: str, carm: str, markers: Iterable[str]) -> None:
        self._xray, self._carm = xray, carm
        self._markers = tuple(markers)
        self._devices = (*self._markers, xray)
        self.now_ns = 0
        self._first_gap_ns: float | None = None
        """Image's offset minus tracker's when their stamps were comparable: what the two paths differ by in delay. If
        they never were, it is guessed to be none, until X-rays show it."""
        self.related = True
        """Whether an X-ray's time is known by the tracker's clock; otherwise it is guessed from the arrival."""
        self.pairing = Pairing()
        self._ambiguous = False
        """Whether that is because a clock may have been set, or a delay changed, while nothing came."""
        self._gap_ns: float | None = None
        """The same now; None: not known yet on these connections."""
        self._earlier_gap_ns: float | None = None
        """The same on the connections before."""
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
        """A source vanished: learn the clocks again. How images and tracker were related at first is kept: clocks that
        drifted apart, or were set, do not come back together by connecting again."""
        self._lateness = {
            # X-rays whose time is not known are used at rest; a tool's pose of an unknown age is none.
            device: Lateness(may_go_unnoticed=device == self._xray)
            for device in self._devices
        }
        self._forget_guess()
        if self._gap_ns is not None:
            self._earlier_gap_ns = self._gap_ns
        self._gap_ns = None
        self._gap_at_ns = 0
        self._consistent = 0
        self._other_first_ns: list[float] = []

    def stamp(self, device: str, timestamp_ns: int, received_ns: int) -> Stamp:
        """Learn from a device's message, and judge its time stamp."""
        lateness = self._lateness[device]
        stamp = lateness.observe(timestamp_ns, received_ns)
        if stamp is Stamp.CLOCK_SET and device != self._xray and lateness.change is Change.CLOCK:
            self._tell_others(device, lateness)
        if stamp is Stamp.CLOCK_SET and device in (self._xray, self._carm):
            self._consistent = 0
            self._forget_guess()
            rise_ns = lateness.rise_ns if device == self._xray else -lateness.rise_ns
            if self._gap_ns is not None and self._first_gap_ns is not None:
                self._gap_ns += rise_ns
                misjudged = lateness.change is Change.MISJUDGED and self._earlier_gap_ns is None
                if misjudged or lateness.change is Change.DELAY:
                    self._first_gap_ns += rise_ns
                if lateness.change is Change.SILENCE:
                    self._ambiguous, self.related = True, False
        elif device == self._xray:
            self._consistent = 0 if stamp is Stamp.AHEAD else self._consistent + 1
        return stamp

    def _tell_others(self, device: str, lateness: Lateness) -> None:
        """A tracker has one clock: markers that it does not see just now will be stamped by it as well."""
        before_ns = (lateness.offset_ns or 0.0) - lateness.rise_ns
        for other in self._markers:
            offset_ns = self._lateness[other].offset_ns
            if other != device and offset_ns is not None and abs(offset_ns - before_ns) <= CLOCKS_APART_NS:
                self._lateness[other].may_be_set(lateness.rise_ns)

    def usual_arrival_ns(self, device: str, timestamp_ns: int) -> int:
        """When a measurement usually would have arrived, by the node's clock: comparable across clocks that are set."""
        return timestamp_ns + round(self._lateness[device].offset_ns or 0.0)

    def _forget_guess(self) -> None:
        """Stamps do not mean what they meant."""
        self.pairing.forget()
        if not self.related and not self._ambiguous:
            self.related, self._first_gap_ns, self._gap_ns = True, None, None

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
        if self._gap_ns is None and self._first_gap_ns is not None:
            return self._connected_again(image, tracker)
        if image.offset_ns is None or tracker.offset_ns is None:
            if image.guess_ns is None or tracker.guess_ns is None or _one_clock(image.guess_ns - tracker.guess_ns):
                return ""
            return f"{self._apart(image.guess_ns - tracker.guess_ns)}, and not related yet"
        gap_ns, elapsed_ns = image.offset_ns - tracker.offset_ns, max(0, self.now_ns - self._gap_at_ns)
        self._gap_at_ns = self.now_ns
        if self._first_gap_ns is None:
            self._gap_ns, self.related = gap_ns, _one_clock(gap_ns)
            self._first_gap_ns = gap_ns if self.related else 0.0
        assert self._gap_ns is not None
        drifted_ns, slack_ns = (image.drift - tracker.drift) * elapsed_ns, _GAP_DRIFT * elapsed_ns
        expected_ns = self._gap_ns + drifted_ns
        self._gap_ns = min(max(gap_ns, expected_ns - slack_ns), expected_ns + slack_ns)
        apart_ns = abs(gap_ns - self._gap_ns)
        if apart_ns <= CLOCKS_APART_NS:
            return ""
        return f"image and tracker clocks moved apart by {apart_ns / 1e6:.0f} ms"

    def _connected_again(self, image: Lateness, tracker: Lateness) -> str:
        """Relate the clocks on new connections; returns why images cannot be paired with poses yet, or ''.

        A gap that is the one before, or the first one, is believed at once. Another one is believed when it is steady,
        and taken for the clocks' doing.
        """
        assert self._first_gap_ns is not None and self._earlier_gap_ns is not None
        if image.guess_ns is None or tracker.guess_ns is None:
            return "the clocks of images and tracker are not related yet since they connected again"
        gap_ns = image.guess_ns - tracker.guess_ns
        for known_ns in (self._earlier_gap_ns, self._first_gap_ns):
            if abs(gap_ns - known_ns) <= _SAME_NS:
                self._gap_ns, self._gap_at_ns = known_ns, self.now_ns
                return ""
        changed_ns = gap_ns - self._earlier_gap_ns
        if self._consistent < _CONSISTENT or image.offset_ns is None or tracker.offset_ns is None:
            told = f"image and tracker clocks moved apart by {abs(changed_ns) / 1e6:.0f} ms until they connected again"
            return f"{told}; {self._consistent} of {_CONSISTENT} X-rays agree"
        if abs(changed_ns) < _TRANSIT_NS:  # or messages travel longer, and the clocks are as before
            self._other_first_ns = [self._first_gap_ns + changed_ns, self._first_gap_ns]
        self._gap_ns, self._gap_at_ns = gap_ns, self.now_ns
        return ""

    def reconsider(self) -> None:
        """X-rays contradict tracking: what changed with the connections may be delays rather than clocks."""
        if self._other_first_ns:
            self._first_gap_ns = self._other_first_ns.pop(0)

    def unrelated(self) -> str:
        """Why X-rays show nothing while the C-arm or the patient moves, or ''."""
        if self.related or self._gap_ns is None:
            return ""
        return f"{self._apart(self._gap_ns)}; by how much exactly is known when X-rays of a move have shown it"

    def _apart(self, ns: float) -> str:
        return f"image and tracker clocks are {abs(ns) / 1e9:.1f} s apart"

    @property
    def shift_ns(self) -> float:
        """What is added to X-rays' times to get the tracker's."""
        return 0.0 if self._gap_ns is None or self._first_gap_ns is None else self._gap_ns - self._first_gap_ns

    def possible_shifts_ns(self, delays: Iterable[int] = _DELAYS, *, ahead_ns: int = FRAME_WAITS_NS) -> Matrix:
        """What :attr:`shift_ns` may be, (K,), ascending: as the stamps are, or with any difference in delay.

        Args:
            delays: differences in delay, in steps of 10 ms.
            ahead_ns: X-rays come no longer before the poses of their exposure than this: none could be paired then, and
                nothing would ever show otherwise.
        """
        if self._gap_ns is None:
            return np.zeros(0)
        steps = set(delays)
        if _one_clock(self._gap_ns):
            as_stamped = round(self._gap_ns / _STEP_NS)
            steps |= set(range(as_stamped - _AS_STAMPED, as_stamped + _AS_STAMPED + 1))
        delays_ns = _STEP_NS * np.array(sorted(steps), np.float64)
        return np.sort(self._gap_ns - delays_ns[delays_ns >= -ahead_ns])

    def pair(self, shift_ns: float) -> str:
        """X-rays have shown what to add to their times; returns what to tell the operator."""
        assert self._gap_ns is not None
        self._first_gap_ns, self.related, self._ambiguous = self._gap_ns - shift_ns, True, False
        self._other_first_ns = []
        which = "behind" if shift_ns > 0 else "ahead of"
        return f"X-rays show that the image clock is {abs(shift_ns) / 1e9:.2f} s {which} the tracker's"

    def in_tracker_time_ns(self, image_timestamp_ns: int) -> int:
        """When an image was taken, by the tracker's clock, relative to how the two clocks were related at first."""
        return image_timestamp_ns + round(self.shift_ns)

    def mistimed(self, frame: Frame, last_exposure_ns: int) -> tuple[str, bool]:
        """Learn from a frame; returns why its time stamp cannot be trusted, or '', and whether its clock was set."""
        stamp = self.stamp(self._xray, frame.timestamp_ns, frame.received_ns)
        if stamp is Stamp.CLOCK_SET:
            return _CHANGED[self._lateness[self._xray].change], True
        return self._doubted(frame, stamp, last_exposure_ns), False

    def _doubted(self, frame: Frame, stamp: Stamp, last_exposure_ns: int) -> str:
        lateness = self._lateness[self._xray]
        late_ns = lateness.age_ns(frame.timestamp_ns, frame.received_ns)
        if stamp is Stamp.AHEAD:
            return "the X-ray is stamped ahead of time"
        if late_ns > FRAME_LATE_NS:
            return f"the X-ray arrived {late_ns / 1e9:.1f} s late, or the clock of its source was set back"
        offset_ns = lateness.offset_ns  # one of the first X-rays may have had any stamp
        believable = offset_ns is None or last_exposure_ns + offset_ns <= frame.received_ns + _AHEAD_NS
        if frame.timestamp_ns < last_exposure_ns and believable:
            return "the X-ray is older than the last one"
        return ""


def _one_clock(gap_ns: float) -> bool:
    """Whether images and poses that are apart so much may carry the stamps of one clock."""
    return _ONE_CLOCK_NS[0] <= gap_ns <= _ONE_CLOCK_NS[1]
