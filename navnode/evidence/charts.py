"""Control charts over calibrations of past cases: does a tool, a C-arm or its marker drift?

A chart is of one kind and one device. The first checks give its centre and its noise; every later one is compared with
them by two rules: the newest point by itself (Shewhart), and the exponentially weighted mean (EWMA; Roberts 1959),
which sees what is smaller and lasts. Points are compared by their distance in space, so that no axis is preferred.

Limits come from the noise, but lie between two bounds: nobody needs to know of a drift below 0.05 mm, and from 0.15 and
0.25 mm on, one that reaches 0.3 mm within five checks is seen in time. A calibration too noisy for that says so: its
chart is blind, and is no evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from navnode.errors import ConfigError, NavError
from navnode.files import artifacts
from navnode.files.artifacts import Artifact, CArmResult, HandEyeResult, PivotResult
from navnode.types import Matrix

__all__ = ["BASELINE", "Chart", "Checked", "chart", "charts", "read_folders"]

BASELINE = 5
"""Checks that give centre and noise."""
DRIFT_MM = 0.3
_WEIGHT = 0.4
"""Of the newest check in the mean."""
_DEVIATIONS = 5.0
"""Of a distance in space: 99.9 % of a normal error lie within 4, and the noise of five checks errs as well."""
_LEAST_MM = 0.05
_MOST_MEAN_MM = 0.15
_MOST_SINGLE_MM = 0.25
_BLIND_MM = 0.06
"""Noise of one axis from which the bounds above are crossed by chance."""
_MOST_FILES = 20_000


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One calibration of a chart."""

    file: str
    created_ns: int
    distance_mm: float
    """From the centre."""
    mean_mm: float
    """Distance of the weighted mean from the centre."""
    alarm: bool


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """All calibrations of one kind and device, in the order of time."""

    kind: str
    device: str
    quantity: str
    checks: list[Checked]
    centre_mm: tuple[float, float, float] | None = None
    noise_mm: float | None = None
    """Standard deviation of one axis, of the first checks."""
    single_limit_mm: float | None = None
    mean_limit_mm: float | None = None
    verdict: str
    """``steady``, ``drift``, ``blind`` (too noisy to show 0.3 mm) or ``too few``."""

    @property
    def alarmed(self) -> bool:
        """Whether something must be looked at."""
        return self.verdict == "drift"


class _Point(msgspec.Struct, frozen=True):
    file: str
    created_ns: int
    point_mm: tuple[float, float, float]


def read_folders(folders: Iterable[Path]) -> tuple[list[Chart], list[str]]:
    """Charts of all calibrations below some folders, and what could not be read.

    Raises:
        ConfigError: a folder is not there, or holds too many files.
    """
    found: dict[tuple[str, str], list[_Point]] = {}
    refused, count = [], 0
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--calibrations {folder}: there is no such folder")
        for path in sorted(folder.rglob("*.json")):
            count += 1
            if count > _MOST_FILES:
                raise ConfigError(f"--calibrations {folder}: more than {_MOST_FILES} files")
            try:
                artifact = artifacts.read(path)
            except NavError as error:
                refused.append(f"{path.name}: {error}")
                continue
            if (point := _measured(artifact)) is not None and artifact.status == "PASS":
                kind = artifacts.kind_of(artifact).name
                name = path.relative_to(folder).as_posix()
                found.setdefault((kind, artifact.device), []).append(_Point(name, artifact.created_ns, point))
    return charts(found), refused


def charts(found: dict[tuple[str, str], list[_Point]]) -> list[Chart]:
    """A chart of every kind and device."""
    made = []
    for (kind, device), points in sorted(found.items()):
        ordered = sorted(points, key=lambda point: (point.created_ns, point.file))
        drawn = chart(np.array([point.point_mm for point in ordered]))
        checks = [
            msgspec.structs.replace(check, file=point.file, created_ns=point.created_ns)
            for check, point in zip(drawn.checks, ordered, strict=True)
        ]
        made.append(msgspec.structs.replace(drawn, kind=kind, device=device, quantity=_QUANTITIES[kind], checks=checks))
    return made


def chart(points_mm: Matrix) -> Chart:
    """The chart of points (N, 3), in the order of time, mm; of no kind and device yet."""
    if len(points_mm) <= BASELINE:
        checks = [_checked(0.0, 0.0, alarm=False) for _ in points_mm]
        return Chart(kind="", device="", quantity="", checks=checks, verdict="too few")
    first = points_mm[:BASELINE]
    centre = np.median(first, axis=0)
    noise = float(np.sqrt(np.var(first, axis=0, ddof=1).mean()))
    # The centre errs as well: by the error of a median of so many.
    centre_variance = np.pi / 2 / BASELINE
    single = _limit(noise * np.sqrt(1 + centre_variance), _MOST_SINGLE_MM)
    mean = _limit(noise * np.sqrt(_WEIGHT / (2 - _WEIGHT) + centre_variance), _MOST_MEAN_MM)
    checks, weighted = [], np.zeros(3)
    for number, point in enumerate(points_mm):
        apart = point - centre
        distance = float(np.linalg.norm(apart))
        if number < BASELINE:
            checks.append(_checked(distance, 0.0, alarm=False))
            continue
        weighted = (1 - _WEIGHT) * weighted + _WEIGHT * apart
        of_mean = float(np.linalg.norm(weighted))
        checks.append(_checked(distance, of_mean, alarm=distance > single or of_mean > mean))
    return Chart(
        kind="",
        device="",
        quantity="",
        checks=checks,
        centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        noise_mm=noise,
        single_limit_mm=single,
        mean_limit_mm=mean,
        verdict=_verdict(checks, noise),
    )


def _verdict(checks: Sequence[Checked], noise_mm: float) -> str:
    if any(check.alarm for check in checks):
        return "drift"
    return "blind" if noise_mm > _BLIND_MM else "steady"


def _limit(deviation_mm: float, most_mm: float) -> float:
    return float(np.clip(_DEVIATIONS * deviation_mm, _LEAST_MM, most_mm))


def _checked(distance_mm: float, mean_mm: float, *, alarm: bool) -> Checked:
    return Checked(file="", created_ns=0, distance_mm=distance_mm, mean_mm=mean_mm, alarm=alarm)


_QUANTITIES = {
    "pivot": "tip, in the tool's frame",
    "handeye": "X-ray source, in the frame of the C-arm's marker",
    "carm": "X-ray source, in the detector's frame",
}


def _measured(artifact: Artifact[object]) -> tuple[float, float, float] | None:
    """What of a calibration should be the same next time, mm; None for kinds that are another thing each time."""
    result = artifact.result
    if isinstance(result, PivotResult):
        return result.tip_mm
    if isinstance(result, HandEyeResult):
        x, y, z = (row[3] for row in result.marker_from_carm[:3])
        return (x, y, z)
    if isinstance(result, CArmResult):
        (cu, cv), (su, sv) = result.carm.principal_point_px, result.carm.pixel_spacing_mm
        return (cu * su, cv * sv, result.carm.source_to_detector_mm)
    return None
