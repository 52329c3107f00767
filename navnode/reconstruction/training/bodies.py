"""Bodies to train the refiner on: X-rays of each with their poses, and its solid bone in space.

They are rendered in advance without noise, one file per body. Effects of X-ray chains and readers are drawn anew
whenever a body is used (:mod:`refining`), so that a better reader needs no other files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from navnode import geometry as g
from navnode.expansion import load_arrays
from navnode.files.whole import whole
from navnode.projector import Projector
from navnode.reconstruction.reader import CANVAS_PX
from navnode.reconstruction.training import posed
from navnode.reconstruction.training.patients import TRAINS, VALIDATES, Patient, Region, labelled
from navnode.reconstruction.training.radiographs import SIZE, Body, body
from navnode.types import GRID_SIZE, GRID_SPACING_MM, CArm, FloatArray, Grid, Matrix

__all__ = ["ANGLES_DEG", "Seen", "path_of", "read", "render_bodies", "shares", "write", "x_rayed"]

ANGLES_DEG = (0.0, 90.0, 45.0, 135.0)
"""Views of a body, round its long axis: AP, lateral, and between them."""
_BODIES = {Region.LIMB: 1, Region.TRUNK: 4}
"""Bodies of each patient per round."""
_HEADS = 50
"""Heads rendered per round; the next round takes the next patients."""
_KNEES = 10
"""Knees of each subject per round."""
_SPACINGS_MM = (1.6, 2.5)
_PIXEL_MM = (0.85, 1.3)
"""Pixel of the canvas at the patient."""


@dataclass(frozen=True)
class Seen:
    """X-rays of a body, (N, H, W), and its solid bone, (k, j, i)."""

    line: npt.NDArray[np.float16]
    """(N, H, W), line integrals on the canvas of :mod:`reader`, without noise."""
    carms: tuple[CArm, ...]
    poses: Matrix
    """(N, 4, 4), volume_from_carm in the frame of :attr:`grid`."""
    pixel_mm: npt.NDArray[np.float32]
    """(N,), pixel of the canvas at the patient."""
    grid: Grid
    bone: npt.NDArray[np.uint8]
    """(k, j, i) on the grid: 255 where all of a voxel is solid bone, marrow included."""
    lungs: npt.NDArray[np.uint8] | None = None
    """(k, j, i), likewise; None where nobody kept them."""


def render_bodies(
    listed: Sequence[Patient],
    labels: Path,
    bones: Path | None,
    out: Path,
    rounds: int,
    report: Callable[[int, int], None] = lambda made, of: None,
) -> int:
    """Render the missing bodies of some rounds; return how many files these have.

    Patients to validate on get one body each, unchanged.

    Args:
        labels: cache of :func:`patients.labelled`.
        bones: folder of surfaces, laid out as for :func:`posed.knee`, to build knees from.

    Raises:
        ConfigError: as :func:`posed.knee`.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = [
        *((patient, 0) for patient in listed if patient.validates),
        *(each for number in range(rounds) for each in _round(listed, number, bones is not None)),
    ]
    legs: dict[str, list[posed.Bone]] = {}
    for made, (source, number) in enumerate(wanted):
        path = path_of(out, source, number)
        if not path.exists():
            rng = np.random.default_rng((number, int.from_bytes(path.name.encode()[-24:])))
            if isinstance(source, Patient):
                subject = body(labelled(source, labels), rng, change=not source.validates)
                seen = x_rayed(subject, rng, validate=source.validates)
            else:
                assert bones is not None
                if source not in legs:
                    legs[source] = posed.knee(bones, source)
                seen = x_rayed(posed.posed(legs[source], rng), rng)
            write(path, replace(seen, lungs=None))  # the refiner needs none
        report(made + 1, len(wanted))
    return len(wanted)


def _round(listed: Sequence[Patient], number: int, knees: bool) -> Iterator[tuple[Patient | str, int]]:
    """What to render in a round: patients, or subjects of knees, in mixed order; and which body of each."""
    trained = [patient for patient in listed if not patient.validates]
    heads = [patient for patient in trained if patient.region is Region.HEAD]
    few = [
        (p, number * _BODIES[p.region] + n) for p in trained if p.region in _BODIES for n in range(_BODIES[p.region])
    ]
    first = number * _HEADS
    many = [(heads[n % len(heads)], n // len(heads)) for n in range(first, first + min(_HEADS, len(heads)))]
    made = [(name, number * _KNEES + n) for n in range(_KNEES) for name in posed.SUBJECTS if knees]
    mixed: list[tuple[Patient | str, int]] = [*few, *many, *made]
    for index in np.random.default_rng(number).permutation(len(mixed)):
        yield mixed[index]


def path_of(folder: Path, source: Patient | str, number: int) -> Path:
    """The file for a body of a patient, or of the knee of a subject."""
    if isinstance(source, str):
        return folder / f"{Region.LIMB.value}-knee_{source}-{number:03d}{TRAINS}"
    ending = VALIDATES if source.validates else TRAINS
    return folder / f"{source.region.value}-{source.name}-{number:03d}{ending}"


def x_rayed(subject: Body, rng: np.random.Generator, *, validate: bool = False) -> Seen:
    """X-rays of a body from four directions, near AP, lateral and between them; from exactly these to validate."""
    spacing_mm = GRID_SPACING_MM if validate or rng.random() < 0.6 else float(rng.uniform(*_SPACINGS_MM))
    grid = Grid(GRID_SIZE, spacing_mm)
    projector = Projector(subject.hu)
    turned_deg = 0.0 if validate else _turn_deg(rng)
    line = np.zeros((len(ANGLES_DEG), CANVAS_PX, CANVAS_PX), np.float16)
    carms, poses, pixels_mm = [], [], []
    for image, angle_deg in zip(line, ANGLES_DEG, strict=True):
        sdd_mm = 1100.0 if validate else float(rng.uniform(950, 1250))
        source_mm = 720.0 if validate else sdd_mm * float(rng.uniform(0.58, 0.75))
        pixel_mm = 1.0 if validate else float(rng.uniform(*_PIXEL_MM))
        off = np.zeros(6) if validate else rng.normal(0, (12, 12, 12, 8, 6, 4))
        middle_px = (CANVAS_PX - 1) / 2
        carm = CArm(CANVAS_PX, CANVAS_PX, (pixel_mm * sdd_mm / source_mm,) * 2, sdd_mm, (middle_px, middle_px))
        pose = g.pose_at(
            off[:3],
            source_mm,
            orbital_deg=angle_deg + turned_deg + float(off[3]),
            angulation_deg=float(off[4]),
            roll_deg=float(off[5]),
        )
        image[:] = projector.render(carm, pose)
        carms.append(carm)
        poses.append(pose)
        pixels_mm.append(pixel_mm)
    bone, lungs = (
        np.round(255 * shares(part, float(subject.hu.spacing_mm[0]), grid)).astype(np.uint8)
        for part in (subject.bone, subject.lungs)
    )
    return Seen(line, tuple(carms), np.stack(poses), np.array(pixels_mm, np.float32), grid, bone, lungs)


def _turn_deg(rng: np.random.Generator) -> float:
    """Turn of all views round the patient; mostly none, or to the other side."""
    return float(rng.uniform(0, 360)) if rng.random() < 0.2 else float(rng.choice([0.0, 180.0]))


def shares(part: FloatArray, spacing_mm: float, grid: Grid) -> FloatArray:
    """The share of bone or lung on another grid with the same center, (k, j, i), 0..1.

    Args:
        part: (k, j, i), its share on voxels of ``spacing_mm``.
    """
    ratio = grid.spacing_mm / spacing_mm
    first = (SIZE - 1) / 2 - ratio * (grid.size - 1) / 2
    found = ndimage.affine_transform(
        part, np.full(3, ratio), first, output_shape=grid.shape, order=1, mode="constant", cval=0.0
    )
    return np.asarray(np.clip(found, 0, 1), np.float32)


def write(path: Path, seen: Seen) -> None:
    """Write a body's file, whole or not at all: a training may be reading the folder."""
    geometry = [(*carm.pixel_spacing_mm, carm.source_to_detector_mm, *carm.principal_point_px) for carm in seen.carms]
    with whole(path) as part, part.open("wb") as file:
        parts: dict[str, Any] = {
            "line": seen.line,
            "geometry": np.array(geometry),
            "poses": seen.poses,
            "pixel_mm": seen.pixel_mm,
            "spacing_mm": seen.grid.spacing_mm,
            "bone": seen.bone,
        }
        if seen.lungs is not None:
            parts["lungs"] = seen.lungs
        np.savez_compressed(file, **parts)


def read(path: Path) -> Seen:
    """Read a body's file."""
    with load_arrays(path) as file:
        line, bone = file["line"], file["bone"]
        height, width = line.shape[1:]
        carms = tuple(
            CArm(width, height, (float(su), float(sv)), float(sdd), (float(cu), float(cv)))
            for su, sv, sdd, cu, cv in file["geometry"]
        )
        grid = Grid(len(bone), float(file["spacing_mm"]))
        lungs = file.get("lungs")
        return Seen(line, carms, file["poses"], file["pixel_mm"], grid, bone, lungs)
