"""Frames registered one after the other, as the pipeline asks: by the node in a thread, by a replay at once."""

from __future__ import annotations

import logging

import numpy as np

from navnode.config import Config
from navnode.registration.single import register_counts
from navnode.registration.tracking import ImageRegistration
from navnode.types import Registration, RegistrationRequest, Volume, invalid

log = logging.getLogger(__name__)


class FrameRegistration:
    """What is prepared for a volume, and chosen for the next frame.

    Args:
        volume: the first one, or None.
        volume_id: its number in requests.
    """

    def __init__(self, config: Config, volume: Volume | None, volume_id: int) -> None:
        self._carm = config.carm.geometry
        self._pivot_mm = config.carm.source_to_isocentre_mm
        self._threads = config.registration.threads or None
        self._registration = ImageRegistration(volume, self._threads) if volume is not None else None
        self._volume_id = volume_id

    def register(self, request: RegistrationRequest, volume: Volume | None) -> Registration:
        """Where the frame was taken from; what cannot be computed is INVALID and says why.

        Args:
            volume: the pipeline's at the time of the request.
        """
        start, frame = request.start_volume_from_carm, request.frame
        try:
            if request.volume_id != self._volume_id or self._registration is None:
                assert volume is not None
                self._registration = ImageRegistration(volume, self._threads)
                self._volume_id = request.volume_id
            return register_counts(
                self._registration,
                frame.counts,
                self._carm,
                start,
                self._pivot_mm,
                request.effort,
                frame.timestamp_ns,
                sparse_volume=request.sparse_volume,
            )
        except Exception as error:  # whatever it was, it was this frame
            log.exception("frame %d could not be registered", frame.sequence)
            verdict = invalid(f"the frame could not be computed ({type(error).__name__})", frame.timestamp_ns)
            return Registration(start, verdict, float("inf"), 0.0, np.eye(6) * 1e6, self._pivot_mm, 0, 0.0)

    def prepare(self, found: Registration) -> None:
        """For the next frame, after every one: what is computed does not depend on whether another waits already."""
        if not found.validity.usable or self._registration is None:
            return
        try:
            self._registration.prepare(found.volume_from_carm, self._pivot_mm)
        except Exception:  # the next frame will choose for itself
            log.exception("pixels could not be chosen ahead")
