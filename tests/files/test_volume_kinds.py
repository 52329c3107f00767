"""NIfTI, NRRD and MetaImage: what a header lacks, contradicts or states in other units is refused or told."""

from __future__ import annotations

import gzip
import logging
import zlib

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from navnode.errors import ConfigError
from navnode.files.dicom_read import kept_locale
from navnode.files.volumes import ReadAs, read_volume
from tests.files.made import RAS_FROM_LPS, body, grid

HU, GRID = body(), grid(turn_deg=20)
IJK = np.ascontiguousarray(HU.transpose(2, 1, 0))


def assert_same(volume, ras_from_index=GRID, hu=HU):
    assert np.array_equal(volume.voxels, hu)
    assert np.allclose(volume.volume_from_index, ras_from_index, atol=1e-3)


@pytest.fixture(autouse=True)
def told(caplog):
    caplog.set_level(logging.WARNING)
    with kept_locale():  # SimpleITK asks GDCM about every file
        yield caplog


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def nifti(path, sform=GRID, qform=GRID, codes=(1, 1), kind=nib.Nifti1Image, **more):
    """A file with exactly these fields, which nibabel reconciles when it writes."""
    image = kind(IJK, GRID)
    header = image.header
    header.set_sform(sform, 1)
    header.set_qform(qform, 1, strip_shears=True)
    header["sform_code"], header["qform_code"] = codes
    for key, value in more.items():
        header[key.removesuffix("_")] = value
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    content = header.binaryblock + b"\0\0\0\0" + IJK.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_is_read_as_nibabel_reads_it(tmp_path, ending, kind, told):
    for codes in ((1, 1), (1, 0), (0, 1)):
        path = nifti(tmp_path / f"ct.{ending}", codes=codes, kind=kind)
        assert_same(read_volume(path), nib.load(path).affine)
    nib.save(kind(IJK.astype(">i2"), GRID, None), tmp_path / f"saved.{ending}")
    assert_same(read_volume(tmp_path / f"saved.{ending}"))
    assert "coordinates" in told.text and len(told.records) == 1


OTHER = GRID.copy()
OTHER[:3, 3] += (4, -15, 9)
SHEARED = GRID.copy()
SHEARED[:3, 2] += 0.2 * SHEARED[:3, 0]


@pytest.mark.parametrize(
    ("more", "taken", "line"),
    [
        ({"qform": OTHER}, GRID, "17.9 mm apart; the sform is taken"),
        ({"codes": (1, 0), "pixdim": [1, 1, 1, 1, 0, 0, 0, 0]}, GRID, "pixdim states"),
        ({"codes": (3, 0)}, GRID, "a template's coordinates"),
        ({"codes": (2, 0)}, GRID, "another file's coordinates"),
        ({"scl_slope": 0, "scl_inter": -500}, GRID, "does not apply"),
        ({"xyzt_units": 1, "sform": GRID / [[1e3], [1e3], [1e3], [1]], "codes": (1, 0)}, GRID, "in m; converted"),
        ({"xyzt_units": 3, "sform": GRID * [[1e3], [1e3], [1e3], [1]], "codes": (1, 0)}, GRID, "in um; converted"),
    ],
)
def test_what_is_taken_by_rule_is_told(tmp_path, told, more, taken, line):
    if "xyzt_units" in more:
        more = more | {"pixdim": [1, *np.linalg.norm(more["sform"][:3, :3], axis=0), 0, 0, 0, 0]}
    assert_same(read_volume(nifti(tmp_path / "ct.nii.gz", **more)), taken)
    (record,) = told.records
    assert "ct.nii.gz" in record.getMessage() and line in record.getMessage()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"codes": (0, 0)}, "--orientation LPS"),
        ({"sform": SHEARED}, "sheared.*--orientation qform"),
        ({"sform": SHEARED, "codes": (1, 0)}, "sheared"),
        ({"scl_slope": 2, "scl_inter": np.nan}, "not finite"),
        ({"scl_slope": np.nan, "scl_inter": 5}, "not finite"),
        ({"sform": GRID * [[1e-3], [1e-3], [1e-3], [1]], "codes": (1, 0)}, "--units"),
        ({"sform": GRID * [[0], [1], [1], [1]], "codes": (1, 0)}, "sheared|no size"),
        ({"sform": GRID * np.nan, "codes": (1, 0)}, "not finite"),
        ({"xyzt_units": 5}, "xyzt_units 5"),
        ({"bitpix": 32}, "bitpix 32 contradicts"),
        ({"datatype": 128}, "datatype 128"),
        ({"dim": [4, 16, 14, 6, 2, 1, 1, 1]}, "not a 3-D volume"),
        ({"dim": [3, 16, 14, 11, 1, 1, 1, 1]}, "more than its header states"),
        ({"dim": [3, 16, 14, 13, 1, 1, 1, 1]}, "incomplete"),
        ({"dim": [3, -16, 14, 12, 1, 1, 1, 1]}, "not a 3-D volume"),
    ],
)
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_what_nobody_can_know_is_refused(tmp_path, more, reason, ending):
    path = nifti(tmp_path / f"ct.{ending}", **more)
    with pytest.raises(ConfigError, match=rf"ct\.{ending}.*{reason}"):
        read_volume(path)


def test_orientation_and_units_are_chosen(tmp_path, told):
    path = nifti(tmp_path / "ct.nii", qform=OTHER)
    assert_same(read_volume(path, ReadAs(orientation="qform")), OTHER)
    assert_same(read_volume(path, ReadAs(orientation="sform")))
    assert not told.records
    volume = read_volume(path, ReadAs(orientation="LPS"))
    assert np.allclose(volume.volume_from_index[:3, :3], np.diag([-1.5, -2, 3])) and np.allclose(volume.center_mm, 0)
    assert "middle of the volume is the origin" in told.text
    small = GRID * [[1e-3], [1e-3], [1e-3], [1]]
    assert_same(read_volume(nifti(path, sform=small, codes=(1, 0)), ReadAs(units="m")))
    with pytest.raises(ConfigError, match="has none"):
        read_volume(path, ReadAs(orientation="qform"))
    with pytest.raises(ConfigError, match="is for DICOM"):
        read_volume(path, ReadAs(series="1.2"))


@pytest.mark.parametrize(("slope", "intercept"), [(np.nan, np.nan), (np.nan, 0), (np.inf, 0), (0, 0), (1, 0)])
def test_a_scale_that_is_none(tmp_path, slope, intercept):
    path = nifti(tmp_path / "ct.nii", scl_slope=slope, scl_inter=intercept)
    assert np.array_equal(nib.load(path).get_fdata(), IJK)
    assert_same(read_volume(path))


@pytest.mark.parametrize(("name", "stored"), [("ct.nii", "ct.nii.gz"), ("ct.nii.gz", "ct.nii")])
def test_whether_a_file_is_packed_is_seen_from_its_content(tmp_path, name, stored):
    content = nifti(tmp_path / stored).read_bytes()
    (tmp_path / stored).unlink()
    (tmp_path / name).write_bytes(content)
    assert_same(read_volume(tmp_path / name))


def test_analyze_and_pairs_of_files(tmp_path):
    nib.save(nib.Nifti1Pair(IJK, GRID), tmp_path / "pair.img")
    assert_same(read_volume(tmp_path / "pair.hdr"))
    assert_same(read_volume(tmp_path / "pair.img"))
    nib.save(nib.Nifti1Pair(IJK, GRID), tmp_path / "packed.img.gz")
    assert_same(read_volume(tmp_path / "packed.img.gz"))
    nib.save(nib.AnalyzeImage(IJK, np.diag([1.5, 2, 3, 1])), tmp_path / "old.img")
    with pytest.raises(ConfigError, match="--orientation"):
        read_volume(tmp_path / "old.hdr")
    assert np.array_equal(read_volume(tmp_path / "old.hdr", ReadAs(orientation="LAS")).voxels, HU)
    (tmp_path / "old.img").unlink()
    with pytest.raises(ConfigError, match="not there"):
        read_volume(tmp_path / "old.hdr", ReadAs(orientation="LAS"))


# --- MetaImage and NRRD ----------------------------------------------------------------------------------------------


def metaimage(path, content=None, drop=(), **more):
    lps = RAS_FROM_LPS @ GRID
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(f"{x:.12g}" for x in (lps[:3, :3] / spacing).T.ravel()),
        "Offset": " ".join(f"{x:.12g}" for x in lps[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": " ".join(f"{x:.12g}" for x in spacing),
        "DimSize": "16 14 12",
        "ElementType": "MET_SHORT",
    } | more
    lines = [f"{key} = {value}" for key, value in fields.items() if key not in drop]
    path.write_bytes(
        "\n".join([*lines, "ElementDataFile = LOCAL", ""]).encode() + (HU.tobytes() if content is None else content)
    )
    return path


def scaled(key, factor):
    return {key: " ".join(f"{float(x) * factor:.12g}" for x in _stated(key))}


def _stated(key):
    lps = RAS_FROM_LPS @ GRID
    return np.linalg.norm(lps[:3, :3], axis=0) if key == "ElementSpacing" else lps[:3, 3]


PACKED = {
    "content": zlib.compress(HU.tobytes()),
    "CompressedData": "True",
    "CompressedDataSize": str(len(zlib.compress(HU.tobytes()))),
}
CENTIMETRES = {**scaled("ElementSpacing", 0.1), **scaled("Offset", 0.1), "DistanceUnits": "cm"}


@pytest.mark.parametrize(
    ("more", "drop", "line"),
    [
        ({}, (), ""),
        ({"Comment": "a", "AnatomicalOrientation": "LPI"}, (), ""),
        ({"HeaderSize": "-1"}, (), ""),
        (PACKED, (), ""),
        ({"content": HU.astype(">i2").tobytes(), "BinaryDataByteOrderMSB": "True"}, (), ""),
        ({"content": " ".join(map(str, HU.ravel())).encode(), "BinaryData": "False"}, (), ""),
        (CENTIMETRES, (), "in cm; converted"),
        ({"AnatomicalOrientation": "RAI"}, (), "contradicts TransformMatrix"),
        (
            {
                "content": (HU // 2).tobytes(),
                "ElementToIntensityFunctionSlope": "2",
                "ElementToIntensityFunctionOffset": "3",
            },
            (),
            "2 times what is stored, plus 3",
        ),
    ],
)
def test_metaimages_are_read_as_they_say(tmp_path, told, more, drop, line):
    volume = read_volume(metaimage(tmp_path / "ct.mha", drop=drop, **more))
    assert_same(volume, GRID, HU // 2 * 2 + 3 if "plus" in line else HU)
    assert line in told.text and len(told.records) == bool(line)
    if not line and "BinaryData" not in more:  # which ITK does not read
        image = sitk.ReadImage(str(tmp_path / "ct.mha"))
        assert np.array_equal(sitk.GetArrayFromImage(image), volume.voxels)


@pytest.mark.parametrize(
    ("more", "drop", "reason"),
    [
        ({}, ("ElementSpacing",), "no ElementSpacing"),
        ({}, ("Offset",), "no Offset"),
        ({"ElementSpacing": "1 -2 3"}, (), "positive sizes"),
        ({"ElementSpacing": "1 0 3"}, (), "positive sizes"),
        ({"ElementSpacing": "1 nan 3"}, (), "3 finite numbers"),
        ({"ElementSpacing": "1 2"}, (), "3 finite numbers"),
        ({"DistanceUnits": "inch"}, (), "DistanceUnits"),
        ({"ElementNumberOfChannels": "3"}, (), "3 components"),
        ({"DimSize": "16 14 11"}, (), "more than its header states"),
        ({"DimSize": "16 14 13"}, (), "truncated"),
        ({"DimSize": "16 14 12\nDimSize = 14 16 12"}, (), "DimSize occurs twice"),
        ({"TransformMatrix": "1 0.2 0 0 1 0 0 0 1"}, (), "sheared|not a rotation"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, (), "not a rotation"),
        ({"CenterOfRotation": "5 0 0"}, (), "CenterOfRotation"),
        ({"Position": "1 2 3"}, (), "contradict each other"),
        ({"ElementByteOrderMSB": "True"}, (), "ElementByteOrderMSB contradict"),
        ({"ElementType": "MET_OTHER"}, (), "ElementType"),
        ({"NDims": "2"}, (), "NDims is 2"),
        ({"ElementToIntensityFunctionSlope": "0"}, (), "Slope is 0"),
        ({"CompressedData": "maybe"}, (), "neither True nor False"),
        ({"CompressedData": "True", "content": zlib.compress(HU.tobytes())[:-6]}, (), "checksum|incomplete"),
        ({"CompressedData": "True", "content": zlib.compress(HU.tobytes()) + b"more"}, (), "follow its pixels"),
        (
            {"CompressedData": "True", "CompressedDataSize": "99", "content": zlib.compress(HU.tobytes())},
            (),
            "more than",
        ),
    ],
)
def test_metaimages_that_leave_something_open_are_refused(tmp_path, more, drop, reason):
    path = metaimage(tmp_path / "ct.mha", drop=drop, **more)
    with pytest.raises(ConfigError, match=rf"ct\.mha.*({reason})"):
        read_volume(path)


def placed(space_from_ras, factor=1.0, **more):
    """The same place in another space or unit."""
    matrix = space_from_ras @ GRID
    return {"space_directions": matrix[:3, :3].T * factor, "space_origin": matrix[:3, 3] * factor} | more


def nrrd_file(path, data=HU, drop=(), **more):
    lps = RAS_FROM_LPS @ GRID
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "raw",
    } | {key.replace("_", " "): value for key, value in more.items()}
    nrrd.write(str(path), np.asarray(data).T, {k: v for k, v in header.items() if k not in drop}, index_order="F")
    return path


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, ""),
        ({"encoding": "gzip"}, ""),
        ({"encoding": "bzip2"}, ""),
        ({"encoding": "ascii"}, ""),
        (placed(np.eye(4), space="right-anterior-superior"), ""),
        (placed(np.diag([-1, 1, 1, 1]), space="LAS"), ""),
        ({"space_units": ["mm"] * 3}, ""),
        (placed(RAS_FROM_LPS, 0.1, space_units=["cm"] * 3), "in cm; converted"),
        (placed(RAS_FROM_LPS, 1e3, space_units=["um"] * 3), "in um; converted"),
    ],
)
@pytest.mark.parametrize("ending", ["nrrd", "nhdr"])
def test_nrrds_are_read_as_they_say(tmp_path, told, more, line, ending):
    assert_same(read_volume(nrrd_file(tmp_path / f"ct.{ending}", **more)))
    assert line in told.text and len(told.records) == bool(line)


@pytest.mark.parametrize(
    ("more", "drop", "reason"),
    [
        ({}, ("space origin",), "no space origin"),
        ({}, ("space", "space directions", "space origin"), "--orientation"),
        ({"space": "3D-right-handed"}, (), "says nothing of the patient.*--orientation"),
        ({"space": "scanner-xyz"}, (), "says nothing of the patient"),
        ({"space_units": ["inch"] * 3}, (), "space units"),
        ({"space_units": ["mm", "mm", "cm"]}, (), "space units differ"),
        ({"kinds": ["vector", "domain", "domain"]}, (), "holds vector"),
        ({"space_directions": np.zeros((3, 3))}, (), "no size"),
        ({"space_directions": [[1, 0, 0], [0.3, 1, 0], [0, 0, 1]]}, (), "sheared"),
    ],
)
def test_nrrds_that_leave_something_open_are_refused(tmp_path, more, drop, reason):
    path = nrrd_file(tmp_path / "ct.nrrd", drop=drop, **more)
    with pytest.raises(ConfigError, match=rf"ct\.nrrd.*({reason})"):
        read_volume(path)


@pytest.mark.parametrize("names", ["LIST\na.raw\nb.raw", "list\na.raw", "a%02d.raw 1 12 1"])
def test_slices_in_files_of_their_own_are_named_as_the_reason(tmp_path, names):
    path = nrrd_file(tmp_path / "ct.nhdr")
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("data file")]
    path.write_text("\n".join([*lines, f"data file: {names}", ""]))
    with pytest.raises(ConfigError, match=r"ct\.nhdr.*a file for every slice"):
        read_volume(path)


@pytest.mark.parametrize("name", ["ct.zip", "ct.mgz", "ct.txt"])
def test_other_files_are_told_what_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\3\4" + bytes(500))
    with pytest.raises(ConfigError, match=rf"{name}: not a volume that is read \(NIfTI"):
        read_volume(tmp_path / name)


def test_a_chosen_orientation_places_what_states_none(tmp_path, told):
    path = nrrd_file(tmp_path / "ct.nrrd", drop=("space", "space directions", "space origin"), spacings=[1.5, 2, 3])
    volume = read_volume(path, ReadAs(orientation="RAS"))
    assert np.allclose(volume.volume_from_index[:3, :3], np.diag([1.5, 2, 3])) and "as chosen" in told.text
    volume = read_volume(metaimage(tmp_path / "ct.mha", drop=("Offset",)), ReadAs(orientation="RAS"))
    assert np.allclose(volume.volume_from_index[:3, :3], np.diag([1.5, 2, 3]))


@pytest.mark.parametrize("ending", ["nii.gz", "mha", "nrrd"])
def test_every_flipped_bit_of_packed_voxels_is_noticed(tmp_path, ending):
    image = sitk.GetImageFromArray(HU)
    image.SetSpacing((1.5, 2.0, 3.0))
    path = tmp_path / f"ct.{ending}"
    sitk.WriteImage(image, str(path), True)
    whole = path.read_bytes()
    read_volume(path)
    begin = 10 if ending == "nii.gz" else len(whole) * 2 // 3
    for place in np.linspace(begin, len(whole) - 1, 60).astype(int):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"ct\.{ending}"):
            read_volume(path)
    for cut in (1, 4, 8, 9, 200):
        path.write_bytes(whole[:-cut])
        with pytest.raises(ConfigError, match=rf"ct\.{ending}"):
            read_volume(path)


def test_pixels_beside_a_header_stay_in_its_folder(tmp_path):
    image = sitk.GetImageFromArray(HU)
    sitk.WriteImage(image, str(tmp_path / "ct.mhd"), True)
    assert np.array_equal(read_volume(tmp_path / "ct.mhd").voxels, HU)
    text = (tmp_path / "ct.mhd").read_text()
    for elsewhere in ("/etc/passwd", "../ct.zraw", "none.zraw"):
        (tmp_path / "ct.mhd").write_text(text.replace("ct.zraw", elsewhere))
        with pytest.raises(ConfigError, match=r"ct\.mhd: its pixels are in"):
            read_volume(tmp_path / "ct.mhd")


def test_a_finger_in_a_large_field_is_a_ct(tmp_path):
    hu = np.full((12, 60, 60), -1000, np.int16)
    hu[3:9, 30:33, 30:33] = 700
    assert read_volume(metaimage(tmp_path / "ct.mha", hu.tobytes(), DimSize="60 60 12")).voxels.max() == 700
    hu[hu > 0] = -500
    with pytest.raises(ConfigError, match="not a CT in HU"):
        read_volume(metaimage(tmp_path / "ct.mha", hu.tobytes(), DimSize="60 60 12"))


def test_formats_without_sides_of_the_patient_are_told_and_pictures_refused(tmp_path, told):
    image = sitk.GetImageFromArray(HU.astype(np.float32))
    image.SetSpacing((1.5, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "ct.vtk"))
    assert np.array_equal(read_volume(tmp_path / "ct.vtk").voxels, HU)
    assert "--orientation chooses" in told.text
    sitk.WriteImage(sitk.GetImageFromArray((HU + 1024).astype(np.uint16)), str(tmp_path / "ct.tif"))
    with pytest.raises(ConfigError, match="a picture"):
        read_volume(tmp_path / "ct.tif")
