"""What calibration before surgery found, put where the loop uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.config import Config, Rows, ToolSection, matrix
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts
from navnode.files.artifacts import Artifact
from navnode.geometry import carm_of
from navnode.types import CArm, Matrix
from navnode.xray.correction import Detector, read_flat_field
from navnode.xray.flex import flex_of

_NS_PER_MS = 1e6


def applied(config: Config, now_ns: int) -> Config:
    """The configuration with what its calibrations say in the place of numbers.

    Raises:
        CalibrationError: one is missing, failed, expired, or is of another device or detector mode; names it.
    """
    given, replace = config.calibration, msgspec.structs.replace
    carm, calibration, registration = config.carm, given, config.registration
    if given.carm:
        found = _of_carm(config, "carm", now_ns)
        measured = _measured(given.carm, found)
        _same_mode(given.carm, measured, carm.geometry)
        carm = replace(
            carm,
            source_to_detector_mm=measured.source_to_detector_mm,
            principal_point_px=measured.principal_point_px,
        )
    if given.handeye:
        found = _of_carm(config, "handeye", now_ns)
        carm_from_marker = g.inverse(_matrix(given.handeye, found, "marker_from_carm"))
        calibration = replace(calibration, carm_from_marker=_rows(carm_from_marker))
    if given.image_lag:
        found = artifacts.usable(given.image_lag, "temporal", now_ns, device=given.device)
        lag_ns = _number(given.image_lag, found, "image_lag_ns")
        calibration = replace(calibration, image_lag_ms=lag_ns / _NS_PER_MS)
    if given.patient:
        found = artifacts.usable(given.patient, "patient", now_ns)
        start = _matrix(given.patient, found, "volume_from_patient")
        registration = replace(registration, volume_from_patient_start=_rows(start))
    detector(config, now_ns)  # so that what cannot be used is named before anything starts
    return replace(
        config,
        carm=carm,
        calibration=calibration,
        registration=registration,
        tools=tuple(_tool(tool, now_ns) for tool in config.tools),
    )


_FILES = ("carm", "flex", "handeye", "image_lag", "flatfield", "patient")


OLD_KEYS = {"image_lag": ("latency",)}
"""Key -> what it was called in sessions of older versions."""


def files(config: Config) -> dict[str, str]:
    """The calibrations that a configuration names: key -> path."""
    given = {key: getattr(config.calibration, key) for key in _FILES}
    for tool in config.tools:
        given |= {f"{tool.name}.pivot": tool.pivot, f"{tool.name}.spin": tool.spin}
    return {key: path for key, path in given.items() if path}


def with_files(config: Config, paths: Mapping[str, str]) -> Config:
    """The same configuration with its calibrations elsewhere; keys as of :func:`files`, those that are missing are
    named no more."""
    replace = msgspec.structs.replace
    return replace(
        config,
        calibration=replace(config.calibration, **{key: paths.get(key, "") for key in _FILES}),
        tools=tuple(
            replace(tool, pivot=paths.get(f"{tool.name}.pivot", ""), spin=paths.get(f"{tool.name}.spin", ""))
            for tool in config.tools
        ),
    )


def detector(config: Config, now_ns: int) -> Detector:
    """What makes raw images into those of the configuration's C-arm.

    Raises:
        CalibrationError: as :func:`applied`.
    """
    given = config.calibration
    grid = flex = None
    if given.carm:
        distortion = _part(given.carm, _of_carm(config, "carm", now_ns), "distortion")
        if distortion.get("model", "none") != "none":
            try:
                grid = np.array(distortion["undistorted_px"], np.float64)
            except (KeyError, TypeError, ValueError) as error:
                raise CalibrationError(f"{given.carm}: its distortion has no grid") from error
    if given.flex:
        flex = flex_of(_part(given.flex, _of_carm(config, "flex", now_ns), "model"))
        _same_mode(given.flex, flex.carm, config.carm.geometry)
    flat = read_flat_field(given.flatfield) if given.flatfield else None
    return Detector(config.carm.geometry, flat, grid, flex)


def lacking(config: Config, now_ns: int) -> list[tuple[str, str]]:
    """What a configuration still lacks, or cannot use: (key, what about it), for people before surgery."""
    told: list[tuple[str, str]] = []
    given, identity = config.calibration, np.eye(4)
    if not given.carm:
        told.append(
            ("calibration.carm", "distance, principal point and distortion are nominal: navnode calibrate carm")
        )
    if not given.handeye and np.array_equal(matrix(given.carm_from_marker), identity):
        told.append(("calibration.handeye", "where the C-arm's marker is is not known: navnode calibrate handeye"))
    if not given.image_lag and given.image_lag_ms == 0:
        told.append(
            ("calibration.image_lag", "images are taken to be stamped as poses are: navnode calibrate temporal")
        )
    if not given.flatfield:
        told.append(("calibration.flatfield", "the detector is taken to correct itself: navnode calibrate flatfield"))
    if not given.flex:
        told.append(("calibration.flex", "the C-arm is taken not to bend: navnode calibrate flex"))
    if config.volume.ct and not given.patient and np.array_equal(
        matrix(config.registration.volume_from_patient_start), identity
    ):  # fmt: skip
        told.append(("calibration.patient", "there is no start for the registration: navnode calibrate patient"))
    told += [
        (f"tools.{tool.name}.pivot", "where its tip is is not known: navnode calibrate pivot")
        for tool in config.tools
        if not tool.pivot and np.array_equal(matrix(tool.marker_from_tooltip), identity)
    ]
    try:
        applied(config, now_ns)
    except CalibrationError as error:
        told.append(("refused", str(error)))
    return told


def _of_carm(config: Config, kind: str, now_ns: int) -> Artifact:
    given = config.calibration
    return artifacts.usable(getattr(given, kind), kind, now_ns, device=given.device, mode=given.mode)


def _part(path: str, artifact: Artifact, name: str) -> dict[str, Any]:
    found = artifact.result.get(name)
    if not isinstance(found, dict):
        raise CalibrationError(f"{path}: its result has no {name}")
    return found


def _measured(path: str, artifact: Artifact) -> CArm:
    try:
        return carm_of(_part(path, artifact, "carm"))
    except ConfigError as error:
        raise CalibrationError(f"{path}: {error}") from error


def _same_mode(path: str, measured: CArm, nominal: CArm) -> None:
    one, other = ((c.width_px, c.height_px, c.pixel_spacing_mm) for c in (measured, nominal))
    if one[:2] != other[:2] or not np.allclose(one[2], other[2], rtol=1e-3):
        raise CalibrationError(
            f"{path}: it is for {one[0]} x {one[1]} pixels of {one[2][0]:.4g} mm, [carm] says {other[0]} x {other[1]} "
            f"of {other[2][0]:.4g} mm"
        )


def _tool(tool: ToolSection, now_ns: int) -> ToolSection:
    """The tool with what its calibrations say: origin at the tip, +z along the axis."""
    marker_from_tooltip = matrix(tool.marker_from_tooltip)
    if tool.spin:
        found = artifacts.usable(tool.spin, "spin", now_ns, device=tool.name)
        axis = _vector(tool.spin, found, "axis")
        across = np.linalg.svd(axis[None])[2][1]
        rotation = np.stack([across, np.cross(axis, across), axis], axis=1)
        marker_from_tooltip = g.rigid(g.orthonormal(g.rigid(rotation))[:3, :3], marker_from_tooltip[:3, 3])
    if tool.pivot:
        found = artifacts.usable(tool.pivot, "pivot", now_ns, device=tool.name)
        marker_from_tooltip = g.rigid(marker_from_tooltip[:3, :3], _vector(tool.pivot, found, "tip_mm"))
    return msgspec.structs.replace(tool, marker_from_tooltip=_rows(marker_from_tooltip))


def _matrix(path: str, artifact: Artifact, name: str) -> Matrix:
    if name not in artifact.result:
        raise CalibrationError(f"{path}: its result has no {name}")
    return g.orthonormal(artifacts.matrix_of(artifact, name))


def _vector(path: str, artifact: Artifact, name: str) -> Matrix:
    try:
        found = np.array(artifact.result[name], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"{path}: its result has no {name}") from error
    if found.shape != (3,) or not np.isfinite(found).all() or not found.any():
        raise CalibrationError(f"{path}: {name} is no vector")
    return found


def _number(path: str, artifact: Artifact, name: str) -> float:
    found: Any = artifact.result.get(name)
    if not isinstance(found, int | float) or not np.isfinite(found):
        raise CalibrationError(f"{path}: its result has no {name}")
    return float(found)


def _rows(pose: Matrix) -> Rows:
    return msgspec.convert(pose.tolist(), Rows)
