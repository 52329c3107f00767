"""Other programs' files: what they leave open, contradict or say beyond what is taken over is refused or told."""

from __future__ import annotations

import json
import struct

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from calibration import exchange
from navnode.errors import ConfigError
from navnode.files.strict import json_of
from tests.files.made import xray

POINTS = {"left": (41.5, -12.0, 30.25), "right": (-38.25, -10.5, 31.0), "tip": (0.5, 22.0, -64.75)}


def lps(at, factor=1.0):
    return [-at[0] * factor, -at[1] * factor, at[2] * factor]


def markups(path, points=None, rows=None, **more):
    if rows is None:
        rows = [
            {"id": str(n), "label": label, "position": at, "positionStatus": "defined"}
            for n, (label, at) in enumerate(points or [(label, lps(at)) for label, at in POINTS.items()])
        ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": rows} | more
    path.write_text(json.dumps({"markups": [markup]}))
    return path


def assert_same(found, wanted=POINTS):
    assert {label: tuple(np.round(at, 6)) for label, at in found.points_mm.items()} == wanted


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, ""),
        ({"points": [*POINTS.items()], "coordinateSystem": "RAS"}, ""),
        ({"points": [*POINTS.items()], "coordinateSystem": 0}, ""),
        ({"coordinateUnits": ["mm", "UCUM", "millimeter"]}, ""),
        ({"points": [(k, lps(at, 1e-3)) for k, at in POINTS.items()], "coordinateUnits": "m"}, "in m; converted"),
        ({"points": [(k, lps(at, 0.1)) for k, at in POINTS.items()], "coordinateUnits": "cm"}, "in cm; converted"),
    ],
)
def test_markups(tmp_path, caplog, more, line):
    assert_same(exchange.read(markups(tmp_path / "p.mrk.json", **more)))
    assert line in caplog.text and len(caplog.records) == bool(line)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"coordinateSystem": "IJK"}, "IJK"),
        ({"coordinateSystem": "2"}, "coordinate system"),
        ({"coordinateUnits": "inch"}, "coordinateUnits"),
        ({"points": [("a", [1, 2, 3]), ("a", [4, 5, 6])]}, "'a' occurs twice"),
        ({"points": [("a", None)]}, "'a' is not three finite"),
        ({"points": [("a", [1, 2])]}, "'a' is not three finite"),
        ({"points": [("a", [1, 2, float("nan")])]}, "'a' is not three finite"),
        ({"points": [("a", [1, 2, "x"])]}, "'a' is not three finite"),
        ({"points": [("a", ["1", "2", "3"])]}, "'a' is not three finite"),
        ({"points": [("a", "123")]}, "'a' is not three finite"),
        ({"points": [("a", [True, 2, 3])]}, "'a' is not three finite"),
        ({"points": [("a", [1e6, 2, 3])]}, "'a' lies 1e[+]03 m away"),
        ({"rows": {"a": 1}}, "not a list of points"),
        ({"rows": []}, "holds no points"),
    ],
)
def test_markups_that_leave_something_open(tmp_path, more, reason):
    with pytest.raises(ConfigError, match=rf"p\.mrk\.json.*{reason}"):
        exchange.read(markups(tmp_path / "p.mrk.json", **more))


@pytest.mark.parametrize(
    "content",
    ['{"markups": {"a": 1}}', "[]", "{}", '{"markups": [3]}', "[" * 100_000, '{"markups": [], "markups": []}'],
)
def test_what_is_no_markups(tmp_path, content):
    (tmp_path / "p.mrk.json").write_text(content)
    with pytest.raises(ConfigError, match=r"p\.mrk\.json"):
        exchange.read(tmp_path / "p.mrk.json")


def test_points_without_a_place_are_told(tmp_path, caplog):
    rows = [{"label": "a", "position": [1, 2, 3]}, {"label": "b", "position": None, "positionStatus": "undefined"}]
    assert_same(exchange.read(markups(tmp_path / "p.mrk.json", rows=rows)), {"a": (-1, -2, 3)})
    assert "1 points are not placed" in caplog.text


COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def fcsv(path, row=None, columns=COLUMNS, system="# CoordinateSystem = LPS\n", cut=0):
    lines = []
    for n, (label, at) in enumerate(POINTS.items()):
        x, y, z = lps(at)
        lines.append((row or "{n},{x},{y},{z},0,0,0,1,1,1,0,{label},,").format(n=n, x=x, y=y, z=z, label=label))
    text = f"# Markups fiducial file version = 4.11\n{system}# columns = {columns}\n" + "\n".join(lines) + "\n"
    path.write_text(text[: len(text) - cut])
    return path


def test_tables(tmp_path):
    path = tmp_path / "p.fcsv"
    assert_same(exchange.read(fcsv(path)))
    assert_same(exchange.read(fcsv(path, "{x},{y},{z},{label},1", "x,y,z,label,vis")))
    assert_same(exchange.read(fcsv(path, "{n},{x},{y},{z},0,0,0,1,1,1,0,{label},,,2,0")))
    named = {f"{label}, femur": at for label, at in POINTS.items()}
    assert_same(exchange.read(fcsv(path, '{n},{x},{y},{z},0,0,0,1,1,1,0,"{label}, femur",,')), named)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"row": "{n};{x};{y};{z};{label}", "columns": "id;x;y;z;label"}, "no column x"),
        ({"row": "{n};{x};{y};{z};0;0;0;1;1;1;0;{label};;"}, "point 1 has 1 columns"),
        ({"columns": "id,x,y,label"}, "no column z"),
        ({"system": ""}, "no CoordinateSystem"),
        ({"system": "# CoordinateSystem = IJK\n"}, "IJK"),
        ({"cut": 1}, "cut short"),
        ({"cut": 12}, "cut short"),
        ({"row": "{n},{x},nan,{z},0,0,0,1,1,1,0,{label},,"}, "not three finite"),
        ({"row": "{n},{x},{y},{z},0,0,0,1,1,1,0,same,,"}, "'same' occurs twice"),
        ({"row": "{n},{x},{y},{z},0,0,0,1,1,1,0,{label}, left,,"}, "15 columns.*in quotes"),
        ({"row": "{n},{x},{y},{z},0,0,0,1,1,1,0,{label}, left, upper,,"}, "16 columns.*in quotes"),
    ],
)
def test_tables_that_leave_something_open(tmp_path, more, reason):
    with pytest.raises(ConfigError, match=rf"p\.fcsv.*{reason}"):
        exchange.read(fcsv(tmp_path / "p.fcsv", **more))


# --- transforms ------------------------------------------------------------------------------------------------------


def saved_transform(path):
    transform = sitk.AffineTransform(3)
    transform.SetTranslation((1.25, -2.5, 3.75))
    sitk.WriteTransform(transform, str(path))
    return path


def test_a_transform_cut_anywhere_is_never_another_one(tmp_path):
    path = saved_transform(tmp_path / "t.tfm")
    whole = path.read_bytes()
    (wanted,) = exchange.read(path).transforms.values()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=r"t\.tfm"):
            exchange.read(path)
    path.write_bytes(whole)
    assert np.array_equal(next(iter(exchange.read(path).transforms.values())), wanted)


@pytest.mark.parametrize("numbers", [2 << 20, 1 << 32, 1 << 62])
def test_a_small_hdf5_file_that_states_gigabytes_is_refused_before_hdf5_opens_it(tmp_path, numbers):
    path = tmp_path / "bomb.h5"
    sitk.WriteTransform(sitk.AffineTransform(3), str(path))
    twelve = b"\x02\x01\x01\x01" + struct.pack("<Q", 12)
    content = path.read_bytes()
    assert twelve in content
    path.write_bytes(content.replace(twelve, twelve[:4] + struct.pack("<Q", numbers)))
    with pytest.raises(ConfigError, match=r"bomb.*states more numbers"):
        exchange.read(path)


@pytest.mark.parametrize("ending", ["tfm", "h5"])
def test_two_transforms_are_not_one(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    one, other = sitk.AffineTransform(3), sitk.Euler3DTransform()
    one.SetTranslation((1, 2, 3))
    sitk.WriteTransform(sitk.CompositeTransform([one]), str(path))
    assert len(exchange.read(path).transforms) == 1
    sitk.WriteTransform(sitk.CompositeTransform([one, other]), str(path))
    with pytest.raises(ConfigError, match="holds 2 transforms"):
        exchange.read(path)


@pytest.mark.parametrize("ending", ["tfm", "TFM", "txt", "h5"])
@pytest.mark.parametrize(
    "made",
    [
        sitk.Euler3DTransform((5, 6, 7), 0.1, -0.2, 0.3, (10, -20, 30)),
        sitk.VersorTransform((0, 0, 1), 0.4, (3, 2, 1)),
        sitk.ScaleTransform(3, (1.1, 0.9, 1.2)),
        sitk.TranslationTransform(3, (3, -4, 5)),
    ],
)
def test_linear_transforms_of_all_classes(tmp_path, made, ending):
    path = tmp_path / f"t.{ending}"
    sitk.WriteTransform(made, str(path.with_suffix(f".{ending.lower()}")))
    path.with_suffix(f".{ending.lower()}").rename(path)
    (found,) = exchange.read(path).transforms.values()
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    for at in ((0, 0, 0), (40, -30, 20), (-7, 80, 11)):
        back = flip @ found @ flip @ [*made.TransformPoint([float(x) for x in at]), 1]
        assert np.allclose(back[:3], at, atol=1e-6)


KINDS = {
    "MatrixOffsetTransformBase": ("1 0 0 0 1 0 0 0 1 5 6 7", "0 0 0"),
    "AffineTransform": ("1 0 0 0 1 0 0 0 1 5 6 7", "0 0 0"),
    "Euler3DTransform": ("0 0 0 5 6 7", "0 0 0 0"),
    "VersorRigid3DTransform": ("0 0 0 5 6 7", "0 0 0"),
    "Similarity3DTransform": ("0 0 0 5 6 7 1", "0 0 0"),
    "ScaleVersor3DTransform": ("0 0 0 5 6 7 1 1 1", "0 0 0"),
    "ScaleSkewVersor3DTransform": ("0 0 0 5 6 7 1 1 1 0 0 0 0 0 0", "0 0 0"),
    "QuaternionRigidTransform": ("0 0 0 1 5 6 7", "0 0 0"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_that_simpleitk_has_no_class_for_or_crashes_on(tmp_path, kind):
    parameters, fixed = KINDS[kind]
    path = tmp_path / "t.tfm"

    def read(numbers):
        head = f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}_double_3_3\n"
        path.write_text(f"{head}Parameters: {numbers}\nFixedParameters: {fixed}\n")
        return next(iter(exchange.read(path).transforms.values()))

    assert np.allclose(read(parameters), [[1, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, -7], [0, 0, 0, 1]])
    for wrong in ("nan", "inf", "-inf"):
        with pytest.raises(ConfigError, match=r"t\.tfm.*not finite"):
            read(" ".join([wrong, *parameters.split()[1:]]))


@pytest.mark.parametrize("name", ["t.mat", "t.lta", "t.xfm", "points.json", "points.mps", "m.npy"])
def test_the_formats_that_are_read_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"something else, with enough bytes to be looked at as DICOM" * 9)
    with pytest.raises(ConfigError, match=r"unknown format, not DICOM; read are .*mrk\.json.*tfm"):
        exchange.read(tmp_path / name)


@pytest.mark.parametrize("numbers", ["nan 0 0 0 1 0 0 0 1 1 2 3", "0 0 0 0 0 0 0 0 0 1 2 3", "1 0 0 0 1 0 0 0 1 1 2"])
def test_numbers_that_are_no_transform(tmp_path, numbers):
    text = saved_transform(tmp_path / "t.tfm").read_text().splitlines()
    text = [f"Parameters: {numbers}" if line.startswith("Parameters") else line for line in text]
    (tmp_path / "t.tfm").write_text("\n".join(text) + "\n")
    with pytest.raises(ConfigError, match=r"t\.tfm"):
        exchange.read(tmp_path / "t.tfm")


I16 = "1 0 0 5 0 1 0 0 0 0 1 0 0 0 0 1"
J16 = "1 0 0 6 0 1 0 0 0 0 1 0 0 0 0 1"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f'<Transform From="A" To="B" Matrix="{I16}"/><Transform From="A" To="B" Matrix="{J16}"/>', "contradict"),
        (f'<Transform From="A" To="B" Matrix="{I16}"/><Transform From="B" To="A" Matrix="{I16}"/>', "contradict"),
        (f'<Transform From="A" To="B" Matrix="{I16.replace("5", "nan")}"/>', "not a finite"),
        (f'<Transform From="A" To="A" Matrix="{I16}"/>', "to itself"),
        (f'<Transform From="A" To="B" Matrix="{I16.replace("1", "0")[:-1]}1"/>', "cannot be inverted"),
        (
            f'<Transform From="A" To="B" Matrix="{I16}"/><Transform From="C" To="B" Matrix="{I16}"/>'
            f'<Transform From="A" To="C" Matrix="{I16}"/>',
            "from A to C contradicts those that lead there",
        ),
        ('<Transform From="A" To="B" Matrix="a b c"/>', "16 numbers"),
        ('<Device Id="a" LocalTimeOffsetSec="0.1"/><Device Id="a" LocalTimeOffsetSec="0.2"/>', "occurs twice"),
        ('<Device Id="a" LocalTimeOffsetSec="nan"/>', "not some seconds"),
    ],
)
def test_device_sets_that_contradict_themselves(tmp_path, content, reason):
    path = tmp_path / "set.xml"
    path.write_text(f"<PlusConfiguration>{content}</PlusConfiguration>")
    with pytest.raises(ConfigError, match=rf"set\.xml.*{reason}"):
        exchange.read(path)


def test_device_sets_in_any_encoding(tmp_path):
    path = tmp_path / "set.xml"
    body = f'<PlusConfiguration><Transform From="Nädel" To="B" Matrix="{I16}"/></PlusConfiguration>'
    for encoding in ("ISO-8859-1", "UTF-8", "UTF-16"):
        path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{body}'.encode(encoding))
        assert exchange.read(path).transforms["Nädel", "B"][0, 3] == 5
    evil = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    path.write_bytes(evil.encode("UTF-16"))
    with pytest.raises(ConfigError, match="document type"):
        exchange.read(path)


# --- cameras ---------------------------------------------------------------------------------------------------------

K = np.array([[3500.0, 0, 500], [0, 3400.0, 400], [0, 0, 1]])


def opencv_camera(path, camera=K, width=1024, height=768, **more):
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", width)
    storage.write("image_height", height)
    storage.write("camera_matrix", np.array(camera, float))
    for key, value in more.items():
        storage.write(key, value)
    storage.release()
    return path


def ros_camera(path, camera=K, **more):
    fields = {
        "image_width": "1024",
        "image_height": "768",
        "camera_matrix": f"{{rows: 3, cols: 3, data: {np.ravel(camera).tolist()}}}".replace("nan", ".nan"),
        "distortion_model": "plumb_bob",
        "distortion_coefficients": "{rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}",
    } | more
    path.write_text("\n".join(f"{key}: {value}" for key, value in fields.items()) + "\n")
    return path


def changed(row, column, value):
    camera = K.copy()
    camera[row, column] = value
    return camera


BAD_CAMERAS = [
    (changed(0, 0, 0), "focal"),
    (changed(0, 0, -3500), "focal"),
    (changed(1, 1, np.nan), "finite"),
    (changed(0, 1, 12), "skewed"),
    (changed(2, 2, 2), "not that of a camera"),
    (changed(1, 0, 3), "not that of a camera"),
]


@pytest.mark.parametrize(("camera", "reason"), BAD_CAMERAS)
def test_cameras_that_are_none(tmp_path, camera, reason):
    for path in (opencv_camera(tmp_path / "c.yml", camera), ros_camera(tmp_path / "c.yaml", camera)):
        with pytest.raises(ConfigError, match=rf"{path.name}.*{reason}"):
            exchange.read(path)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"distortion_coefficients": np.array([[0.1, 0, 0, 0, 0]])}, "has a distortion"),
        ({"distCoeffs": np.array([[0, 0.2, 0, 0]])}, "has a distortion"),
        ({"D": np.array([[1e-3]])}, "has a distortion"),
        ({"fisheye_model": 1}, "has a distortion"),
        ({"distortion_model": "kannala_brandt"}, "has a distortion"),
        ({"pixel_spacing_mm": np.array([[0.3, 0.6]])}, "contradict"),
        ({"pixel_spacing_mm": np.array([[3e-4, 3.09e-4]])}, "metres"),
        ({"width": 0}, "width_px"),
        ({"width": "1024 px"}, "not a whole number"),
        ({"height": 700.5}, "not a whole number"),
    ],
)
def test_cameras_of_opencv_that_say_more(tmp_path, more, reason):
    with pytest.raises(ConfigError, match=rf"c\.yml.*{reason}"):
        exchange.read(opencv_camera(tmp_path / "c.yml", **more))


def test_straight_cameras_of_opencv(tmp_path):
    straight = {
        "distortion_coefficients": np.zeros((1, 5)),
        "fisheye_model": 0,
        "pixel_spacing_mm": np.array([[0.34, 0.35]]),
    }
    carm = exchange.read(opencv_camera(tmp_path / "c.yml", **straight)).carm
    assert carm.source_to_detector_mm == pytest.approx(1190) and carm.principal_point_px == (500, 400)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"distortion_coefficients": "{rows: 1, cols: 5, data: [0.1, 0, 0, 0, 0]}"}, "has a distortion"),
        ({"D": "[0, 0, 0.1, 0]"}, "has a distortion"),
        ({"distortion_model": "equidistant"}, "equidistant"),
        ({"image_width": "'1024'"}, "image_width is '1024'"),
        ({"image_width": "1024.5"}, "not a whole number"),
        ({"image_width": "0"}, "width_px"),
        ({"camera_matrix": "{rows: 3, cols: 3, data: [1, 2]}"}, "2 numbers"),
        ({"binning_x": "2"}, "binning"),
        ({"roi": "{x_offset: 10, y_offset: 0, width: 100, height: 100}"}, "roi"),
        ({"rectification_matrix": "{rows: 3, cols: 3, data: [0, 1, 0, 1, 0, 0, 0, 0, 1]}"}, "rectification"),
        ({"projection_matrix": f"{{rows: 3, cols: 4, data: {[1.0] * 12}}}"}, "projection_matrix contradicts"),
        ({"image_height": "768\nimage_height: 700"}, "occurs twice"),
        ({"width": "512"}, "image_width and width contradict"),
        ({"K": "[1000, 0, 500, 0, 1000, 400, 0, 0, 1]"}, "camera_matrix and K contradict"),
        ({"pixel_spacing_mm": "[0.3]"}, "not two numbers"),
    ],
)
def test_cameras_of_ros_that_say_more(tmp_path, more, reason):
    with pytest.raises(ConfigError, match=rf"c\.yaml.*{reason}"):
        exchange.read(ros_camera(tmp_path / "c.yaml", **more))
    assert exchange.read(ros_camera(tmp_path / "c.yaml")).carm.width_px == 1024


@pytest.mark.parametrize("ending", ["yml", "yaml"])
def test_cameras_of_opencv_5(tmp_path, ending):
    path = opencv_camera(tmp_path / "old.yml", pixel_spacing_mm=np.array([[0.34, 0.35]]))
    newer = path.read_text().replace("%YAML:1.0", "%YAML 1.2", 1)
    (tmp_path / f"c.{ending}").write_text(newer)
    assert "!!opencv-matrix" in newer
    assert exchange.read(tmp_path / f"c.{ending}").carm == exchange.read(path).carm


def test_a_camera_without_pixels_is_told_and_one_that_looks_elsewhere_refused(tmp_path, caplog):
    assert exchange.read(ros_camera(tmp_path / "c.yaml")).carm.pixel_spacing_mm[0] == 1
    assert "states no pixel_spacing_mm" in caplog.text
    away = K + [[0, 0, -30000], [0, 0, 0], [0, 0, 0]]
    for path in (ros_camera(tmp_path / "c.yaml", away), opencv_camera(tmp_path / "c.yml", away)):
        with pytest.raises(ConfigError, match="far outside the picture"):
            exchange.read(path)
    with pytest.raises(ConfigError, match="projection_matrix contradicts"):
        exchange.read(opencv_camera(tmp_path / "p.yml", projection_matrix=np.eye(3, 4)))


@pytest.mark.parametrize(
    ("distance", "spacing", "reason"),
    [
        ("0", ["0.3", "0.3"], "positive"),
        ("1", ["0.3", "0.3"], "metres"),
        ("1.2", ["0.0003", "0.0003"], "metres"),
        ("1200", ["0", "0.3"], "positive"),
        ("1200", None, "missing"),
        ("nan", ["0.3", "0.3"], "finite"),
    ],
)
def test_c_arms_that_cannot_be(tmp_path, distance, spacing, reason):
    more = {"DistanceSourceToDetector": distance} | ({} if spacing is None else {"ImagerPixelSpacing": spacing})
    with pytest.raises(ConfigError, match=rf"x\.dcm.*{reason}"):
        exchange.read(xray(tmp_path / "x.dcm", np.zeros((16, 16), np.uint16), **more))


def test_keys_that_occur_twice():
    assert json_of(b'{"a": 1, "b": {"a": 2}}', "x.json") == {"a": 1, "b": {"a": 2}}
    with pytest.raises(ConfigError, match=r"x\.json: the key 'a' occurs twice"):
        json_of(b'{"b": [{"a": 1, "a": 2}]}', "x.json")
