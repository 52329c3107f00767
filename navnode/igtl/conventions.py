"""What metadata and status of a message mean here, whoever sends it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from navnode.igtl.messages import Image, Message, Transform
from navnode.types import Matrix, Status

DOSE_KEY = "ImageAndFluoroscopyAreaDoseProduct"
"""Metadata of an X-ray: its dose-area product in dGy cm2, by DICOM's name and unit (PS3.6, 0018,115E)."""
_HIGHEST_GY_CM2 = 100.0
"""No single image gives more."""

EXPOSURE_KEY = "ExposureTime"
"""Metadata of an X-ray: how long it was exposed in ms, by DICOM's name and unit (PS3.6, 0018,1150)."""
_LONGEST_EXPOSURE_MS = 10_000.0

REPLAY_KEY = "Replay"
"""In the metadata of whatever comes from a recording, and of what is made of it: it is not happening now."""
ANGLE_KEYS = ("PositionerPrimaryAngle", "PositionerSecondaryAngle")
"""Metadata of an X-ray: the C-arm's orbital and angular position in degrees, by DICOM's names (PS3.6, 0018,1510 and
1511), as its scales say when it is calibrated, too."""
STATUS_KEY = "TransformStatus"
"""Metadata of a transform: OK, MISSING or INVALID."""
VALID_KEY = "TransformValid"
"""Metadata of a transform: true or false, for clients that know no status."""


def dose_gy_cm2(metadata: Mapping[str, str]) -> float | None:
    """What the metadata state, None if they state nothing that can be meant."""
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
    """Orbital and angulation that the metadata state, None if they state none."""
    try:
        orbital, angulation = (float(metadata[key]) for key in ANGLE_KEYS)
    except (KeyError, ValueError):
        return None
    found = float(np.deg2rad(orbital)), float(np.deg2rad(angulation))
    return found if np.isfinite(found).all() else None


def is_ok(status: str) -> bool:
    """Whether a status stands by the transform; one that is not said, or empty, does."""
    return status in ("", "OK")


def is_seen(message: Message) -> bool:
    """Whether a tracker says that it sees the marker of a transform."""
    return is_ok(message.metadata.get(STATUS_KEY, ""))


def is_shown(message: Message) -> bool:
    """False for what only a client that reads metadata may get: a transform that is not to be used, and an X-ray of
    which nobody knows where it was taken: a client would draw it where the last one was."""
    if isinstance(message, Image):
        return message.metadata.get("Validity") != Status.INVALID.value
    return is_seen(message)


def seen_pose(message: Transform) -> Matrix:
    """The matrix of a transform, NaN where its status says that there is none."""
    return message.matrix if is_seen(message) else np.full((4, 4), np.nan)


def status_of(pose: Matrix | None, *, seen: bool = False) -> str:
    """The status of a transform: where there is no pose, INVALID if the marker was seen nevertheless, else MISSING."""
    if pose is not None:
        return "OK"
    return "INVALID" if seen else "MISSING"


def transform_metadata(pose: Matrix | None, *, seen: bool = False) -> dict[str, str]:
    """What a transform says of itself; arguments as of :func:`status_of`."""
    return {VALID_KEY: "true" if pose is not None else "false", STATUS_KEY: status_of(pose, seen=seen)}
