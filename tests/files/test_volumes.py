from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.dicom_read import kept_locale
from navnode.files.volumes import read_volume, write_volume
from navnode.projector.grids import resample
from navnode.types import Volume


@pytest.mark.parametrize(
    ("ending", "parts"),
    [
        ("nii.gz", {"ct.nii.gz"}),
        ("nii", {"ct.nii"}),
        ("nrrd", {"ct.nrrd"}),
        ("mha", {"ct.mha"}),
        ("mhd", {"ct.mhd", "ct.raw"}),
        ("nhdr", {"ct.nhdr", "ct.raw"}),
    ],
)
def test_volumes_come_back_in_ras(blob, tmp_path, ending, parts):
    path = tmp_path / "here" / f"ct.{ending}"
    path.parent.mkdir()
    write_volume(blob, path)
    write_volume(blob, path)  # over itself
    assert {each.name for each in path.parent.iterdir()} == parts
    path = path.parent.rename(tmp_path / "there") / path.name  # headers name what lies beside them
    read = read_volume(path)
    assert np.allclose(read.voxels, blob.voxels, atol=1e-3)
    assert np.allclose(read.volume_from_index, blob.volume_from_index, atol=1e-3)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii", "ct.nrrd"])
def test_a_full_disk_is_told_and_what_was_there_stays(blob, tmp_path, monkeypatch, name):
    """The NIfTI writer says nothing of it."""
    path = tmp_path / name
    write_volume(blob, path)
    before, written = path.read_bytes(), sitk.WriteImage

    def cut_off(image, part):
        written(image, part)
        with Path(part).open("r+b") as file:
            file.truncate(len(before) // 2)
        if not part.endswith((".nii", ".nii.gz")):
            raise RuntimeError("sitk::ERROR: no space left")

    monkeypatch.setattr(sitk, "WriteImage", cut_off)
    with pytest.raises(ConfigError, match=rf"{path}: cannot be written \((.* the disk may be full|.*no space left)\)"):
        write_volume(blob, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_itk_lps_is_converted(tmp_path):
    image = sitk.GetImageFromArray(np.random.default_rng(0).uniform(-1000, 500, (10, 11, 12)).astype(np.float32))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    read = read_volume(tmp_path / "ct.nrrd")
    assert np.allclose(g.transform(read.volume_from_index, np.array([1.0, 1.0, 1.0])), (-11.0, -22.0, 33.0))


@kept_locale()
def write_dicom(folder, voxels, shear_mm=0.0):
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(voxels):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((0.8, 0.8, 2.0))
        tags = {
            "0008|0060": "CT",
            "0020|000e": "1.2.3.4",
            "0020|000d": "1.2.3",
            "0008|0018": f"1.2.3.4.{k}",
            "0020|0013": str(k),
            "0020|0032": f"-5\\{-6 + shear_mm * k}\\{2.0 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1053": "1",
            "0028|1052": "0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k:03}.dcm"))
        writer.Execute(image)


PLANES = np.random.default_rng(0).integers(-1000, 1500, (24, 16, 20)).astype(np.int16)


@pytest.mark.parametrize("below", ["", "DICOM/S1"])
def test_a_dicom_folder(tmp_path, below):
    voxels = PLANES
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    write_dicom(tmp_path / below, voxels)
    read = read_volume(tmp_path)
    assert np.array_equal(read.voxels, voxels)
    assert np.allclose(read.volume_from_index[:3, 3], (5, 6, 0))


def test_missing_slices_are_named(tmp_path, capfd):
    write_dicom(tmp_path, PLANES)
    for k in range(8, 13):
        (tmp_path / f"{k:03}.dcm").unlink()
    with pytest.raises(ConfigError, match=r"not evenly spaced .12\.00 mm after slice 8, 2\.00 mm elsewhere"):
        read_volume(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_tilted_gantry_is_named(tmp_path):
    write_dicom(tmp_path, PLANES, shear_mm=0.5)
    with pytest.raises(ConfigError, match="sheared"):
        read_volume(tmp_path)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_file_that_ends_too_early_is_named(blob, tmp_path, ending):
    path = tmp_path / f"ct.{ending}"
    write_volume(blob, path)
    assert read_volume(path).voxels.shape == blob.voxels.shape
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match=r"incomplete|cannot be read"):
        read_volume(path)


def test_resampling_keeps_things_where_they_are():
    voxels = np.full((40, 40, 40), -1000, np.float32)
    voxels[20:26, 12:18, 8:14] = 1000
    volume_from_index = g.rigid(g.rotation_exp(np.array([0.2, 0.1, -0.4])), (5.0, 6.0, 7.0)) @ np.diag([1.5, 1, 2, 1])
    volume = Volume(voxels, volume_from_index)
    coarse = resample(volume, 2.0)
    assert coarse.spacing_mm == pytest.approx((2.0, 2.0, 2.0))

    def center_of_mass(v: Volume) -> np.ndarray:
        weight = v.voxels + 1000
        k, j, i = np.meshgrid(*map(np.arange, weight.shape), indexing="ij")
        index = np.array([(weight * axis).sum() for axis in (i, j, k)]) / weight.sum()
        return g.transform(v.volume_from_index, index)

    assert np.allclose(center_of_mass(coarse), center_of_mass(volume), atol=0.2)
    corners = [
        g.transform(volume.volume_from_index, np.array([i, j, k])) for i in (0, 39) for j in (0, 39) for k in (0, 39)
    ]
    inside = g.transform(np.linalg.inv(coarse.volume_from_index), np.array(corners))
    assert (inside > -1).all() and (inside < np.array(coarse.voxels.shape[::-1])).all()


def bad_mask(path):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((20, 20, 20), np.uint8)), str(path))


def bad_plane(path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 20), np.float32) - 500), str(path))


def bad_nan(path):
    sitk.WriteImage(sitk.GetImageFromArray(np.full((20, 20, 20), np.nan, np.float32)), str(path))


def bad_text(path):
    path.write_text("no volume")


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (bad_mask, "mask.nii.gz", "not a CT in HU"),
        (bad_plane, "plane.nii.gz", "not a 3-D volume"),
        (bad_nan, "nan.mha", "NaN or infinite"),
        (bad_text, "notes.nii.gz", "cannot be read"),
    ],
)
def test_what_is_no_ct_is_named(tmp_path, make, name, reason):
    make(tmp_path / name)
    with pytest.raises(ConfigError, match=f"{name}.*{reason}"):
        read_volume(tmp_path / name)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_volume(tmp_path / "missing.nii")
    with pytest.raises(ConfigError, match="no DICOM"):
        read_volume(tmp_path)
