"""X-rays to train the reader on: rendered in advance, many of every patient, with the bone behind each pixel.

A body is a patient's CT, turned, scaled, mirrored and bent at random together with its labels. Files hold line
integrals without noise; noise, scatter and the like are drawn anew whenever an X-ray is used (:mod:`reading`). One file
per body, in float16 and uncompressed, so that training reads at the disk's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from navnode import geometry as g
from navnode.projector import MU_WATER_PER_MM, Projector
from navnode.projector.grids import AIR_HU, centered_grid
from navnode.reconstruction.reader import BONE_KINDS, CANVAS_PX
from navnode.reconstruction.training.labels import share_inside
from navnode.reconstruction.training.patients import TRAINS, VALIDATES, Labelled, Patient, Region, labelled
from navnode.types import CArm, FloatArray, Matrix, Volume

__all__ = [
    "Body",
    "Radiographs",
    "SIZE",
    "VIEWS",
    "body",
    "path_of",
    "radiographs",
    "random_bend_mm",
    "render_all",
    "sampled",
    "smooth_noise",
    "write",
]

VIEWS = 16
"""X-rays of each body."""
_BODIES = {Region.LIMB: 6, Region.HEAD: 1, Region.TRUNK: 6}
"""Bodies of each patient per round; limbs and trunks are few, heads are many."""
SIZE = 176
"""Voxels along each side of a body."""
_SPACING_MM = {Region.LIMB: (1.2, 1.5), Region.HEAD: (1.7, 2.2), Region.TRUNK: (2.1, 2.5)}
_PIXEL_MM = (0.8, 1.35)
"""Pixel of the canvas at the patient."""
_STATIONS_DEG = (0.0, 90.0, 180.0, 270.0)
_BENT_MM = 10.0
_KNOTS = 6


@dataclass(frozen=True)
class Body:
    """A patient changed at random, on one cubic grid."""

    hu: Volume
    bone: FloatArray
    """(k, j, i), share of every voxel that is solid bone."""
    lungs: FloatArray
    """(k, j, i), likewise."""
    kinds: npt.NDArray[np.uint8] | None = None
    """(k, j, i), kind of the nearest bone, an index into ``reader.BONE_KINDS``; None if unknown."""


@dataclass(frozen=True)
class Radiographs:
    """X-rays of one body, (N, H, W), on the canvas of :mod:`reader`."""

    line: npt.NDArray[np.float16]
    """(N, H, W) line integrals, without noise."""
    bone_mm: npt.NDArray[np.float16]
    """(N, H, W) solid bone along every ray, marrow included."""
    lungs_mm: npt.NDArray[np.float16]
    pixel_mm: npt.NDArray[np.float32]
    """(N,), pixel of the canvas at the patient."""
    kinds: npt.NDArray[np.uint8] | None = None
    """(N, K, H, W), share of each of ``reader.BONE_KINDS`` in the thickness of bone, 0..255; None if unknown."""


def render_all(
    listed: Sequence[Patient], out: Path, rounds: int, report: Callable[[int, int], None] = lambda made, of: None
) -> int:
    """Render the missing ones of ``rounds`` times ``_BODIES`` bodies of every patient; return how many files these
    have.

    Patients to validate on get one body each, unchanged, seen AP and laterally.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = [
        (patient, number, path_of(out, patient, number))
        for number in range(rounds * max(_BODIES.values()))
        for patient in listed
        if number < rounds * _BODIES[patient.region] and not (patient.validates and number)
    ]
    for made, (patient, number, path) in enumerate(wanted):
        if not path.exists():
            source = labelled(patient, out / "labels")
            rng = np.random.default_rng((number, int.from_bytes(patient.name.encode()[-6:])))
            subject = body(source, rng, change=not patient.validates)
            write(path, radiographs(subject, rng, validate=patient.validates))
        report(made + 1, len(wanted))
    return len(wanted)


def write(path: Path, shot: Radiographs) -> None:
    """Write X-rays to train on, whole or not at all: a training may be reading the folder."""
    whole = path.with_suffix(".new")
    with whole.open("wb") as file:
        parts: dict[str, Any] = {
            "line": shot.line,
            "bone": shot.bone_mm,
            "lungs": shot.lungs_mm,
            "pixel_mm": shot.pixel_mm,
        }
        if shot.kinds is not None:
            parts["kinds"] = shot.kinds
        np.savez(file, **parts)
    whole.replace(path)


def path_of(folder: Path, patient: Patient, number: int) -> Path:
    """The file for X-rays of a patient's body."""
    ending = VALIDATES if patient.validates else TRAINS
    return folder / f"{patient.region.value}-{patient.name}-{number:03d}{ending}"


def body(source: Labelled, rng: np.random.Generator, *, change: bool = True) -> Body:
    """A patient's CT and labels on a cubic grid around a point in a bone; changed at random, or as they are."""
    spacing_mm = float(rng.uniform(*_SPACING_MM[source.patient.region]))
    ct = source.ct
    inside = np.argwhere(source.labels.bone[:, ::2, ::2] < 0) * (1, 2, 2)
    shape = np.array(ct.voxels.shape)
    central = inside[(np.abs(inside / shape - 0.5) < 0.3).all(axis=1)]
    picked = central if len(central) else inside if len(inside) else shape[None] / 2
    at = picked[rng.integers(len(picked))] if change else picked.mean(axis=0)
    center_mm = g.transform(ct.volume_from_index, np.array(at[::-1], float)[None])[0]
    linear = np.eye(3)
    if change:
        stretch = rng.uniform(0.88, 1.14) * rng.uniform(0.95, 1.05, 3)
        stretch[0] *= rng.choice([-1.0, 1.0])
        linear = g.rotation_exp(rng.normal(0, 0.12, 3)) @ np.diag(stretch)
    grid = centered_grid((SIZE,) * 3, spacing_mm, np.zeros(3))
    ct_from_grid = np.eye(4)
    ct_from_grid[:3, :3], ct_from_grid[:3, 3] = linear, center_mm
    index_from_grid = np.linalg.inv(ct.volume_from_index) @ ct_from_grid @ grid
    bend_mm = random_bend_mm(rng) if change else None
    channels = np.stack([ct.voxels, source.labels.bone, source.labels.lungs]).astype(np.float32)
    # Outside is air without labels: shift the channels so that this is zero.
    channels -= np.array([AIR_HU, 127, 127], np.float32)[:, None, None, None]
    hu, bone, lungs = sampled(channels, index_from_grid, bend_mm, np.array(ct.spacing_mm))
    hu += AIR_HU
    kinds = source.kinds
    if kinds is not None:
        shown = kinds[None].astype(np.float32)
        kinds = sampled(shown, index_from_grid, bend_mm, np.array(ct.spacing_mm), nearest=True)[0].astype(np.uint8)
    if change:
        dense = hu > 150
        hu[dense] = 150 + (hu[dense] - 150) * rng.uniform(0.7, 1.3)  # beam energy, and how porous bones are
        hu[hu > -300] += rng.normal(0, 12)
    return Body(
        Volume(np.clip(hu, -1000, 3000), grid, source.patient.name),
        share_inside(bone + 127, spacing_mm),
        share_inside(lungs + 127, spacing_mm),
        kinds,
    )


def random_bend_mm(rng: np.random.Generator) -> Matrix:
    """Displacements at coarse knots for :func:`sampled`, (3, knots, knots, knots), mm."""
    return np.asarray(rng.uniform(0, _BENT_MM) * rng.standard_normal((3, _KNOTS, _KNOTS, _KNOTS)))


def smooth_noise(rng: np.random.Generator, knots: int = 5) -> FloatArray:
    """A smooth random field of about unit size on a body's grid, (k, j, i)."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, knots, knots, knots)).astype(np.float32))
    fine = functional.interpolate(coarse, size=(SIZE,) * 3, mode="trilinear", align_corners=True)
    return np.asarray(fine[0, 0].numpy())


def sampled(
    channels: FloatArray,
    index_from_grid: Matrix,
    bend_mm: Matrix | None,
    spacing_mm: Matrix,
    *,
    nearest: bool = False,
) -> FloatArray:
    """Channels (C, k, j, i) on a CT's grid, sampled on a body's, (C, n, n, n): trilinear or nearest, zero outside, bent
    by displacements at coarse knots."""
    axis = torch.arange(SIZE, dtype=torch.float32)
    k, j, i = torch.meshgrid(axis, axis, axis, indexing="ij")
    rows = torch.from_numpy(index_from_grid.astype(np.float32))
    at = torch.stack([row[0] * i + row[1] * j + row[2] * k + row[3] for row in rows[:3]])  # (i, j, k)
    if bend_mm is not None:
        bend = functional.interpolate(
            torch.from_numpy((bend_mm / spacing_mm[:, None, None, None]).astype(np.float32))[None] * 0.35,
            size=(SIZE,) * 3,
            mode="trilinear",
            align_corners=True,
        )[0]
        at += bend
    sizes = torch.tensor(channels.shape[:0:-1], dtype=torch.float32).view(3, 1, 1, 1)
    normed = ((at + 0.5) * 2 / sizes - 1).permute(1, 2, 3, 0)[None]
    sampled = functional.grid_sample(
        torch.from_numpy(channels)[None],
        normed,
        mode="nearest" if nearest else "bilinear",
        padding_mode="zeros",
        align_corners=False,
    )[0]
    return np.asarray(sampled.numpy())


def radiographs(subject: Body, rng: np.random.Generator, *, validate: bool = False) -> Radiographs:
    """X-rays of a body from all round it, but mostly AP and lateral; from these two alone to validate."""
    grid = subject.hu.volume_from_index
    shares = [subject.bone, subject.lungs]
    if subject.kinds is not None:
        shares += [subject.bone * (subject.kinds == kind) for kind in range(len(BONE_KINDS))]
    projectors = [Projector(subject.hu)] + [
        # Attenuation is the share, so that line integrals are millimetres.
        Projector(Volume(share * np.float32(1000 / MU_WATER_PER_MM) - 1000, grid)) if share.max() > 0 else None
        for share in shares
    ]
    angles_deg = (0.0, 90.0) if validate else [_angle_deg(rng) for _ in range(VIEWS)]
    images = np.zeros((1 + len(shares), len(angles_deg), CANVAS_PX, CANVAS_PX), np.float16)
    pixels_mm = np.zeros(len(angles_deg), np.float32)
    for n, angle_deg in enumerate(angles_deg):
        sdd_mm = float(rng.uniform(950, 1250))
        source_mm = sdd_mm * float(rng.uniform(0.58, 0.75))
        pixel_mm = 1.0 if validate else float(rng.uniform(*_PIXEL_MM))
        on_detector_mm = pixel_mm * sdd_mm / source_mm
        middle_px = (CANVAS_PX - 1) / 2
        carm = CArm(CANVAS_PX, CANVAS_PX, (on_detector_mm,) * 2, sdd_mm, (middle_px, middle_px))
        pose = g.pose_at(
            np.zeros(3) if validate else rng.normal(0, 12, 3),
            source_mm,
            orbital_deg=angle_deg,
            angulation_deg=0.0 if validate else float(rng.normal(0, 10)),
            roll_deg=0.0 if validate else float(rng.normal(0, 4)),
        )
        for image, projector in zip(images, projectors, strict=True):
            if projector is not None:
                image[n] = projector.render(carm, pose)
        pixels_mm[n] = pixel_mm
    kinds = None
    if subject.kinds is not None:
        part_mm = images[3:].astype(np.float32).swapaxes(0, 1)
        kinds = np.round(255 * part_mm / np.maximum(part_mm.sum(axis=1, keepdims=True), 1e-3)).astype(np.uint8)
    return Radiographs(images[0], images[1], images[2], pixels_mm, kinds)


def _angle_deg(rng: np.random.Generator) -> float:
    if rng.random() < 0.6:
        return float(rng.choice(_STATIONS_DEG) + rng.normal(0, 8))
    return float(rng.uniform(0, 360))
