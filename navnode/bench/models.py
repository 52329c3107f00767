"""Models of bones from two ordinary X-rays with a jig, against CTs that no network was trained on.

RTK can render the X-rays, so that they share no code with what reads them. Every case is made twice: by the jig's
beads, and with the true poses. The truth is solid bone as labelled in the CT; only what both pictures and the CT show
counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import msgspec
import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from skimage.measure import marching_cubes

from navnode import geometry as g
from navnode.bench import rtk
from navnode.bench.cases import Chain
from navnode.bench.reconstruction import held_out
from navnode.bench.requests import ModelsRequest
from navnode.errors import ConfigError
from navnode.files.meshes import read_mesh
from navnode.files.views import ViewFile, write_views
from navnode.files.volumes import read_volume
from navnode.files.whole import refuse_existing, write_whole
from navnode.jig import jig_for, write_jig
from navnode.jig.layout import LIMB_MM
from navnode.offline.measures import share_of_area, thirds
from navnode.offline.model import model
from navnode.offline.model_report import BoneReport, ModelReport
from navnode.offline.requests import ModelRequest
from navnode.projector import Projector
from navnode.projector.grids import coarsened, resample
from navnode.reconstruction.training import labels
from navnode.simulation.beads import Beads
from navnode.simulation.plain_room import Exposure, drawn_limb, exposures, placed_in
from navnode.types import Array, Matrix, Mesh, Volume

__all__ = ["BoneFigures", "CaseFigures", "GeometryFigures", "ModelBench", "filled", "limbs", "run"]

_I0 = 30_000.0
_SCATTER = (0.08, 0.25)
"""Scattered over primary, behind a grid."""
_GRID, _GRID_MM = 128, 2.0
_CUT_MM = 8.0
"""So near to where the CT ends, nothing is compared."""
_RENDERED_MM = 1.0
_LEAST_COMPARED = 0.5
"""Share of a bone's surface that must be comparable."""


class BoneFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A bone's surface against the truth, where both pictures and the CT show it."""

    name: str
    doubtful: bool
    error_mm: float
    """Mean distance to the true surface."""
    stated_mm: float | None
    held: bool | None
    """Whether the stated 95 % interval holds it."""
    regions: dict[str, tuple[float, float]]
    """Third -> mean distance to the true surface, and the one that is stated, mm."""


class GeometryFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was made with one kind of geometry."""

    status: str
    reason: str
    dice: float | None
    """Of solid bone; None: no model."""
    assd_mm: float | None
    """Mean distance from the model's surface to the true one and back."""
    elapsed_s: float
    """Without the program's start."""
    bones: list[BoneFigures]
    focal_off: float | None
    """Largest error of a focal length, a share; None where it is given."""
    limb_off_mm: float | None
    """Largest error of a point of the limb across the ray."""


class CaseFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One limb."""

    name: str
    jig: GeometryFigures
    known: GeometryFigures


class ModelBench(msgspec.Struct, frozen=True, kw_only=True):
    """All limbs."""

    renderer: str
    cases: list[CaseFigures]
    dice: dict[str, float | None]
    """Geometry -> median."""
    assd_mm: dict[str, float | None]
    """Geometry -> median."""
    dice_lost: float | None
    """Median of what a case loses by the jig, of 1."""
    held: float | None
    """Share of the bones whose stated interval holds their error."""
    regions_ratio: list[float]
    """Error of thirds of bones over the stated one: 2.5, 50, 97.5 %; a factor."""
    surfaces: int
    thirds: int


def limbs(request: ModelsRequest) -> list[Path | None]:
    """CTs of a request, each as often as it is measured; None: the drawn knee.

    Raises:
        ConfigError: the folder has none.
    """
    held = [] if request.patients is None else held_out(request.patients, request.most)
    found: list[Path | None] = [subject.path for subject in held if subject.limb]
    found += [Path(name) for name in request.ct]
    return (found or [None]) * request.rounds


def run(
    limbs: Sequence[Path | None], request: ModelsRequest, progress: Callable[[float], None] = lambda share: None
) -> ModelBench:
    """Make models of limbs, and compare them with the CTs.

    Args:
        limbs: CTs, RAS; None: the drawn knee.
        progress: called with the share that is done, 0 to 1.

    Raises:
        ConfigError: a CT cannot be read, ``request.out`` exists, or the reconstruction's networks are missing.
    """
    if request.out is not None:
        refuse_existing(request.out)
    if request.rtk and not rtk.available():
        raise ConfigError("--rtk: itk-rtk is not installed (the extra bench)")
    cases = []
    for number, path in enumerate(limbs):
        limb = drawn_limb() if path is None else read_volume(path)
        with TemporaryDirectory(prefix="navnode-bench-") as folder:
            kept = Path(folder) if request.out is None else request.out / f"{number + 1:02d}"
            kept.mkdir(parents=True, exist_ok=True)
            cases.append(_case(limb, np.random.default_rng((request.seed, number)), kept, request))
            write_whole(kept / "figures.json", msgspec.json.format(msgspec.json.encode(cases[-1]), indent=1))
        progress((number + 1) / len(limbs))
    return _summed(cases, "RTK" if request.rtk else "navnode")


def _case(limb: Volume, rng: np.random.Generator, folder: Path, request: ModelsRequest) -> CaseFigures:
    threads = request.threads
    body = placed_in(coarsened(limb, _RENDERED_MM), rng)
    projector = rtk.RtkProjector(body, threads) if request.rtk else Projector(body, threads=threads or None)
    wide_mm = float(np.clip(max(np.array(body.voxels.shape[2:0:-1]) * body.spacing_mm[:2]), *LIMB_MM))
    laid_out = jig_for(limb_mm=round(wide_mm, -1))
    jig = replace(laid_out, measured=True, sigma_mm=0.05)
    write_jig(folder / "jig.json", jig)
    built_mm = jig.positions_mm + rng.normal(0, jig.sigma_mm, jig.positions_mm.shape)
    beads = Beads(built_mm, np.full(len(jig.ids), jig.diameter_mm))
    shots = exposures(projector.render, beads, rng, (0.0, 90.0))
    chain = replace(Chain.drawn(rng, _I0), tool=False, scatter=float(rng.uniform(*_SCATTER)))
    views = []
    for name, shot in zip(("ap.png", "lateral.png"), shots, strict=True):
        blurred = np.asarray(cv2.GaussianBlur(shot.line_integrals, (0, 0), 0.7), np.float32)  # focal spot
        cv2.imwrite(str(folder / name), chain.expose(blurred, shot.carm, rng))
        views.append(ViewFile("", folder / name, shot.carm, shot.jig_from_carm, None, 0))
    write_views(folder / "views.json", views)
    pictures = tuple(view.path for view in views if view.path is not None)
    truth = _Truth(body, shots)
    made = []
    for name in ("model", "known"):
        asked = ModelRequest(
            pictures=pictures,
            out=folder / name,
            jig=folder / "jig.json" if name == "model" else None,
            views=folder / "views.json" if name == "known" else None,
            threads=threads,
        )
        began = time.perf_counter()
        try:
            report = model(asked, lambda share: None)
        except ConfigError as error:  # a picture whose jig is not found
            made.append(_refused(str(error).replace(f"{folder}/", "")))
            continue
        made.append(truth.figures(report, folder / name, time.perf_counter() - began, name == "model"))
    return CaseFigures(name=limb.name, jig=made[0], known=made[1])


def _refused(reason: str) -> GeometryFigures:
    return GeometryFigures(
        status="INVALID",
        reason=reason,
        dice=None,
        assd_mm=None,
        elapsed_s=0.0,
        bones=[],
        focal_off=None,
        limb_off_mm=None,
    )


class _Truth:
    """What is true of a limb in the jig's frame."""

    def __init__(self, body: Volume, shots: Sequence[Exposure]) -> None:
        self._shots = shots
        bone = labels.solid_bone(body, limb=True) & labels.body_mask(body)
        self._distance = _signed(bone, body)
        middle = np.asarray(body.center_mm)
        self.grid = resample(
            Volume(np.where(bone, 1000.0, -1000.0).astype(np.float32), body.volume_from_index), _GRID_MM, (_GRID,) * 3
        )
        self._bone = self.grid.voxels > 0
        voxels = np.argwhere(np.ones_like(self._bone))[:, ::-1].astype(float)
        self._seen = self._compared(g.transform(self.grid.volume_from_index, voxels)).reshape(self._bone.shape)
        self._limb_mm = middle + np.array([(x, y, z) for x in (-30, 30) for y in (-30, 30) for z in (-60, 60)])

    def _compared(self, points_mm: Matrix) -> Array:
        """Mask of the points (P, 3) that all pictures show, away from where the CT ends."""
        at = g.transform(_index_from(self._distance), points_mm)
        border = _CUT_MM / np.array(self._distance.spacing_mm)
        good = ((at >= border) & (at <= np.array(self._distance.voxels.shape[::-1]) - 1 - border)).all(axis=1)
        for shot in self._shots:
            u, v = np.nan_to_num(g.project(shot.carm, g.inverse(shot.jig_from_carm), points_mm), nan=-1).T
            good &= (u >= 8) & (v >= 8) & (u <= shot.carm.width_px - 9) & (v <= shot.carm.height_px - 9)
        return np.asarray(good)

    def off_mm(self, points_mm: Matrix) -> Matrix:
        """Distances (P,) of points (P, 3) from the true surface."""
        return _off_mm(self._distance, points_mm)

    def figures(self, report: ModelReport, folder: Path, elapsed_s: float, by_jig: bool) -> GeometryFigures:
        """A model's figures."""
        meshes = [read_mesh(folder / bone.stl) for bone in report.bones]
        bones = [
            found for bone, mesh in zip(report.bones, meshes, strict=True) if (found := self._bone_figures(bone, mesh))
        ]
        dice, assd_mm = self._united(meshes) if meshes else (None, None)
        focal, limb_mm = self._geometry(report) if by_jig else (None, None)
        return GeometryFigures(
            status=report.status,
            reason=report.reason,
            dice=dice,
            assd_mm=assd_mm,
            elapsed_s=round(elapsed_s, 2),
            bones=bones,
            focal_off=focal,
            limb_off_mm=limb_mm,
        )

    def _bone_figures(self, bone: BoneReport, mesh: Mesh) -> BoneFigures | None:
        points, share = mesh.vertices_mm.astype(np.float64), share_of_area(mesh)
        compared = self._compared(points)
        if float(share @ compared) < _LEAST_COMPARED:
            return None
        off_mm = self.off_mm(points)

        def mean_mm(there: Array) -> float:
            return round(float(np.average(off_mm[there], weights=share[there])), 3)

        error_mm = mean_mm(compared)
        interval = bone.error_95_mm
        return BoneFigures(
            name=bone.name,
            doubtful=bool(bone.doubt),
            error_mm=error_mm,
            stated_mm=bone.error_mm,
            held=None if interval is None else interval[0] <= error_mm <= interval[1],
            regions={
                name: (mean_mm(there & compared), bone.regions_mm[name])
                for name, there in thirds(mesh).items()
                if name in bone.regions_mm and share @ (there & compared) > 0.5 * (share @ there)
            },
        )

    def _united(self, meshes: Sequence[Mesh]) -> tuple[float, float | None]:
        """Dice of all bone, and the mean distance of its surface from the true one and back."""
        made = np.zeros(self._bone.shape, bool)
        for mesh in meshes:
            made |= filled(mesh, self.grid)
        both = int((made & self._bone & self._seen).sum())
        dice = 2 * both / max(int((made & self._seen).sum() + (self._bone & self._seen).sum()), 1)
        points = np.concatenate([mesh.vertices_mm for mesh in meshes]).astype(np.float64)
        share = np.concatenate([share_of_area(mesh) for mesh in meshes])
        there = self._compared(points)
        true_mm = marching_cubes(self.grid.voxels, 0.0)[0][:, ::-1].astype(np.float64)
        true_mm = g.transform(self.grid.volume_from_index, true_mm)
        true_mm = true_mm[self._compared(true_mm)]
        if not there.any() or not len(true_mm):
            return round(dice, 4), None
        forth_mm = float(np.average(self.off_mm(points[there]), weights=share[there]))
        back_mm = float(_off_mm(_signed(made, self.grid), true_mm).mean())
        return round(dice, 4), round((forth_mm + back_mm) / 2, 3)

    def _geometry(self, report: ModelReport) -> tuple[float | None, float | None]:
        """Largest error of a focal length, and of the limb across the rays, mm."""
        if not report.pictures:
            return None, None
        focal, limb = [], []
        for picture, shot in zip(report.pictures, self._shots, strict=True):
            carm = shot.carm.binned(round(shot.carm.width_px / picture.width_px))
            true_px = carm.source_to_detector_mm / carm.pixel_spacing_mm[0]
            focal.append(abs(picture.focal_px / true_px - 1))
            true = g.transform(g.inverse(shot.jig_from_carm), self._limb_mm)
            found = g.transform(g.inverse(np.array(picture.volume_from_carm)), self._limb_mm)
            center_px = np.array(carm.principal_point_px)
            at = np.array(picture.principal_point_px) + picture.focal_px * found[:, :2] / found[:, 2:]
            off_px = at - (center_px + true_px * true[:, :2] / true[:, 2:])
            limb.append(float((np.linalg.norm(off_px, axis=1) * true[:, 2] / true_px).max()))
        return round(max(focal), 5), round(max(limb), 3)


def _signed(inside: Array, volume: Volume) -> Volume:
    """Distances from a mask's surface on a volume's grid, mm, negative inside."""
    spacing = volume.spacing_mm[::-1]
    half_mm = min(spacing) / 2  # from the middle of a voxel to its side
    out_mm, in_mm = distance_transform_edt(~inside, spacing), distance_transform_edt(inside, spacing)
    return Volume(np.where(inside, half_mm - in_mm, out_mm - half_mm).astype(np.float32), volume.volume_from_index)


def _off_mm(distance: Volume, points_mm: Matrix) -> Matrix:
    """Distances (P,) of points (P, 3) from the surface of :func:`_signed`."""
    at = g.transform(_index_from(distance), points_mm)
    return np.asarray(np.abs(map_coordinates(distance.voxels, at[:, ::-1].T, order=1, mode="nearest")), np.float64)


def _index_from(volume: Volume) -> Matrix:
    return np.asarray(np.linalg.inv(volume.volume_from_index), np.float64)


def filled(mesh: Mesh, grid: Volume) -> Array:
    """Voxels (k, j, i) of a grid along the volume's axes whose middles a closed surface encloses, bool: along every
    column, the surface is entered and left."""
    shifted = g.transform(_index_from(grid), mesh.vertices_mm.astype(np.float64)) + (1e-5, 2.3e-5, 0)  # on no edge
    corners = shifted[mesh.triangles]
    depth, height, width = grid.voxels.shape
    crossings = np.zeros((depth + 1, height, width), np.int32)
    low = np.ceil(corners[:, :, :2].min(axis=1)).astype(int)
    high = np.floor(corners[:, :, :2].max(axis=1)).astype(int)
    reach = (high - low + 1).max(axis=0)
    (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = (corners[:, n].T for n in range(3))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    for across in range(max(int(reach[0]), 0)):
        for down in range(max(int(reach[1]), 0)):
            x, y = low[:, 0] + across, low[:, 1] + down
            with np.errstate(divide="ignore", invalid="ignore"):  # triangles seen edge-on
                second = ((x - x0) * (y2 - y0) - (x2 - x0) * (y - y0)) / area
                third = ((x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)) / area
                hit = (second >= 0) & (third >= 0) & (second + third <= 1)
            hit &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
            at = (z0 + second * (z1 - z0) + third * (z2 - z0))[hit]
            k = np.clip(np.ceil(at), 0, depth).astype(int)
            np.add.at(crossings, (k, y[hit], x[hit]), np.sign(area[hit]).astype(np.int32))
    return np.asarray(np.cumsum(crossings, axis=0)[:-1] != 0)


def _summed(cases: Sequence[CaseFigures], renderer: str) -> ModelBench:
    def median(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(float(np.median(known)), 4) if known else None

    ways = {"jig": [case.jig for case in cases], "known": [case.known for case in cases]}
    bones = [bone for case in cases for bone in case.jig.bones if not bone.doubtful]
    held = [bone.held for bone in bones if bone.held is not None]
    ratios = [true / stated for bone in bones for true, stated in bone.regions.values() if stated > 0]
    lost = [
        known.dice - jig.dice
        for jig, known in zip(ways["jig"], ways["known"], strict=True)
        if jig.dice is not None and known.dice is not None
    ]
    return ModelBench(
        renderer=renderer,
        cases=list(cases),
        dice={name: median([each.dice for each in way]) for name, way in ways.items()},
        assd_mm={name: median([each.assd_mm for each in way]) for name, way in ways.items()},
        dice_lost=median(lost),
        held=round(sum(held) / len(held), 3) if held else None,
        regions_ratio=[round(float(each), 3) for each in np.percentile(ratios, [2.5, 50, 97.5])] if ratios else [],
        surfaces=len(held),
        thirds=len(ratios),
    )
