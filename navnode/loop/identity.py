"""Whether a tool's marker is still the tool's own: trackers can take two markers for each other.

Markers are told apart by the tracker, by their geometry; half hidden, or plugged in wrongly, one may be reported under
the other's name. Nothing in a single pose shows that. What shows it is where the markers were before: markers that
jumped or were hidden at the same time, and then each go on where the other was, have been exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode.clock import NS_PER_S
from navnode.types import Matrix, Status

_CLEARLY_MM = 15.0
"""By how much one explanation must be better than the other."""
_HAND_MM_PER_S, _FARTHEST_MM = 300.0, 120.0
"""How far a tool is taken while it is hidden for a moment; no farther is plausible, however long it was hidden."""
_NEAR_MM = 20.0
_UNSEEN_PERIODS, _SHORTEST_GAP_NS = 2.5, 25_000_000
"""Poses further apart than so many of the tracker's own periods: the marker was hidden meanwhile."""
_STEP_MM, _HAND_MM_PER_S2 = 5.0, 50_000.0
"""How far a pose may lie from where the last two lead: what noise explains, and what a quick hand does."""
_BACK_DOUBTED_NS = 100_000_000
"""A tool that has just come back is doubted until the others have been heard as well."""
_ON_WAY_MM, _GOES_ON_NS = 8.0, 150_000_000
"""A tool that is back where it would have got is itself: another one would be farther off than this."""
_JUMP_DOUBTED_NS = 2_000_000_000
"""A tool that jumped in plain sight is doubted for this long, if nothing else explains the jump."""
_TOGETHER_NS = 250_000_000
"""Spells that end or begin this near to each other happened together: markers settle one after the other."""


@dataclass
class _Spell:
    """Time out of sight, or the moment of a jump."""

    began_ns: int
    from_mm: Matrix
    """Where the marker was last."""
    per_ns: Matrix | None = None
    """Its velocity then, if that is known."""
    jumped: bool = False
    ended_ns: int = 0
    """0 while it lasts."""

    def off_way_mm(self, at_mm: Matrix) -> float:
        """How far from where it would have got, had it gone on; a hand goes on for a moment alone."""
        elapsed_ns = self.ended_ns - self.began_ns
        way = self.per_ns * elapsed_ns if self.per_ns is not None and elapsed_ns < _GOES_ON_NS else 0.0
        return _apart(at_mm, self.from_mm + way)


@dataclass
class _Marker:
    name: str
    last_ns: int = 0
    last_mm: Matrix | None = None
    per_ns: Matrix | None = None
    """Its velocity; None after a gap."""
    period_ns: float = 0.0
    spell: _Spell | None = None
    """The last one."""
    doubt: str = ""
    doubted_until_ns: int = 0
    """0: until it is explained or confirmed."""
    exchanged_with: str = ""


class Identities:
    """Watches the tools' markers.

    Args:
        names: device -> the tool's name, for people.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._markers = {device: _Marker(name) for device, name in names.items()}

    def verdict(self, device: str) -> tuple[Status, str]:
        """The best that a tool can be, and why."""
        marker = self._markers[device]
        if marker.exchanged_with:
            return Status.INVALID, f"{marker.name} and {marker.exchanged_with} are exchanged; confirm which is which"
        return (Status.DEGRADED, marker.doubt) if marker.doubt else (Status.VALID, "")

    def confirm(self, name: str) -> None:
        """The operator says that this is the tool; one that it was exchanged with is itself again, too."""
        for marker in self._markers.values():
            if name in (marker.name, marker.exchanged_with) or name in marker.doubt:
                marker.doubt = marker.exchanged_with = ""

    def lost(self, device: str, *, jumped: bool = False) -> None:
        """A marker is hidden, or jumped: what comes next need not be the same marker."""
        marker = self._markers[device]
        if marker.last_mm is not None and (marker.spell is None or marker.spell.ended_ns):
            marker.spell = _Spell(marker.last_ns, marker.last_mm, marker.per_ns, jumped)

    def on_pose(self, device: str, timestamp_ns: int, tracker_from_marker: Matrix, *, settled: bool) -> None:
        """Take a pose.

        Args:
            settled: enough of them have come since the marker was lost.
        """
        marker, at_mm = self._markers[device], tracker_from_marker[:3, 3]
        elapsed_ns = timestamp_ns - marker.last_ns
        if marker.last_mm is not None and marker.period_ns:
            if elapsed_ns > max(_UNSEEN_PERIODS * marker.period_ns, _SHORTEST_GAP_NS):
                self.lost(device)
            else:
                marker.period_ns += 0.1 * (elapsed_ns - marker.period_ns)
        elif marker.last_mm is not None:
            marker.period_ns = elapsed_ns
        if marker.last_mm is not None:
            self._watch_steps(device, marker, elapsed_ns, at_mm)
        marker.last_ns, marker.last_mm = timestamp_ns, at_mm
        if marker.doubted_until_ns and timestamp_ns > marker.doubted_until_ns:
            marker.doubt, marker.doubted_until_ns = "", 0
        if marker.spell is not None and not marker.spell.ended_ns and settled:
            marker.spell.ended_ns = timestamp_ns
            self._judge(marker, marker.spell, at_mm)

    def _watch_steps(self, device: str, marker: _Marker, elapsed_ns: int, at_mm: Matrix) -> None:
        """A step that no hand makes ends the run."""
        assert marker.last_mm is not None
        if marker.per_ns is not None:
            off_mm = _apart(at_mm, marker.last_mm + marker.per_ns * elapsed_ns)
            if off_mm > _STEP_MM + _HAND_MM_PER_S2 * (elapsed_ns / NS_PER_S) ** 2:
                self.lost(device, jumped=True)
        away = marker.spell is not None and not marker.spell.ended_ns
        marker.per_ns = None if away else (at_mm - marker.last_mm) / elapsed_ns

    def _judge(self, marker: _Marker, spell: _Spell, at_mm: Matrix) -> None:
        """Compare a marker that is back with those that were away at the same time."""
        own_mm = _apart(at_mm, spell.from_mm)
        hidden_s = (spell.ended_ns - spell.began_ns) / NS_PER_S
        plausible = own_mm <= min(_NEAR_MM + _HAND_MM_PER_S * hidden_s, _FARTHEST_MM)
        marker.doubt, marker.doubted_until_ns = "", 0
        if spell.jumped and not plausible:
            marker.doubt, marker.doubted_until_ns = (
                f"its marker jumped by {own_mm:.0f} mm",
                _until(spell, _JUMP_DOUBTED_NS),
            )
        elif len(self._markers) > 1 and spell.off_way_mm(at_mm) > _ON_WAY_MM:
            marker.doubt, marker.doubted_until_ns = "it has just come back", _until(spell, _BACK_DOUBTED_NS)
        for other in self._markers.values():
            if other is not marker and other.spell is not None and _together(spell, other.spell):
                self._compare(marker, spell, at_mm, other, plausible=plausible)

    def _compare(self, marker: _Marker, spell: _Spell, at_mm: Matrix, other: _Marker, *, plausible: bool) -> None:
        assert other.spell is not None and other.last_mm is not None
        own_mm, cross_mm = _apart(at_mm, spell.from_mm), _apart(at_mm, other.spell.from_mm)
        if not other.spell.ended_ns:
            if cross_mm + _CLEARLY_MM < own_mm or not plausible:
                marker.doubt, marker.doubted_until_ns = f"it may be {other.name}, which is not seen", 0
            return
        kept_mm = own_mm + _apart(other.last_mm, other.spell.from_mm)
        swapped_mm = cross_mm + _apart(other.last_mm, spell.from_mm)
        if swapped_mm + _CLEARLY_MM < kept_mm:
            again = marker.exchanged_with == other.name  # and each is itself once more
            marker.exchanged_with, other.exchanged_with = ("", "") if again else (other.name, marker.name)
            marker.doubt = other.doubt = ""
        elif kept_mm + _CLEARLY_MM < swapped_mm and plausible:
            other.doubt = "" if marker.name in other.doubt else other.doubt
        else:
            marker.doubt = other.doubt = f"{marker.name} and {other.name} were hidden together; confirm which is which"
            marker.doubted_until_ns = other.doubted_until_ns = 0


def _until(spell: _Spell, doubted_ns: int) -> int:
    return spell.ended_ns + doubted_ns


def _together(one: _Spell, other: _Spell) -> bool:
    """Whether two markers were away at the same time."""
    ended_ns = other.ended_ns or one.ended_ns
    return other.began_ns <= one.ended_ns + _TOGETHER_NS and ended_ns >= one.began_ns - _TOGETHER_NS


def _apart(one_mm: Matrix, other_mm: Matrix) -> float:
    return float(np.linalg.norm(one_mm - other_mm))
