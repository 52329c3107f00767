"""Models of bones from a few X-rays, in one step: one closed surface per bone, and a report of how far to trust it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from navnode.clock import elapsed_ms
from navnode.errors import ConfigError
from navnode.files.meshes import write_mesh
from navnode.files.volumes import write_volume
from navnode.files.whole import write_whole
from navnode.geometry import where_rays_meet
from navnode.offline import landmarks as marks
from navnode.offline.angles import Certainty, angles, axes, side
from navnode.offline.longbones import LongBone, proposed
from navnode.offline.measures import Measures, measured, missed_in, sound
from navnode.offline.model_page import Shown, page
from navnode.offline.model_report import BoneReport, ModelReport, PictureReport
from navnode.offline.pictures import Placed, Watch, at_one_height, placed
from navnode.offline.reading import drawn, kinds_of
from navnode.offline.requests import ModelRequest
from navnode.offline.views import RECONSTRUCTION_PX, hashes_of, view_of
from navnode.reconstruction import Method, Reconstruction, Reconstructor
from navnode.reconstruction.reading import Reading
from navnode.reconstruction.surface import Surface
from navnode.types import Grid, Status, View

__all__ = ["model"]

_LANDMARKS = "landmarks.mrk.json"
_LEAST_APART_DEG = 30.0
_LEAST_SECOND = 1 / 3
"""Least size of a second bone of a kind, of the largest: both legs in one picture."""
_LONG, _LEAST_LONG_MM = ("femur", "tibia", "fibula"), 100.0
"""Long bones, which are longer than this from the second year of life on."""
_MOST_ERROR = 0.5
"""A bone is doubtful if its error may exceed this share of its least extent: on either side, all of it."""


def model(request: ModelRequest, progress: Callable[[float], None], watch: Watch | None = None) -> ModelReport:
    """Make a surface of every bone that a few X-rays show, and write it with a report into a new folder.

    Args:
        progress: called with the share that is done, 0 to 1.
        watch: is told what is read in each picture.

    Raises:
        ConfigError: a file cannot be used, the folder has files, two pictures are one, or all are from one direction.
        ComputeError: the pictures do not overlap, or one is saturated everywhere.
    """
    started = time.perf_counter()
    progress(0.0)
    if request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        raise ConfigError(f"{request.out}: exists already and is not an empty folder; nothing is replaced")
    with ThreadPoolExecutor(1) as beside:  # engines compile the networks while beads are looked for
        loading = beside.submit(Reconstructor, Method.LEARNED, request.threads or None)
        pictures = placed(request, watch)
        reconstructor = loading.result()
    if len(pictures.views) < 2:
        raise ConfigError(f"{len(pictures.views)} picture; a model needs two or more")
    spread_deg = _spread_deg(pictures)
    views = [view_of(view, max(1, round(view.carm.width_px / RECONSTRUCTION_PX))) for view in pictures.views]
    hashes = hashes_of(views)
    progress(0.1)
    center_mm = where_rays_meet([view.pose() for view in pictures.views])
    grid = Grid.around(center_mm, request.size, request.spacing_mm)
    placed_views = views
    if pictures.left_open.angle_deg > 0:
        views = at_one_height(views, reconstructor.readings(views, grid), center_mm)
    if watch is not None:
        for number, reading in enumerate(reconstructor.readings(views, grid), 1):
            watch.bones(number, drawn(reading), kinds_of(reading))
    result = reconstructor.reconstruct(views, grid, progress=lambda share: progress(0.2 + 0.6 * share))
    doubt = result.reason if result.status is Status.INVALID else result.doubtful_bone
    surfaces = [] if doubt else result.bones()
    status, reason = _judged(result, doubt, surfaces, pictures)
    readings = reconstructor.readings(views, grid)
    measures = _measures(surfaces, result, views, readings) if surfaces else []
    surfaces = [_believed(surface, found) for surface, found in zip(surfaces, measures, strict=True)]
    names = _names(surfaces)
    planned = _Planned.of(names, surfaces, measures, pictures, request)
    progress(0.85)
    request.out.mkdir(parents=True, exist_ok=True)
    if surfaces:
        write_volume(result.volume, request.out / "volume.nii.gz")
    bones = [
        _written(name, surface, found, request.out)
        for name, surface, found in zip(names, surfaces, measures, strict=True)
    ]
    if planned.landmarks:
        marks.write(planned.landmarks, request.out / _LANDMARKS)
    bones = [msgspec.structs.replace(bone, side=planned.side(bone.name)) for bone in bones]
    report = ModelReport(
        status=status.value,
        reason=reason,
        geometry=pictures.source,
        scale_open=round(pictures.left_open.scale, 3),
        angle_open_deg=pictures.left_open.angle_deg,
        side_open=pictures.left_open.side,
        spread_deg=round(spread_deg, 1),
        pictures=[
            _picture(n, view, before, sha256)
            for n, (view, before, sha256) in enumerate(zip(views, placed_views, hashes, strict=True), 1)
        ],
        bones=bones,
        axes=axes(planned.landmarks, planned.kinds),
        angles=angles(planned.landmarks, planned.kinds, planned.certainties),
        landmarks=_LANDMARKS if planned.landmarks else "",
        landmarks_placed=planned.placed,
        volume="volume.nii.gz" if surfaces else "",
        page="report.html",
        out=str(request.out),
        engine=result.engine,
        elapsed_ms=round(elapsed_ms(started), 1),
    )
    shown = [
        Shown(bone.name, surface.mesh, found.error_mm)
        for bone, surface, found in zip(bones, surfaces, measures, strict=True)
    ]
    write_whole(
        request.out / "report.html",
        page(report, shown, readings, [_known_pose(view) for view in views]).encode(),
    )
    write_whole(request.out / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=1))
    progress(1.0)
    return report


@dataclass(frozen=True)
class _Planned:
    """What is measured by landmarks; everything by the bones' names."""

    kinds: dict[str, str]
    landmarks: dict[str, marks.Landmarks]
    certainties: dict[str, Certainty]
    placed: int

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        surfaces: Sequence[Surface],
        measures: Sequence[Measures],
        pictures: Placed,
        request: ModelRequest,
    ) -> _Planned:
        """Landmarks of long bones, proposed, and moved where the request says so."""
        long = {
            name: (LongBone(surface.name, surface.mesh, found.ends), surface.error_mm)
            for name, surface, found in zip(names, surfaces, measures, strict=True)
            if surface.name in marks.LANDMARKS and name.startswith(surface.name) and not _doubt(surface)
        }
        kinds = {name: bone.kind for name, (bone, _) in long.items()}
        landmarks, placed = proposed({name: bone for name, (bone, _) in long.items()}), 0
        if request.landmarks is not None:
            landmarks, placed = marks.moved(landmarks, kinds, request.landmarks)
        open_deg = pictures.left_open.angle_deg
        certainties = {name: Certainty(error_mm, open_deg) for name, (_, error_mm) in long.items()}
        return cls(kinds, {name: own for name, own in landmarks.items() if own}, certainties, placed)

    def side(self, bone: str) -> str:
        """Of a femur; its tibia and fibula are not asked, which may be another leg's."""
        return side(self.landmarks.get(bone, {})) if self.kinds.get(bone) == "femur" else ""


def _picture(number: int, view: View, before: View, sha256: str) -> PictureReport:
    carm = view.carm
    return PictureReport(
        number=number,
        sha256=sha256,
        volume_from_carm=_pose(view),
        focal_px=round(carm.source_to_detector_mm / carm.pixel_spacing_mm[0], 3),
        principal_point_px=[round(float(each), 3) for each in carm.principal_point_px],
        width_px=carm.width_px,
        height_px=carm.height_px,
        moved_mm=_moved_mm(view, before),
    )


def _spread_deg(pictures: Placed) -> float:
    """Largest angle between two pictures' lines of sight; those from opposite sides show the same."""
    toward = [view.pose()[:3, 2] for view in pictures.views]
    cosines = [min(abs(float(a @ b)), 1.0) for n, a in enumerate(toward) for b in toward[:n]]
    spread_deg = float(np.rad2deg(np.arccos(min(cosines))))
    if spread_deg < _LEAST_APART_DEG:
        raise ConfigError(
            f"the pictures look one way (within {spread_deg:.0f} degrees); a model needs two that are "
            f"{_LEAST_APART_DEG:.0f} degrees apart or more, such as AP and lateral"
        )
    return spread_deg


def _judged(result: Reconstruction, doubt: str, surfaces: Sequence[Surface], pictures: Placed) -> tuple[Status, str]:
    if doubt:
        return Status.INVALID, doubt
    if not surfaces:
        return Status.INVALID, "the pictures show no bone that both agree on"
    return Status.DEGRADED, "; ".join(filter(None, [result.reason, *pictures.left_open.reasons(), pictures.doubt]))


def _names(surfaces: Sequence[Surface]) -> list[str]:
    """A name for each, largest first: its kind, numbered where two are of one kind; else a number.

    What is much smaller than another bone of its kind is a part of something, not a second one, and gets a number.
    """
    seen: dict[str, list[float]] = {}
    names = []
    for number, surface in enumerate(surfaces, 1):
        alike = seen.setdefault(surface.name, [])
        if surface.name and surface.volume_cm3 >= _LEAST_SECOND * (alike or [0.0])[0]:
            alike.append(surface.volume_cm3)
            names.append(f"{surface.name} {len(alike)}" if len(alike) > 1 else surface.name)
        else:
            names.append(f"bone {number}")
    return names


def _measures(
    surfaces: Sequence[Surface], result: Reconstruction, views: Sequence[View], readings: Sequence[Reading]
) -> list[Measures]:
    assert result.bone is not None
    likely, threshold = result.bone.likely, result.bone.threshold
    missed = [
        missed_in(reading, _known_pose(view), likely, threshold) for reading, view in zip(readings, views, strict=True)
    ]
    return [measured(surface, likely, threshold, views, missed) for surface in surfaces]


def _believed(surface: Surface, found: Measures) -> Surface:
    """The surface without its name where a long bone ends within the pictures and is far too short for one, or where it
    may be no bone."""
    too_short = surface.name in _LONG and found.whole and found.length_mm < _LEAST_LONG_MM
    return replace(surface, name="") if too_short or _doubt(surface) else surface


def _doubt(surface: Surface) -> str:
    if surface.error_95_mm is None or surface.error_95_mm[1] <= _MOST_ERROR * min(surface.size_mm):
        return ""
    return "it may be no bone at all: its expected error is as large as itself"


def _written(name: str, surface: Surface, found: Measures, folder: Path) -> BoneReport:
    """Write a bone's surface in both formats; returns what the report says of it."""
    stem = name.replace(" ", "-")
    for ending in (".stl", ".ply"):
        write_mesh(surface.mesh, folder / f"{stem}{ending}")
    mesh = sound(surface.mesh)
    return BoneReport(
        name=name,
        known=bool(surface.name) and name.startswith(surface.name),
        stl=f"{stem}.stl",
        ply=f"{stem}.ply",
        triangles=len(surface.mesh.triangles),
        size_mm=[round(extent, 1) for extent in surface.size_mm],
        volume_cm3=round(surface.volume_cm3, 1),
        length_mm=round(found.length_mm, 1),
        whole=found.whole,
        unseen=round(found.unseen, 3),
        error_mm=None if surface.error_mm is None else round(surface.error_mm, 2),
        error_95_mm=None if surface.error_95_mm is None else [round(end, 2) for end in surface.error_95_mm],
        regions_mm=found.regions_mm,
        regions_95_mm=_regions_95(surface, found),
        side="",
        doubt=_doubt(surface),
        closed=mesh.closed,
        oriented=mesh.oriented,
    )


def _regions_95(surface: Surface, found: Measures) -> dict[str, list[float]]:
    """Intervals of the thirds: by the factors of the whole surface's, which held 22 of 23 thirds of held-out limbs."""
    if surface.error_mm is None or surface.error_95_mm is None:
        return {}
    low, high = (end / surface.error_mm for end in surface.error_95_mm)
    return {name: [round(mm * low, 2), round(mm * high, 2)] for name, mm in found.regions_mm.items()}


def _known_pose(view: View) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    assert view.volume_from_carm is not None
    return view.volume_from_carm


def _pose(view: View) -> list[list[float]]:
    rows: list[list[float]] = _known_pose(view).round(6).tolist()
    return rows


def _moved_mm(view: View, before: View) -> float:
    return round(float(_known_pose(view)[2, 3] - _known_pose(before)[2, 3]), 1)
