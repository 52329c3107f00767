"""Results of calibration, read once and applied to the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import UNSET

from navnode import geometry as g
from navnode.config import Config, Rows, ToolSection, matrix
from navnode.errors import CalibrationError
from navnode.files import artifacts
from navnode.files.artifacts import Kind, Vector
from navnode.types import CArm, Matrix
from navnode.xray.correction import ImageCorrection, decode_flat_field
from navnode.xray.flex import FlexModel, flex_of

_R = TypeVar("_R")
_NS_PER_MS = 1e6
_MAX_FLATFIELD_BYTES = 1 << 30
_OF_NODE = tuple(kind for kind in artifacts.KINDS if kind.key and not kind.of_tool)
_OF_TOOL = tuple(kind for kind in artifacts.KINDS if kind.key and kind.of_tool)
OLD_KEYS = {kind.key: kind.old_keys for kind in artifacts.KINDS if kind.old_keys}
"""Key -> what it was called in sessions of older versions."""


@dataclass(frozen=True)
class Calibrations:
    """What the calibrations that a configuration names say; files that change later change nothing."""

    config: Config
    """With what they say in the place of numbers: ``carm`` (geometry), ``calibration.carm_from_marker`` (hand-eye) and
    ``image_lag_ms``, ``registration.volume_from_patient_start``, and every tool's ``marker_from_tooltip``."""
    detector: ImageCorrection
    """Makes raw images into those of the configuration's C-arm."""
    files: Mapping[str, bytes]
    """Key as of :func:`files` -> the file, byte by byte, for recordings."""

    @classmethod
    def load(cls, config: Config, at_ns: int) -> Calibrations:
        """Read every file once.

        Args:
            at_ns: they must not have expired by then, unless the configuration says as of when it is.

        Raises:
            CalibrationError: one is missing, failed, expired, or is of another device or detector mode; names it.
        """
        found = _Found.read(config, at_ns)
        applied = found.applied()
        return cls(applied, found.detector(applied.carm.geometry), found.content)


def detector(config: Config, at_ns: int) -> ImageCorrection:
    """The detector alone, of a configuration that has its numbers already: that of a session, which is run again with
    the very numbers that the node had.

    Raises:
        CalibrationError: as :meth:`Calibrations.load`.
    """
    return _Found.read(config, at_ns).detector(config.carm.geometry)


def files(config: Config) -> dict[str, str]:
    """The calibrations that a configuration names: key -> path."""
    given = {kind.key: getattr(config.calibration, kind.key) for kind in _OF_NODE}
    for tool in config.tools:
        given |= {f"{tool.name}.{kind.key}": getattr(tool, kind.key) for kind in _OF_TOOL}
    return {key: path for key, path in given.items() if path}


def with_files(config: Config, paths: Mapping[str, str]) -> Config:
    """The same configuration with its calibrations elsewhere; keys as of :func:`files`, those that are missing are
    named no more."""
    replace = msgspec.structs.replace
    return replace(
        config,
        calibration=replace(config.calibration, **{kind.key: paths.get(kind.key, "") for kind in _OF_NODE}),
        tools=tuple(
            replace(tool, **{kind.key: paths.get(f"{tool.name}.{kind.key}", "") for kind in _OF_TOOL})
            for tool in config.tools
        ),
    )


def lacking(config: Config, at_ns: int) -> list[tuple[str, str]]:
    """What a configuration still lacks, or cannot use: (key, what about it), for people before surgery."""
    told = list(_nominal(config))
    try:
        Calibrations.load(config, at_ns)
    except CalibrationError as error:
        told.append(("refused", str(error)))
    return told


def _nominal(config: Config) -> Iterator[tuple[str, str]]:
    """Keys that name no file and have no number in its place."""
    given, named = config.calibration, files(config)
    start = config.registration.volume_from_patient_start
    for kind, needed in (
        (artifacts.CARM, True),
        (artifacts.HANDEYE, _is_identity(given.carm_from_marker)),
        (artifacts.IMAGE_LAG, given.image_lag_ms == 0),
        (artifacts.FLATFIELD, True),
        (artifacts.FLEX, True),
        (artifacts.PATIENT, bool(config.volume.ct) and _is_identity(start)),
    ):
        if needed and kind.key not in named:
            yield f"calibration.{kind.key}", kind.lacking
    for tool in config.tools:
        key = f"{tool.name}.{artifacts.PIVOT.key}"
        if key not in named and _is_identity(tool.marker_from_tooltip):
            yield f"tools.{key}", artifacts.PIVOT.lacking


def _is_identity(rows: Rows) -> bool:
    return np.array_equal(matrix(rows), np.eye(4))


def _content(key: str, path: str) -> bytes:
    if key == artifacts.FLATFIELD.key:
        return artifacts.content(path, _MAX_FLATFIELD_BYTES)
    return artifacts.content(path)


@dataclass(frozen=True)
class _Found:
    """Files that were read, judged one by one when they are used."""

    config: Config
    content: Mapping[str, bytes]
    at_ns: int

    @classmethod
    def read(cls, config: Config, at_ns: int) -> _Found:
        content = {key: _content(key, path) for key, path in files(config).items()}
        return cls(config, content, config.calibration.as_of_ns or at_ns)

    def applied(self) -> Config:
        """The configuration with what its calibrations say in the place of numbers."""
        config, replace = self.config, msgspec.structs.replace
        carm, calibration, registration = config.carm, config.calibration, config.registration
        if intrinsics := self._of_carm(artifacts.CARM):
            measured = intrinsics.carm.geometry
            self._same_mode(artifacts.CARM, measured)
            carm = replace(
                carm,
                source_to_detector_mm=measured.source_to_detector_mm,
                principal_point_px=measured.principal_point_px,
            )
        if handeye := self._of_carm(artifacts.HANDEYE):
            carm_from_marker = g.inverse(g.orthonormal(np.array(handeye.marker_from_carm)))
            calibration = replace(calibration, carm_from_marker=_rows(carm_from_marker))
        if lag := self._used(artifacts.IMAGE_LAG, artifacts.IMAGE_LAG.key, device=calibration.device):
            calibration = replace(calibration, image_lag_ms=lag.image_lag_ns / _NS_PER_MS)
        if patient := self._used(artifacts.PATIENT, artifacts.PATIENT.key):
            start = g.orthonormal(np.array(patient.volume_from_patient))
            registration = replace(registration, volume_from_patient_start=_rows(start))
        return replace(
            config,
            carm=carm,
            calibration=calibration,
            registration=registration,
            tools=tuple(self._tool(tool) for tool in config.tools),
        )

    def detector(self, carm: CArm) -> ImageCorrection:
        """What makes raw images into those of a C-arm."""
        flat = None
        if (flat_bytes := self.content.get(artifacts.FLATFIELD.key)) is not None:
            flat = decode_flat_field(flat_bytes, self.config.calibration.flatfield)
        return ImageCorrection(carm, flat, self._undistorted_px(), self._flex())

    def _undistorted_px(self) -> Matrix | None:
        found = self._of_carm(artifacts.CARM)
        if found is None:
            return None
        path, distortion = self.config.calibration.carm, found.distortion
        if distortion is UNSET:
            raise CalibrationError(f"{path}: its result has no distortion")
        if distortion.model == "none":
            return None
        grid = () if distortion.undistorted_px is UNSET else distortion.undistorted_px
        if not grid or len({len(row) for row in grid}) != 1:
            raise CalibrationError(f"{path}: its distortion has no grid")
        return np.array(grid, np.float64)

    def _flex(self) -> FlexModel | None:
        found = self._of_carm(artifacts.FLEX)
        if found is None:
            return None
        model = flex_of(msgspec.to_builtins(found.model))
        self._same_mode(artifacts.FLEX, model.carm)
        return model

    def _same_mode(self, kind: Kind[_R], measured: CArm) -> None:
        nominal = self.config.carm.geometry
        one, other = ((c.width_px, c.height_px, c.pixel_spacing_mm) for c in (measured, nominal))
        if one[:2] != other[:2] or not np.allclose(one[2], other[2], rtol=1e-3):
            raise CalibrationError(
                f"{getattr(self.config.calibration, kind.key)}: it is for {one[0]} x {one[1]} pixels of "
                f"{one[2][0]:.4g} mm, [carm] says {other[0]} x {other[1]} of {other[2][0]:.4g} mm"
            )

    def _of_carm(self, kind: Kind[_R]) -> _R | None:
        given = self.config.calibration
        return self._used(kind, kind.key, device=given.device, mode=given.mode)

    def _used(self, kind: Kind[_R], key: str, *, device: str = "", mode: str = "") -> _R | None:
        """The result of a file; None where the configuration names none."""
        content = self.content.get(key)
        if content is None:
            return None
        path = files(self.config)[key]
        return artifacts.checked(content, path, kind, self.at_ns, device=device, mode=mode).result

    def _tool(self, tool: ToolSection) -> ToolSection:
        """The tool with what its calibrations say: origin at the tip, +z along the axis."""
        if not (tool.pivot or tool.spin):
            return tool  # its numbers stay as they are, to the last bit
        marker_from_tooltip = matrix(tool.marker_from_tooltip)
        if spin := self._used(artifacts.SPIN, f"{tool.name}.{artifacts.SPIN.key}", device=tool.name):
            axis = _nonzero(tool.spin, "axis", spin.axis)
            across = np.linalg.svd(axis[None])[2][1]
            rotation = np.stack([across, np.cross(axis, across), axis], axis=1)
            marker_from_tooltip = g.rigid(g.orthonormal(g.rigid(rotation))[:3, :3], marker_from_tooltip[:3, 3])
        if pivot := self._used(artifacts.PIVOT, f"{tool.name}.{artifacts.PIVOT.key}", device=tool.name):
            tip_mm = _nonzero(tool.pivot, "tip_mm", pivot.tip_mm)
            marker_from_tooltip = g.rigid(marker_from_tooltip[:3, :3], tip_mm)
        return msgspec.structs.replace(tool, marker_from_tooltip=_rows(marker_from_tooltip))


def _nonzero(path: str, name: str, given: Vector) -> Matrix:
    found = np.array(given)
    if not np.isfinite(found).all() or not found.any():
        raise CalibrationError(f"{path}: {name} is not a direction")
    return found


def _rows(pose: Matrix) -> Rows:
    return msgspec.convert(pose.tolist(), Rows)
