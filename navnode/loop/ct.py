"""What displays get of the pre-operative CT: a coarser copy at once, its bone surface when the worker has found it."""

from __future__ import annotations

from dataclasses import replace

from navnode.loop.topics import TRY_AGAIN_NS, max_age_ns
from navnode.projector.grids import coarsened, resample
from navnode.types import Output, Status, SurfaceReady, SurfaceRequest, Validity, Volume, VolumeUpdate

_DISPLAY_MM = 2.5
_OVERDUE_NS = max_age_ns("surface.done")


class ShownCt:
    """The CT on the displays.

    Args:
        volume: the CT.
    """

    def __init__(self, volume: Volume) -> None:
        # Averaged first: smoothing all of a fine CT takes half as long again.
        coarse = resample(coarsened(volume, _DISPLAY_MM / 2), max(_DISPLAY_MM, min(volume.spacing_mm)))
        self._update = VolumeUpdate(coarse, None, "navigation", Validity(Status.VALID), "CT", 0)
        self._shown = self._answered = False
        self._asked_ns: int | None = None
        self._not_before_ns = 0

    def show(self) -> list[Output]:
        """The CT, once."""
        if self._shown:
            return []
        self._shown = True
        return [self._update]

    def request(self, now_ns: int) -> list[Output]:
        """A request for the surface, until it has been answered."""
        if self._asked_ns is not None and now_ns - self._asked_ns > _OVERDUE_NS:
            self.forget_request()
        if self._answered or self._asked_ns is not None or now_ns < self._not_before_ns:
            return []
        self._asked_ns = now_ns
        return [SurfaceRequest(self._update.volume)]

    def on_answer(self, ready: SurfaceReady, now_ns: int) -> tuple[VolumeUpdate | None, str]:
        """Use the answer.

        Returns:
            What to show, and what to tell the operator ('': nothing).
        """
        if self._answered:
            return None, ""
        self.forget_request()
        if ready.reason:
            self._not_before_ns = now_ns + TRY_AGAIN_NS
            return None, f"no bone surface of the CT: {ready.reason}"
        self._answered = True
        if ready.bone is None:
            return None, ""
        self._update = replace(self._update, bone=ready.bone)
        return self._update, ""

    def forget_request(self) -> None:
        """No answer will come any more: ask again when there is somebody to ask."""
        self._asked_ns = None
