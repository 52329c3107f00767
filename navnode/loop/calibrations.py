"""Calibration files, read once and applied to the configuration."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET

from navnode import geometry as g
from navnode.config import Config, Rows, ToolSection, matrix
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts
from navnode.files.artifacts import Kind, Vector
from navnode.types import CArm, Matrix
from navnode.xray.correction import ImageCorrection, decode_flat_field
from navnode.xray.distortion import DistortionField, distortion_of
from navnode.xray.flex import FlexModel, flex_of

__all__ = ["Calibrations", "OLD_KEYS", "case_of", "copy", "detector", "files", "lacking", "with_files", "with_kept"]

log = logging.getLogger(__name__)
_R = TypeVar("_R")
_NS_PER_MS = 1e6
_MOST_SIGMA_MM = 20.0
_MAX_FLATFIELD_BYTES = 1 << 30
_OF_NODE = tuple(kind for kind in artifacts.KINDS if kind.key and not kind.of_tool)
_OF_TOOL = tuple(kind for kind in artifacts.KINDS if kind.key and kind.of_tool)
OLD_KEYS = {kind.key: kind.old_keys for kind in artifacts.KINDS if kind.old_keys}
"""Key -> its names in sessions of older versions."""


@dataclass(frozen=True)
class Calibrations:
    """Results of a configuration's calibration files, as read at the start; later changes of files have no effect."""

    config: Config
    """With calibrated values: ``carm`` (geometry), ``calibration.carm_from_marker`` (hand-eye), ``source_sigma_mm`` and
    ``image_lag_ms``, ``registration.volume_from_patient_start``, and every tool's ``marker_from_tooltip``."""
    detector: ImageCorrection
    """Corrects raw images to those of the configuration's C-arm."""
    files: Mapping[str, bytes]
    """Key as in :func:`files` -> the file's bytes, for recordings."""

    @classmethod
    def load(cls, config: Config, at_ns: int, copies: Path | None = None) -> Calibrations:
        """Read every file once.

        Args:
            at_ns: time at which they must be valid; ``calibration.as_of_ns`` of the configuration takes precedence.
            copies: the folder of :func:`copy`, to read instead of the files themselves.

        Raises:
            CalibrationError: a file is missing, failed or expired, or is for another device or detector mode.
        """
        files_read = _Files.read(config, at_ns, copies)
        applied = files_read.applied()
        return cls(applied, files_read.detector(applied.carm.geometry), files_read.content)


def detector(config: Config, at_ns: int) -> ImageCorrection:
    """The image correction alone, for the configuration of a session, which has its calibrated values already.

    Raises:
        CalibrationError: as :meth:`Calibrations.load`.
    """
    return _Files.read(config, at_ns).detector(config.carm.geometry)


def files(config: Config) -> dict[str, str]:
    """The calibration files that a configuration names: key -> path."""
    paths = {kind.key: getattr(config.calibration, kind.key) for kind in _OF_NODE}
    for tool in config.tools:
        paths |= {f"{tool.name}.{kind.key}": getattr(tool, kind.key) for kind in _OF_TOOL}
    return {key: path for key, path in paths.items() if path}


def copy(config: Config, folder: Path) -> None:
    """Copy all calibration files, so that a node restarted during a procedure goes by those of its start.

    Raises:
        CalibrationError: a file cannot be read.
    """
    folder.mkdir()
    for number, (key, path) in enumerate(files(config).items()):
        (folder / str(number)).write_bytes(_content(key, path))


def with_files(config: Config, paths: Mapping[str, str]) -> Config:
    """The configuration with other calibration files.

    Args:
        paths: key as in :func:`files` -> path; calibrations without one are removed.
    """
    replace = msgspec.structs.replace
    return replace(
        config,
        calibration=replace(config.calibration, **{kind.key: paths.get(kind.key, "") for kind in _OF_NODE}),
        tools=tuple(
            replace(tool, **{kind.key: paths.get(f"{tool.name}.{kind.key}", "") for kind in _OF_TOOL})
            for tool in config.tools
        ),
    )


def with_kept(config: Config) -> Config:
    """The configuration with what is kept in its folder of calibrations, where no key names another file.

    What holds in one patient's volume only is left out if it is of another case, or of an unknown one.
    """
    if not config.calibration.folder:
        return config
    folder = Path(config.calibration.folder)
    kept = {kind.key: folder / kind.file_name() for kind in _OF_NODE}
    for tool in config.tools:
        kept |= {f"{tool.name}.{kind.key}": folder / kind.file_name(tool.name) for kind in _OF_TOOL}
    named = files(config)
    found = {key: str(path) for key, path in kept.items() if key not in named and path.is_file()}
    for key in [kind.key for kind in _OF_NODE if kind.of_case and kind.key in found]:
        if not _is_of(found[key], config):
            log.warning("%s: not used: %s", found[key], artifacts.OF_ANOTHER_CASE)
            del found[key]
    return with_files(config, {**found, **named})


def _is_of(path: str, config: Config) -> bool:
    """Whether a kept calibration is of the configured case; True also for one that cannot be read: it is refused."""
    try:
        return artifacts.read(path).case == case_of(config) != ""
    except CalibrationError:
        return True


def case_of(config: Config) -> str:
    """The case, for calibrations that hold in one patient's volume only.

    Hash of the CT's content, how it is read, and the case's name and side. Empty: there is no CT, or it cannot be read.
    """
    from navnode.simulation.sample_ct import resolve_ct  # here: it is seldom asked for, and slow to load

    volume, case = config.volume, config.case
    if not volume.ct:
        return ""
    try:
        ct = artifacts.hashed(resolve_ct(volume.ct))
    except (OSError, ConfigError):
        return ""
    about = (ct, volume.series, volume.orientation, volume.units, case.name, case.side)
    return hashlib.sha256(msgspec.json.encode(about)).hexdigest()


def lacking(config: Config, at_ns: int) -> list[tuple[str, str]]:
    """Calibrations that a configuration lacks or cannot use, for a check before surgery: (key, consequence)."""
    problems = list(_nominal(config))
    try:
        Calibrations.load(config, at_ns)
    except CalibrationError as error:
        problems.append(("refused", str(error)))
    return problems


def _nominal(config: Config) -> Iterator[tuple[str, str]]:
    """Keys without a file and without a configured value."""
    section, named = config.calibration, files(config)
    start = config.registration.volume_from_patient_start
    for kind, needed in (
        (artifacts.CARM, True),
        (artifacts.HANDEYE, _is_identity(section.carm_from_marker)),
        (artifacts.IMAGE_LAG, section.image_lag_ms == 0),
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
class _Files:
    """Files as read; each is checked when it is used."""

    config: Config
    content: Mapping[str, bytes]
    at_ns: int

    @classmethod
    def read(cls, config: Config, at_ns: int, copies: Path | None = None) -> _Files:
        content = {
            key: _content(key, path if copies is None else str(copies / str(number)))
            for number, (key, path) in enumerate(files(config).items())
        }
        return cls(config, content, config.calibration.as_of_ns or at_ns)

    def applied(self) -> Config:
        """The configuration with calibrated values."""
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
            sigma_mm = self._source_sigma_mm(calibration.source_sigma_mm)
            calibration = replace(calibration, carm_from_marker=_rows(carm_from_marker), source_sigma_mm=sigma_mm)
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

    def _source_sigma_mm(self, configured_mm: float) -> float:
        """1-sigma of the source's place, by hand-eye's standard error and what flex misses at angles left out.

        Args:
            configured_mm: what is taken where hand-eye's file does not say.
        """
        worst = self._quality(artifacts.HANDEYE).get("sigma_translation_mm")
        known = [each for each in worst if isinstance(each, int | float)] if isinstance(worst, list) else []
        missed = self._quality(artifacts.FLEX).get("loo_mm")
        sigma_mm = float(
            np.hypot(max(known, default=configured_mm), missed if isinstance(missed, int | float) else 0.0)
        )
        return min(sigma_mm, _MOST_SIGMA_MM)

    def _quality(self, kind: Kind[Any]) -> dict[str, object]:
        content = self.content.get(kind.key)
        return {} if content is None else artifacts.decode(content, files(self.config)[kind.key]).quality

    def detector(self, carm: CArm) -> ImageCorrection:
        """The correction of raw images to those of a C-arm."""
        flat = None
        if (flat_bytes := self.content.get(artifacts.FLATFIELD.key)) is not None:
            flat = decode_flat_field(flat_bytes, self.config.calibration.flatfield)
        return ImageCorrection(carm, flat, self._distortion(carm), self._flex())

    def _distortion(self, carm: CArm) -> DistortionField | None:
        intrinsics = self._of_carm(artifacts.CARM)
        if intrinsics is None:
            return None
        path, distortion = self.config.calibration.carm, intrinsics.distortion
        if distortion is UNSET:
            raise CalibrationError(f"{path}: the result has no distortion")
        try:
            return distortion_of(msgspec.to_builtins(distortion), (carm.width_px, carm.height_px))
        except CalibrationError as error:
            raise CalibrationError(f"{path}: {error}") from error

    def _flex(self) -> FlexModel | None:
        flex = self._of_carm(artifacts.FLEX)
        if flex is None:
            return None
        model = flex_of(msgspec.to_builtins(flex.model))
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
        section = self.config.calibration
        return self._used(kind, kind.key, device=section.device, mode=section.mode)

    def _used(self, kind: Kind[_R], key: str, *, device: str = "", mode: str = "") -> _R | None:
        """The result in a file; None: the configuration names no file."""
        content = self.content.get(key)
        if content is None:
            return None
        path = files(self.config)[key]
        case = case_of(self.config) if kind.of_case else ""
        return artifacts.checked(content, path, kind, self.at_ns, device=device, mode=mode, case=case).result

    def _tool(self, tool: ToolSection) -> ToolSection:
        """The tool with its calibrated values: origin at the tip, +z along the axis."""
        if not (tool.pivot or tool.spin):
            return tool  # matrix() and back would round its values
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


def _nonzero(path: str, name: str, values: Vector) -> Matrix:
    vector = np.array(values)
    if not np.isfinite(vector).all() or not vector.any():
        raise CalibrationError(f"{path}: {name} is zero, NaN or infinite")
    return vector


def _rows(pose: Matrix) -> Rows:
    return msgspec.convert(pose.tolist(), Rows)
