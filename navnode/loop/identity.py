"""Detects that the tracker confuses the markers of two tools.

The tracker tells markers apart by their geometry; half hidden, or plugged in wrongly, one may be reported under the
other's name. No single pose shows that, but earlier ones do: markers that jumped or were hidden at the same time, and
then each continue where the other was, have been exchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from navnode.clock import NS_PER_S
from navnode.types import Matrix, Status

__all__ = ["Identities"]

_CLEARLY_MM = 15.0
"""By how much one explanation must be better than the other."""
_HAND_MM_PER_S, _FARTHEST_MM = 300.0, 120.0
"""Plausible speed of a tool while it is hidden, and the largest plausible distance, however long it was hidden."""
_NEAR_MM = 20.0
_UNSEEN_PERIODS, _SHORTEST_GAP_NS = 2.5, 25_000_000
"""After a gap of this many periods of the tracker, and of at least this long, the marker was hidden."""
_STEP_MM, _HAND_MM_PER_S2 = 5.0, 50_000.0
"""How far a pose may lie from the extrapolation of the last two: by noise, and by the acceleration of a quick hand."""
_BACK_DOUBTED_NS = 100_000_000
"""A tool that has just come back is doubted until poses of the others have come, too."""
_ON_PATH_MM, _EXTRAPOLATED_NS = 8.0, 150_000_000
"""A tool that comes back this near to its extrapolated path is not another one."""
_JUMP_DOUBTED_NS = 2_000_000_000
"""How long a tool that jumped in sight is doubted, if nothing else explains the jump."""
_TOGETHER_NS = 250_000_000
"""Spells that begin or end within this time of each other happened together: markers settle one after the other."""


_Mm = tuple[float, float, float]
"""A position in plain numbers: calls for arrays of three take ten times as long, and every pose comes through here."""


@dataclass
class _Spell:
    """A time out of sight, or the moment of a jump."""

    began_ns: int
    from_mm: _Mm
    """Last position before it."""
    mm_per_ns: _Mm | None = None
    """Velocity before it; None: unknown."""
    jumped: bool = False
    ended_ns: int = 0
    """0 while it lasts."""
    again: tuple[int, _Mm] | None = None
    """When and where the marker was lost again while it was unresolved whose it is."""

    def off_path_mm(self, at_mm: _Mm) -> float:
        """Distance from the extrapolated path; a hand keeps its velocity for a moment only."""
        elapsed_ns = self.ended_ns - self.began_ns
        if self.mm_per_ns is None or elapsed_ns >= _EXTRAPOLATED_NS:
            return math.dist(at_mm, self.from_mm)
        return math.dist(at_mm, _ahead(self.from_mm, self.mm_per_ns, elapsed_ns))


@dataclass
class _Marker:
    name: str
    last_ns: int = 0
    last_mm: _Mm | None = None
    mm_per_ns: _Mm | None = None
    """Velocity; None after a gap."""
    period_ns: float = 0.0
    spell: _Spell | None = None
    """The latest spell."""
    doubt: str = ""
    doubted_until_ns: int = 0
    """0: until the doubt is resolved or the operator confirms the tool."""
    exchanged_with: str = ""

    def unseen(self, timestamp_ns: int) -> bool:
        """Whether it has been without a pose for too long at a time."""
        gap_ns = max(_UNSEEN_PERIODS * self.period_ns, _SHORTEST_GAP_NS)
        return bool(self.period_ns) and timestamp_ns - self.last_ns > gap_ns

    @property
    def unresolved(self) -> bool:
        """Whether it is doubted until its identity is resolved, however long that takes."""
        return bool(self.doubt) and not self.doubted_until_ns


class Identities:
    """Watches the tools' markers.

    Args:
        names: device -> the tool's name.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._markers = {device: _Marker(name) for device, name in names.items()}

    def verdict(self, device: str) -> tuple[Status, str]:
        """The best status that a tool may have, and why it is not VALID."""
        marker = self._markers[device]
        if marker.exchanged_with:
            return Status.INVALID, f"{marker.name} and {marker.exchanged_with} are exchanged; confirm which is which"
        return (Status.DEGRADED, marker.doubt) if marker.doubt else (Status.VALID, "")

    def confirm(self, name: str) -> None:
        """The operator confirms a tool, and thereby the one that it was exchanged with."""
        for marker in self._markers.values():
            if name in (marker.name, marker.exchanged_with) or name in marker.doubt:
                marker.doubt = marker.exchanged_with = ""

    def lost(self, device: str, *, jumped: bool = False) -> None:
        """A marker is hidden, or jumped: the next pose may be another marker's."""
        marker = self._markers[device]
        if marker.last_mm is None or (marker.spell is not None and not marker.spell.ended_ns):
            return
        if marker.spell is not None and marker.unresolved:  # what it is compared with is from before the doubt
            marker.spell.ended_ns, marker.spell.again = 0, (marker.last_ns, marker.last_mm)
        else:
            marker.spell = _Spell(marker.last_ns, marker.last_mm, marker.mm_per_ns, jumped)

    def on_pose(self, device: str, timestamp_ns: int, tracker_from_marker: Matrix, *, settled: bool) -> None:
        """Watch a pose.

        Args:
            settled: whether enough poses have come since the marker was lost.
        """
        marker = self._markers[device]
        x, y, z = tracker_from_marker[:3, 3].tolist()
        at_mm: _Mm = (x, y, z)
        elapsed_ns = timestamp_ns - marker.last_ns
        if marker.last_mm is not None and marker.period_ns:
            if marker.unseen(timestamp_ns):
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
            for other, watched in self._markers.items():
                if watched.unseen(timestamp_ns):  # not every tracker says so
                    self.lost(other)
            self._judge(marker, marker.spell, at_mm)

    def _watch_steps(self, device: str, marker: _Marker, elapsed_ns: int, at_mm: _Mm) -> None:
        """Note a step that no hand can make as a jump."""
        assert marker.last_mm is not None
        if marker.mm_per_ns is not None:
            off_mm = math.dist(at_mm, _ahead(marker.last_mm, marker.mm_per_ns, elapsed_ns))
            if off_mm > _STEP_MM + _HAND_MM_PER_S2 * (elapsed_ns / NS_PER_S) ** 2:
                self.lost(device, jumped=True)
        away = marker.spell is not None and not marker.spell.ended_ns
        (x, y, z), (x0, y0, z0) = at_mm, marker.last_mm
        marker.mm_per_ns = None if away else ((x - x0) / elapsed_ns, (y - y0) / elapsed_ns, (z - z0) / elapsed_ns)

    def _judge(self, marker: _Marker, spell: _Spell, at_mm: _Mm) -> None:
        """Compare a marker that came back with those that were away at the same time."""
        again, spell.again = spell.again, None
        if again is not None and math.dist(at_mm, again[1]) <= _reach_mm(spell.ended_ns - again[0]):
            return  # the same as before, whichever that is
        own_mm = math.dist(at_mm, spell.from_mm)
        plausible = own_mm <= _reach_mm(spell.ended_ns - spell.began_ns)
        if marker.doubted_until_ns <= spell.ended_ns:
            marker.doubt, marker.doubted_until_ns = "", 0
        if spell.jumped and not plausible:
            marker.doubt, marker.doubted_until_ns = (
                f"its marker jumped by {own_mm:.0f} mm",
                _until(spell, _JUMP_DOUBTED_NS),
            )
        elif not marker.doubt and len(self._markers) > 1 and spell.off_path_mm(at_mm) > _ON_PATH_MM:
            marker.doubt, marker.doubted_until_ns = "it has just come back", _until(spell, _BACK_DOUBTED_NS)
        for other in self._markers.values():
            if other is not marker and other.spell is not None and _together(spell, other.spell):
                self._compare(marker, spell, at_mm, other, plausible=plausible)

    def _compare(self, marker: _Marker, spell: _Spell, at_mm: _Mm, other: _Marker, *, plausible: bool) -> None:
        assert other.spell is not None and other.last_mm is not None
        own_mm, cross_mm = math.dist(at_mm, spell.from_mm), math.dist(at_mm, other.spell.from_mm)
        if not other.spell.ended_ns:
            if cross_mm + _CLEARLY_MM < own_mm or not plausible:
                marker.doubt, marker.doubted_until_ns = f"it may be {other.name}, which is not seen", 0
            return
        kept_mm = own_mm + math.dist(other.last_mm, other.spell.from_mm)
        swapped_mm = cross_mm + math.dist(other.last_mm, spell.from_mm)
        if swapped_mm + _CLEARLY_MM < kept_mm:
            again = marker.exchanged_with == other.name  # exchanged twice: each is itself again
            marker.exchanged_with, other.exchanged_with = ("", "") if again else (other.name, marker.name)
            marker.doubt = other.doubt = ""
        elif kept_mm + _CLEARLY_MM < swapped_mm and plausible:
            other.doubt = "" if marker.name in other.doubt else other.doubt
        else:
            marker.doubt = other.doubt = f"{marker.name} and {other.name} were hidden together; confirm which is which"
            marker.doubted_until_ns = other.doubted_until_ns = 0


def _reach_mm(hidden_ns: int) -> float:
    """How far a tool may plausibly move while it is hidden."""
    return min(_NEAR_MM + _HAND_MM_PER_S * hidden_ns / NS_PER_S, _FARTHEST_MM)


def _until(spell: _Spell, doubted_ns: int) -> int:
    return spell.ended_ns + doubted_ns


def _together(one: _Spell, other: _Spell) -> bool:
    """Whether two markers were away at the same time."""
    ended_ns = other.ended_ns or one.ended_ns
    return other.began_ns <= one.ended_ns + _TOGETHER_NS and ended_ns >= one.began_ns - _TOGETHER_NS


def _ahead(from_mm: _Mm, mm_per_ns: _Mm, elapsed_ns: int) -> _Mm:
    (x, y, z), (u, v, w) = from_mm, mm_per_ns
    return x + u * elapsed_ns, y + v * elapsed_ns, z + w * elapsed_ns
