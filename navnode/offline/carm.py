"""Calibrated C-arms for views on files: read from an artifact, and written as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import UNSET

from navnode.clock import now_ns
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts
from navnode.files.artifacts import CARM, Artifact, CArmGeometry, CArmResult, DistortionResult
from navnode.files.views import ViewFile
from navnode.files.whole import write_whole
from navnode.registration.carm import Calibrated
from navnode.types import Array, CArm, Registration, Status, Validity
from navnode.xray.correction import ImageCorrection
from navnode.xray.distortion import distortion_of

__all__ = ["Geometry", "calibrated_views", "capped", "write_calibrated"]

_Known = Annotated[float, msgspec.Meta(ge=0.0, le=1e3)]

_MIRRORED = "mirrored"
"""Figure of quality: whether the geometry is that of pictures with left and right exchanged."""


@dataclass(frozen=True)
class Geometry:
    """Views with the geometry of their C-arm, and how well that is known."""

    views: list[ViewFile]
    doubt: str = ""
    """Why the geometry must not be relied on, or ''."""
    sigma: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """1-sigma of the distance from source to detector (mm) and of the principal point (u, v; px), by calibration; 0:
    not stated."""

    def judged(self, registration: Registration, carm: CArm) -> Registration:
        """A registration with what the geometry leaves open of it.

        What is nearer or farther by the distance's error looks the same, and so does what is aside by the principal
        point's; both in proportion to where it is between source and detector.
        """
        share = registration.pivot_mm / carm.source_to_detector_mm
        (per_u_mm, per_v_mm), (sdd_mm, u_px, v_px) = carm.pixel_spacing_mm, self.sigma
        open_mm = share * np.array([per_u_mm * u_px, per_v_mm * v_px, sdd_mm])
        covariance = registration.covariance + np.diag(np.concatenate([np.zeros(3), open_mm]) ** 2)
        return replace(registration, covariance=covariance, validity=capped(registration.validity, self.doubt))


def calibrated_views(views: Sequence[ViewFile], path: Path) -> Geometry:
    """Views with a calibrated C-arm's geometry, whose images are corrected when they are read.

    Raises:
        ConfigError: the artifact is not one of a C-arm, failed, expired, or is for another detector mode.
    """
    artifact = artifacts.read(path)
    degraded = artifact.status == Status.DEGRADED
    judged = msgspec.structs.replace(artifact, status="PASS", reason="") if degraded else artifact
    if artifact.kind != CARM.name:
        raise CalibrationError(f"{path}: a {artifact.kind} calibration, not {CARM.name}")
    if problem := artifacts.wrong(judged, now_ns()):
        raise CalibrationError(f"{path}: {problem}")
    result: CArmResult = artifact.result
    carm = result.carm.geometry
    distortion = None
    if result.distortion is not UNSET:
        distortion = distortion_of(msgspec.to_builtins(result.distortion), (carm.width_px, carm.height_px))
    correction = ImageCorrection(carm, distortion=distortion)
    mirrored = artifact.quality.get(_MIRRORED) is True

    def corrected(counts: Array, angles_rad: tuple[float, float] | None) -> Array:
        seen = np.ascontiguousarray(counts[:, ::-1]) if mirrored else counts
        return seen if correction.ideal else correction.corrected(seen, angles_rad)

    for view in views:
        if not _same_mode(view.carm, carm):
            raise ConfigError(f"{path}: it is for another detector mode (size, pixel spacing) than {view.name}")
        if refusal := correction.refusal(view.angles_rad):
            raise ConfigError(f"{view.name}: {refusal}")
    doubt = f"{path.name}: {artifact.reason}" if degraded else ""
    calibrated = [replace(view, carm=carm, corrected=partial(corrected, angles_rad=view.angles_rad)) for view in views]
    return Geometry(calibrated, doubt, _sigma(artifact.quality))


def _sigma(quality: Mapping[str, object]) -> tuple[float, float, float]:
    """Of distance and principal point, as a calibration states them; 0: not stated."""
    try:
        sdd_mm, (u_px, v_px) = msgspec.convert(
            (quality.get("sigma_sdd_mm"), quality.get("sigma_pp_px")), tuple[_Known, tuple[_Known, _Known]]
        )
    except msgspec.ValidationError:
        return 0.0, 0.0, 0.0
    return sdd_mm, u_px, v_px


def capped(validity: Validity, doubt: str) -> Validity:
    """A result's validity, if there is ``doubt`` about the geometry that it rests on."""
    if doubt and validity.status is Status.VALID:
        return replace(validity, status=Status.DEGRADED, reason=doubt)
    return validity


def _same_mode(one: CArm, other: CArm) -> bool:
    sizes = [(carm.width_px, carm.height_px) for carm in (one, other)]
    return sizes[0] == sizes[1] and np.allclose(one.pixel_spacing_mm, other.pixel_spacing_mm, rtol=1e-3)


def write_calibrated(path: Path, found: Calibrated, inputs: Mapping[str, str]) -> bool:
    """Write what was found; returns whether it was written.

    INVALID is never written. What is DEGRADED is marked: ``register --carm`` takes it, and says so; the node does not.
    It does not replace a file that passed.

    Args:
        inputs: file -> SHA-256.

    Raises:
        ConfigError: the file cannot be written.
    """
    valid = found.validity.status is Status.VALID
    if not found.validity.usable or (not valid and path.exists() and _passed(path)):
        return False
    created_ns = now_ns()
    artifact = Artifact(
        kind=CARM.name,
        status="PASS" if valid else Status.DEGRADED.value,
        reason=found.validity.reason,
        result=CArmResult(CArmGeometry.of(found.carm), UNSET, DistortionResult()),
        quality={
            "n_used": len(found.registrations),
            "sigma_sdd_mm": float(found.sigma[0]),
            "sigma_pp_px": found.sigma[1:].tolist(),
            "covariance": found.covariance.tolist(),
            "sigma_patient_mm": found.patient_mm,
            "sigma_located_mm": found.located_mm,
            "apart_deg": found.apart_deg,
            _MIRRORED: found.readout.mirrored,
            "turned_deg": found.readout.turned_deg,
        },
        created_ns=created_ns,
        expires_ns=CARM.expires_ns(created_ns),
        inputs=dict(inputs),
        frames=dict(CARM.frames),
        units=artifacts.UNITS,
    )
    write_whole(path, artifacts.encoded(artifact))
    return True


def _passed(path: Path) -> bool:
    try:
        return not artifacts.read(path).failed
    except CalibrationError:
        return False
