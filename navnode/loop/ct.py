"""What displays show of the pre-operative CT: a coarser copy at once, its bone surface once the worker extracted it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from navnode.loop.answers import in_short, why_no_surface
from navnode.loop.topics import TRY_AGAIN_NS, max_age_ns
from navnode.projector.grids import thumbnail
from navnode.types import Output, Status, SurfaceReady, SurfaceRequest, Validity, Volume, VolumeUpdate

__all__ = ["ShownCt"]

_DISPLAY_MM = 2.5
_OVERDUE_NS = max_age_ns("surface.done")


class ShownCt:
    """The CT on the displays.

    Args:
        volume: the CT.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._shown = self._answered = False
        self._asked_ns: int | None = None
        self._not_before_ns = 0

    @cached_property
    def _update(self) -> VolumeUpdate:
        """Made when it is shown first: consoles can connect before."""
        coarse = thumbnail(self._volume, _DISPLAY_MM)
        return VolumeUpdate(coarse, None, "navigation", Validity(Status.VALID), "CT", 0)

    def show(self) -> list[Output]:
        """The CT at the first call, nothing afterwards."""
        if self._shown:
            return []
        self._shown = True
        return [self._update]

    def request(self, now_ns: int) -> list[Output]:
        """Request the surface, until it has been answered."""
        if self._asked_ns is not None and now_ns - self._asked_ns > _OVERDUE_NS:
            self.forget_request()
        if self._answered or self._asked_ns is not None or now_ns < self._not_before_ns:
            return []
        self._asked_ns = now_ns
        return [SurfaceRequest(self._update.volume, now_ns)]

    def on_answer(self, ready: SurfaceReady, now_ns: int) -> tuple[VolumeUpdate | None, str]:
        """Use the worker's answer, unless it is to no request under way: it may show another patient's CT.

        Returns:
            The CT with its surface to show, and a notice for the operator ('': none).
        """
        if ready.request != self._asked_ns:
            return None, ""
        self.forget_request()
        reason = in_short(ready.reason)
        if not reason and ready.bone is not None:
            reason = why_no_surface(ready.bone, self._update.volume)
        if reason:
            self._not_before_ns = now_ns + TRY_AGAIN_NS
            return None, f"no bone surface of the CT: {reason}"
        self._answered = True
        if ready.bone is None:
            return None, ""
        self._update = replace(self._update, bone=ready.bone)
        return self._update, ""

    def forget_request(self) -> None:
        """No answer will come: ask again when a worker is there."""
        self._asked_ns = None
