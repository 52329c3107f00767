"""Other programs' calibration files: PLUS, OpenCV, ROS, 3D Slicer, ITK, NDI, DICOM.

Here everything is RAS, millimetres and ``a_from_b``; what a format has otherwise is converted where it is read and
written. A transform ``b_from_a`` is ``From="A" To="B"`` in PLUS, and Slicer's transform to parent from A to B.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import msgspec
import numpy as np
import SimpleITK as sitk
import yaml

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files import whole
from navnode.files.artifacts import Artifact
from navnode.geometry import RAS_FROM_LPS, carm_document, carm_of
from navnode.types import CArm, Matrix

_MAX_BYTES = 1 << 26
_ROM_COUNT, _ROM_MARKERS, _ROM_MOST, _ROM_BYTES = 28, 72, 20, 752
_NS = 1e-9
READS = ".xml (PLUS), .yml (OpenCV), .yaml (ROS), .mrk.json and .fcsv (Slicer), .tfm and .h5 (ITK), .rom (NDI), DICOM"
WRITES = ".xml (PLUS), .yml (OpenCV), .yaml (ROS), .mrk.json and .fcsv (Slicer), .tfm and .h5 (ITK)"


@dataclass(frozen=True)
class Exchanged:
    """What a file of another program holds of ours."""

    transforms: Mapping[tuple[str, str], Matrix] = field(default_factory=dict)
    """(from, to) -> to_from_from, 4x4."""
    points_mm: Mapping[str, Matrix] = field(default_factory=dict)
    """label -> (3,) RAS"""
    carm: CArm | None = None
    angles_deg: tuple[float, float] | None = None
    """Orbital, angulation, where a DICOM image states them."""
    lags_s: Mapping[str, float] = field(default_factory=dict)
    """PLUS device -> how much later than the others it is stamped."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "transforms": [
                {"from": a, "to": b, "matrix": matrix.tolist()} for (a, b), matrix in self.transforms.items()
            ],
            "points_mm": {label: at.tolist() for label, at in self.points_mm.items()},
            "carm": carm_document(self.carm) if self.carm is not None else None,
            "angles_deg": self.angles_deg,
            "lags_s": dict(self.lags_s),
        }


def read(path: Path) -> Exchanged:
    """What a file says, by its ending; DICOM for any other.

    Raises:
        ConfigError: it cannot be read, or holds nothing of use; names the file.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: too large")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    reader = next((read for ending, read in _READERS.items() if path.name.lower().endswith(ending)), _read_dicom)
    try:
        return reader(path)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, cv2.error, ElementTree.ParseError,
            yaml.YAMLError) as error:  # fmt: skip
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path}: cannot be read ({reason})") from error


def write(artifact: Artifact, path: Path) -> None:
    """An artifact in the format of the file's ending.

    Raises:
        ConfigError: no such format, or this calibration cannot be said in it.
    """
    writer = next((write for ending, write in _WRITERS.items() if path.name.lower().endswith(ending)), None)
    if writer is None:
        raise ConfigError(f"{path}: written are {WRITES}")
    writer(_ours(artifact), artifact, path)


def _ours(artifact: Artifact) -> Exchanged:
    """An artifact's result in words that other programs share."""
    result, name = artifact.result, artifact.device or "Tool"
    if artifact.kind == "pivot":
        return Exchanged({(f"{name}Tip", name): g.rigid(None, tuple(result["tip_mm"]))})
    if artifact.kind == "handeye":
        return Exchanged({("XraySource", artifact.device or "CArm"): np.array(result["marker_from_carm"])})
    if artifact.kind == "patient":
        return Exchanged({("Patient", "Volume"): np.array(result["volume_from_patient"])})
    if artifact.kind == "carm":
        return Exchanged(carm=carm_of(result["carm"]))
    if artifact.kind == "temporal":
        return Exchanged(lags_s={artifact.device or "Image": result["image_lag_ns"] * _NS})
    if artifact.kind == "phantom":
        return Exchanged(points_mm={label: np.array(at) for label, at in result["measured_mm"].items()})
    if artifact.kind == "tool":
        return Exchanged(points_mm={str(n): np.array(at) for n, at in enumerate(result["markers_mm"])})
    raise ConfigError(f"a {artifact.kind} calibration has no counterpart in other programs' files")


# --- PLUS ------------------------------------------------------------------------------------------------------------


def _plus_root(path: Path) -> ElementTree.Element:
    text = path.read_text()
    if "<!" in text.replace("<!--", ""):
        raise ConfigError(f"{path}: declares entities, which a device set has none of")
    return ElementTree.fromstring(text)  # noqa: S314 - what makes it unsafe was refused above


def _read_plus(path: Path) -> Exchanged:
    root = _plus_root(path)
    transforms = {}
    for element in root.iter("Transform"):
        if element.get("Matrix") is None:
            continue
        numbers = [float(part) for part in element.get("Matrix", "").split()]
        if len(numbers) != 16 or not element.get("From") or not element.get("To"):
            raise ConfigError(f"{path}: a Transform needs From, To and a Matrix of 16 numbers")
        transforms[element.get("From", ""), element.get("To", "")] = np.array(numbers).reshape(4, 4)
    # A device's stamps plus its offset are the common time: what is late has a negative one.
    lags = {
        device.get("Id", ""): -float(device.get("LocalTimeOffsetSec", "0"))
        for device in root.iter("Device")
        if device.get("LocalTimeOffsetSec") is not None
    }
    return Exchanged(transforms=transforms, lags_s=lags)


def _write_plus(ours: Exchanged, artifact: Artifact, path: Path) -> None:
    """Into a device set that is there, or a new one."""
    if not ours.transforms and not ours.lags_s:
        raise ConfigError(
            f"{path}: a PLUS device set holds transforms and time offsets, not a {artifact.kind} calibration"
        )
    if path.exists():
        _read_plus(path)  # a file that is none is not written to
        root = _plus_root(path)
    else:
        root = ElementTree.Element("PlusConfiguration", version="2.9")
    place = root.find("CoordinateDefinitions")
    place = ElementTree.SubElement(root, "CoordinateDefinitions") if place is None else place
    for (a, b), matrix in ours.transforms.items():
        found = next((e for e in place if e.get("From") == a and e.get("To") == b), None)
        element = ElementTree.SubElement(place, "Transform", From=a, To=b) if found is None else found
        element.set("Matrix", " ".join(f"{x:.12g}" for x in matrix.ravel()))
    for name, lag in ours.lags_s.items():
        collection = root.find("DataCollection")
        collection = ElementTree.SubElement(root, "DataCollection") if collection is None else collection
        found = next((e for e in collection.iter("Device") if e.get("Id") == name), None)
        device = ElementTree.SubElement(collection, "Device", Id=name) if found is None else found
        device.set("LocalTimeOffsetSec", f"{-lag:.9g}")
    ElementTree.indent(root)
    whole.write_whole(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


# --- OpenCV and ROS --------------------------------------------------------------------------------------------------


def _camera_matrix(carm: CArm) -> Matrix:
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    distance = carm.source_to_detector_mm
    return np.array([[distance / su, 0, cu], [0, distance / sv, cv], [0, 0, 1]])


def _carm_of_matrix(camera: Matrix, width: int, height: int, spacing_mm: tuple[float, float] | None) -> CArm:
    """Of a camera matrix only the ratio of distance to pixel is known; without a spacing, pixels are 1 mm."""
    su, sv = spacing_mm or (1.0, float(camera[0, 0] / camera[1, 1]))
    return CArm(width, height, (su, sv), float(camera[0, 0]) * su, (float(camera[0, 2]), float(camera[1, 2])))


def _need_carm(ours: Exchanged, artifact: Artifact, path: Path) -> CArm:
    if ours.carm is None:
        raise ConfigError(f"{path}: this format holds cameras, not a {artifact.kind} calibration")
    model = artifact.result.get("distortion", {}).get("model", "none")
    if model != "none":
        raise ConfigError(
            f"{path}: this format has no words for the distortion ({model}); calibrate with --distortion none"
        )
    return ours.carm


def _read_opencv(path: Path) -> Exchanged:
    if not path.read_text().startswith("%YAML:1.0"):  # OpenCV's own error is none that can be caught
        raise ConfigError(f"{path}: no OpenCV FileStorage")
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    if not storage.isOpened():
        raise ConfigError(f"{path}: no OpenCV FileStorage")
    try:
        camera = storage.getNode("camera_matrix").mat()
        width, height = (int(storage.getNode(f"image_{name}").real()) for name in ("width", "height"))
        spacing = storage.getNode("pixel_spacing_mm").mat()
    finally:
        storage.release()
    if camera is None or camera.shape != (3, 3) or width <= 0 or height <= 0:
        raise ConfigError(f"{path}: needs camera_matrix, image_width and image_height")
    given = None if spacing is None else (float(spacing.ravel()[0]), float(spacing.ravel()[1]))
    return Exchanged(carm=_carm_of_matrix(camera, width, height, given))


def _write_opencv(ours: Exchanged, artifact: Artifact, path: Path) -> None:
    carm = _need_carm(ours, artifact, path)
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE | cv2.FILE_STORAGE_MEMORY)
    storage.write("image_width", carm.width_px)
    storage.write("image_height", carm.height_px)
    storage.write("camera_matrix", _camera_matrix(carm))
    storage.write("distortion_coefficients", np.zeros((1, 5)))
    storage.write("pixel_spacing_mm", np.array([carm.pixel_spacing_mm]))
    whole.write_whole(path, storage.releaseAndGetString().encode())


def _read_ros(path: Path) -> Exchanged:
    text = path.read_text()
    if text.startswith("%YAML:1.0"):
        return _read_opencv(path)
    given = yaml.safe_load(text)
    camera = np.array(given["camera_matrix"]["data"], np.float64).reshape(3, 3)
    spacing = given.get("pixel_spacing_mm")
    pair = None if spacing is None else (float(spacing[0]), float(spacing[1]))
    return Exchanged(carm=_carm_of_matrix(camera, int(given["image_width"]), int(given["image_height"]), pair))


def _write_ros(ours: Exchanged, artifact: Artifact, path: Path) -> None:
    carm = _need_carm(ours, artifact, path)
    camera = _camera_matrix(carm)

    def spelled(matrix: Matrix) -> dict[str, Any]:
        return {"rows": matrix.shape[0], "cols": matrix.shape[1], "data": [float(x) for x in matrix.ravel()]}

    content = {
        "image_width": carm.width_px, "image_height": carm.height_px, "camera_name": artifact.device or "carm",
        "camera_matrix": spelled(camera), "distortion_model": "plumb_bob",
        "distortion_coefficients": spelled(np.zeros((1, 5))), "rectification_matrix": spelled(np.eye(3)),
        "projection_matrix": spelled(np.concatenate([camera, np.zeros((3, 1))], axis=1)),
        "pixel_spacing_mm": list(carm.pixel_spacing_mm),
    }  # fmt: skip
    whole.write_whole(path, yaml.safe_dump(content, sort_keys=False).encode())


# --- Slicer ----------------------------------------------------------------------------------------------------------


def _read_markups(path: Path) -> Exchanged:
    found: dict[str, Matrix] = {}
    for markup in json.loads(path.read_text())["markups"]:
        lps = str(markup.get("coordinateSystem", "LPS")).upper() not in ("RAS", "0")
        for point in markup["controlPoints"]:
            if point.get("positionStatus", "defined") != "defined":
                continue
            at = np.array(point["position"], np.float64)
            found[str(point.get("label") or point["id"])] = g.transform(RAS_FROM_LPS, at) if lps else at
    return Exchanged(points_mm=found)


def _write_markups(ours: Exchanged, artifact: Artifact, path: Path) -> None:
    points = _need_points(ours, artifact, path)
    content = {
        "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
        "markups-schema-v1.0.3.json#",
        "markups": [
            {
                "type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm",
                "controlPoints": [
                    {"id": str(n + 1), "label": label, "position": g.transform(RAS_FROM_LPS, at).tolist(),
                     "positionStatus": "defined"}
                    for n, (label, at) in enumerate(points.items())
                ],
            }
        ],
    }  # fmt: skip
    whole.write_whole(path, msgspec.json.format(msgspec.json.encode(content), indent=1))


def _read_fcsv(path: Path) -> Exchanged:
    lps, found = True, {}  # Slicer 4.11 and later; older files say RAS
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            if "coordinatesystem" in line.lower():
                lps = line.split("=")[-1].strip().upper() not in ("RAS", "0")
            continue
        cells = line.split(",")
        if len(cells) < 12:
            continue
        at = np.array([float(x) for x in cells[1:4]])
        found[cells[11] or cells[0]] = g.transform(RAS_FROM_LPS, at) if lps else at
    return Exchanged(points_mm=found)


def _write_fcsv(ours: Exchanged, artifact: Artifact, path: Path) -> None:
    lines = ["# Markups fiducial file version = 4.11", "# CoordinateSystem = LPS",
             "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"]  # fmt: skip
    for n, (label, at) in enumerate(_need_points(ours, artifact, path).items()):
        if "," in label:
            raise ConfigError(f"{path}: the label {label!r} has a comma, which this format has no words for")
        x, y, z = g.transform(RAS_FROM_LPS, at)
        lines.append(f"{n + 1},{x:.9g},{y:.9g},{z:.9g},0,0,0,1,1,1,0,{label},,")
    whole.write_whole(path, ("\n".join(lines) + "\n").encode())


def _need_points(ours: Exchanged, artifact: Artifact, path: Path) -> Mapping[str, Matrix]:
    if not ours.points_mm:
        raise ConfigError(f"{path}: this format holds points, not a {artifact.kind} calibration")
    return ours.points_mm


# --- ITK -------------------------------------------------------------------------------------------------------------


def _read_itk(path: Path) -> Exchanged:
    """ITK's transforms resample: they go from where the result is to where it comes from, in LPS."""
    read = sitk.ReadTransform(str(path))
    while read.GetName() == "CompositeTransform" and sitk.CompositeTransform(read).GetNumberOfTransforms() == 1:
        read = sitk.CompositeTransform(read).GetNthTransform(0)
    if not read.IsLinear():
        raise ConfigError(f"{path}: no linear transform")
    origin = np.array(read.TransformPoint((0.0, 0.0, 0.0)))
    axes = [np.array(read.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)]
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = np.stack(axes, axis=1), origin
    return Exchanged({("A", "B"): RAS_FROM_LPS @ np.linalg.inv(lps) @ RAS_FROM_LPS})


def _write_itk(ours: Exchanged, artifact: Artifact, path: Path) -> None:
    if len(ours.transforms) != 1:
        raise ConfigError(f"{path}: this format holds one transform, not a {artifact.kind} calibration")
    (matrix,) = ours.transforms.values()
    lps = RAS_FROM_LPS @ np.linalg.inv(matrix) @ RAS_FROM_LPS
    made = sitk.AffineTransform(3)
    made.SetMatrix(lps[:3, :3].ravel().tolist())
    made.SetTranslation(lps[:3, 3].tolist())
    temporary = path.with_name(f".new.{path.name}")
    try:
        sitk.WriteTransform(made, str(temporary))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written ({str(error).strip().splitlines()[-1]})") from error


# --- read only -------------------------------------------------------------------------------------------------------


def _read_rom(path: Path) -> Exchanged:
    """Sphere positions of an NDI tool definition (little endian; markers from byte 72 on, their number at byte 28)."""
    content = path.read_bytes()
    if len(content) < _ROM_MARKERS or content[:3] != b"NDI" or len(content) > 4 * _ROM_BYTES:
        raise ConfigError(f"{path}: no NDI tool definition")
    if int.from_bytes(content[4:6], "little") != sum(content[6:]) & 0xFFFF:
        raise ConfigError(f"{path}: damaged (its checksum does not hold)")
    count = content[_ROM_COUNT]
    if not 0 < count <= _ROM_MOST or _ROM_MARKERS + 12 * count > len(content):
        raise ConfigError(f"{path}: {count} markers, 1 to {_ROM_MOST} are possible")
    markers = np.frombuffer(content, "<f4", 3 * count, _ROM_MARKERS).reshape(-1, 3).astype(np.float64)
    if not np.isfinite(markers).all() or np.abs(markers).max() > 1e4:
        raise ConfigError(f"{path}: damaged (markers that are nowhere)")
    return Exchanged(points_mm={str(n): at for n, at in enumerate(markers)})


def _read_dicom(path: Path) -> Exchanged:
    """A C-arm as an X-ray image states it (PS3.3, C.8.7.5): distance, pixel spacing, size, angles."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    reader.ReadImageInformation()

    def number(tag: str) -> list[float]:
        given = reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""
        return [float(part) for part in given.split("\\")] if given else []

    distance, spacing, size = number("0018|1110"), number("0018|1164"), reader.GetSize()
    if not distance or len(spacing) != 2:
        raise ConfigError(f"{path}: states no source-to-detector distance or no imager pixel spacing")
    width, height = int(size[0]), int(size[1])
    carm = CArm(width, height, (spacing[1], spacing[0]), distance[0], ((width - 1) / 2, (height - 1) / 2))
    angles = [number(tag) for tag in ("0018|1510", "0018|1511")]
    return Exchanged(carm=carm, angles_deg=(angles[0][0], angles[1][0]) if all(angles) else None)


_READERS = {
    ".xml": _read_plus, ".yml": _read_opencv, ".yaml": _read_ros, ".mrk.json": _read_markups, ".fcsv": _read_fcsv,
    ".tfm": _read_itk, ".h5": _read_itk, ".rom": _read_rom,
}  # fmt: skip
_WRITERS = {
    ".xml": _write_plus, ".yml": _write_opencv, ".yaml": _write_ros, ".mrk.json": _write_markups,
    ".fcsv": _write_fcsv, ".tfm": _write_itk, ".h5": _write_itk,
}  # fmt: skip
