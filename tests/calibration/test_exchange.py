"""Other programs' files: what goes out comes back, and is what they would read."""

import json
import struct

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from calibration import exchange
from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files import artifacts
from navnode.geometry import carm_document
from navnode.types import CArm

POSE = g.exp(np.array([0.3, -0.2, 1.0, 100, -50, 300.0]))
CARM = CArm(1024, 768, (0.29, 0.3), 1013.0, (520.5, 380.25))
POINTS = {"tip, left": None, "A": np.array([1.5, -20, 300]), "B": np.array([0.0, 4, -5])}
POINTS.pop("tip, left")


def artifact(kind, result, **more):
    document = {"schema": artifacts.SCHEMA, "kind": kind, "status": "PASS", "result": result, **more}
    return artifacts.decode(json.dumps(document).encode(), "test.json")


HANDEYE = artifact("handeye", {"marker_from_carm": POSE.tolist()}, device="CArm")


@pytest.mark.parametrize("ending", ["xml", "tfm", "h5"])
def test_transforms_come_back(tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    exchange.write(HANDEYE, path)
    (found,) = exchange.read(path).transforms.values()
    assert np.abs(found - POSE).max() < 1e-9


def test_slicer_moves_a_point_as_the_transform_says(tmp_path):
    """Slicer reads ITK's file as going from where a point ends up (LPS) to where it was."""
    exchange.write(HANDEYE, tmp_path / "out.tfm")
    point = np.array([10.0, 20, 30])
    moved = g.transform(g.RAS_FROM_LPS, g.transform(POSE, point))
    back = sitk.ReadTransform(str(tmp_path / "out.tfm")).TransformPoint(moved.tolist())
    assert np.abs(g.transform(g.RAS_FROM_LPS, np.array(back)) - point).max() < 1e-9


def test_a_plus_device_set_is_changed_and_not_replaced(tmp_path):
    path = tmp_path / "set.xml"
    path.write_text(
        '<PlusConfiguration version="2.9"><DataCollection><Device Id="Xray" Type="OpenIGTLinkVideo"/></DataCollection>'
        '<CoordinateDefinitions><Transform From="Old" To="Older" Matrix="1 0 0 5 0 1 0 0 0 0 1 0 0 0 0 1"/>'
        '<Transform From="StylusTip" To="Stylus" Matrix="1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"/></CoordinateDefinitions>'
        "</PlusConfiguration>"
    )
    exchange.write(artifact("pivot", {"tip_mm": [1.0, 2.0, 150.0]}, device="Stylus"), path)
    exchange.write(artifact("temporal", {"image_lag_ns": 40_000_000, "sign": 1}, device="Xray"), path)
    found = exchange.read(path)
    assert np.allclose(found.transforms["StylusTip", "Stylus"][:3, 3], [1, 2, 150])
    assert found.transforms["Old", "Older"][0, 3] == 5 and len(found.transforms) == 2
    assert found.lags_s == {"Xray": pytest.approx(0.04)} and 'LocalTimeOffsetSec="-0.04"' in path.read_text()


@pytest.mark.parametrize("ending", ["yml", "yaml"])
def test_cameras_come_back(tmp_path, ending):
    path = tmp_path / f"camera.{ending}"
    exchange.write(artifact("carm", {"carm": carm_document(CARM), "distortion": {"model": "none"}}), path)
    found = exchange.read(path).carm
    assert found.width_px == 1024 and found.source_to_detector_mm == pytest.approx(1013)
    assert np.allclose(found.pixel_spacing_mm, CARM.pixel_spacing_mm)
    assert np.allclose(found.principal_point_px, CARM.principal_point_px)
    if ending == "yml":  # as OpenCV itself reads it
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        assert storage.getNode("camera_matrix").mat()[0, 0] == pytest.approx(1013 / 0.29)
    bent = artifact("carm", {"carm": carm_document(CARM), "distortion": {"model": "poly3"}})
    with pytest.raises(ConfigError, match="cannot express the distortion"):
        exchange.write(bent, path)


@pytest.mark.parametrize("ending", ["mrk.json", "fcsv"])
def test_points_come_back_and_are_lps_in_the_file(tmp_path, ending):
    path = tmp_path / f"points.{ending}"
    exchange.write(artifact("phantom", {"measured_mm": {k: v.tolist() for k, v in POINTS.items()}}), path)
    found = exchange.read(path).points_mm
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in POINTS.items()}
    assert "-1.5" in path.read_text()
    if ending == "mrk.json":
        content = json.loads(path.read_text())
        content["markups"][0]["coordinateSystem"] = "RAS"
        path.write_text(json.dumps(content))
        assert exchange.read(path).points_mm["A"].tolist() == [-1.5, 20, 300]


def test_markers_of_an_ndi_tool(tmp_path):
    markers = np.array([[0, 0, 0], [50, 1, 2], [0, 80.5, 3]], np.float32)
    content = bytearray(752)
    content[:3], content[28] = b"NDI", 3
    content[72 : 72 + 36] = markers.astype("<f4").tobytes()
    content[4:6] = struct.pack("<H", sum(content[6:]) & 0xFFFF)
    path = tmp_path / "tool.rom"
    path.write_bytes(content)
    assert np.array_equal(np.array(list(exchange.read(path).points_mm.values())), markers)
    content[80] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="checksum"):
        exchange.read(path)


def test_a_c_arm_as_its_x_ray_states_it(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((1, 48, 64), np.uint16))
    for tag, value in (("0018|1110", "1200"), ("0018|1164", "0.4\\0.3"), ("0018|1510", "30.5"), ("0018|1511", "-12")):
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(tmp_path / "shot.dcm"))
    writer.Execute(image)
    found = exchange.read(tmp_path / "shot.dcm")
    assert found.carm == CArm(64, 48, (0.3, 0.4), 1200.0, (31.5, 23.5)) and found.angles_deg == (30.5, -12.0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xml", "<PlusConfiguration><Transform From='a' To='b' Matrix='1 2 3'/></PlusConfiguration>"),
        ("a.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"),
        ("a.xml", "no xml"),
        ("a.yml", "nothing"),
        ("a.yaml", "{image_width: 3}"),
        ("a.yaml", "!!python/object/apply:os.system ['true']"),
        ("a.mrk.json", "{}"),
        ("a.fcsv", "1,x,y,z,0,0,0,1,1,1,0,A,,"),
        ("a.tfm", "#Insight"),
        ("a.rom", "NDI"),
        ("a.dcm", "nothing"),
    ],
)
def test_what_is_none_of_these_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=name):
        exchange.read(tmp_path / name)
    with pytest.raises(ConfigError, match=r"none\.xml"):
        exchange.read(tmp_path / "none.xml")


def test_what_a_format_cannot_say_is_refused_and_nothing_is_written(tmp_path):
    for ending in ("yml", "fcsv", "mrk.json", "doc"):
        with pytest.raises(ConfigError):
            exchange.write(HANDEYE, tmp_path / f"out.{ending}")
    assert not list(tmp_path.iterdir())
