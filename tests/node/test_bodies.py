"""A node's bodies, before it starts: a map that cannot be used is named, by the check as well as by the start."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from navnode import config
from navnode.errors import ConfigError
from navnode.files.volumes import read_volume
from navnode.node.readiness import check_files
from navnode.registration.answer import FrameRegistration
from tests.invoke import call
from tests.registration.bones import patient

CARM = """
[carm]
width_px = 384
height_px = 384
pixel_spacing_mm = [0.776, 0.776]
source_to_detector_mm = 1020.0
principal_point_px = [191.5, 191.5]
[volume]
ct = "ct.nii.gz"
"""


@pytest.fixture
def folder(tmp_path):
    ct, labels = patient((1, 2))
    for name, voxels in (("ct", ct.voxels.astype(np.int16)), ("labels", labels[0].astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), ct.volume_from_index), tmp_path / f"{name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "other.nii.gz")
    return tmp_path


def configured(folder, labels: str, label: int):
    path = folder / "node.toml"
    path.write_text(f'{CARM}\n[[bodies]]\nname = "Femur"\nlabels = "{labels}"\nlabel = {label}\n')
    return path


def test_bodies_that_can_be_used_are_fine(folder):
    path = configured(folder, "labels.nii.gz", 1)
    check_files(config.load(path))
    code, said, error = call("run", path, "--check", "--json")
    assert code == 0 and said["configuration"] == str(path), error


@pytest.mark.parametrize(
    ("labels", "label", "said"),
    [
        ("none.nii.gz", 1, "no such file"),
        ("labels.nii.gz", 7, "hardly any voxel of label 7"),
        ("other.nii.gz", 1, "not a label map"),
        ("ct.nii.gz", 1, "not a label map"),
    ],
)
def test_a_map_that_cannot_be_used_is_named_before_the_start(folder, labels, label, said):
    path = configured(folder, labels, label)
    with pytest.raises(ConfigError, match=said):
        check_files(config.load(path))
    code, _, error = call("run", path, "--check")
    assert code == 2 and "bodies" in error and said in error
    if labels != "none.nii.gz":
        with pytest.raises(ConfigError, match=said):
            FrameRegistration(config.load(path), read_volume(folder / "ct.nii.gz"), 1)


@pytest.mark.parametrize(
    ("file", "said"),
    [("none.nii.gz", "no such file"), ("empty.nii.gz", "not a CT in HU"), ("soft.nii.gz", "no bone in it")],
)
def test_a_bone_of_its_own_that_cannot_be_used_is_named_before_the_start(folder, file, said):
    air = np.full((9, 9, 9), -1000, np.int16)
    nibabel.save(nibabel.Nifti1Image(air, np.eye(4)), folder / "empty.nii.gz")
    air[2:7, 2:7, 2:7] = 40
    nibabel.save(nibabel.Nifti1Image(air, np.eye(4)), folder / "soft.nii.gz")
    path = folder / "node.toml"
    without_ct = CARM.replace('[volume]\nct = "ct.nii.gz"\n', "[reconstruction]\nenabled = false\n")
    path.write_text(f'{without_ct}\n[[bodies]]\nname = "Radius"\nfile = "{file}"\n')
    with pytest.raises(ConfigError, match=said):
        check_files(config.load(path))
    code, _, error = call("run", path, "--check")
    assert code == 2 and "bodies[0]" in error and said in error


@pytest.mark.parametrize(
    ("meets", "said"),
    [
        ('["Tibia"]', "Femur does not meet Tibia: in the CT they are 13 mm apart"),
        ('["Patella"]', "Femur meets 'Patella', which is no other body"),
        ('["Femur"]', "no other body"),
    ],
)
def test_a_joint_is_between_bodies_that_there_are(folder, meets, said):
    _, labels = patient((1, 2))
    both = (labels[0] + 2 * (labels[1] & ~labels[0])).astype(np.uint8)
    affine = nibabel.load(folder / "ct.nii.gz").affine
    nibabel.save(nibabel.Nifti1Image(both.transpose(2, 1, 0), affine), folder / "labels.nii.gz")
    path = configured(folder, "labels.nii.gz", 1)
    path.write_text(
        f'{path.read_text()}meets = {meets}\n[[bodies]]\nname = "Tibia"\nlabels = "labels.nii.gz"\nlabel = 2\n'
    )
    code, _, error = call("run", path, "--check")
    assert code == 2 and said in error


def test_a_bone_of_its_own_meets_nobody(folder):
    path = folder / "node.toml"
    path.write_text(f'{CARM}\n[[bodies]]\nname = "Radius"\nfile = "ct.nii.gz"\nmeets = ["Ulna"]\n')
    with pytest.raises(ConfigError, match="meets belongs to labels"):
        config.load(path)
