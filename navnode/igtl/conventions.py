"""Meaning of metadata and status in messages from any sender."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from navnode.igtl.messages import Image, Message, Transform
from navnode.types import Matrix, Status

__all__ = [
    "ANGLE_KEYS",
    "DOSE_KEY",
    "EXPOSURE_KEY",
    "REPLAY_KEY",
    "STATUS_KEY",
    "VALID_KEY",
    "VIDEO_KEY",
    "angles_rad",
    "dose_gy_cm2",
    "is_ok",
    "is_seen",
    "is_shown",
    "seen_pose",
    "status_of",
    "transform_metadata",
]

DOSE_KEY = "ImageAndFluoroscopyAreaDoseProduct"
"""Metadata of an X-ray: its dose-area product in dGy cm2, with DICOM's name and unit (PS3.6, 0018,115E)."""
_HIGHEST_GY_CM2 = 100.0
"""Above the dose of any single image."""

EXPOSURE_KEY = "ExposureTime"
"""Metadata of an X-ray: how long it was exposed in ms, by DICOM's name and unit (PS3.6, 0018,1150)."""
_LONGEST_EXPOSURE_MS = 10_000.0

VIDEO_KEY = "Video"
"""Metadata of an X-ray that was taken off a video output: names may be burned into it."""

REPLAY_KEY = "Replay"
"""Metadata of messages from a recording and of everything derived from them: it is not happening now."""
ANGLE_KEYS = ("PositionerPrimaryAngle", "PositionerSecondaryAngle")
"""Metadata of an X-ray: the C-arm's orbital and angular position in degrees, with DICOM's names (PS3.6, 0018,1510 and
1511), read from the same scales as during calibration."""
STATUS_KEY = "TransformStatus"
"""Metadata of a transform: OK, MISSING or INVALID."""
VALID_KEY = "TransformValid"
"""Metadata of a transform: true or false, for clients that ignore the status."""


def dose_gy_cm2(metadata: Mapping[str, str]) -> float | None:
    """Dose-area product in the metadata; None if missing or implausible."""
    try:
        gy_cm2 = float(metadata.get(DOSE_KEY, "")) / 10
    except ValueError:
        return None
    return gy_cm2 if 0 <= gy_cm2 <= _HIGHEST_GY_CM2 else None


def exposure_ns(metadata: Mapping[str, str]) -> int | None:
    """What the metadata state, None if they state nothing that can be meant."""
    try:
        exposure_ms = float(metadata.get(EXPOSURE_KEY, ""))
    except ValueError:
        return None
    return round(exposure_ms * 1e6) if 0 < exposure_ms <= _LONGEST_EXPOSURE_MS else None


def angles_rad(metadata: Mapping[str, str]) -> tuple[float, float] | None:
    """Orbital angle and angulation in the metadata; None if missing."""
    try:
        orbital, angulation = (float(metadata[key]) for key in ANGLE_KEYS)
    except (KeyError, ValueError):
        return None
    angles = float(np.deg2rad(orbital)), float(np.deg2rad(angulation))
    return angles if np.isfinite(angles).all() else None


def is_ok(status: str) -> bool:
    """Whether a status confirms the transform; a missing or empty one does."""
    return status in ("", "OK")


def is_seen(message: Message) -> bool:
    """Whether the tracker sees the marker of a transform."""
    return is_ok(message.metadata.get(STATUS_KEY, ""))


def is_shown(message: Message) -> bool:
    """Whether a message may go to clients that ignore its status.

    Withheld: a transform that must not be used, and an X-ray of unknown pose, which a client would draw at the pose of
    the X-ray before.
    """
    if isinstance(message, Image):
        return message.metadata.get("Validity") != Status.INVALID.value
    return is_seen(message)


def seen_pose(message: Transform) -> Matrix:
    """The matrix of a transform, 4x4; NaN if the tracker does not see the marker."""
    return message.matrix if is_seen(message) else np.full((4, 4), np.nan)


def status_of(pose: Matrix | None, *, seen: bool = False) -> str:
    """Status of a 4x4 transform: OK with a pose; without one, INVALID if the marker was seen, otherwise MISSING."""
    if pose is not None:
        return "OK"
    return "INVALID" if seen else "MISSING"


def transform_metadata(pose: Matrix | None, *, seen: bool = False) -> dict[str, str]:
    """Metadata of a 4x4 transform; arguments as for :func:`status_of`."""
    return {VALID_KEY: "true" if pose is not None else "false", STATUS_KEY: status_of(pose, seen=seen)}
