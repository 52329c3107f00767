"""Kinds of files that hold no pixels, or pixels with poses: sequences, sessions, points, transforms, cameras, surfaces,
documents. What the other reader says is worked out here from the formats' descriptions, where no library reads them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mcap.reader
import nrrd
import numpy as np
import SimpleITK as sitk
import trimesh
import yaml

from calibration import documents, exchange, inputs
from calibration.inputs import Files
from navnode.errors import DamagedError
from navnode.files.meshes import read_mesh
from navnode.files.views import read_landmarks, read_views
from navnode.geometry import RAS_FROM_LPS
from navnode.recording import Recording, sequences
from navnode.xray.correction import read_flat_field
from tests.fuzz.kinds import Kind, Read
from tests.fuzz.mutations import end_of_lines, of_fields, of_text

RNG = np.random.default_rng(2)
N, H, W = 4, 6, 8
FRAMES = RNG.integers(0, 255, (N, H, W)).astype(np.uint8)


# --- sequences and sessions ------------------------------------------------------------------------------------------


def _sequence(path: Path) -> None:
    poses = []
    for n in range(N):
        pose = np.eye(4)
        pose[:3, 3] = n, 2, 3
        poses.append(pose)
    times = 10 + np.arange(N) / 20
    sequences.write(path, sequences.Sequence(FRAMES, times, (0.5, 0.25), {"ProbeToTracker": poses}))


def _read_sequence(path: Path) -> Read:
    found = sequences.read(path)
    poses = found.transforms.get("ProbeToTracker", [])
    return {
        "frames": list(found.frames[found.pictured]),
        "times": found.times_s,
        "spacing": found.spacing_mm,
        "poses": [np.full((4, 4), np.nan) if pose is None else pose for pose in poses],
    }


def _of_header(fields: dict[str, str], frames: np.ndarray, spacing: Any, status: str) -> Read:
    fields = {re.sub(r"Seq_Frame(\d+)_", lambda m: f"Seq_Frame{int(m[1]):04}_", k): v for k, v in fields.items()}

    def of(n: int, key: str) -> str:
        return fields.get(f"Seq_Frame{n:04}_{key}", "")

    poses = []
    for n in range(len(frames)):
        seen = of(n, "ProbeToTrackerTransformStatus") in ("", "OK") and of(n, "ProbeToTrackerTransform")
        text = of(n, "ProbeToTrackerTransform")
        poses.append(np.array(text.split(), float).reshape(4, 4) if seen else np.full((4, 4), np.nan))
    lies = fields.get("UltrasoundImageOrientation", fields.get("ultrasound image orientation", "MF"))
    frames = frames[:, :, ::-1] if lies[:1] == "U" else frames
    frames = frames[:, ::-1] if lies[1:2] == "N" else frames
    shown = [of(n, status) in ("", "OK") for n in range(len(frames))]
    times = [float(of(n, "Timestamp") or of(n, "UnfilteredTimestamp")) for n in range(len(frames))]
    order = np.argsort(times, kind="stable")
    return {
        "frames": [frames[n] for n in order if shown[n]],
        "times": np.array(times)[order],
        "spacing": spacing,
        "poses": [poses[n] for n in order],
    }


def _itk_sequence(path: Path) -> Read:
    image = sitk.ReadImage(str(path))
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.isascii()}
    return _of_header(fields, sitk.GetArrayFromImage(image), image.GetSpacing()[:2], "ImageStatus")


def _pynrrd_sequence(path: Path) -> Read:
    data, header = nrrd.read(str(path))
    fields = {key if key[:4] == "Seq_" else key.lower(): value for key, value in header.items()}
    stated = fields.get("space directions", np.eye(3))
    stated = nrrd.parse_optional_matrix(stated) if isinstance(stated, str) else stated
    spacing = np.linalg.norm(stated[:2], axis=1)
    return _of_header({k: str(v) for k, v in fields.items()}, np.transpose(data, (2, 1, 0)), spacing, "Status")


def _session(path: Path) -> None:
    from navnode.recording.export import import_sequence

    sequence = path.parent / "s.igs.mha"
    _sequence(sequence)
    import_sequence(sequence, path, None, "XRay")
    sequence.unlink()


def _entry(topic: str, at: int, data: bytes) -> tuple[str, int, bytes]:
    return topic, at, bytes(data)


def _read_session(path: Path) -> Read:
    """Every entry; what is damaged is said (by an error) after what is not."""
    recording = Recording(path)
    try:
        entries = [_entry(e.topic, e.time_ns, e.raw) for e in recording.entries()]
        whole = not recording.judged().text
    finally:
        recording.close()
    if not whole:
        raise DamagedError(f"{path}: {recording.judged().text}")
    return {"entries": sorted(entries)}


def _by_mcap(path: Path) -> Read:
    with path.open("rb") as file:
        reader = mcap.reader.make_reader(file, validate_crcs=True)
        found = [
            _entry(channel.topic, message.log_time, message.data) for _, channel, message in reader.iter_messages()
        ]
        return {"entries": sorted(found)}


_STATUS = ("OK", "INVALID", "MISSING", "MF", "UF", "MN", "UN", "domain", "list", "vector", "True", "False")
SEQUENCES = (
    Kind(
        "s.igs.mha",
        _sequence,
        _read_sequence,
        _itk_sequence,
        (of_text(*_STATUS, "Timestamp", "FrameNumber", head=end_of_lines(b"LOCAL\n")),),
    ),
    Kind(
        "s.nrrd",
        _sequence,
        _read_sequence,
        _pynrrd_sequence,
        (of_text(*_STATUS, "Timestamp", "FrameNumber", head=end_of_lines(b"\n\n")),),
    ),
    Kind("s.mcap", _session, _read_session, _by_mcap),
)


# --- points, poses and transforms ------------------------------------------------------------------------------------

POINTS = {"tip": (1.5, -20.25, 30.0), "hip": (40.0, 5.5, -6.75), "knee": (7.25, 80.0, 9.5)}


def _markups(path: Path) -> None:
    points = [
        {"id": str(n), "label": label, "position": list(at), "positionStatus": "defined"}
        for n, (label, at) in enumerate(POINTS.items())
    ]
    markups = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    path.write_text(json.dumps({"markups": [markups]}, indent=1))


def _read_points(path: Path) -> Read:
    return dict(inputs.points(path, Files()))


_SIGNS = {"LPS": np.array([-1, -1, 1]), "RAS": np.ones(3)}
_UNITS = {"mm": 1, "m": 1000, "cm": 10, "um": 1e-3}


def _json_points(path: Path) -> Read:
    found = {}
    for markup in _json(path)["markups"]:
        signs = _SIGNS[markup.get("coordinateSystem", "LPS")] * _UNITS[markup.get("coordinateUnits", "mm")]
        for n, point in enumerate(markup["controlPoints"]):
            if point.get("positionStatus", "defined") not in ("undefined", "preview", "missing"):
                label = str(point.get("label") or point.get("id") or n + 1)
                found[label] = np.array(point["position"], float) * signs
    return found


_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def _fcsv(path: Path) -> None:
    rows = [f"{n},{x},{y},{z},0,0,0,1,1,1,0,{label},,\n" for n, (label, (x, y, z)) in enumerate(POINTS.items())]
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
    path.write_text(head + f"# columns = {_COLUMNS}\n" + "".join(rows))


def _csv_points(path: Path) -> Read:
    text = path.read_text()
    (system,) = set(re.findall(r"# CoordinateSystem = (\w+)", text))
    (columns,) = set(re.findall(r"# columns = (.*)", text)) or {_COLUMNS}
    found = {}
    for row in csv.DictReader((line for line in text.splitlines() if line[:1] != "#"), columns.split(",")):
        at = np.array([float(row[axis]) for axis in "xyz"])
        label = row.get("label") or row.get("id") or str(len(found) + 1)
        if label in found:
            raise ValueError(label)
        found[label] = at * _SIGNS[{"0": "RAS", "1": "LPS"}.get(system, system)]
    return found


def _csv(path: Path) -> None:
    path.write_text("label,x_mm,y_mm,z_mm\n" + "".join(f"{k},{x},{y},{z}\n" for k, (x, y, z) in POINTS.items()))


def _csv_rows(path: Path) -> Read:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    names = [row[0] for row in rows[1:] if row]
    if rows[0] != ["label", "x_mm", "y_mm", "z_mm"] or len(set(names)) != len(names):
        raise ValueError(rows[0])
    return {row[0]: np.array(row[1:4], float) for row in rows[1:] if row}


POSES = np.tile(np.eye(4), (5, 1, 1))
POSES[:, 0, 3] = np.arange(5)


def _pose_rows(path: Path) -> None:
    head = ",".join(["timestamp_s", *(f"m{i}{j}" for i in range(4) for j in range(4))])
    rows = [",".join(f"{x:g}" for x in (n / 20, *pose.ravel())) for n, pose in enumerate(POSES)]
    path.write_text("\n".join([head, *rows, ""]))


def _read_poses(path: Path) -> Read:
    found = inputs.poses(path, Files())
    return {"poses": found.poses, "times": found.times_s}


def _numpy_poses(path: Path) -> Read:
    if path.suffix == ".npy":
        return {"poses": np.load(path).astype(float), "times": None}
    rows = np.genfromtxt(path, delimiter=",", skip_header=1).reshape(-1, 17)
    return {"poses": rows[:, 1:].reshape(-1, 4, 4), "times": rows[:, 0]}


ANGLE = 0.3
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])


def _transform(path: Path) -> None:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(TURN.ravel().tolist())
    transform.SetTranslation((5.0, -6.0, 7.0))
    transform.SetCenter((1.0, 2.0, 3.0))
    sitk.WriteTransform(transform, str(path))


def _read_exchanged(path: Path) -> Read:
    found = exchange.read(path)
    carm = found.carm
    return {
        "transforms": {f"{a} to {b}": matrix for (a, b), matrix in found.transforms.items()},
        "points": dict(found.points_mm),
        "carm": None if carm is None else _geometry(carm),
        "lags": dict(found.lags_s),
    }


def _exchanged(transforms: Any = (), carm: Any = None, lags: Any = ()) -> Read:
    return {"transforms": dict(transforms), "points": {}, "carm": carm, "lags": dict(lags)}


def _geometry(carm: Any) -> list[float]:
    """What a camera's file can say of a C-arm."""
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    return [carm.width_px, carm.height_px, carm.source_to_detector_mm / su, carm.source_to_detector_mm / sv, cu, cv]


def _of_parameters(numbers: Any, center: Any) -> Read:
    matrix, shift, center = np.reshape(numbers[:9], (3, 3)), np.array(numbers[9:12]), np.array(center)
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = matrix, shift + center - matrix @ center
    return _exchanged({"A to B": RAS_FROM_LPS @ np.linalg.inv(lps) @ RAS_FROM_LPS})


def _parsed_transform(path: Path) -> Read:
    text = path.read_text()
    (kind,) = re.findall(r"(?m)^Transform: (\w+)_(?:double|float)_3_3\s*$", text)
    numbers, center = (
        [float(x) for x in re.findall(rf"(?m)^{key}: (.*)$", text)[-1].split()]
        for key in ("Parameters", "FixedParameters")
    )
    if kind not in ("AffineTransform", "MatrixOffsetTransformBase") or len(numbers) != 12 or len(center) != 3:
        raise ValueError(kind)
    return _of_parameters(numbers, center)


def _itk_transform(path: Path) -> Read:
    transform = sitk.AffineTransform(sitk.ReadTransform(str(path)))
    return _of_parameters(transform.GetParameters(), transform.GetCenter())


_MATRICES = {
    ("Probe", "Tracker"): "1 0 0 5 0 0 -1 6 0 1 0 7 0 0 0 1",
    ("Tip", "Stylus"): "1 0 0 0.5 0 1 0 0 0 0 1 -160 0 0 0 1",
}


def _device_set(path: Path) -> None:
    rows = [f'<Transform From="{a}" To="{b}" Matrix="{text}"/>\n' for (a, b), text in _MATRICES.items()]
    lag = '<DataCollection><Device Id="Video" LocalTimeOffsetSec="-0.125"/></DataCollection>\n'
    path.write_text(
        f"<PlusConfiguration>\n<CoordinateDefinitions>\n{''.join(rows)}</CoordinateDefinitions>\n{lag}"
        "</PlusConfiguration>\n"
    )


def _parsed_device_set(path: Path) -> Read:
    root = ElementTree.fromstring(path.read_bytes())
    transforms = {
        f"{e.get('From')} to {e.get('To')}": np.array(e.get("Matrix", "").split(), float).reshape(4, 4)
        for e in root.iter("Transform")
        if e.get("Matrix") is not None
    }
    lags = {
        e.get("Id"): -float(e.get("LocalTimeOffsetSec", "")) for e in root.iter("Device") if e.get("LocalTimeOffsetSec")
    }
    return _exchanged(transforms, None, lags)


def _rom(path: Path) -> None:
    content = bytearray(752)
    content[:3], content[28] = b"NDI", 3
    content[72:108] = np.array([[0, 0, 0], [50, 0, 0], [0, 60, 0]], "<f4").tobytes()
    content[4:6] = (sum(content[6:]) & 0xFFFF).to_bytes(2, "little")
    path.write_bytes(content)


def _parsed_rom(path: Path) -> Read:
    content = path.read_bytes()
    if int.from_bytes(content[4:6], "little") != sum(content[6:]) & 0xFFFF:
        raise ValueError("checksum")
    markers = np.frombuffer(content, "<f4", 3 * content[28], 72).reshape(-1, 3)
    return _exchanged() | {"points": {str(n): at for n, at in enumerate(markers)}}


_SYSTEMS = ("LPS", "RAS", "IJK", "mm", "m", "defined", "undefined", "label", "id", "x", "y", "z", "position", "0", "1")
TRANSFORMS = (
    Kind("p.mrk.json", _markups, _read_points, _json_points, (of_text(*_SYSTEMS, "coordinateSystem"),)),
    Kind("p.fcsv", _fcsv, _read_points, _csv_points, (of_text(*_SYSTEMS),)),
    Kind("p.csv", _csv, _read_points, _csv_rows, (of_text("label", "x_mm", "y_mm", "z_mm"),)),
    Kind("poses.csv", _pose_rows, _read_poses, _numpy_poses, (of_text("m00", "m01", "m10", "timestamp_s"),)),
    Kind(
        "poses.npy",
        lambda path: np.save(path, POSES),
        _read_poses,
        _numpy_poses,
        (of_text("True", "False", head=end_of_lines(b"}")),),
    ),
    Kind(
        "t.tfm",
        _transform,
        _read_exchanged,
        _parsed_transform,
        (of_text("AffineTransform_double_3_3", "Euler3DTransform_double_3_3", "Parameters", "FixedParameters"),),
    ),
    Kind("t.txt", _transform, _read_exchanged, _parsed_transform, (of_text("Parameters", "FixedParameters"),)),
    Kind("t.h5", _transform, _read_exchanged, _itk_transform, share=0.1),
    Kind(
        "d.xml",
        _device_set,
        _read_exchanged,
        _parsed_device_set,
        (of_text("From", "To", "Probe", "Tracker", "Tip", "Stylus", "Matrix"),),
    ),
    Kind("m.rom", _rom, _read_exchanged, _parsed_rom),
)


# --- cameras ---------------------------------------------------------------------------------------------------------


def _opencv(path: Path) -> None:
    path.write_text(
        "%YAML:1.0\n---\nimage_width: 300\nimage_height: 200\npixel_spacing_mm: [ 1., 1. ]\n"
        "camera_matrix: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n"
        "   data: [ 900.5, 0., 150.25, 0., 900.5, 100.75, 0., 0., 1. ]\n"
        "distortion_coefficients: !!opencv-matrix\n   rows: 1\n   cols: 5\n   dt: d\n   data: [ 0., 0., 0., 0., 0. ]\n"
    )


def _ros(path: Path) -> None:
    path.write_text(
        "image_width: 300\nimage_height: 200\ncamera_name: carm\npixel_spacing_mm: [1, 1]\n"
        "camera_matrix:\n  rows: 3\n  cols: 3\n  data: [900.5, 0, 150.25, 0, 900.5, 100.75, 0, 0, 1]\n"
        "distortion_model: plumb_bob\n"
        "distortion_coefficients:\n  rows: 1\n  cols: 5\n  data: [0, 0, 0, 0, 0]\n"
    )


class _Loader(yaml.SafeLoader):
    """Takes OpenCV's matrices for mappings."""


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", lambda loader, node: loader.construct_mapping(node, True))


def _yaml_camera(path: Path) -> Read:
    info = yaml.load(path.read_text().removeprefix("%YAML:1.0\n"), _Loader)
    matrix = info["camera_matrix"]
    k = np.array(matrix["data"], float).reshape(matrix["rows"], matrix["cols"])
    bent = info.get("distortion_coefficients") or {"data": []}
    if np.any(np.array(bent["data"], float)) or k[0, 1] or info.get("distortion_model", "plumb_bob") == "fisheye":
        raise ValueError("bent")
    return _exchanged(carm=[info["image_width"], info["image_height"], k[0, 0], k[1, 1], k[0, 2], k[1, 2]])


_CAMERA = ("image_width", "image_height", "rows", "cols", "d", "f", "plumb_bob", "fisheye", "camera_matrix", "data")
CAMERAS = (
    Kind("c.yml", _opencv, _read_exchanged, _yaml_camera, (of_text(*_CAMERA),)),
    Kind("c.yaml", _ros, _read_exchanged, _yaml_camera, (of_text(*_CAMERA),)),
)


# --- surfaces --------------------------------------------------------------------------------------------------------


def _ball() -> Any:
    ball = trimesh.creation.icosphere(1, 20.0)
    ball.apply_translation([30.0, -10.0, 5.0])
    return ball


def _mesh(path: Path) -> None:
    if path.name.startswith("text"):
        kind = {".ply": {"encoding": "ascii"}, ".stl": {"file_type": "stl_ascii"}}[path.suffix]
        _ball().export(path, **kind)
    else:
        _ball().export(path)


def _corners(vertices: Any, faces: Any, space: bytes = b"") -> Read:
    signs = np.array([-1, -1, 1]) if b"SPACE=LPS" in space else 1
    return {"corners": np.array(vertices, float)[np.array(faces, int)] * signs}


def _read_mesh(path: Path) -> Read:
    mesh = read_mesh(path)
    return _corners(mesh.vertices_mm, mesh.triangles)


def _parsed_stl(path: Path) -> Read:
    content = path.read_bytes()
    if content.lstrip()[:5] == b"solid" and b"facet" in content:
        numbers = re.findall(rb"(?m)^\s*vertex\s+(\S+)\s+(\S+)\s+(\S+)\s*$", content)
        if content.count(b"vertex") != len(numbers) or len(numbers) != 3 * content.count(b"endfacet"):
            raise ValueError("lines")
        corners = np.array(numbers, float).reshape(-1, 3)
    else:
        count = int.from_bytes(content[80:84], "little")
        rows = np.frombuffer(content, np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")]), count, 84)
        corners = rows["v"].reshape(-1, 3)
    return _corners(corners, np.arange(len(corners)).reshape(-1, 3), content[:200])


_PLY = {
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uchar": "u1",
    "uint8": "u1",
}


def _parsed_ply(path: Path) -> Read:
    """x, y, z of vertices, and triangles, with no other properties."""
    content = path.read_bytes()
    head, _, body = content.partition(b"end_header\n")
    lines = [line.split() for line in head.decode().splitlines()]
    counts = {line[1]: int(line[2]) for line in lines if line[0] == "element"}
    floats = [_PLY[line[1]] for line in lines if line[0] == "property" and line[1] != "list"]
    names = [line[2] for line in lines if line[0] == "property" and line[1] != "list"]
    (listed,) = [line for line in lines if line[:2] == ["property", "list"]]
    if list(counts) != ["vertex", "face"] or sorted(names) != ["x", "y", "z"]:
        raise ValueError("elements")
    n, m = counts.values()
    form = next(line[1] for line in lines if line[0] == "format")
    if form == "ascii":
        numbers = np.array(body.split(), float)
        numbers[: 3 * n] = numbers[: 3 * n].reshape(n, 3)[:, [names.index(axis) for axis in "xyz"]].ravel()
        rows = numbers[3 * n :].reshape(m, 4)
        if (rows[:, 0] != 3).any():
            raise ValueError("faces")
        return _corners(numbers[: 3 * n].reshape(n, 3), rows[:, 1:], head)
    end = "<" if form == "binary_little_endian" else ">"
    vertex = np.dtype([(name, end + kind) for name, kind in zip(names, floats, strict=True)])
    face = np.dtype([("n", end + _PLY[listed[2]]), ("v", end + _PLY[listed[3]], 3)])
    if len(body) != n * vertex.itemsize + m * face.itemsize:
        raise ValueError("size")
    vertices = np.frombuffer(body, vertex, n)
    faces = np.frombuffer(body, face, m, n * vertex.itemsize)
    if (faces["n"] != 3).any():
        raise ValueError("faces")
    return _corners(np.stack([vertices[name] for name in "xyz"], axis=1), faces["v"], head)


def _parsed_obj(path: Path) -> Read:
    vertices, faces = [], []
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            vertices.append([float(x) for x in words[1:4]])
        elif words[:1] == ["f"]:
            corners = [int(word.partition("/")[0]) for word in words[1:]]
            if len(corners) != 3 or min(corners) < 1:
                raise ValueError("faces")
            faces.append([n - 1 for n in corners])
    return _corners(vertices, faces)


_LISTED = (
    "float",
    "double",
    "uchar",
    "int",
    "vertex",
    "face",
    "x",
    "y",
    "z",
    "LPS",
    "RAS",
    "binary_big_endian",
    "ascii",
)
SURFACES = (
    Kind("a.stl", _mesh, _read_mesh, _parsed_stl, (of_fields((80, "I", 1, ()), (96, "f", 9, ())),)),
    Kind("text.stl", _mesh, _read_mesh, _parsed_stl, (of_text("facet", "vertex", "endloop", "solid", "endsolid"),)),
    Kind("a.ply", _mesh, _read_mesh, _parsed_ply, (of_text(*_LISTED, head=end_of_lines(b"end_header\n")),)),
    Kind("text.ply", _mesh, _read_mesh, _parsed_ply, (of_text(*_LISTED),)),
    Kind("a.obj", _mesh, _read_mesh, _parsed_obj, (of_text("v", "f", "vn", "vt", "g", "o"),)),
)


# --- documents -------------------------------------------------------------------------------------------------------

CARM = {
    "width_px": 30,
    "height_px": 20,
    "pixel_spacing_mm": [0.5, 0.5],
    "source_to_detector_mm": 1000.0,
    "principal_point_px": [14.5, 9.5],
}


def _document(**content: Any) -> Any:
    return lambda path: path.write_text(json.dumps(content, indent=1))


def _views(path: Path) -> Read:
    read = read_views(path)
    return {
        "poses": [None if each.volume_from_carm is None else each.volume_from_carm for each in read],
        "carm": [_geometry(each.carm) for each in read],
        "i0": [each.i0 for each in read],
        "images": [None if each.path is None else each.path.name for each in read],
        "stamps": [each.timestamp_ns for each in read],
    }


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes(), object_pairs_hook=_unique)


def _of_carm(carm: dict[str, Any]) -> list[float]:
    (su, sv), distance = carm["pixel_spacing_mm"], carm["source_to_detector_mm"]
    return [carm["width_px"], carm["height_px"], distance / su, distance / sv, *carm["principal_point_px"]]


def _json_views(path: Path) -> Read:
    document = _json(path)
    views = document["views"]
    return {
        "poses": [None if (pose := each.get("volume_from_carm")) is None else np.array(pose, float) for each in views],
        "carm": [_of_carm(each.get("carm") or document["carm"]) for each in views],
        "i0": [each.get("i0") for each in views],
        "images": [each.get("image") or None for each in views],
        "stamps": [each.get("timestamp_ns", 0) for each in views],
    }


def _landmarks(path: Path) -> Read:
    read = read_landmarks(path, 1)
    return {"points": dict(read.points_mm), "pixels": list(read.pixels)}


def _json_landmarks(path: Path) -> Read:
    document = _json(path)
    return {"points": document["points_mm"], "pixels": document["views"]}


def _beads(path: Path) -> Read:
    read = documents.bead_phantom(path, Files())
    return {"ids": [str(each) for each in read.ids], "at": read.positions_mm, "size": read.diameters_mm}


def _json_beads(path: Path) -> Read:
    beads = _json(path)["beads"]
    return {
        "ids": [str(each["id"]) for each in beads],
        "at": np.array([each["position_mm"] for each in beads], float),
        "size": np.array([each["diameter_mm"] for each in beads], float),
    }


def _flat(path: Path) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, dark=np.zeros((8, 8)), gain=np.ones((8, 8)), bad=np.zeros((8, 8), bool))
    path.write_bytes(content.getvalue())


def _read_flat(path: Path) -> Read:
    flat = read_flat_field(path)
    return {"dark": flat.dark, "gain": flat.gain, "bad": flat.bad}


def _numpy_flat(path: Path) -> Read:
    with np.load(path) as kept:
        return {name: kept[name] for name in ("dark", "gain", "bad")}


_POSE = [[1.0, 0, 0, 5], [0, 0, -1.0, 6], [0, 1.0, 0, 7], [0, 0, 0, 1]]
_VIEW = {"image": "a.png", "i0": 60000.0, "volume_from_carm": _POSE, "timestamp_ns": 5}
_KEYS = ("views", "carm", "i0", "image", "volume_from_carm", "width_px", "height_px", "true", "null", "timestamp_ns")
DOCUMENTS = (
    Kind(
        "v.json", _document(schema="navnode/views/1", carm=CARM, views=[_VIEW]), _views, _json_views, (of_text(*_KEYS),)
    ),
    Kind(
        "l.json",
        _document(schema="navnode/landmarks/1", points_mm=POINTS, views=[{"tip": [3.5, 4.5]}]),
        _landmarks,
        _json_landmarks,
        (of_text("tip", "hip", "points_mm"),),
    ),
    Kind(
        "b.json",
        _document(
            schema="navnode/phantom/1",
            name="beads",
            beads=[{"id": n, "position_mm": [10.0 * n, 5.0, n], "diameter_mm": 2.0} for n in range(4)],
        ),
        _beads,
        _json_beads,
        (of_text("id", "position_mm", "diameter_mm"),),
    ),
    Kind("f.npz", _flat, _read_flat, _numpy_flat),
)
