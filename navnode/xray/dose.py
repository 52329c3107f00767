"""The dose ledger: what the X-rays of a session gave the patient, beside a CT."""

from __future__ import annotations

from navnode.types import Dose, Frame

_MOSTLY = 0.9
"""Where so many state their dose, the others are taken for as many more like them."""


class Ledger:
    """Adds up frames: what the source states of them, and where it is silent what the configuration says of one.

    Args:
        frame_gy_cm2: dose-area product of a frame whose source states none; 0: not known.
        msv_per_gy_cm2: effective dose of 1 Gy cm2.
        ct_msv: effective dose of the CT to compare with.
    """

    def __init__(self, frame_gy_cm2: float, msv_per_gy_cm2: float, ct_msv: float) -> None:
        self._frame_gy_cm2, self._msv_per_gy_cm2, self._ct_msv = frame_gy_cm2, msv_per_gy_cm2, ct_msv
        self._frames = self._stated = 0
        self._stated_gy_cm2 = 0.0

    def add(self, frame: Frame) -> None:
        """A frame that was taken, whatever became of it."""
        self._frames += 1
        if frame.dose_gy_cm2 is not None:
            self._stated += 1
            self._stated_gy_cm2 += frame.dose_gy_cm2

    @property
    def total(self) -> Dose:
        """Of all frames so far."""
        silent = self._frames - self._stated
        of_one = self._frame_gy_cm2
        if not of_one and self._stated >= _MOSTLY * self._frames > 0:  # a first frame came before its metadata
            of_one = self._stated_gy_cm2 / self._stated
        if silent and not of_one:
            return Dose(self._frames, self._stated, round(self._stated_gy_cm2, 6), None, None)
        gy_cm2 = self._stated_gy_cm2 + silent * of_one
        msv = gy_cm2 * self._msv_per_gy_cm2
        return Dose(
            self._frames, self._stated, round(gy_cm2, 6), round(msv, 6), round(msv / self._ct_msv, 8)
        )  # fmt: skip


def told(dose: Dose) -> str:
    """In words: ``210 X-rays, 0.23 Gy cm2: about 0.05 mSv, 0.6 % of a CT``."""
    if not dose.frames:
        return "no X-rays yet"
    said = f"{dose.frames} X-rays"
    if dose.msv is None or dose.ct_share is None:
        silent = dose.frames - dose.stated
        known = f", {_short(dose.gy_cm2)} Gy cm2 of the others" if dose.stated else ""
        return f"{said}; the source states no dose of {silent}{known}"
    estimated = "" if dose.stated == dose.frames else " (in part estimated)"
    return (
        f"{said}, {_short(dose.gy_cm2)} Gy cm2{estimated}: about {_short(dose.msv)} mSv, "
        f"{_short(100 * dose.ct_share)} % of a CT"
    )


def _short(value: float) -> str:
    """Two digits that mean something, without an exponent."""
    return f"{value:.2g}" if 0.001 <= value < 10 else f"{value:.0f}" if value >= 10 else f"{value:.4f}"
