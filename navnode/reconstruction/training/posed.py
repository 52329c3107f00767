"""Knees made of bone surfaces: posed, bent at the joint and deformed, with cortex, marrow and soft tissue around them.

CTs of knees are rare, and surfaces of real bones come without tissue, which is synthesised: cortex as thick as in bones
of that girth, marrow in shafts, trabeculae towards the ends, muscle, and fat under the skin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.expansion import load_arrays
from navnode.projector.grids import AIR_HU, centered_grid
from navnode.reconstruction.reader import BONE_KINDS
from navnode.reconstruction.training.labels import REACH_MM, share_inside
from navnode.reconstruction.training.patients import TRAINS, Region
from navnode.reconstruction.training.radiographs import (
    SIZE,
    Body,
    radiographs,
    random_bend_mm,
    sampled,
    smooth_noise,
    write,
)
from navnode.types import FloatArray, Matrix, Volume

__all__ = ["Bone", "SUBJECTS", "knee", "posed", "render_knees"]

SUBJECTS = {
    "vhf_hra": ("femur_L", "tibia_L", "fibula_L", "patella_L"),
    "vhm_hra": ("femur_L", "tibia_L", "fibula_L", "patella_L"),
}
"""Whole legs with their bones in joint, whose licences allow training a model that ships."""
_BODIES = 30
"""Knees of each subject per round."""
_VOXEL_MM = 1.0
_SPACING_MM = (1.2, 1.5)
_CONDYLES_MM = 35.0
"""Height of a femur's lowest part; a knee bends roughly about the middle of it."""
_MOST_BENT_DEG = 70.0


@dataclass(frozen=True)
class Bone:
    """One bone on its own grid, in the frame of its subject."""

    name: str
    channels: FloatArray
    """(3, k, j, i): signed distance minus :data:`REACH_MM` (mm), thickness of the cortex (mm), share of trabeculae in
    what it encloses; all 0 far outside."""
    subject_from_index: Matrix


def render_knees(folder: Path, out: Path, rounds: int) -> int:
    """Render the missing ones of ``rounds`` times ``_BODIES`` knees of each subject; return how many files these have.

    Raises:
        ConfigError: as :func:`knee`.
    """
    for subject in SUBJECTS:
        bones: list[Bone] = []
        for number in range(rounds * _BODIES):
            path = out / f"{Region.LIMB}-knee_{subject}-{number:03d}{TRAINS}"
            if not path.exists():
                bones = bones or knee(folder, subject)
                rng = np.random.default_rng((number, int.from_bytes(subject.encode())))
                write(path, radiographs(posed(bones, rng), rng))
    return rounds * _BODIES * len(SUBJECTS)


def knee(folder: Path, subject: str) -> list[Bone]:
    """The bones of a subject, from ``folder/<subject>/<bone>_<side>.npz``.

    Raises:
        ConfigError: a file is missing, or is not a closed surface.
    """
    return [_bone(folder / subject / f"{name}.npz") for name in SUBJECTS[subject]]


def _bone(path: Path) -> Bone:
    try:
        with load_arrays(path) as file:
            import trimesh  # here: training on a pack needs none

            surface = trimesh.Trimesh(file["v"], file["f"], process=False)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: not a bone surface ({error})") from error
    if not surface.is_watertight:
        raise ConfigError(f"{path}: the surface is not closed")
    solid = surface.voxelized(_VOXEL_MM).fill()
    margin = round(REACH_MM / _VOXEL_MM) + 1
    inside = np.pad(solid.matrix.transpose(2, 1, 0), margin)
    # Voxels that the surface only touches count as inside: half a voxel too much, on average.
    outer, inner = ndimage.distance_transform_edt(~inside), ndimage.distance_transform_edt(inside)
    distance_mm = np.clip((np.where(inside, 0.5 - inner, outer - 0.5) + 0.5) * _VOXEL_MM, -REACH_MM, REACH_MM)
    girth_mm = np.sqrt(inside.sum(axis=(1, 2)) * _VOXEL_MM**2 / np.pi)
    girth_mm = ndimage.gaussian_filter1d(girth_mm, 5)
    cortex_mm = np.minimum(np.clip(8.0 - 0.22 * girth_mm, 1.0, 6.0), np.maximum(0.45 * girth_mm, 1.0))
    trabecular = np.clip((girth_mm - 15) / 9, 0, 1)
    shift = np.eye(4)
    shift[:3, 3] = -margin
    everywhere = np.ones_like(distance_mm)
    return Bone(
        path.stem.split("_")[0],
        np.stack(
            [distance_mm - REACH_MM, cortex_mm[:, None, None] * everywhere, trabecular[:, None, None] * everywhere]
        ).astype(np.float32),
        np.asarray(solid.transform, float) @ shift,
    )


def posed(bones: list[Bone], rng: np.random.Generator) -> Body:
    """A knee bent, turned, scaled, mirrored and deformed at random, on the grid of :mod:`radiographs`."""
    femur = next(bone for bone in bones if bone.name == "femur")
    center_mm = _condyles_mm(femur)
    bent_rad = np.radians(rng.uniform(0, _MOST_BENT_DEG) if rng.random() < 0.5 else rng.uniform(0, 12))
    spacing_mm = float(rng.uniform(*_SPACING_MM))
    grid = centered_grid((SIZE,) * 3, spacing_mm, np.zeros(3))
    stretch = rng.uniform(0.85, 1.12) * rng.uniform(0.94, 1.06, 3)
    stretch[0] *= rng.choice([-1.0, 1.0])
    subject_from_grid = np.eye(4)
    subject_from_grid[:3, :3] = g.rotation_exp(rng.normal(0, 0.12, 3)) @ np.diag(stretch)
    subject_from_grid[:3, 3] = center_mm + (rng.normal(0, 8), rng.normal(0, 8), rng.uniform(-60, 60))
    bend_mm = random_bend_mm(rng)
    hu = np.full((SIZE,) * 3, AIR_HU, np.float32)
    bone_share = np.zeros_like(hu)
    nearest_mm, kinds = np.full_like(hu, np.inf), np.zeros(hu.shape, np.uint8)
    density = float(rng.uniform(0.55, 1.15))
    cortical_hu, core_hu, marrow_hu = (
        1300 * density,
        float(rng.uniform(150, 380)) * density,
        float(rng.uniform(-90, 20)),
    )
    thick = float(rng.uniform(0.5, 1.25))
    drawn = []
    for bone in bones:
        share_of_bend = {"femur": 0.0, "patella": 0.55}.get(bone.name, 1.0)
        # Bending takes the foot backwards, a negative turn about the axis to the right; this is its inverse.
        turned = np.eye(4)
        turned[:3, :3] = g.rotation_exp(np.array([share_of_bend * bent_rad, 0, 0]))
        turned[:3, 3] = center_mm - turned[:3, :3] @ center_mm
        loose = g.exp(np.concatenate([rng.normal(0, 0.02, 3), rng.normal(0, 1.0, 3)]), center_mm)
        index_from_grid = np.linalg.inv(bone.subject_from_index) @ loose @ turned @ subject_from_grid @ grid
        distance_mm, cortex_mm, trabecular = sampled(bone.channels, index_from_grid, bend_mm, np.full(3, _VOXEL_MM))
        distance_mm += REACH_MM
        drawn.append((distance_mm, np.maximum(cortex_mm * thick, 0.8), trabecular))
        nearer = distance_mm < nearest_mm
        nearest_mm[nearer], kinds[nearer] = distance_mm[nearer], BONE_KINDS.index(bone.name)
        np.maximum(bone_share, share_inside(10 * distance_mm, spacing_mm), out=bone_share)
    _soft_tissue(hu, bone_share, spacing_mm, rng)
    fine = 1 + 0.3 * ndimage.gaussian_filter(rng.standard_normal(hu.shape).astype(np.float32), 0.8) / 0.2
    for distance_mm, cortex_mm, trabecular in drawn:
        inside = share_inside(10 * distance_mm, spacing_mm)
        core = share_inside(10 * (distance_mm + cortex_mm), spacing_mm)
        held = marrow_hu + trabecular * (core_hu * fine - marrow_hu)
        hu += inside * (cortical_hu - hu)
        hu += core * (held - hu)
    return Body(Volume(np.clip(hu, -1000, 3000), grid, "knee"), bone_share, np.zeros_like(hu), kinds)


def _condyles_mm(femur: Bone) -> Matrix:
    inside = np.argwhere(femur.channels[0] < -REACH_MM)
    lowest = inside[inside[:, 0] < inside[:, 0].min() + _CONDYLES_MM / _VOXEL_MM]
    return np.asarray(g.transform(femur.subject_from_index, lowest.mean(axis=0)[None, ::-1])[0])


def _soft_tissue(hu: FloatArray, bone: FloatArray, spacing_mm: float, rng: np.random.Generator) -> None:
    """Muscle around the bones and fat under the skin, in place."""
    away_mm = ndimage.distance_transform_edt(bone < 0.5, spacing_mm).astype(np.float32)
    # There is more flesh behind the bones than in front.
    flesh_mm = (
        rng.uniform(12, 40) * (1 + 0.35 * smooth_noise(rng)) + np.linspace(22, -8, SIZE, dtype=np.float32)[:, None]
    )
    fat_mm = rng.uniform(2, 18)
    skin = away_mm - ndimage.gaussian_filter(np.clip(flesh_mm, 4, None), 4)
    tissue = 50 + 12 * smooth_noise(rng)
    planes = np.abs(smooth_noise(rng, knots=10)) < 0.06
    hu[:] = np.where(skin < fat_mm, np.where((skin < 0) & ~planes, tissue, -95), AIR_HU)
