"""Bodies on disk: label maps, lists and single bones."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from navnode.errors import ConfigError
from navnode.files.bodies import read_bodies, read_bone
from navnode.files.volumes import read_volume
from tests.invoke import run_navnode

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def patient(tmp_path):
    """A CT with two bones, and its label map."""
    hu = np.full((40, 40, 40), -1000, np.int16)
    hu[4:36, 4:36, 4:36] = 40
    labels = np.zeros(hu.shape, np.uint8)
    for label, first in ((3, 8), (7, 24)):
        at = (slice(first, first + 8),) * 3
        hu[at], labels[at] = 700, label
    nibabel.save(nibabel.Nifti1Image(hu, AFFINE), tmp_path / "ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), tmp_path / "labels.nii.gz")
    return tmp_path


def saved(path, voxels, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def test_labels_are_bodies_that_start_where_the_ct_lies(patient):
    found = read_bodies(patient / "labels.nii.gz", read_volume(patient / "ct.nii.gz"))
    assert [body.name for body in found] == ["label-3", "label-7"]
    assert [body.voxels for body in found] == [512, 512] and all(
        np.array_equal(body.start, np.eye(4)) for body in found
    )


def test_a_list_names_and_chooses(patient):
    start = "[[1,0,0,5],[0,1,0,0],[0,0,1,0],[0,0,0,1]]"
    (patient / "bodies.toml").write_text(
        f'[[bodies]]\nname = "L3"\nlabels = "labels.nii.gz"\nlabel = 7\nvolume_from_body = {start}\n'
    )
    (body,) = read_bodies(patient / "bodies.toml", read_volume(patient / "ct.nii.gz"))
    assert body.name == "L3" and body.start[0, 3] == 5 and body.label[26, 26, 26] and not body.label[10, 10, 10]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "bodies"),
        ('[[bodies]]\nname = "a"\n', "either file, or labels"),
        ('[[bodies]]\nname = "a"\nlabels = "labels.nii.gz"\n', "label is missing"),
        ('[[bodies]]\nname = "a"\nlabels = "labels.nii.gz"\nlabel = 5\n', "hardly any voxel of label 5"),
        ('[[bodies]]\nname = "a"\nlabels = "labels.nii.gz"\nlabel = 3\nstart = 1\n', "start"),
        ('[[bodies]]\nname = "a"\nfile = "none.nii.gz"\n', "no such file"),
        ('[[bodies]]\nname = "a"\nfile = "x"\nvolume_from_body = [[2,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]\n', "rigid"),
        ('[[bodies]]\nname = "a"\nfile = "x"\n[[bodies]]\nname = "a"\nfile = "y"\n', "'a' occurs twice"),
        ("[[bodies]\n", "bodies.toml"),
    ],
)
def test_what_a_list_has_wrong_is_named(patient, text, said):
    (patient / "bodies.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_bodies(patient / "bodies.toml", read_volume(patient / "ct.nii.gz"))


def test_a_label_map_of_another_ct_is_refused(patient):
    ct = read_volume(patient / "ct.nii.gz")
    other = saved(patient / "small.nii.gz", np.ones((20, 20, 20), np.uint8))
    with pytest.raises(ConfigError, match="not a label map"):
        read_bodies(other, ct)
    shifted = AFFINE.copy()
    shifted[0, 3] = 4
    with pytest.raises(ConfigError, match=r"4\.0 mm beside"):
        read_bodies(saved(patient / "off.nii.gz", np.ones((40, 40, 40), np.uint8), shifted), ct)
    with pytest.raises(ConfigError, match="not whole"):
        read_bodies(saved(patient / "share.nii.gz", np.full((40, 40, 40), 0.5, np.float32)), ct)
    with pytest.raises(ConfigError, match="no label"):
        read_bodies(saved(patient / "empty.nii.gz", np.zeros((40, 40, 40), np.uint8)), ct)


def test_numbers_without_a_scale_are_shifted_and_that_is_said(tmp_path, caplog):
    raw = np.zeros((30, 30, 30), np.int16)
    raw[8:22, 8:22, 8:22] = 1300
    bone = read_bone(saved(tmp_path / "radius.nii.gz", raw))
    assert bone.voxels.min() == -1000 and bone.voxels.max() == 276
    assert "taken as HU + 1024" in caplog.text


def test_the_command_lists_bodies_and_writes_a_list_that_it_reads(patient):
    ct, labels, listed = (str(patient / name) for name in ("ct.nii.gz", "labels.nii.gz", "bodies.toml"))
    done = run_navnode("bodies", labels, "--volume", ct, "--out", listed, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["bodies"]
    assert [row["name"] for row in rows] == ["label-3", "label-7"] and rows[0]["size_mm"] == [14.0, 14.0, 14.0]
    again = run_navnode("bodies", listed, "--volume", ct, "--json")
    assert json.loads(again.stdout)["bodies"] == rows
