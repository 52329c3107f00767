"""Reconstruction from a few X-rays of bodies with a known CT, compared with the Reconstruction Toolkit's methods.

RTK renders the X-rays, with chains that training does not use. Figures cover what all views see: PSNR and SSIM of HU
clipped to -1000..1500; the Dice coefficient of solid bone, marrow included, at the method's own threshold (200 HU where
it states no bone) and at its best one; the average symmetric surface distance; and the share of voxels within the
stated 95 % interval, everywhere and inside bone. The parts that find bone are measured one by one: how the reader
reads, and what the lift makes of true and of read thickness. Medians are over the bodies of a group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from scipy.ndimage import binary_erosion, distance_transform_edt
from skimage.metrics import structural_similarity

from navnode import geometry as g
from navnode.bench import rtk
from navnode.bench.cases import Chain
from navnode.bench.gallery import Gallery, Slice
from navnode.bench.volumes import Methods, PartFigures, ReconstructionReport, VolumeFigures
from navnode.clock import elapsed_ms
from navnode.errors import ConfigError
from navnode.files.volumes import read_volume
from navnode.projector import MU_WATER_PER_MM, Projector
from navnode.projector.grids import AIR_HU, coarsened, resample
from navnode.projector.native import default_threads
from navnode.reconstruction import Method, Reconstructor
from navnode.reconstruction.bones import Bones
from navnode.reconstruction.lift import lift, solid
from navnode.reconstruction.reader import OUTLINE_MM
from navnode.reconstruction.reading import by_kind, on_canvas, thickness
from navnode.reconstruction.training import labels
from navnode.reconstruction.training.patients import Region, patients
from navnode.reconstruction.voxels import doubled
from navnode.types import Array, CArm, FloatArray, Grid, View, Volume
from navnode.xray.counts import line_integrals

__all__ = [
    "COUNTS",
    "Subject",
    "held_out",
    "run",
]

BONE_HU = 200.0
SIZE, SPACING_MM = 128, 2.0
COUNTS = (2, 4, 8, 16)

_HU = (-1000.0, 1500.0)
_THRESHOLDS_HU = [float(hu) for hu in range(-700, 800, 25)]
_THRESHOLDS = [float(1 / (1 + np.exp(-logit / 4))) for logit in range(-32, 17)]
"""Thresholds of the probability of bone."""
_ISOCENTRE_MM = 680.0
_BINNING = 2
_I0 = 30_000.0
_LEAST_LUNG_CM3 = 20.0
_RENDERED_MM = 1.0
"""Finer CTs are coarsened before rendering; the grid's voxels are twice as large."""


@dataclass(frozen=True)
class BodyCase:
    """X-rays of a body, and its true volume."""

    name: str
    views: tuple[View, ...]
    thickness: tuple[View, ...]
    """Millimetres of solid bone along the rays of the reader's canvas of each view."""
    truth: FloatArray
    """HU on the grid, (128, 128, 128)."""
    bone: Array
    """Solid bone on the grid, bool."""
    seen: Array
    """Voxels that all views see, bool."""
    center_mm: Array
    lungs: Array
    """Lung on the grid, bool."""


@dataclass(frozen=True)
class MethodResult:
    """A method's volume for a case."""

    hu: FloatArray
    half_95_hu: FloatArray | None
    elapsed_ms: float
    bone: FloatArray | None = None
    """Probability of bone, if the method states one."""
    bone_threshold: float = 0.5

    @property
    def bony(self) -> FloatArray:
        """The values to threshold for bone."""
        return self.hu if self.bone is None else self.bone


Maker = Callable[[BodyCase], MethodResult]


@dataclass(frozen=True)
class Subject:
    """A body to measure on."""

    path: Path
    group: str
    limb: bool = False


Figures = TypeVar("Figures", bound=msgspec.Struct)


def held_out(folder: Path, most: int) -> list[Subject]:
    """Patients that no shipped network was trained on, at most so many of each region.

    Args:
        folder: with CTs in folders ``limbs``, ``heads`` and ``trunks``.
        most: patients of a region.

    Raises:
        ConfigError: there are none.
    """
    found: dict[str, list[Subject]] = {}
    for patient in patients(folder):
        if patient.validates:
            subject = Subject(patient.path, patient.region.value, patient.region is Region.LIMB)
            found.setdefault(subject.group, []).append(subject)
    return [subject for group in found.values() for subject in group[:most]]


def run(
    subjects: Sequence[Subject],
    *,
    model: Path | None = None,
    peers: bool = True,
    counts: Sequence[int] = COUNTS,
    threads: int = 2,
    seed: int = 0,
    gallery: Gallery | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> ReconstructionReport:
    """Run every method on every body with every number of views.

    Args:
        subjects: bodies, by group.
        model: networks that replace the shipped ones.
        gallery: gets pictures of every body and number of views, and is written at the end.
        peers: include RTK's FDK, SART and total variation, if the extra ``bench`` is installed.
        threads: of every method; 0: all cores.

    Raises:
        ConfigError: a CT cannot be read, or the model cannot be used.
    """
    threads = threads or default_threads()
    makers = _makers(model, peers and rtk.available(), threads)
    bones = Bones(threads) if "learned" in makers else None
    steps, done = len(subjects) * len(counts) * (len(makers) + 1), 0
    bodies: dict[str, dict[str, Methods]] = {}
    measured: dict[str, list[dict[str, Methods]]] = {}
    parts: dict[str, list[dict[str, PartFigures]]] = {}
    for subject in subjects:
        body = coarsened(read_volume(subject.path), _RENDERED_MM)
        rows: dict[str, Methods] = {}
        found: dict[str, PartFigures] = {}
        for case, disturbed in _cases(body, subject.limb, counts, threads, seed):
            count = str(len(case.views))
            rows[count] = row = {}
            slices = {"CT": Slice.of(case.truth, case.bone)}
            for name, maker in makers.items():
                result = maker(case)
                row[name] = figures = judged(result, case)
                own = (
                    result.bone_threshold
                    if result.bone is not None or figures.threshold is UNSET
                    else figures.threshold
                )
                slices[name] = Slice.of(result.hu, result.bony > own)
                if name == "learned" and figures.dice_fixed is not UNSET:
                    lost = figures.dice_fixed - dice(maker(disturbed).bony, case, result.bone_threshold)
                    row[name] = msgspec.structs.replace(figures, dice_lost_by_pose_error=round(lost, 4))
                done += 1
                progress(done / steps)
            if bones is not None:
                found[count] = _parts(bones, case, threads)
            done += 1
            progress(done / steps)
            if gallery is not None:
                gallery.add(f"{body.name}, {count} views", case.views, slices)
        bodies[subject.path.name] = rows
        measured.setdefault(subject.group, []).append(rows)
        parts.setdefault(subject.group, []).append(found)
    report = ReconstructionReport(
        size=SIZE,
        spacing_mm=SPACING_MM,
        threads=threads,
        bodies=bodies,
        groups={
            group: {
                count: {name: _median([row[count][name] for row in rows], VolumeFigures) for name in makers}
                for count in map(str, counts)
            }
            for group, rows in measured.items()
        },
        parts={
            group: {
                count: _median([row[count] for row in rows if count in row], PartFigures) for count in map(str, counts)
            }
            for group, rows in parts.items()
        },
        count={group: len(rows) for group, rows in measured.items()},
    )
    if gallery is not None:
        gallery.write(report)
    return report


def _parts(bones: Bones, case: BodyCase, threads: int) -> PartFigures:
    grid = Grid.around(case.center_mm, SIZE, SPACING_MM)
    readings = bones.readings(case.views, grid)
    errors_mm, outlines = [], []
    for reading, true in zip(readings, case.thickness, strict=True):
        known, bone = np.isfinite(reading.bone_mm), true.line_integrals > OUTLINE_MM
        errors_mm.append(float(np.abs(reading.bone_mm - true.line_integrals)[known & bone].mean()))
        read = reading.bone > 0.5
        outlines.append(2 * int((read & bone & known).sum()) / max(int((read & known).sum() + (bone & known).sum()), 1))
    poses = [view.volume_from_carm for view in case.views if view.volume_from_carm is not None]
    read_mm = [thickness(reading, pose) for reading, pose in zip(readings, poses, strict=True)]
    lifts = (
        lift(case.thickness, grid, threads=threads),
        lift(read_mm, grid, kinds=by_kind(readings, poses), threads=threads),
    )
    true_dice, read_dice = (round(dice(solid(lifted).astype(np.float32), case, 0.5), 4) for lifted in lifts)
    return PartFigures(
        thickness_error_mm=round(float(np.median(errors_mm)), 3),
        outline_dice=round(float(np.median(outlines)), 4),
        lift_true_dice=true_dice,
        lift_read_dice=read_dice,
        lung_dice=_lung_dice(bones, case, grid),
    )


def _lung_dice(bones: Bones, case: BodyCase, grid: Grid) -> float | UnsetType:
    """Dice coefficient of lung among the voxels that all views see; unset where there is hardly any."""
    true = case.lungs & case.seen
    if true.sum() * SPACING_MM**3 < 1000 * _LEAST_LUNG_CM3:
        return UNSET
    lungs = bones.lungs(case.views, grid)
    found = case.seen & (lungs is not None and doubled(lungs.likely.voxels, SIZE) > 0.5)
    return round(float(2 * (found & true).sum() / (found.sum() + true.sum())), 4)


def _median(figures: Sequence[Figures], kind: type[Figures]) -> Figures:
    """Medians of those figures that all have; of lungs, over the bodies that show some."""
    values = {key: [getattr(each, key) for each in figures] for key in kind.__struct_fields__}
    lungs = [value for value in values.get("lung_dice", []) if value is not UNSET]
    values |= {"lung_dice": lungs} if lungs else {}
    return kind(
        **{key: round(float(np.median(found)), 3) for key, found in values.items() if found and UNSET not in found}
    )


def _makers(model: Path | None, peers: bool, threads: int) -> dict[str, Maker]:
    makers: dict[str, Maker] = {}
    try:
        learned = Reconstructor(Method.LEARNED, threads, model)
        makers["learned"] = _maker(learned)
    except ConfigError:
        if model is not None:
            raise
    makers["SART"] = _maker(Reconstructor(Method.SART, threads))
    makers["FDK"] = _maker(Reconstructor(Method.FDK, threads))
    if peers:
        for name, method in rtk.RECONSTRUCTIONS.items():
            makers[name] = _peer(method)
    return makers


def _maker(reconstructor: Reconstructor) -> Maker:
    def make(case: BodyCase) -> MethodResult:
        reconstructor.forget()
        began = time.perf_counter()
        result = reconstructor.reconstruct(case.views, Grid.around(case.center_mm, SIZE, SPACING_MM))
        spent_ms = elapsed_ms(began)
        half = None if result.uncertainty_hu is None else result.uncertainty_hu.voxels
        bone = None if result.bone is None else result.bone.likely.voxels
        return MethodResult(
            result.volume.voxels, half, spent_ms, bone, 0.5 if result.bone is None else result.bone.threshold
        )

    return make


def _peer(method: Callable[..., FloatArray]) -> Maker:
    def make(case: BodyCase) -> MethodResult:
        began = time.perf_counter()
        hu = method(case.views, SIZE, SPACING_MM, case.center_mm)
        return MethodResult(hu, None, elapsed_ms(began))

    return make


def _cases(
    body: Volume, limb: bool, counts: Sequence[int], threads: int, seed: int
) -> Iterator[tuple[BodyCase, BodyCase]]:
    """A case for each number of views, and a copy with poses off by 1 mm and 1 degree."""
    projector = rtk.RtkProjector(body, threads) if rtk.available() else Projector(body, threads=threads)
    truth = resample(body, SPACING_MM, (SIZE,) * 3)
    solid_bone = labels.solid_bone(body, limb=limb) & labels.body_mask(body)
    bone = Volume(np.where(solid_bone, np.float32(1000 / MU_WATER_PER_MM - 1000), AIR_HU), body.volume_from_index)
    thickness_of = Projector(bone, threads=threads)  # rays cross millimetres of it
    on_grid = resample(bone, SPACING_MM, (SIZE,) * 3).voxels > 500 / MU_WATER_PER_MM - 1000
    lungs = np.zeros(on_grid.shape, bool)
    if not limb:
        mask = labels.lung_mask(body, labels.body_mask(body)).astype(np.float32)
        lungs = resample(Volume(mask, body.volume_from_index), SPACING_MM, (SIZE,) * 3).voxels > 0.5
    for count in counts:
        rng = np.random.default_rng((seed, count))
        chain = replace(Chain.drawn(rng, _I0), tool=False)
        wide_mm, far_mm = float(rng.choice([300.0, 380.0])), float(rng.uniform(980, 1150))
        carm = CArm(512, 512, (wide_mm / 512,) * 2, far_mm, (255.5, 255.5))
        views = []
        for number in range(count):
            pose = g.pose_at(
                body.center_mm + rng.normal(0, 3, 3),
                _ISOCENTRE_MM,
                orbital_deg=10 + 180 * number / count + rng.normal(0, 2),
                angulation_deg=rng.normal(0, 3),
                roll_deg=rng.normal(0, 2),
            )
            counted = chain.expose(projector.render(carm, pose), carm, rng)
            line = line_integrals(counted, chain.i0 * chain.gain, _BINNING)
            views.append(View(line, carm.binned(_BINNING), pose))
        thicknesses = []
        for view in views:
            _, measured, canvas, _ = on_canvas(view, body.center_mm)
            assert view.volume_from_carm is not None
            mm = np.where(measured, thickness_of.render(canvas, view.volume_from_carm), np.nan)
            thicknesses.append(View(mm.astype(np.float32), canvas, view.volume_from_carm))
        seen = _seen_by_all(views, truth)
        case = BodyCase(
            body.name, tuple(views), tuple(thicknesses), truth.voxels, on_grid, seen, np.asarray(body.center_mm), lungs
        )
        yield case, replace(case, views=tuple(_off(view, rng) for view in views))


def _off(view: View, rng: np.random.Generator) -> View:
    assert view.volume_from_carm is not None
    turn, shift = rng.normal(size=(2, 3))
    xi = np.concatenate([np.deg2rad(1.0) * turn / np.linalg.norm(turn), shift / np.linalg.norm(shift)])
    return replace(view, volume_from_carm=view.volume_from_carm @ g.exp(xi, (0.0, 0.0, _ISOCENTRE_MM)))


def _seen_by_all(views: Sequence[View], grid: Volume) -> Array:
    k, j, i = np.indices(grid.voxels.shape, np.float64)
    points = g.transform(grid.volume_from_index, np.stack([i, j, k], -1).reshape(-1, 3))
    seen = np.ones(len(points), bool)
    for view in views:
        assert view.volume_from_carm is not None
        pixels = g.project(view.carm, g.inverse(view.volume_from_carm), points)
        seen &= ((pixels >= 0) & (pixels <= np.array([view.carm.width_px, view.carm.height_px]) - 1)).all(axis=1)
    return seen.reshape(grid.voxels.shape)


def judged(result: MethodResult, case: BodyCase) -> VolumeFigures:
    """Figures of one volume."""
    hu, truth = (np.clip(part, *_HU) for part in (result.hu, case.truth))
    squared = float(np.mean((hu[case.seen] - truth[case.seen]) ** 2))
    _, similar = structural_similarity(hu, truth, data_range=_HU[1] - _HU[0], full=True)
    bony = np.clip(result.hu, *_HU) if result.bone is None else result.bone
    fixed, thresholds = (BONE_HU, _THRESHOLDS_HU) if result.bone is None else (result.bone_threshold, _THRESHOLDS)
    best = max(thresholds, key=lambda threshold: dice(bony, case, threshold))
    surface = best if result.bone is None else fixed  # without a threshold of its own, a method gets its best one
    figures = {
        "psnr_db": 20 * np.log10((_HU[1] - _HU[0]) / np.sqrt(squared)),
        "ssim": float(similar[case.seen].mean()),
        "dice_fixed": dice(bony, case, fixed),
        "dice": dice(bony, case, best),
        "threshold": best,
        "assd_mm": surface_distance_mm((bony > surface) & case.seen, case.bone & case.seen),
        "elapsed_ms": result.elapsed_ms,
    }
    if result.half_95_hu is not None:
        within = np.abs(case.truth - result.hu) <= result.half_95_hu
        figures["within_95"] = float(within[case.seen].mean())
        figures["within_95_bone"] = float(within[case.seen & case.bone].mean()) if case.bone.any() else np.nan
    return VolumeFigures(**{key: round(float(value), 4) for key, value in figures.items() if np.isfinite(value)})


def dice(bony: FloatArray, case: BodyCase, threshold: float) -> float:
    """Dice coefficient of bone among the voxels that all views see."""
    bone, true = (bony > threshold) & case.seen, case.bone & case.seen
    return float(2 * (bone & true).sum() / max(bone.sum() + true.sum(), 1))


def surface_distance_mm(a: Array, b: Array) -> float:
    """Average symmetric distance between two masks' surfaces; infinite if one is empty."""
    if not (a.any() and b.any()):
        return float("inf")
    surfaces = [mask & ~binary_erosion(mask) for mask in (a, b)]
    to_a, to_b = (distance_transform_edt(~surface, SPACING_MM) for surface in surfaces)
    return float((to_b[surfaces[0]].sum() + to_a[surfaces[1]].sum()) / (surfaces[0].sum() + surfaces[1].sum()))
