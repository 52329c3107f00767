"""A ball with or without a rod in it, and its X-rays; the CT of a thigh."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from navnode import geometry as g
from navnode.files.volumes import write_volume
from navnode.projector import Projector
from navnode.projector.grids import centered_grid
from navnode.types import CArm, View, Volume

CARM = CArm(64, 64, (4.0, 4.0), 1000.0, (31.5, 31.5))


def ball(radius_mm: float = 30.0, hu: float = 400.0) -> Volume:
    volume_from_index = centered_grid((64, 64, 64), 2.0, np.zeros(3))
    k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3].astype(float)
    distance = np.sqrt((i - 10) ** 2 + j**2 + (k + 6) ** 2)
    return Volume((-1000 + (hu + 1000) / (1 + np.exp(distance - radius_mm))).astype(np.float32), volume_from_index)


def views(volume: Volume, angles_deg) -> list[View]:
    projector = Projector(volume)
    made = []
    for angle in np.deg2rad(angles_deg):
        volume_from_carm = g.rigid(g.rotation_exp(np.array([0.0, angle, 0.0]))) @ g.rigid(None, (0, 0, -650.0))
        made.append(View(projector.render(CARM, volume_from_carm), CARM, volume_from_carm))
    return made


def with_a_rod(volume: Volume) -> tuple[Volume, np.ndarray]:
    k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3].astype(float)
    rod = (np.hypot(i - 14, j - 4) < 5) & (np.abs(k + 6) < 16)
    return Volume(np.where(rod, 1500.0, volume.voxels).astype(np.float32), volume.volume_from_index), rod


def drawn(folder: Path, name: str) -> None:
    """Write a patient's CT into a folder of CTs: a thigh, its shaft with marrow along z."""
    v, u = np.mgrid[:96, :96]
    far = np.hypot(v - 48, u - 48)
    hu = np.select([far < 9, far < 13, far < 40], [-60.0, 1100.0, 50.0], -1000.0)
    volume = Volume(np.repeat(hu[None], 60, 0).astype(np.float32), np.diag([1.5, 1.5, 3.0, 1.0]))
    (folder / "limbs").mkdir(parents=True, exist_ok=True)
    write_volume(volume, folder / "limbs" / f"{name}.nii.gz")
