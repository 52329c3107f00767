"""Answers the pipeline's registration requests one by one: in a thread of the node, or at once in a replay."""

from __future__ import annotations

import logging

import numpy as np

from navnode.config import Config
from navnode.registration.single import register_counts
from navnode.registration.tracking import ImageRegistration
from navnode.types import Registration, RegistrationRequest, Volume, invalid

__all__ = ["FrameRegistration"]

log = logging.getLogger(__name__)


class FrameRegistration:
    """Registers frames, keeping a volume prepared and pixels chosen for the next frame.

    Args:
        volume: the first volume, or None.
        volume_id: its number in requests.
    """

    def __init__(self, config: Config, volume: Volume | None, volume_id: int) -> None:
        self._carm = config.carm.geometry
        self._isocentre_mm = config.carm.source_to_isocentre_mm
        self._threads = config.registration.threads or None
        self._registration = ImageRegistration(volume, self._threads) if volume is not None else None
        self._volume_id = volume_id

    def register(self, request: RegistrationRequest, volume: Volume | None) -> Registration:
        """Register a frame; INVALID with a reason if the computation fails.

        Args:
            volume: the pipeline's volume at the time of the request.
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
                self._isocentre_mm,
                request.effort,
                frame.timestamp_ns,
                sparse_volume=request.sparse_volume,
            )
        except Exception as error:  # any failure concerns this frame alone
            log.exception("frame %d could not be registered", frame.sequence)
            verdict = invalid(f"the frame could not be computed ({type(error).__name__})", frame.timestamp_ns)
            return Registration(start, verdict, float("inf"), 0.0, np.eye(6) * 1e6, self._isocentre_mm, 0, 0.0)

    def prepare(self, last: Registration) -> None:
        """Prepare for the next frame. Runs after every frame, so that results do not depend on the queue."""
        if not last.validity.usable or self._registration is None:
            return
        try:
            self._registration.prepare(last.volume_from_carm, self._isocentre_mm)
        except Exception:  # the next frame will choose its pixels itself
            log.exception("pixels could not be chosen ahead")
