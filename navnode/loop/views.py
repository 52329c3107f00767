"""Frames that are kept: as pictures of two directions, and as views for reconstruction."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from navnode import geometry as g
from navnode.config import ReconstructionSection
from navnode.loop.topics import STILL_WITHIN_NS, TRY_AGAIN_NS, max_age_ns
from navnode.types import Frame, Grid, Matrix, ReconstructionRequest, View

__all__ = ["Motion", "PictureSlots", "Views", "nearest_rad"]

_OVERDUE_NS = max_age_ns("reconstruction.done")
_STATION_ANGLE_RAD = np.deg2rad(20.0)
_OPPOSITE = np.diag([-1.0, 1.0, -1.0, 1.0])


class Motion:
    """Detects whether the C-arm stands still relative to the patient."""

    _ANGLE_RAD = np.deg2rad(0.8)
    _SHIFT_MM = 2.0

    def __init__(self, isocentre_mm: float) -> None:
        self._isocentre_mm = isocentre_mm
        self._recent: deque[tuple[int, Matrix, Matrix]] = deque(maxlen=16)

    def add(self, timestamp_ns: int, patient_from_carm: Matrix) -> None:
        """Add a pose of the C-arm."""
        direction = patient_from_carm[:3, 2]
        self._recent.append((timestamp_ns, direction, patient_from_carm[:3, 3] + self._isocentre_mm * direction))

    @property
    def still(self) -> bool:
        """Whether it stands still; False also while poses are too few."""
        if len(self._recent) < 2:
            return False
        newest_ns, direction, isocentre_mm = self._recent[-1]
        within = [(d, p) for t, d, p in self._recent if newest_ns - t <= STILL_WITHIN_NS]
        return len(within) >= 2 and all(
            g.angle_between_rad(direction, d) < self._ANGLE_RAD and np.linalg.norm(isocentre_mm - p) < self._SHIFT_MM
            for d, p in within
        )


class PictureSlots:
    """The two directions whose pictures stay on the display."""

    def __init__(self) -> None:
        self._directions: list[Matrix | None] = [None, None]
        self._latest = 1

    def slot_of(self, direction: Matrix) -> int:
        """The slot of a frame from this direction, (3,), in the volume's frame; a new direction gets the older slot."""
        for slot, known in enumerate(self._directions):
            if known is not None and g.angle_between_rad(known, direction) < _STATION_ANGLE_RAD:
                self._directions[slot] = direction
                self._latest = slot
                return slot
        slot = 1 - self._latest
        self._directions[slot] = direction
        self._latest = slot
        return slot


class Views:
    """The frames kept for reconstruction, one per direction.

    Args:
        with_ct: whether there is a CT, which shows the lungs better than a few X-rays do.
    """

    def __init__(self, settings: ReconstructionSection, *, with_ct: bool) -> None:
        self._settings, self._with_ct = settings, with_ct
        self._views: list[View] = []
        self._asked = self._answered = self._asked_ns = 0
        self.grid = Grid()
        """Of the last request."""
        self._frames: dict[int, Frame] = {}
        """Time of exposure -> the frame of a view; without a CT."""
        self.asked: tuple[View, ...] = ()
        """The last request's views."""
        self.asked_frames: tuple[Frame, ...] = ()
        """Their frames, in the same order."""
        self._why = ""
        """Why the last request failed; '': it did not."""
        self._not_before_ns = 0
        self._waiting = False
        self._center_mm: Matrix | None = None
        self.wanted_now = False
        """Whether the operator wants the next frame kept, whatever its direction."""

    @property
    def progress(self) -> str:
        """How many of the views for the first volume are kept, as a sentence."""
        wanted = self._settings.views
        if self._asked != self._answered:
            return f"no volume yet: it is being made from {len(self.asked)} views"
        if self._why and len(self._views) >= wanted:
            return f"no volume yet: {self._why}"
        return f"no volume yet: {min(len(self._views), wanted)} of {wanted} views"

    @property
    def newest_ns(self) -> int:
        """Time of the newest view; 0: there is none."""
        return max((view.timestamp_ns for view in self._views), default=0)

    def wanted(self, volume_from_carm: Matrix) -> bool:
        """Whether to keep a frame with this pose: its direction is new and there is room, or the operator wants it."""
        if self.wanted_now:
            return True
        apart = np.deg2rad(self._settings.min_angle_deg)
        full = len(self._views) >= self._settings.max_views
        # From the opposite side an X-ray shows the same once more.
        nearest = min(nearest_rad(self._views, pose) for pose in (volume_from_carm, volume_from_carm @ _OPPOSITE))
        return not full and nearest >= apart

    def add(self, view: View, frame: Frame) -> None:
        """Keep a view; when there is no room, drop the one with the nearest direction."""
        self.wanted_now = False
        if len(self._views) >= self._settings.max_views:
            nearest = min(self._views, key=lambda kept: g.angle_between_rad(_direction(kept), _direction(view)))
            self._views = [kept for kept in self._views if kept is not nearest]
        self._views.append(view)
        if not self._with_ct:
            known = {kept.timestamp_ns for kept in self._views}
            self._frames = {at: each for at, each in {**self._frames, view.timestamp_ns: frame}.items() if at in known}
        self._waiting = len(self._views) >= self._settings.views

    def request(self, isocentre_mm: float, now_ns: int) -> list[ReconstructionRequest]:
        """A request with all kept views, if there are new ones and no request is under way."""
        if self._asked != self._answered and now_ns - self._asked_ns > _OVERDUE_NS:
            self.forget_request()  # a late answer is ignored
        if not self._waiting or self._asked != self._answered or now_ns < self._not_before_ns:
            return []
        self._waiting = False
        self._asked = max(self.newest_ns, self._asked + 1)  # a number that no request of another node has
        x, y, z = self.center_mm(isocentre_mm).tolist()
        self._asked_ns = now_ns
        settings, lungs = self._settings, not self._with_ct
        views = tuple(self._views)
        asked = ReconstructionRequest(self._asked, views, (x, y, z), settings.size, settings.spacing_mm, lungs)
        self.grid, self.asked, self._why = asked.grid, views, ""
        self.asked_frames = () if self._with_ct else tuple(self._frames[view.timestamp_ns] for view in views)
        return [asked]

    def forget_request(self) -> None:
        """No answer will come: ask again when a worker is there."""
        if self._asked != self._answered:
            self._answered, self._waiting = self._asked, True

    def failed(self, now_ns: int, why: str) -> None:
        """The worker could not make a volume: ask again after a while."""
        self._waiting, self._not_before_ns, self._why = True, now_ns + TRY_AGAIN_NS, why

    def forget(self) -> None:
        """Forget all views: their poses no longer hold."""
        self._views.clear()
        self._frames.clear()
        self._center_mm, self._why = None, ""
        self._waiting, self._answered = False, self._asked

    def answered(self, request: int) -> bool:
        """Whether this answers the request under way, which then is answered."""
        if request != self._asked or self._asked == self._answered:
            return False
        self._answered = request
        return True

    def took_ms(self, now_ns: int) -> float:
        """Time since the last request."""
        return (now_ns - self._asked_ns) / 1e6

    def center_mm(self, isocentre_mm: float) -> Matrix:
        """Mean isocentre of the first request's views, (3,).

        It stays while views are added, so volumes keep their place and cached results of views stay usable.
        """
        if self._center_mm is None:
            poses = [v.volume_from_carm for v in self._views if v.volume_from_carm is not None]
            self._center_mm = np.asarray(np.mean([p[:3, 3] + isocentre_mm * p[:3, 2] for p in poses], axis=0))
        return self._center_mm


def nearest_rad(views: Sequence[View], volume_from_carm: Matrix) -> float:
    """The angle between a C-arm's line of sight and that of the view nearest to it; infinite without views."""
    return min((g.angle_between_rad(_direction(view), volume_from_carm[:3, 2]) for view in views), default=np.inf)


def _direction(view: View) -> Matrix:
    assert view.volume_from_carm is not None
    return view.volume_from_carm[:3, 2]
