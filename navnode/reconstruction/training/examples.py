"""Training examples: bodies changed at random, and X-rays of them as C-arms take them."""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.expansion import load_arrays
from navnode.files.whole import whole
from navnode.projector import Projector
from navnode.projector.grids import AIR_HU, centered_grid, coarsened
from navnode.reconstruction.classical import Pyramid
from navnode.reconstruction.features import GRID, picture, starting_volumes
from navnode.reconstruction.training.anatomy import procedural, with_metal
from navnode.types import CArm, FloatArray, Grid, Matrix, View, Volume
from navnode.xray.chain import XrayChain

__all__ = [
    "Example",
    "Exposure",
    "SUBSETS",
    "VIEWS",
    "changed",
    "examples",
    "middle",
    "procedural_source",
    "real_sources",
    "some_views",
    "xrays",
]

log = logging.getLogger(__name__)

VIEWS = 12
"""X-rays of each body; every example uses some of them."""
SUBSETS = 4
"""Examples from each body's X-rays."""
_COUNTS, _SHARES = (1, 2, 3, 4, 6, 8, 10, 12), (0.03, 0.22, 0.12, 0.23, 0.12, 0.14, 0.06, 0.08)

_MARGIN = 24
"""Voxels that the rendered body extends beyond the grid on each side: rays cross more than is reconstructed."""
_DETECTOR_PX = 256
_SOURCE_MM = 1.4
_CT_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
_PHOTONS = (4e3, 6e4)
"""Per pixel of a 512 x 512 detector in the open beam."""
_OPEN_COUNTS = 60_000.0
_CONTRAST = 0.25
"""Share of bodies with contrast medium."""
_CUT_OUT = 0.25
"""Share of bodies of which only a block remains."""
_GAIN_ERROR = 0.02
"""Sigma of the logarithm of I0, from view to view."""


@dataclass(frozen=True)
class Example:
    """The network's input from N X-rays of a body, (N, 4, 256, 256), and the body, (128, 128, 128)."""

    hu: npt.NDArray[np.int16]
    """(128, 128, 128)"""
    channels: npt.NDArray[np.float16]
    """(N, 4, 256, 256)"""
    picture_from_grid: FloatArray
    """(N, 3, 4)"""
    coarse: npt.NDArray[np.float16]
    """(64, 64, 64): SART's starting volume."""
    fine: npt.NDArray[np.float16]
    """(128, 128, 128), likewise."""


def real_sources(folder: Path, held_out: Sequence[str], validate: Sequence[str]) -> tuple[list[Volume], list[Volume]]:
    """The CTs of a folder to train on, and those to validate on, whose names contain one of ``validate``.

    Args:
        held_out: parts of the names of CTs to leave out.

    Raises:
        ConfigError: there is no such folder, a file in it is not a CT, or no CT is named by ``validate`` or a part of
            ``held_out``.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: not a folder of CTs")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(_CT_ENDINGS))
    validating = [path for path in files if any(name in path.name for name in validate)]
    if validate and not validating:
        raise ConfigError(f"{folder}: no CT's name contains {' or '.join(validate)}")
    if missing := [name for name in held_out if not any(name in path.name for path in files)]:
        raise ConfigError(f"{folder}: no CT's name contains {' or '.join(missing)}, which is to be held out")
    wanted = [path for path in files if not any(name in path.name for name in (*held_out, *validate))]
    from navnode.files.volumes import read_volume  # here: training on a pack reads no CT and needs no SimpleITK

    training, other = ([coarsened(read_volume(path), _SOURCE_MM) for path in paths] for paths in (wanted, validating))
    return training, other


def procedural_source(seed: int, cache: Path) -> Volume:
    """The procedural body of a seed, cached."""
    version = hashlib.sha256((Path(__file__).parent / "anatomy.py").read_bytes()).hexdigest()[:12]
    path = cache / f"procedural_{version}_{seed:04d}.npz"
    if path.exists():
        try:
            with load_arrays(path) as kept:
                return Volume(kept["hu"].astype(np.float32), kept["volume_from_index"], f"procedural {seed}")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            log.warning("%s: damaged; drawn again", path)
    made = procedural(np.random.default_rng((seed, 77)))
    cache.mkdir(parents=True, exist_ok=True)
    hu = np.clip(np.round(made.voxels), -1024, 3071).astype(np.int16)
    with whole(path) as part, part.open("wb") as stream:
        np.savez_compressed(stream, hu=hu, volume_from_index=made.volume_from_index)
    return Volume(hu.astype(np.float32), made.volume_from_index, f"procedural {seed}")


def examples(source: Volume, rng: np.random.Generator, threads: int = 1) -> list[Example]:
    """Examples from a changed copy of a body: different subsets of its ``VIEWS`` X-rays, with different pose errors."""
    body = changed(source, rng)
    inside = middle(body)
    views = xrays(body, inside.volume_from_index, rng, threads)
    hu = np.round(inside.voxels).astype(np.int16)
    made = []
    for _ in range(SUBSETS):
        chosen = [views[n] for n in some_views(int(rng.choice(_COUNTS, p=_SHARES)), rng)]
        if rng.random() < 0.5:
            mm, rad = rng.uniform(0, 0.8), rng.uniform(0, 0.008)
            chosen = [_disturbed(view, inside.center_mm, rng, mm, rad) for view in chosen]
        pictures = [picture(view, inside.volume_from_index) for view in chosen]
        pyramid = Pyramid(Grid.around(inside.center_mm, GRID, body.spacing_mm[0]), threads=threads)
        for name, view in enumerate(chosen):
            pyramid.add(name, view)
        coarse, fine = starting_volumes(pyramid)
        made.append(
            Example(
                hu,
                np.stack([p.channels for p in pictures]).astype(np.float16),
                np.stack([p.picture_from_grid for p in pictures]),
                coarse.astype(np.float16),
                fine.astype(np.float16),
            )
        )
    return made


def some_views(count: int, rng: np.random.Generator) -> list[int]:
    """Indices of the views to use: mostly spread evenly, sometimes at random."""
    if rng.random() < 0.2:
        return [int(v) for v in rng.choice(VIEWS, count, replace=False)]
    start = rng.uniform(0, VIEWS)
    return sorted({int(start + VIEWS * n / count) % VIEWS for n in range(count)})


def middle(body: Volume) -> Volume:
    """The part of a changed body to reconstruct, without the margin that rays cross too."""
    inner, shift = slice(_MARGIN, -_MARGIN), np.eye(4)
    shift[:3, 3] = _MARGIN
    return Volume(body.voxels[inner, inner, inner], body.volume_from_index @ shift, body.name)


def changed(source: Volume, rng: np.random.Generator) -> Volume:
    """A body turned, scaled, bent and tinted at random, on a cubic grid larger than the network's."""
    size = GRID + 2 * _MARGIN
    spacing_mm = 2.0 if rng.random() < 0.5 else float(rng.uniform(1.2, 2.4))
    body = np.argwhere(source.voxels[::4, ::4, ::4] > -400) * 4
    shape = np.array(source.voxels.shape)
    inner = body[(np.abs(body / shape - 0.5) < 0.33).all(axis=1)]
    picked = (inner if len(inner) else body)[rng.integers(len(inner) or len(body))] if len(body) else shape / 2
    center_mm = g.transform(source.volume_from_index, np.array(picked[::-1], float)[None])[0]
    turn = rng.normal(0, 0.15, 3) if rng.random() < 0.85 else rng.uniform(-np.pi, np.pi, 3)
    stretch = rng.uniform(0.88, 1.14) * rng.uniform(0.96, 1.04, 3)
    stretch[0] *= rng.choice([-1.0, 1.0])
    linear = g.rotation_exp(turn) @ np.diag(stretch)
    grid = centered_grid((size,) * 3, spacing_mm, np.zeros(3))
    source_from_grid = np.eye(4)
    source_from_grid[:3, :3] = linear @ grid[:3, :3]
    source_from_grid[:3, 3] = linear @ grid[:3, 3] + center_mm
    index = np.linalg.inv(source.volume_from_index) @ source_from_grid
    i, j, k = (np.arange(size, dtype=np.float32) for _ in range(3))
    # Axes of the grid are (k, j, i), rows of `index` are (i, j, k).
    at = [
        np.float32(row[3])
        + np.float32(row[0]) * i[None, None, :]
        + np.float32(row[1]) * j[None, :, None]
        + np.float32(row[2]) * k[:, None, None]
        for row in index[2::-1]
    ]
    if rng.random() < 0.7:
        for axis in range(3):
            bend = gaussian_filter(rng.standard_normal((7, 7, 7)), 0.8)
            at[axis] = at[axis] + zoom(
                (bend * rng.uniform(0, 12)).astype(np.float32), size / 7, order=1, grid_mode=True, mode="nearest"
            )
    hu = map_coordinates(source.voxels, np.stack(at), np.float32, order=1, mode="constant", cval=AIR_HU)
    soft = hu > -300
    hu[soft] += rng.normal(0, 12)
    hu[hu > 150] = 150 + (hu[hu > 150] - 150) * rng.uniform(0.75, 1.3)
    if rng.random() < _CONTRAST:
        _enhance(hu, soft & (hu < 150), rng)
    if rng.random() < 0.08:
        with_metal(hu, rng)
    if rng.random() < _CUT_OUT:
        _cut_out(hu, rng)
    return Volume(np.clip(hu, -1024, 3000), grid, source.name)


def _cut_out(hu: FloatArray, rng: np.random.Generator) -> None:
    """Leave a block of the body, in place: CTs end, and specimens lie in air."""
    for axis, size in enumerate(hu.shape):
        if rng.random() < 0.7:
            width = int(size * rng.uniform(0.25, 0.8))
            first = int((size - width) * rng.uniform(0.35, 0.65))
            beyond = [slice(None)] * 3
            for part in (slice(first), slice(first + width, None)):
                beyond[axis] = part
                hu[tuple(beyond)] = AIR_HU


def _enhance(hu: FloatArray, tissue: npt.NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Put contrast medium into some of the soft tissue, in place: organs and vessels are not always grey."""
    coarse = gaussian_filter(rng.standard_normal((12, 12, 12)), rng.uniform(0.5, 1.2)).astype(np.float32)
    field = zoom(coarse, np.array(hu.shape) / 12, order=1, grid_mode=True, mode="nearest")
    hu[tissue & (field > np.quantile(coarse, rng.uniform(0.5, 0.95)))] += rng.uniform(60, 350)


def xrays(body: Volume, volume_from_grid: Matrix, rng: np.random.Generator, threads: int = 1) -> list[View]:
    """Line integrals as a C-arm measures them, from ``VIEWS`` directions round the patient.

    Args:
        volume_from_grid: 4x4, voxel index (i, j, k) of :func:`middle` -> RAS mm.
    """
    middle_mm = g.transform(volume_from_grid, np.full((1, 3), (GRID - 1) / 2))[0]
    spacing_mm = float(np.linalg.norm(volume_from_grid[:3, 0]))
    sdd_mm = rng.uniform(900, 1250)
    source_mm = sdd_mm * rng.uniform(0.54, 0.72)
    wide_mm = min(float(rng.uniform(240, 430)), 1.5 * GRID * spacing_mm * sdd_mm / source_mm)
    pixel_mm = wide_mm / _DETECTOR_PX
    middle_px = (_DETECTOR_PX - 1) / 2
    carm = CArm(
        _DETECTOR_PX,
        _DETECTOR_PX,
        (pixel_mm, pixel_mm),
        sdd_mm,
        (middle_px + rng.normal(0, 2), middle_px + rng.normal(0, 2)),
    )
    isocentre_mm = middle_mm + rng.normal(0, 0.04, 3) * GRID * spacing_mm
    arc_deg = rng.choice([180.0, rng.uniform(110, 180), rng.uniform(180, 360)], p=[0.5, 0.25, 0.25])
    orbital_deg = rng.uniform(0, 360) + arc_deg * (np.arange(VIEWS) + rng.normal(0, 0.12, VIEWS)) / VIEWS
    angulation_deg = rng.normal(0, 5) if rng.random() < 0.8 else rng.normal(0, 28)
    wobble_deg = 1.0 if rng.random() < 0.6 else 12.0
    roll_deg = rng.choice([0.0, 90.0, 180.0, -90.0]) + rng.normal(0, 3)
    projector = Projector(body, threads=threads)
    exposure = Exposure.drawn(rng)
    views = []
    for angle_deg in orbital_deg:
        volume_from_carm = g.pose_at(
            isocentre_mm,
            source_mm,
            orbital_deg=angle_deg,
            angulation_deg=angulation_deg + rng.normal(0, wobble_deg),
            roll_deg=roll_deg,
        )
        line = exposure.seen(projector.render(carm, volume_from_carm), carm, rng)
        views.append(View(line, carm, volume_from_carm))
    return views


@dataclass(frozen=True)
class Exposure:
    """What an X-ray chain does to line integrals, drawn once for all views of a body.

    Both floats are unitless: ``hardening`` is the share of a line integral lost per unit of it, ``i0_error`` an error
    of ln I0.
    """

    detector: XrayChain
    hardening: float
    i0_error: float
    """The same for all views."""

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Exposure:
        """A random X-ray chain."""
        detector = XrayChain(
            i0=float(np.exp(rng.uniform(*np.log(_PHOTONS)))) * 4,  # a pixel here is four of the detector's
            scatter_fraction=float(rng.choice([0.0, rng.uniform(0, 0.12)])),
            scatter_sigma_mm=float(rng.uniform(25, 60)),
            read_noise=2.0,
        )
        return cls(detector, float(rng.choice([0.0, rng.uniform(0, 0.03)])), float(rng.normal(0, 0.03)))

    def seen(self, line: FloatArray, carm: CArm, rng: np.random.Generator) -> FloatArray:
        """Line integrals, (H, W), as the chain measures true ones, (H, W)."""
        hardened = line - self.hardening * line * line / (1 + 0.1 * line)
        gain = _OPEN_COUNTS / self.detector.i0
        counts = self.detector.expose(hardened, carm, gain, rng)
        i0 = _OPEN_COUNTS * np.exp(self.i0_error + rng.normal(0, _GAIN_ERROR))
        measured: FloatArray = np.log(i0 / np.maximum(counts.astype(np.float32), 0.5)).astype(np.float32)
        return measured


def _disturbed(view: View, middle_mm: Matrix, rng: np.random.Generator, mm: float, rad: float) -> View:
    """The view with an error of its pose, normal with sigmas ``mm`` and ``rad``."""
    assert view.volume_from_carm is not None
    moved = g.exp(np.concatenate([rng.normal(0, rad, 3), rng.normal(0, mm, 3)]), middle_mm)
    return replace(view, volume_from_carm=moved @ view.volume_from_carm)
