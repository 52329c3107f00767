"""The dose ledger: a session's X-ray dose to the patient, compared with a CT."""

from __future__ import annotations

from navnode.types import Dose, Frame

__all__ = ["Ledger"]

_MOSTLY = 0.9
"""When at least this share of frames state a dose, the others are assumed to have the same mean dose."""


class Ledger:
    """Adds up the doses of frames: as stated by the source, else as configured.

    Args:
        frame_gy_cm2: dose-area product of a frame whose source states none; 0: unknown.
        msv_per_gy_cm2: effective dose per 1 Gy cm2.
        ct_msv: effective dose of the CT to compare with.
    """

    def __init__(self, frame_gy_cm2: float, msv_per_gy_cm2: float, ct_msv: float) -> None:
        self._frame_gy_cm2, self._msv_per_gy_cm2, self._ct_msv = frame_gy_cm2, msv_per_gy_cm2, ct_msv
        self._frames = self._stated = 0
        self._stated_gy_cm2 = 0.0

    def add(self, frame: Frame) -> None:
        """Add a frame that was exposed, whether used or not."""
        self._frames += 1
        if frame.dose_gy_cm2 is not None:
            self._stated += 1
            self._stated_gy_cm2 += frame.dose_gy_cm2

    @property
    def total(self) -> Dose:
        """Dose of all frames so far."""
        silent = self._frames - self._stated
        silent_gy_cm2 = self._frame_gy_cm2
        if not silent_gy_cm2 and self._stated >= _MOSTLY * self._frames > 0:  # a first frame came before its metadata
            silent_gy_cm2 = self._stated_gy_cm2 / self._stated
        if silent and not silent_gy_cm2:
            return Dose(self._frames, self._stated, round(self._stated_gy_cm2, 6), None, None)
        gy_cm2 = self._stated_gy_cm2 + silent * silent_gy_cm2
        msv = gy_cm2 * self._msv_per_gy_cm2
        ct_share = msv / self._ct_msv
        return Dose(self._frames, self._stated, round(gy_cm2, 6), round(msv, 6), round(ct_share, 8))
