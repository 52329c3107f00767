"""Segmentations and models as DICOM: what pydicom and SimpleITK read in them is what was written; and they are read."""

from __future__ import annotations

import io
import json

import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import trimesh

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.bodies import read_bodies, read_map
from navnode.files.segments import identity_of, write_model, write_segmentation
from navnode.files.volumes import read_volume
from navnode.reconstruction.surface import inside
from navnode.types import Mesh, Volume
from tests.files.made import RAS_FROM_LPS, body, ct_folder, grid
from tests.invoke import run_navnode

GRID = grid(turn_deg=20)
CT = Volume(body().astype(np.float32), GRID)


def labels():
    found = np.zeros(CT.voxels.shape, np.int32)
    found[3:9, 4:10, 4:10], found[4:7, 4:10, 11:15] = 1, 7
    return found


def test_a_segmentation_lies_where_pydicom_says(tmp_path):
    path = tmp_path / "seg.dcm"
    assert write_segmentation(path, labels(), {1: "femur", 7: "tibia"}, GRID, how="Made.") == 2
    ds = pydicom.dcmread(path)
    assert [segment.SegmentLabel for segment in ds.SegmentSequence] == ["femur", "tibia"]
    assert ds.PatientName == "" and ds.PatientID == "" and "NOT FOR DIAGNOSIS" in ds.ContentDescription
    found = np.zeros_like(labels())
    shared = ds.SharedFunctionalGroupsSequence[0]
    directions = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    for frame, mask in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True):
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for v, u in np.argwhere(mask):
            lps = origin + u * spacing[1] * directions[0] + v * spacing[0] * directions[1]
            i, j, k, _ = np.rint(np.linalg.inv(GRID) @ RAS_FROM_LPS @ [*lps, 1]).astype(int)
            found[k, j, i] = (1, 7)[number - 1]
    assert np.array_equal(found, labels())


def test_a_segmentation_is_a_label_map_with_names(tmp_path):
    write_segmentation(tmp_path / "seg.dcm", labels(), {1: "femur", 7: "tibia"}, GRID, how="Made.")
    found, names = read_map(tmp_path / "seg.dcm", CT)
    assert np.array_equal(found, np.where(labels() == 7, 2, labels())) and names == {1: "femur", 2: "tibia"}
    assert [each.name for each in read_bodies(tmp_path / "seg.dcm", CT)] == ["femur", "tibia"]
    moved = GRID.copy()
    moved[2, 3] += 1.6
    with pytest.raises(ConfigError, match=r"seg\.dcm.*lies elsewhere"):
        read_map(tmp_path / "seg.dcm", Volume(CT.voxels, moved))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ds: setattr(ds, "SegmentationType", "FRACTIONAL"), "FRACTIONAL"),
        (lambda ds: setattr(ds, "NumberOfFrames", 3), "bits"),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:-40]), "bits"),
        (lambda ds: ds.__delitem__("SegmentSequence"), "no segments"),
        (lambda ds: ds.SegmentSequence.pop(), "not described"),
        (lambda ds: setattr(ds.SegmentSequence[1], "SegmentNumber", 1), "occurs twice"),
        (lambda ds: ds.SharedFunctionalGroupsSequence[0].__delitem__("PixelMeasuresSequence"), "PixelSpacing"),
    ],
)
def test_what_a_segmentation_has_wrong_is_named(tmp_path, change, said):
    path = tmp_path / "seg.dcm"
    write_segmentation(path, labels(), {}, GRID, how="Made.")
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)
    with pytest.raises(ConfigError, match=rf"seg\.dcm.*{said}"):
        read_map(path, CT)


def test_a_patient_is_named_only_where_that_is_asked_for(tmp_path):
    folder = ct_folder(tmp_path / "ct", body(), GRID)
    identity = identity_of(folder)
    write_segmentation(tmp_path / "seg.dcm", labels(), {}, GRID, how="Made.", identity=identity)
    first = pydicom.dcmread(sorted(folder.iterdir())[0])
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    assert ds.PatientName == first.PatientName and ds.StudyInstanceUID == first.StudyInstanceUID
    assert ds.SeriesInstanceUID != first.SeriesInstanceUID


def test_a_model_is_an_stl_in_lps(tmp_path):
    ball = trimesh.creation.icosphere(2, 20.0)
    mesh = Mesh(ball.vertices.astype(np.float32) + np.float32([40, 5, -7]), ball.faces.astype(np.uint32))
    write_model(tmp_path / "femur.dcm", mesh, "femur", how="Made.")
    ds = pydicom.dcmread(tmp_path / "femur.dcm")
    assert ds.Modality == "M3D" and ds.MIMETypeOfEncapsulatedDocument == "model/stl" and ds.PatientID == ""
    content = ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength]
    stored = trimesh.load(io.BytesIO(content), file_type="stl")
    assert np.allclose(stored.centroid, [-40, -5, -7], atol=1e-3) and stored.is_watertight
    assert stored.volume == pytest.approx(ball.volume, rel=1e-4)


def test_the_inside_of_a_surface_has_its_volume():
    ball = trimesh.creation.icosphere(3, 20.0)
    grid_of = Volume(np.zeros((30, 34, 38), np.float32), _centred())
    found = inside(Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.uint32)), grid_of)
    assert found.sum() * 1.5**3 == pytest.approx(ball.volume, rel=0.02)
    k, j, i = np.argwhere(found).T
    assert np.abs(grid_of.volume_from_index @ [i.mean(), j.mean(), k.mean(), 1] - [0, 0, 0, 1]).max() < 0.1


def _centred():
    volume_from_index = np.diag([1.5, 1.5, 1.5, 1.0])
    volume_from_index[:3, 3] = -1.5 * (np.array([38, 34, 30]) - 1) / 2
    return volume_from_index


def test_names_of_slicers_segmentations(tmp_path):
    lps = RAS_FROM_LPS @ GRID
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
        "Segment0_LabelValue": "1",
        "Segment0_Name": "femur",
        "Segment1_LabelValue": "7",
        "Segment1_Name": 'a "quoted" bone',
    }
    nrrd.write(str(tmp_path / "a.seg.nrrd"), labels().transpose(2, 1, 0).astype(np.uint8), header)
    assert [each.name for each in read_bodies(tmp_path / "a.seg.nrrd", CT)] == ["femur", 'a "quoted" bone']


def test_the_command_writes_a_segmentation_that_it_reads(tmp_path):
    nibabel.save(nibabel.Nifti1Image(body().transpose(2, 1, 0), GRID), tmp_path / "ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels().transpose(2, 1, 0).astype(np.uint8), GRID), tmp_path / "map.nii.gz")
    ct, seg = str(tmp_path / "ct.nii.gz"), str(tmp_path / "seg.dcm")
    done = run_navnode("bodies", str(tmp_path / "map.nii.gz"), "--volume", ct, "--seg", seg, "--json")
    assert done.returncode == 0, done.stderr
    again = run_navnode("bodies", seg, "--volume", ct, "--out", str(tmp_path / "b.toml"), "--json")
    assert again.returncode == 0, again.stderr
    assert [row["voxels"] for row in json.loads(again.stdout)["bodies"]] == [216, 72]
    assert read_bodies(tmp_path / "b.toml", read_volume(ct))[1].voxels == 72
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for wrong in (("--seg", ct), ("--out", str(tmp_path / "b.toml")), ("--seg", "n.dcm", "--out", "n.dcm")):
        refused = run_navnode("bodies", str(tmp_path / "map.nii.gz"), "--volume", ct, *wrong)
        assert refused.returncode == 2 and ("exists already" in refused.stderr or "written twice" in refused.stderr)
    missing = ("--seg", str(tmp_path / "new.dcm"), "--out", str(tmp_path / "none" / "b.toml"))
    assert run_navnode("bodies", str(tmp_path / "map.nii.gz"), "--volume", ct, *missing).returncode == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda at: g.rigid(None, at[:3, 0] / 2) @ at,
        lambda at: at @ np.diag([2.0, 2.0, 1.0, 1.0]),
        lambda at: at @ np.diag([1.37, 1.37, 1.0, 1.0]),
        lambda at: at @ g.rigid(g.rotation_exp(np.array([0.0, 0.0, 0.17]))),
    ],
    ids=["half a voxel beside", "twice as coarse", "coarser", "turned"],
)
def test_a_segmentation_on_another_grid_is_refused_however_fine_the_ct(tmp_path, change):
    fine = np.diag([0.4, 0.4, 0.4, 1.0])
    ct, small = Volume(np.zeros((30, 30, 30), np.float32), fine, "ct"), np.zeros((10, 10, 10), np.int32)
    small[3:6, 3:6, 3:6] = 1
    write_segmentation(tmp_path / "seg.dcm", small, {1: "L4"}, fine, how="Made.")
    assert (read_map(tmp_path / "seg.dcm", ct)[0] > 0).sum() == 27
    write_segmentation(tmp_path / "other.dcm", small, {1: "L4"}, change(fine), how="Made.")
    with pytest.raises(ConfigError, match="not a segmentation of ct"):
        read_map(tmp_path / "other.dcm", ct)
