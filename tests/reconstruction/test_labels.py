"""Solid bone, lungs and body: on synthetic anatomy with known truth, and on a real CT where available."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from navnode.files.volumes import write_volume
from navnode.reconstruction.training.labels import (
    body_mask,
    labels,
    lung_mask,
    share_inside,
    signed_distance,
    solid_bone,
)
from navnode.reconstruction.training.patients import Patient, Region, labelled
from navnode.types import Volume
from tests.conftest import SHARED


def ct(hu: np.ndarray) -> Volume:
    """Slices of 3 mm, pixels of 1 mm."""
    return Volume(hu.astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))


def radius(middle: tuple[float, float] = (60, 60)) -> np.ndarray:
    v, u = np.mgrid[:120, :120]
    return np.hypot(v - middle[0], u - middle[1])


def limb(*, gap: bool = False, marrow_hu: float = -60) -> tuple[Volume, np.ndarray]:
    """A shaft in a thigh with a cortex of 4 mm; the CT and its solid bone."""
    far = radius()
    slice_hu = np.select([far < 11, far < 15, far < 50], [marrow_hu, 1200.0, 50.0], -1000.0)
    if gap:
        slice_hu[58:61, 70:76] = 160  # cortex thinner than a voxel: dense, but below the threshold
    return ct(np.repeat(slice_hu[None], 20, 0)), np.repeat((far < 15)[None], 20, 0)


@pytest.mark.parametrize("gap", [False, True])
def test_marrow_belongs_to_solid_bone(gap: bool) -> None:
    volume, truth = limb(gap=gap)
    found = solid_bone(volume, limb=True)
    assert found[truth].mean() > 0.995
    # Smoothing moves the 220 HU level half a millimetre outside a cortex of 1200 HU.
    assert found.sum() < 1.15 * truth.sum()


def test_bone_cut_by_the_ct_is_filled_up_to_the_border() -> None:
    volume, truth = limb()
    cut = ct(volume.voxels[:, :, 60:])
    found = solid_bone(cut, limb=True)
    assert (found & truth[:, :, 60:]).sum() > 0.95 * truth[:, :, 60:].sum()


def joint() -> tuple[Volume, np.ndarray, np.ndarray]:
    """Two bones that meet at a gap of one slice, whose cortex has two gaps of 10 mm in every slice of the first one's
    end; the CT, its solid bone, and the gap between them."""
    far, slices = radius(), np.arange(30)[:, None, None]
    bone = np.repeat((far < 20)[None], 30, 0) & (slices != 15)
    plates = (slices == 14) | (slices == 16)
    hu = np.where(far < 50, 50.0, -1000.0) + 0.0 * slices
    hu = np.where(bone, np.where((far > 17) | plates, 900.0, 60.0), hu)
    hu[6:11, 55:65, 76:82] = hu[6:11, 76:82, 55:65] = 60  # as dense as muscle
    return ct(hu), bone, np.repeat((far < 18)[None], 30, 0) & (slices == 15)


def test_a_bones_end_is_solid_although_no_slice_closes_its_cortex() -> None:
    volume, truth, gap = joint()
    found = solid_bone(volume, limb=True)
    assert found[6:11][:, radius() < 10].mean() > 0.99
    assert found[truth].mean() > 0.97
    assert not found[gap].any()
    assert found.sum() < 1.15 * truth.sum()


def test_labels_keep_the_hollow_bone_by_which_bones_are_told_apart() -> None:
    volume, truth, _ = joint()
    made = labels(volume, limb=True)
    inside = truth[6:11] & (radius() < 10)
    assert (made.bone[6:11][inside] < 0).mean() > 0.99
    assert (made.hollow[6:11][inside] < 0).mean() < 0.6
    assert ((made.bone < 0) | (made.hollow >= 0)).all()


def test_cached_labels_of_an_earlier_version_are_made_again(tmp_path: Path) -> None:
    volume, *_ = joint()
    path = tmp_path / "joint.nii.gz"
    write_volume(volume, path)
    patient = Patient("joint", path, Region.LIMB, validates=False)
    first = labelled(patient, tmp_path / "cache").labels
    kept = tmp_path / "cache" / "limbs_joint.npz"
    np.savez_compressed(kept, bone=first.hollow, lungs=first.lungs, body=first.body)
    again = labelled(patient, tmp_path / "cache").labels
    np.testing.assert_array_equal(again.bone, first.bone)
    assert "hollow" in np.load(kept)


def test_the_spinal_canal_is_not_bone_but_the_vertebra_is() -> None:
    far, canal = radius((50, 60)), radius((80, 60))
    slice_hu = np.select([canal < 8, canal < 13, far < 20, far < 23, radius() < 55], [35, 700, 150, 600, 50], -1000)
    found = solid_bone(ct(np.repeat(slice_hu[None], 20, 0)), limb=False)
    assert not found[10, 80, 60]
    assert found[10, 50, 60]


def test_contrast_medium_and_scraps_are_not_bone() -> None:
    hu = np.full((20, 120, 120), 50.0)
    hu[5:15, 40:80, 40:80] = 300  # as large as a ventricle, but nowhere as dense as cortex
    hu[3, 10:14, 10:14] = 1500  # a clip
    assert not solid_bone(ct(hu), limb=False).any()


def test_lungs_are_found_and_bowel_gas_is_not() -> None:
    hu = np.full((40, 120, 120), -1000.0)
    hu[:, 10:110, 5:115] = 40
    hu[5:35, 30:90, 12:52] = -850
    hu[5:35, 30:60, 65:95] = -1000
    volume = ct(hu)
    found = lung_mask(volume, body_mask(volume))
    assert found[20, 60, 30]
    assert not found[20, 45, 80]


def test_signed_distances_interpolate_to_the_border() -> None:
    far = radius()
    mask = np.repeat((far < 15)[None], 5, 0)
    distance = signed_distance(mask, ct(np.zeros(mask.shape)))
    inside = np.abs(distance[2] / 10.0 - np.clip(far - 15, -12.7, 12.7))
    assert np.median(inside) < 0.5
    assert abs(share_inside(distance[2].astype(np.float32), 1.0).sum() / (np.pi * 15**2) - 1) < 0.03


def test_the_distance_to_an_absent_tissue_is_the_largest() -> None:
    volume, _ = limb()
    made = labels(volume, limb=True)
    assert (made.lungs == 127).all()
    assert (made.bone < 0).any()


def test_a_real_knee_is_solid() -> None:
    path = SHARED / "ct/train/limbs/sts_028.nii.gz"
    if not path.exists():
        pytest.skip("no CTs beside the checkout")
    from navnode.files.volumes import read_volume

    knee = read_volume(path)
    bone = solid_bone(knee, limb=True)
    shell = knee.voxels > 220
    assert bone.sum() > 1.4 * (bone & shell).sum()  # more than the shell
    assert bone[shell].mean() > 0.85
