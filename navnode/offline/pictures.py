"""Pictures and how they were taken: from a set of views, the beads of a jig, or stated angles and distances.

Stated angles are a start only. What they leave open (scale, angle, side) is said in :class:`Open`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Protocol

import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files import artifacts
from navnode.files.artifacts import CARM, CArmResult
from navnode.files.views import ViewFile, read_views
from navnode.files.xrays import read_counts
from navnode.geometry import CArmDocument
from navnode.jig import Jig, Located, locate, read_jig, why_unfound, without_beads
from navnode.jig.spots import NONE_CORRECTED, read_corrected
from navnode.offline.carm import calibrated_views
from navnode.offline.requests import ModelRequest
from navnode.offline.stated import Stated
from navnode.reconstruction.agreement import largest_difference
from navnode.reconstruction.reading import Reading, thickness
from navnode.types import Array, CArm, Matrix, View

__all__ = ["KNOWN", "Open", "Placed", "Watch", "at_one_height", "placed"]

_AT_PATIENT, _AT_PATIENT_OPEN = 0.77, 0.22
"""Where the limb is, of the way from source to detector, and by how much of that it may be elsewhere: from the middle
of a C-arm (0.6) to the front of a detector on which it lies (0.94)."""
_PATIENT_OPEN_MM = 20.0
"""A distance to the patient is one to his skin, or to the table."""
_SCALE_OPEN = 0.01
"""Distances and pixel sizes as they are stated."""
_ANGLE_OPEN_DEG = 5.0
"""A limb that is turned by hand is so far from where it should be."""
_OFF_MIDDLE, _PIXEL_OFF = 0.1, 0.03
"""Shares of a picture's size, and of a distance, from which on a contradiction is told."""
_SQUARE = 0.002
"""Share by which a pixel's sides may differ: the focal length is wanted to 0.3 %."""
_HEIGHTS_MM, _COARSE_MM = 80, 4
_BETTER = 0.8
"""Another height is believed if less than this share of the difference between two pictures is left."""


@dataclass(frozen=True)
class Open:
    """What the pictures' geometry leaves open."""

    scale: float
    """Every length may be larger or smaller by this share."""
    angle_deg: float
    """The angle between two pictures may be wrong by so much."""
    side: bool
    """Whether it is open which side of the patient is which."""

    def reasons(self) -> list[str]:
        """What is open, in words."""
        found = []
        if self.scale > 0:
            found.append(f"scale is open by ± {self.scale:.0%} (± {100 * self.scale:.0f} mm in 100 mm)")
        if self.angle_deg > 0:
            off_mm = 50 * float(np.sin(np.deg2rad(self.angle_deg)))
            found.append(
                f"the angle between the pictures is open by ± {self.angle_deg:.0f}° "
                f"(± {off_mm:.0f} mm, 50 mm from the limb's axis)"
            )
        if self.side:
            found.append("left and right are as the pictures are shown, not checked")
        return found


KNOWN = Open(0.0, 0.0, False)


@dataclass(frozen=True)
class Placed:
    """Pictures with poses."""

    views: list[ViewFile]
    source: str
    """What the poses were taken from, for people."""
    left_open: Open
    doubt: str = ""
    """Why the C-arm's geometry must not be relied on; '' if nothing speaks against it."""


class Watch(Protocol):
    """Is told what is read in the pictures, while it is."""

    def beads(self, number: int, counts: Array, found: Located, jig: Jig) -> None:
        """What the jig told of a picture (H, W); also if that is nothing."""

    def bones(self, number: int, drawn: Array, kinds: dict[str, float]) -> None:
        """What was read of bone: a picture of it (H, W, 3), and the share of each kind."""


def placed(request: ModelRequest, watch: Watch | None = None) -> Placed:
    """The pictures of a request and their poses, in the order in which they are given.

    This is the one place where poses come from.

    Raises:
        ConfigError: a picture or its geometry is missing or wrong; names it.
    """
    apart = _days_apart(request.pictures)
    found = _placed(request, watch)
    return replace(found, doubt="; ".join(filter(None, (found.doubt, apart))))


def _days_apart(pictures: Sequence[Path]) -> str:
    """How many days apart DICOM says that pictures were taken, if not on one; or ''.

    Raises:
        ConfigError: they are said to be of different patients or sides.
    """
    stated = [(path, Stated.of(path)) for path in pictures]
    for (path, one), (other, two) in combinations(stated, 2):
        if one.is_of_another_patient(two):
            raise ConfigError(f"{path.name} and {other.name} are of different patients, as DICOM states")
        if one.is_of_another_side(two):
            raise ConfigError(f"{path.name} and {other.name} are of different sides, as DICOM states")
    days = sorted(each.day for _, each in stated if each.day is not None)
    if not days or days[0] == days[-1]:
        return ""
    return (
        f"the pictures were taken {(days[-1] - days[0]).days} days apart, as DICOM states: the bones may have changed"
    )


def _placed(request: ModelRequest, watch: Watch | None) -> Placed:
    if request.jig is not None:
        return _by_jig(request, request.jig, watch)
    if request.beads is not None:
        raise ConfigError("--beads corrects what was found of a jig; it needs --jig")
    if request.views is not None:
        found, doubt = _chosen(read_views(request.views), request.pictures), ""
        source = "the set of views"
        if request.carm is not None:
            geometry = calibrated_views(found, request.carm)
            found, doubt = geometry.views, geometry.doubt
            source += " and a calibrated C-arm"
        for view in found:
            view.pose()
        return Placed(found, source, KNOWN, doubt)
    return _by_angles(request)


def _chosen(views: list[ViewFile], pictures: Sequence[Path]) -> list[ViewFile]:
    """The views of these pictures: by the file, else by its name alone."""
    if not pictures:
        return views
    found = []
    for picture in pictures:
        with_path = [view for view in views if view.path is not None]
        same = [view for view in with_path if view.path is not None and view.path.resolve() == picture.resolve()]
        same = same or [view for view in with_path if view.path is not None and view.path.name == picture.name]
        if len(same) != 1:
            raise ConfigError(f"{picture}: {len(same) or 'no'} views of the set have this picture")
        found.append(replace(same[0], path=picture))
    return found


def _by_jig(request: ModelRequest, path: Path, watch: Watch | None) -> Placed:
    """Poses by the beads of a jig, which are taken out of the pictures; the volume is made in the jig's frame."""
    if request.views is not None or request.angles or request.carm is not None:
        raise ConfigError("--jig: poses come from the jig alone; leave out --views, --angles and --carm")
    jig, views, doubts, refused = read_jig(path), [], [], []
    corrected = [NONE_CORRECTED] * len(request.pictures)
    if request.beads is not None:
        corrected = read_corrected(request.beads, len(request.pictures))
    for number, (picture, spots) in enumerate(zip(request.pictures, corrected, strict=True), 1):
        stated, counts = Stated.of(picture), read_counts(picture)
        spacing_mm = request.pixel_mm or stated.pixel_mm
        if isinstance(spacing_mm, tuple) and abs(spacing_mm[0] / spacing_mm[1] - 1) > _SQUARE:
            sides_mm = "{:g} x {:g} mm".format(*spacing_mm)
            raise ConfigError(f"{picture}: its pixels are {sides_mm}; a jig's beads need square ones")
        found = locate(counts, jig, spacing_mm, spots)
        if request.pixel_mm or request.distance_mm:
            stated = replace(
                stated,
                pixel_mm=(request.pixel_mm, request.pixel_mm) if request.pixel_mm else stated.pixel_mm,
                distance_mm=request.distance_mm or stated.distance_mm,
            )
        if watch is not None:
            watch.beads(number, counts, found, jig)
        if not found.validity.usable:
            refused.append(f"{picture}: {why_unfound(counts, jig, found)}")
            continue
        reasons = [found.validity.reason, _cropped(found), _corrected(found, stated)]
        doubts += [f"picture {number}: {reason}" for reason in reasons if reason]
        carm, jig_from_carm, turns = _upright(found.carm, found.jig_from_carm)
        views.append(
            ViewFile(
                f"picture {number}",
                picture,
                carm,
                jig_from_carm,
                None,
                0,
                corrected=partial(_without_jig, found, jig),
                quarter_turns=turns,
            )
        )
    if refused:
        raise ConfigError("; ".join(refused))
    return Placed(views, f"the beads of {jig.name}", KNOWN, "; ".join(doubts))


def _upright(carm: CArm, jig_from_carm: Matrix) -> tuple[CArm, Matrix, int]:
    """A picture's geometry once it is turned by quarters to where the limb stands upright, as the networks know it, and
    by how many, counter-clockwise."""
    right, down = (jig_from_carm[2, axis] for axis in (0, 1))  # of the limb's long axis in the picture
    turns = round(np.arctan2(right, -down) / (np.pi / 2)) % 4
    for _ in range(turns):
        (u, v), width = carm.principal_point_px, carm.width_px
        carm = replace(carm, width_px=carm.height_px, height_px=width, principal_point_px=(v, width - 1 - u))
        jig_from_carm = jig_from_carm @ g.rigid(g.rotation_exp(np.array([0.0, 0.0, np.pi / 2])), (0.0, 0.0, 0.0))
    return carm, jig_from_carm, turns


def _cropped(found: Located) -> str:
    """Whether the beam's middle is far from the picture's."""
    carm = found.carm
    off_px = np.array(carm.principal_point_px) - (np.array([carm.width_px, carm.height_px]) - 1) / 2
    sigma_px = float(np.sqrt(np.linalg.eigvalsh(found.covariance[7:9, 7:9])[-1]))
    share = float(np.linalg.norm(off_px)) / max(carm.width_px, carm.height_px)
    if share < _OFF_MIDDLE or np.linalg.norm(off_px) < 4 * sigma_px:
        return ""
    return (
        f"its middle is {share:.0%} of its size beside the beam's: cropped, stitched, or taken with a shifted tube; "
        "stitched pictures have no one geometry"
    )


def _corrected(found: Located, stated: Stated) -> str:
    """Whether pixel size and distance contradict the beads, as where an archive "corrected" the magnification."""
    if stated.pixel_mm is None or stated.distance_mm is None:
        return ""
    found_mm = found.focal_px * float(np.mean(stated.pixel_mm))
    if abs(found_mm / stated.distance_mm - 1) < _PIXEL_OFF + 3 * found.focal_sigma:
        return ""
    return (
        f"its pixel size puts the source at {found_mm:.0f} mm, it is stated at {stated.distance_mm:.0f} mm: its "
        "magnification was corrected, or it was resized; sizes are those of the beads"
    )


def _without_jig(located: Located, jig: Jig, counts: Array) -> Array:
    """A picture (H, W) as its C-arm sees it, without beads."""
    cleared = without_beads(counts, located, jig)
    return np.ascontiguousarray(cleared[:, ::-1]) if located.mirrored else cleared


def _by_angles(request: ModelRequest) -> Placed:
    angles_deg, views, scales = request.angles_deg(), [], []
    given = bool(angles_deg)
    all_stated = [Stated.of(path) for path in request.pictures]
    for number, (path, stated) in enumerate(zip(request.pictures, all_stated, strict=True), 1):
        if abs(stated.tilt_deg or 0.0) > _ANGLE_OPEN_DEG:
            tilted = f"the C-arm was tilted by {stated.tilt_deg:.0f} degrees (PositionerSecondaryAngle)"
            raise ConfigError(f"{path}: {tilted}; state its pose with --views, or use a jig")
        if not given:
            if stated.angle_deg is None:
                raise ConfigError(f"{path}: its direction is not known; state it with --angles, or a set with --views")
            # The detector is there; the source, where angles begin here, is opposite, and looks the other way.
            angles_deg.append(stated.angle_deg + 180)
        _refuse_mirrored(path, stated.shown, angles_deg[number - 1])
        carm = _carm(request, path, stated)
        patient_mm = request.patient_mm or stated.patient_mm
        if patient_mm is not None and patient_mm >= carm.source_to_detector_mm:
            raise ConfigError(f"{path}: the patient ({patient_mm:g} mm from the source) is behind the detector")
        scales.append(_AT_PATIENT_OPEN if patient_mm is None else _PATIENT_OPEN_MM / patient_mm)
        distance_mm = patient_mm or _AT_PATIENT * carm.source_to_detector_mm
        pose = _turned(np.deg2rad(angles_deg[number - 1]), distance_mm)
        corrected = None if given else _mirrored  # DICOM's C-arms show what their detector sees
        views.append(ViewFile(f"picture {number}", path, carm, pose, None, 0, corrected=corrected))
    source = "stated angles" if given else "angles that DICOM states"
    doubt = _contradictions(request, all_stated)
    if request.carm is not None:
        geometry = calibrated_views(views, request.carm)
        views, of_calibration = geometry.views, geometry.doubt
        doubt = "; ".join(filter(None, (doubt, of_calibration)))
        source += " and a calibrated C-arm"
    left_open = Open(float(np.hypot(max(scales), _SCALE_OPEN)), _ANGLE_OPEN_DEG, True)
    return Placed(views, source, left_open, doubt)


def _mirrored(counts: Array) -> Array:
    return np.ascontiguousarray(counts[:, ::-1])


def _refuse_mirrored(path: Path, shown: str, angle_deg: float) -> None:
    """Refuse a picture that DICOM says to be shown mirrored, or upside down (PatientOrientation, such as L\\F).

    Raises:
        ConfigError: it is.
    """
    right, _, bottom = shown.partition("\\")
    if bottom.startswith("H"):
        raise ConfigError(
            f"{path}: its feet are at the top, as DICOM states (PatientOrientation); turn it, or use a jig"
        )
    across = abs((angle_deg + 90) % 180 - 90) <= 45  # seen from the front or the back
    if across and right.startswith("R"):
        raise ConfigError(f"{path}: is shown mirrored, as DICOM states (PatientOrientation); flip it, or use a jig")


def _contradictions(request: ModelRequest, stated: Sequence[Stated]) -> str:
    """What DICOM states otherwise than the request does, or ''."""
    found, angles_deg = [], request.angles_deg()
    known = [each.angle_deg for each in stated if each.angle_deg is not None]
    if angles_deg and len(known) == len(angles_deg):
        off_deg = np.subtract(np.diff(known), np.diff(angles_deg))
        off_deg = np.abs((off_deg + 180) % 360 - 180)
        if (off_deg > _ANGLE_OPEN_DEG).any():
            found.append(f"DICOM states angles {' '.join(f'{each:g}' for each in known)}")
    asked = {"pixels of": request.pixel_mm, "a source at": request.distance_mm} if request.carm is None else {}
    for what, mm in asked.items():
        for each in stated:
            own_mm = each.distance_mm if what == "a source at" else each.pixel_mm and each.pixel_mm[0]
            if mm and own_mm and abs(mm / own_mm - 1) > _PIXEL_OFF:
                found.append(f"DICOM states {what} {own_mm:g} mm, not {mm:g}")
    return "; ".join(dict.fromkeys(found))


def _turned(angle_rad: float, distance_mm: float) -> Matrix:
    """volume_from_carm of a source that looks at the origin, turned about the patient's long axis; at 0 it is in front,
    with the patient's head up and his left at the right."""
    front = np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]])  # columns: u, v, principal ray
    rotation = g.rotation_exp(np.array([0.0, 0.0, angle_rad])) @ front
    return g.rigid(rotation, -distance_mm * rotation[:, 2])


def _carm(request: ModelRequest, path: Path, stated: Stated) -> CArm:
    """The C-arm of a picture: calibrated, as the request states it, or as the picture does."""
    if request.carm is not None:
        artifact = artifacts.read(request.carm)
        if artifact.kind != CARM.name or not isinstance(artifact.result, CArmResult):
            raise ConfigError(
                f"{request.carm}: a {artifact.kind} calibration, or one without a result, not {CARM.name}"
            )
        return artifact.result.carm.geometry
    spacing_mm = (request.pixel_mm, request.pixel_mm) if request.pixel_mm else stated.pixel_mm
    distance_mm = request.distance_mm or stated.distance_mm
    if spacing_mm is None or distance_mm is None:
        lacking = "pixel size (--pixel-mm)" if spacing_mm is None else "distance to the source (--distance-mm)"
        raise ConfigError(f"{path}: its {lacking} is not known; a calibrated C-arm (--carm) states it as well")
    height, width = read_counts(path).shape
    try:
        return CArmDocument(width, height, spacing_mm, distance_mm, ((width - 1) / 2, (height - 1) / 2)).geometry
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def at_one_height(views: Sequence[View], readings: Sequence[Reading], center_mm: Matrix) -> list[View]:
    """Views moved along the patient's long axis (S) to where each shows as much bone in every plane as the first does:
    the patient or the tube was moved between pictures that only angles describe.

    Args:
        readings: of the views.
        center_mm: (3,), where the patient is.
    """
    bone = [
        thickness(reading, view.volume_from_carm)
        for reading, view in zip(readings, views, strict=True)
        if view.volume_from_carm is not None
    ]

    def apart(moved: View, up_mm: float) -> float:
        found = largest_difference([bone[0], _moved(moved, up_mm)], center_mm)
        return np.inf if found is None else found.amount + found.shape

    found = [views[0]]
    for view, own in zip(views[1:], bone[1:], strict=True):
        here = apart(own, 0.0)
        heights = {up: apart(own, up) for up in range(-_HEIGHTS_MM, _HEIGHTS_MM + 1, _COARSE_MM)}
        coarse = min(heights, key=lambda up: heights[up])
        heights |= {up: apart(own, up) for up in range(coarse - _COARSE_MM + 1, coarse + _COARSE_MM)}
        best = min(heights, key=lambda up: heights[up])
        found.append(_moved(view, best) if heights[best] < _BETTER * here else view)
    return found


def _moved(view: View, up_mm: float) -> View:
    assert view.volume_from_carm is not None
    return replace(view, volume_from_carm=g.rigid(None, (0.0, 0.0, up_mm)) @ view.volume_from_carm)
