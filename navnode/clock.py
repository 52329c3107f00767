"""The node's clock, and the lateness of messages stamped by other clocks.

The loop reads no clock: times reach it only inside messages, and come from here.
"""

from __future__ import annotations

import time
from collections import deque
from enum import Enum

import numpy as np

__all__ = ["Change", "Lateness", "NS_PER_S", "Stamp", "elapsed_ms", "now_ns"]

NS_PER_S = 1_000_000_000


def elapsed_ms(started_s: float) -> float:
    """Milliseconds since ``started_s``, a reading of ``time.perf_counter``."""
    return 1e3 * (time.perf_counter() - started_s)


def now_ns() -> int:
    """Nanoseconds since 1970, UTC like OpenIGTLink's stamps, that never step back while the process lives.

    They advance with the monotonic clock, so that a correction of the wall clock during an operation makes no pose
    look older or newer than it is.
    """
    return _EPOCH_NS + time.monotonic_ns()


_EPOCH_NS = time.time_ns() - time.monotonic_ns()


class Stamp(Enum):
    """Verdict on a message's time stamp."""

    LEARNING = "one of the first; the usual delay is not known yet"
    EXPECTED = "as usual, or late"
    AHEAD = "earlier than expected: a wrong stamp, or a clock that was set forward"
    CLOCK_SET = "the last of several that agree: the clock was set, or the usual delay has changed or was misjudged"


class Change(Enum):
    """Why the usual difference between arrival and stamp is another one than before."""

    CLOCK = "the clock was set: the stamps jumped, and messages kept arriving evenly"
    DELAY = "messages travel less long: they arrived unevenly, and the stamps went on evenly"
    SILENCE = "the clock was set, or messages travel longer, while none came"
    MISJUDGED = "the first messages were late"


class _Run:
    """Differences in a row that agree."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.count, self.least, self.since_ns, self.period_ns = 0, 0, 0, 0.0
        self._first = 0

    def add(self, difference: int, received_ns: int, within_ns: int) -> None:
        if not self.count or abs(difference - self._first) >= within_ns:
            self.begin()
            self._first = self.least = difference
            self.since_ns = received_ns
        self.count += 1
        self.least = min(self.least, difference)
        self.period_ns = (received_ns - self.since_ns) / max(self.count - 1, 1)


class Lateness:
    """How much later than usual messages of one device arrive.

    The device's clock may be set to anything, and run faster or slower than the node's. Arrival minus stamp is the
    offset of the clocks plus the transit time; its minimum is the fastest transit, and the excess is delay.

    A clock that is set shows in the stamps: they jump while messages keep arriving evenly. Messages that suddenly take
    longer are late from then on; after a silence in which stamps are missing, too, nothing tells one from the other.

    The minima follow a line as clocks drift: its slope is the median of all slopes
    between the minima of seconds (Theil, Indagationes Mathematicae 12, 1950; Sen, JASA 63, 1968), and is believed
    only if the minima lie on a line, so that a growing delay is not learnt as drift.

    Args:
        may_go_unnoticed: what comes steadily late, though nothing shows that the clock was set, is learnt all the same
            (:attr:`Change.SILENCE`): for devices whose messages are then used only where their time does not matter.
    """

    _DRIFT, _MOST_DRIFT = 1e-4, 5e-4
    """Allowance around the learnt drift (0 at first), and the greatest drift of a working clock."""
    _JITTER_NS, _SET_BACK_NS = 20_000_000, 50_000_000
    """A clock set back by less than the latter counts as a delay."""
    _AGREE = 5
    _SILENT_PERIODS, _MISSED_PERIODS = 10.0, 3.0
    """After a silence of the first, in which stamps of the second are missing, a clock may have been set unnoticed."""
    _STEADY_NS, _LONG_NS = 2 * NS_PER_S, 30 * NS_PER_S
    """For so long differences must agree then, or where nothing says why they have changed."""
    _SILENT_BACK_NS = 150_000_000
    """What is late by less is not refused, and its stamps may well be right."""
    _RHYTHM = 4
    """Arrivals from which it is known how evenly messages come, before a change and after it."""
    _BINS, _FEWEST_BINS = 90, 20
    """Seconds from which the drift is learnt."""
    _ON_LINE_NS = 4_000_000

    def __init__(self, *, may_go_unnoticed: bool = False) -> None:
        self._may_go_unnoticed = may_go_unnoticed
        self.offset_ns: float | None = None
        """Arrival minus stamp of the fastest messages; None until learnt."""
        self.drift = 0.0
        """Rise of the offset per unit of time; the device's clock is slow by as much."""
        self.rise_ns = 0.0
        """Rise of the offset when it was last learnt again."""
        self.change = Change.MISJUDGED
        """Why it was learnt again."""
        self._at_ns = 0
        self._learning: list[int] = []
        self._ahead: list[int] = []
        self._behind = _Run()
        self._was_late = False
        """Whether the last message was late by more than a clock set back by little would be."""
        self._told_ns: float | None = None
        """The offset, if this device's clock was set together with another's."""
        self._last: tuple[int, int] | None = None
        self._arrivals: deque[int] = deque(maxlen=self._RHYTHM)
        """Times between the last arrivals that were as usual."""
        self._jump_ns = 0
        self._why = Change.MISJUDGED
        """Why the offset may have changed, as the first message that differs shows it."""
        self._rhythm_ns = 0.0
        """How often messages came before; 0: it does not matter."""
        self._bins: deque[tuple[float, float]] = deque(maxlen=self._BINS)

    def observe(self, timestamp_ns: int, received_ns: int) -> Stamp:
        """Learn from one message and judge its stamp."""
        difference = received_ns - timestamp_ns
        last, self._last = self._last, (timestamp_ns, received_ns)
        if self.offset_ns is None:
            self._learning.append(difference)
            if len(self._learning) == self._AGREE:
                self.offset_ns, self._at_ns = sorted(self._learning)[self._AGREE // 2], received_ns
            return Stamp.LEARNING
        elapsed_ns = max(0, received_ns - self._at_ns)
        risen = self.offset_ns + (self.drift + self._DRIFT) * elapsed_ns
        self._at_ns = received_ns
        if last is not None and not self._ahead:
            self._note_step(timestamp_ns - last[0], received_ns - last[1], difference, difference - risen)
        if difference < risen - self._JITTER_NS:
            return self._on_ahead(difference)
        self._ahead.clear()
        if self._on_behind(difference, risen, received_ns):
            return Stamp.CLOCK_SET
        self.offset_ns = min(risen, difference)
        self._learn_drift(received_ns, difference)
        return Stamp.EXPECTED

    def may_be_set(self, rise_ns: float) -> None:
        """Another device of the same clock shows that it was set: this one's offset may have risen by as much."""
        if self.offset_ns is not None:
            self._told_ns = self.offset_ns + rise_ns

    def _note_step(self, stamped_ns: int, arrived_ns: int, difference: int, late_ns: float) -> None:
        """Note what a message says of a change that may begin with it, and how often messages come."""
        told = self._told_ns is not None and abs(difference - self._told_ns) < self._JITTER_NS
        if stamped_ns < 0 or (told and self._why is not Change.CLOCK):
            self._why, self._rhythm_ns = Change.CLOCK, 0.0
            self._jump_ns = arrived_ns - stamped_ns
            self._behind.begin()
            return
        if self._was_late:
            return  # it began earlier
        self._jump_ns = arrived_ns - stamped_ns
        period_ns = sorted(self._arrivals)[len(self._arrivals) // 2] if len(self._arrivals) == self._RHYTHM else 0
        fourth_ns = abs(self._jump_ns) / 4
        even = bool(period_ns) and max(self._arrivals) - min(self._arrivals) < fourth_ns
        if abs(self._jump_ns) < abs(late_ns) / 2:
            self._why = Change.MISJUDGED  # it began slowly
        elif even and abs(arrived_ns - period_ns) < fourth_ns:
            self._why, self._rhythm_ns = Change.CLOCK, float(period_ns)
        elif arrived_ns > self._SILENT_PERIODS * period_ns > 0 and stamped_ns > self._MISSED_PERIODS * period_ns:
            self._why = Change.SILENCE
        else:
            self._why = Change.DELAY if period_ns else Change.MISJUDGED
        if abs(late_ns) < self._SET_BACK_NS:
            self._arrivals.append(arrived_ns)

    def _on_ahead(self, difference: int) -> Stamp:
        """Handle a stamp ahead of time: it is wrong, the clock was set forward, or the first messages were late."""
        self._behind.begin()
        self._ahead.append(difference)
        if len(self._ahead) < self._AGREE:
            return Stamp.AHEAD
        self._set(max(self._ahead))
        return Stamp.CLOCK_SET

    def _on_behind(self, difference: int, risen: float, received_ns: int) -> bool:
        """Whether the clock was set back: a message shows it, and those since agree."""
        self._was_late = difference > risen + self._SET_BACK_NS
        if not self._was_late:
            self._behind.begin()
            return False
        self._behind.add(difference, received_ns, self._JITTER_NS)
        noticed = self._why is Change.CLOCK
        if not noticed and not (self._may_go_unnoticed and difference - risen > self._SILENT_BACK_NS):
            return False
        steady_ns = 0 if noticed else self._STEADY_NS if self._why is Change.SILENCE else self._LONG_NS
        if self._behind.count < self._AGREE or received_ns - self._behind.since_ns < steady_ns:
            return False
        if noticed and self._rhythm_ns and not 0.5 < self._behind.period_ns / self._rhythm_ns < 2.0:
            self._why = Change.DELAY  # another rhythm, which looked even by chance
            return False
        self._why = self._why if noticed else Change.SILENCE
        self._set(self._behind.least, unnoticed=not noticed)
        return True

    def _set(self, offset_ns: float, *, unnoticed: bool = False) -> None:
        """Begin again from an offset."""
        assert self.offset_ns is not None
        self.rise_ns = offset_ns - self.offset_ns
        at_once = abs(self._jump_ns - self.rise_ns) < abs(self.rise_ns) / 2
        self.change = self._why if at_once or unnoticed else Change.MISJUDGED
        self.offset_ns, self._told_ns, self._was_late = offset_ns, None, False
        self._ahead.clear()
        self._behind.begin()
        self._bins.clear()

    def _learn_drift(self, received_ns: int, difference: float) -> None:
        """Keep the smallest difference of every second; once a second, fit a line to them."""
        at_s = received_ns // NS_PER_S
        if self._bins and self._bins[-1][0] == at_s:
            self._bins[-1] = at_s, min(self._bins[-1][1], difference)
            return
        if len(self._bins) >= self._FEWEST_BINS:
            times_s, smallest_ns = np.array(self._bins, np.float64).T
            times_s -= times_s[0]
            one, other = np.triu_indices(len(times_s), 1)
            slopes = (smallest_ns[other] - smallest_ns[one]) / (times_s[other] - times_s[one])
            slope = float(np.median(slopes))
            rest = smallest_ns - slope * times_s
            on_line = np.abs(rest - np.median(rest)).max() < self._ON_LINE_NS
            if on_line and abs(slope) <= self._MOST_DRIFT * NS_PER_S:
                self.drift = slope / NS_PER_S
        self._bins.append((at_s, difference))

    @property
    def guess_ns(self) -> float | None:
        """The offset; until it is learnt, that of the fastest message so far; None before the first."""
        return min(self._learning, default=None) if self.offset_ns is None else self.offset_ns

    def age_ns(self, timestamp_ns: int, now_ns: int) -> int:
        """Age of a measurement, not counting the shortest transit."""
        return max(0, round(now_ns - timestamp_ns - (self.offset_ns or 0)))
