"""Detects that the tracker confuses the markers of two tools.

The tracker tells markers apart by their geometry; half hidden, or plugged in wrongly, one may be reported under the
other's name. No single pose shows that, but earlier ones do: markers that jumped or were hidden, and then each continue
where the other was, have been exchanged, together or one after the other. What was found exchanged stays so until the
operator says which tool is which: that the two trade places once more says nothing, as hands do that, too.

Times are of the node's clock, by which measurements usually would have arrived, so that a tracker's clock may be set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from navnode.clock import NS_PER_S
from navnode.types import Matrix, Status

__all__ = ["Identities"]

_CLEARLY_MM = 15.0
"""By how much one explanation must be better than the other."""
_MORE_CLEARLY_MM_PER_S, _MOST_CLEARLY_MM = 40.0, 75.0
"""By how much more it must be the better one that two tools that were hidden together are not exchanged, a second."""
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
_ASTRAY_MM, _ON_OTHERS_PATH_MM, _MUCH_NEARER = 15.0, 5.0, 0.25
"""A pose so far from its own path, and so near to another marker's, also by comparison, is the other's: between the
poses of slow trackers a hand may move farther than tools are apart."""
_JUMP_DOUBTED_NS = 2_000_000_000
"""How long a tool that jumped in sight is doubted, while all others are seen elsewhere."""
_SAME_PLACE_MM, _APART_MM = 12.0, 30.0
"""A marker that comes back this near to another may be it; once both are seen farther apart, there are two."""
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

    def explains(self, at_mm: _Mm) -> bool:
        """Whether a tool may plausibly have moved from its last position to another one, or along its path."""
        nearest_mm = min(math.dist(at_mm, self.from_mm), self.off_path_mm(at_mm))
        return nearest_mm <= _reach_mm(self.ended_ns - self.began_ns)

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
    origin: _Spell | None = None
    """The one after which it became doubtful until that is resolved."""
    stamp_ns: int = 0
    """Of the last pose, by the tracker's clock; 0: it was set since."""
    doubt: str = ""
    doubted_until_ns: int = 0
    """0: until the doubt is resolved or the operator confirms the tool."""
    doubted_with: str = ""
    """The other tool that the doubt is about."""
    met_ns: int = 0
    """When it came back where that one is; 0: the doubt is another one."""
    either: bool = False
    """Whether it was hidden together with that one, and may be either: where it is seen later says nothing of that."""
    jumped_ns: int = 0
    """Since when it is seen clearly apart from all others, after a jump; 0: the doubt is another one."""
    exchanged_with: set[str] = field(default_factory=set)

    def unseen(self, timestamp_ns: int) -> bool:
        """Whether it has been without a pose for too long at a time."""
        gap_ns = max(_UNSEEN_PERIODS * self.period_ns, _SHORTEST_GAP_NS)
        return bool(self.period_ns) and timestamp_ns - self.last_ns > gap_ns

    def at_mm(self, now_ns: int) -> _Mm | None:
        """Where it is at a time, if it goes on as before; None: it is not in sight."""
        if self.last_mm is None or self.unseen(now_ns):
            return None
        return self.last_mm if self.mm_per_ns is None else _ahead(self.last_mm, self.mm_per_ns, now_ns - self.last_ns)

    def doubts(self, doubt: str, until_ns: int = 0, other: str = "", met_ns: int = 0) -> None:
        """Doubt that it is this tool; '': no longer."""
        self.origin = (self.origin or self.spell) if doubt and not until_ns else None
        self.doubt, self.doubted_until_ns, self.doubted_with, self.met_ns = doubt, until_ns, other, met_ns
        self.jumped_ns, self.either = 0, False

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
            others = " and ".join(sorted(marker.exchanged_with))
            return Status.INVALID, f"{marker.name} and {others} are exchanged; confirm which is which"
        return (Status.DEGRADED, marker.doubt) if marker.doubt else (Status.VALID, "")

    def confirm(self, name: str) -> None:
        """The operator confirms a tool, and thereby that no other is exchanged with it."""
        for marker in self._markers.values():
            marker.exchanged_with.discard(name)
            if marker.name == name:
                marker.exchanged_with.clear()
            if name in (marker.name, marker.doubted_with):
                marker.doubts("")

    def restamped(self, device: str) -> None:
        """The clock that stamps a marker was set: it was not seen for a moment."""
        self.lost(device)
        self._markers[device].stamp_ns = 0

    def lost(self, device: str, *, jumped: bool = False) -> None:
        """A marker is hidden, or jumped: the next pose may be another marker's."""
        marker = self._markers[device]
        if marker.last_mm is None or (marker.spell is not None and not marker.spell.ended_ns):
            return
        marker.spell = _Spell(marker.last_ns, marker.last_mm, marker.mm_per_ns, jumped)

    def carried(self, now_from_before: Matrix) -> None:
        """The tracker's camera moved: what was seen before is elsewhere in its frame of now."""
        (a, b, c, x), (d, e, f, y), (h, i, j, z) = now_from_before[:3].tolist()

        def turned(u: float, v: float, w: float) -> _Mm:
            return a * u + b * v + c * w, d * u + e * v + f * w, h * u + i * v + j * w

        def moved(at_mm: _Mm) -> _Mm:
            u, v, w = turned(*at_mm)
            return u + x, v + y, w + z

        for marker in self._markers.values():
            away = marker.spell if marker.spell is not None and not marker.spell.ended_ns else None
            for spell in {id(each): each for each in (away, marker.origin) if each is not None}.values():
                spell.from_mm = moved(spell.from_mm)
                spell.mm_per_ns = None if spell.mm_per_ns is None else turned(*spell.mm_per_ns)
            if marker.last_mm is not None and not (away is not None and away.jumped):  # else it is of now already
                marker.last_mm = moved(marker.last_mm)
                marker.mm_per_ns = None if marker.mm_per_ns is None else turned(*marker.mm_per_ns)

    def on_pose(
        self, device: str, stamp_ns: int, timestamp_ns: int, tracker_from_marker: Matrix, *, settled: bool
    ) -> None:
        """Watch a pose.

        Args:
            stamp_ns: by the tracker's clock, later than that of the pose before unless that clock was set.
            timestamp_ns: by the node's clock.
            settled: whether enough poses have come since the marker was lost.
        """
        marker = self._markers[device]
        x, y, z = tracker_from_marker[:3, 3].tolist()
        at_mm: _Mm = (x, y, z)
        timestamp_ns = max(timestamp_ns, marker.last_ns + 1)  # how the clocks are related is learnt better and better
        elapsed_ns = stamp_ns - marker.stamp_ns if marker.stamp_ns else timestamp_ns - marker.last_ns
        if marker.last_mm is not None and marker.period_ns:
            if marker.unseen(timestamp_ns):
                self.lost(device)
            else:
                marker.period_ns += 0.1 * (elapsed_ns - marker.period_ns)
        elif marker.last_mm is not None:
            marker.period_ns = elapsed_ns
        if marker.last_mm is not None:
            self._watch_steps(device, marker, elapsed_ns, timestamp_ns, at_mm)
        marker.stamp_ns, marker.last_ns, marker.last_mm = stamp_ns, timestamp_ns, at_mm
        if marker.doubted_until_ns and timestamp_ns > marker.doubted_until_ns:
            marker.doubts("")
        if marker.met_ns:
            self._watch_meeting(marker, timestamp_ns, at_mm)
        if marker.jumped_ns:
            self._watch_jumped(marker, timestamp_ns, at_mm)
        if marker.spell is not None and not marker.spell.ended_ns and settled:
            marker.spell.ended_ns = timestamp_ns
            for other, watched in self._markers.items():
                if watched.unseen(timestamp_ns):  # not every tracker says so
                    self.lost(other)
            self._judge(marker, marker.spell, at_mm)

    def _watch_steps(self, device: str, marker: _Marker, elapsed_ns: int, timestamp_ns: int, at_mm: _Mm) -> None:
        """Note a step that no hand can make, or that leads to where another marker would be, as a jump."""
        assert marker.last_mm is not None
        if marker.mm_per_ns is not None:
            off_mm = math.dist(at_mm, _ahead(marker.last_mm, marker.mm_per_ns, elapsed_ns))
            impossible = off_mm > _STEP_MM + _HAND_MM_PER_S2 * (elapsed_ns / NS_PER_S) ** 2
            if impossible or (off_mm > _ASTRAY_MM and self._is_anothers(marker, timestamp_ns, at_mm, off_mm)):
                self.lost(device, jumped=True)
        away = marker.spell is not None and not marker.spell.ended_ns
        (x, y, z), (x0, y0, z0) = at_mm, marker.last_mm
        marker.mm_per_ns = None if away else ((x - x0) / elapsed_ns, (y - y0) / elapsed_ns, (z - z0) / elapsed_ns)

    def _is_anothers(self, marker: _Marker, timestamp_ns: int, at_mm: _Mm, off_mm: float) -> bool:
        """Whether a pose that is off its own path lies on another marker's, as that went on or was a moment ago."""
        near_mm = _ON_OTHERS_PATH_MM + _MUCH_NEARER * (off_mm - _ASTRAY_MM)
        for other in self._others(marker):
            there_mm, spell = other.at_mm(timestamp_ns), other.spell
            if there_mm is not None and math.dist(at_mm, there_mm) < near_mm:
                return True
            if spell is not None and timestamp_ns - spell.began_ns < _TOGETHER_NS:
                way_mm = spell.mm_per_ns or (0.0, 0.0, 0.0)
                if math.dist(at_mm, _ahead(spell.from_mm, way_mm, timestamp_ns - spell.began_ns)) < near_mm:
                    return True
        return False

    def _others(self, marker: _Marker) -> Iterator[_Marker]:
        return (other for other in self._markers.values() if other is not marker)

    def _watch_meeting(self, marker: _Marker, timestamp_ns: int, at_mm: _Mm) -> None:
        """Two markers that were in one place are two if they part while both are seen."""
        other = next(other for other in self._markers.values() if other.name == marker.doubted_with)
        there_mm = other.at_mm(timestamp_ns)
        spells = [each.spell for each in (marker, other) if each.spell is not None]
        if any(not spell.ended_ns or spell.ended_ns > marker.met_ns for spell in spells):
            marker.met_ns = 0  # one was away since: where they part says nothing
        elif there_mm is not None and math.dist(at_mm, there_mm) > _APART_MM:
            marker.doubts("")

    def _watch_jumped(self, marker: _Marker, timestamp_ns: int, at_mm: _Mm) -> None:
        """A marker that jumped is none of the others if all of those are seen elsewhere for a while."""
        for other in self._others(marker):
            there_mm = other.at_mm(timestamp_ns)
            if there_mm is None or math.dist(at_mm, there_mm) < _APART_MM:
                marker.jumped_ns = timestamp_ns
        if timestamp_ns - marker.jumped_ns > _JUMP_DOUBTED_NS:
            marker.doubts("")

    def _judge(self, marker: _Marker, spell: _Spell, at_mm: _Mm) -> None:
        """Compare a marker that came back with those that were away at the same time, and those that are doubted."""
        if marker.unresolved and marker.origin is not None:
            if spell.explains(at_mm) or marker.either:  # as before, whichever that is, or another that was away as well
                for other in self._others(marker):
                    if other.spell is not None and _together(spell, other.spell):
                        self._compare(marker, spell, at_mm, other, plausible=True, resolves=False)
                return
            marker.spell = spell = replace(marker.origin, ended_ns=spell.ended_ns)
        own_mm, off_path_mm = math.dist(at_mm, spell.from_mm), spell.off_path_mm(at_mm)
        plausible = spell.explains(at_mm)
        if marker.doubted_until_ns <= spell.ended_ns:
            marker.doubts("")
        met = self._met(marker, spell, at_mm) if own_mm > _SAME_PLACE_MM else None
        if spell.jumped and not plausible:
            marker.doubts(f"its marker jumped by {own_mm:.0f} mm")
            marker.jumped_ns = spell.ended_ns
        elif met is not None:
            marker.doubts(f"it came back where {met.name} is", other=met.name, met_ns=spell.ended_ns)
        elif not marker.doubt and len(self._markers) > 1 and off_path_mm > _ON_PATH_MM:
            marker.doubts("it has just come back", spell.ended_ns + _BACK_DOUBTED_NS)
        for other in self._others(marker):
            if other.spell is not None and _together(spell, other.spell):
                self._compare(marker, spell, at_mm, other, plausible=plausible)
            elif other.origin is not None:
                self._compare_later(marker, spell, at_mm, other, other.origin)

    def _met(self, marker: _Marker, spell: _Spell, at_mm: _Mm) -> _Marker | None:
        """The marker that is seen where this one came back."""
        for other in self._others(marker):
            there_mm = other.at_mm(spell.ended_ns)
            if there_mm is not None and math.dist(at_mm, there_mm) < _SAME_PLACE_MM:
                return other
        return None

    def _compare(
        self, marker: _Marker, spell: _Spell, at_mm: _Mm, other: _Marker, *, plausible: bool, resolves: bool = True
    ) -> None:
        """Compare with one that was away at the same time.

        Args:
            resolves: whether that each is itself ends a doubt: it does not if the doubt is from before.
        """
        assert other.spell is not None and other.last_mm is not None
        own_mm, cross_mm = math.dist(at_mm, spell.from_mm), math.dist(at_mm, other.spell.from_mm)
        if not other.spell.ended_ns:
            if cross_mm + _CLEARLY_MM < own_mm or not plausible:
                marker.doubts(f"it may be {other.name}, which is not seen", other=other.name)
            return
        kept_mm = own_mm + math.dist(other.last_mm, other.spell.from_mm)
        swapped_mm = cross_mm + math.dist(other.last_mm, spell.from_mm)
        if swapped_mm + _CLEARLY_MM < kept_mm:
            _exchange(marker, other)
        elif kept_mm + _clearly_mm(spell.ended_ns - spell.began_ns) < swapped_mm and plausible:
            if resolves and other.doubted_with == marker.name:
                other.doubts("")
        else:
            for one, two in ((marker, other), (other, marker)):
                both = f"{marker.name} and {other.name} were hidden together; confirm which is which"
                one.doubts(both, other=two.name)
                one.either = True

    def _compare_later(self, marker: _Marker, spell: _Spell, at_mm: _Mm, other: _Marker, origin: _Spell) -> None:
        """Compare with one that was doubted before, and may have taken this one's place."""
        assert other.last_mm is not None
        reach_mm = _reach_mm(spell.ended_ns - origin.began_ns)
        cross_mm, took_mm = math.dist(at_mm, origin.from_mm), math.dist(other.last_mm, spell.from_mm)
        kept_mm = math.dist(at_mm, spell.from_mm) + math.dist(other.last_mm, origin.from_mm)
        if max(cross_mm, took_mm) <= reach_mm and cross_mm + took_mm + _CLEARLY_MM < kept_mm:
            _exchange(marker, other)


def _clearly_mm(hidden_ns: int) -> float:
    """By how much it must be likelier that each tool is itself, after so long: hands trade places, or move on."""
    return min(_CLEARLY_MM + _MORE_CLEARLY_MM_PER_S * hidden_ns / NS_PER_S, _MOST_CLEARLY_MM)


def _reach_mm(hidden_ns: int) -> float:
    """How far a tool may plausibly move while it is hidden."""
    return min(_NEAR_MM + _HAND_MM_PER_S * hidden_ns / NS_PER_S, _FARTHEST_MM)


def _exchange(one: _Marker, other: _Marker) -> None:
    one.exchanged_with.add(other.name)
    other.exchanged_with.add(one.name)
    one.doubts("")
    other.doubts("")


def _together(one: _Spell, other: _Spell) -> bool:
    """Whether two markers were away at the same time."""
    ended_ns = other.ended_ns or one.ended_ns
    return other.began_ns <= one.ended_ns + _TOGETHER_NS and ended_ns >= one.began_ns - _TOGETHER_NS


def _ahead(from_mm: _Mm, mm_per_ns: _Mm, elapsed_ns: int) -> _Mm:
    (x, y, z), (u, v, w) = from_mm, mm_per_ns
    return x + u * elapsed_ns, y + v * elapsed_ns, z + w * elapsed_ns
