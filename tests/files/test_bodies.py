"""Bodies on disk: label maps, lists and single bones."""

from __future__ import annotations

import itertools
import json

import nibabel
import nrrd
import numpy as np
import pytest

from navnode.errors import ConfigError
from navnode.files.bodies import read_bodies, read_bone, read_map
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
        f'[[bodies]]\nname = "L3"\nlabels = "labels.nii.gz"\nlabel = 7\nvolume_from_body = {start}\nmeets = ["L4"]\n'
    )
    (body,) = read_bodies(patient / "bodies.toml", read_volume(patient / "ct.nii.gz"))
    assert (
        body.name == "L3"
        and body.start[0, 3] == 5
        and body.meets == ("L4",)
        and body.label[26, 26, 26]
        and not body.label[10, 10, 10]
    )


TWICE = "\n".join(f'[[bodies]]\nname = "{name}"\nlabels = "labels.nii.gz"\nlabel = 3\n' for name in "ab")


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
        (TWICE, "'a' and 'b' are the same label, 3 of labels.nii.gz"),
        ('[[bodies]]\nname = "a"\nfile = "ct.nii.gz"\nmeets = ["b"]\n', "meets belongs to labels"),
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


@pytest.mark.long
def test_the_command_lists_bodies_and_writes_a_list_that_it_reads(patient):
    ct, labels, listed = (str(patient / name) for name in ("ct.nii.gz", "labels.nii.gz", "bodies.toml"))
    done = run_navnode("bodies", labels, "--volume", ct, "--out", listed, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["bodies"]
    assert [row["name"] for row in rows] == ["label-3", "label-7"] and rows[0]["size_mm"] == [14.0, 14.0, 14.0]
    again = run_navnode("bodies", listed, "--volume", ct, "--json")
    assert json.loads(again.stdout)["bodies"] == rows


def turned(array, affine, axes, flips):
    """The same voxels in another order of axes, (i, j, k), then flipped."""
    affine = affine @ np.eye(4)[:, [*axes, 3]]
    array = array.transpose(axes)
    for axis in flips:
        mirror = np.eye(4)
        mirror[axis, axis], mirror[axis, 3] = -1, array.shape[axis] - 1
        array, affine = np.flip(array, axis), affine @ mirror
    return np.ascontiguousarray(array), affine


@pytest.mark.parametrize("flips", [(), (1,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_a_label_map_whose_voxels_are_in_another_order_is_the_same_map(patient, axes, flips):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[4:9, 10:22, 30:33], labels[20:30, 5:9, 8:12] = 1, 2
    ct = read_volume(patient / "ct.nii.gz")
    array, affine = turned(labels, AFFINE, axes, flips)
    found, _ = read_map(saved(patient / "turned.nii.gz", array, affine), ct)
    assert np.array_equal(found, labels.transpose(2, 1, 0))


def slicers(path, labels, affine, **more):
    lps = np.diag([-1, -1, 1, 1]) @ affine
    about = {"Segment0_ID": "a", "Segment0_Name": "femur", "Segment0_LabelValue": "1", "Segment0_Layer": "0"} | more
    header = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    nrrd.write(str(path), labels, {**header, "kinds": ["domain"] * 3, **about})
    return path


def test_a_segmentation_that_slicer_cropped_lies_where_it_was(patient, caplog):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[4:9, 10:22, 30:33] = 1
    part, affine = labels[3:12, 8:30, 25:38], AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ [3, 8, 25]
    ct = read_volume(patient / "ct.nii.gz")
    stated = {"Segmentation_ReferenceImageExtentOffset": "3 8 25"}
    found, names = read_map(slicers(patient / "cut.seg.nrrd", part, affine, **stated), ct)
    assert np.array_equal(found, labels.transpose(2, 1, 0)) and names == {1: "femur"}
    assert "9 x 22 x 13 voxels of the CT" in caplog.text
    affine[:3, 3] += AFFINE[:3, :3] @ [0, 0, 3]
    for path in (
        slicers(patient / "out.seg.nrrd", part, affine, **stated),  # beyond the CT
        slicers(patient / "small.seg.nrrd", part, AFFINE),  # says nothing of being a part
    ):
        with pytest.raises(ConfigError, match="not a label map"):
            read_map(path, ct)


def test_small_labels_are_told(patient, caplog):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[4:9, 10:22, 30:33], labels[1, 1, 1:5] = 1, 6
    found = read_bodies(saved(patient / "l.nii.gz", labels), read_volume(patient / "ct.nii.gz"))
    assert [body.name for body in found] == ["label-1"] and "left out (6)" in caplog.text
