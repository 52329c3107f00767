"""The same bytes as the reference implementation's, for every type that it has."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from navnode.igtl import (
    Attribute,
    Bind,
    Capability,
    ColorTable,
    Get,
    Image,
    ImageMeta,
    ImageMetaElement,
    LabelMeta,
    LabelMetaElement,
    Message,
    NDArray,
    Point,
    PointElement,
    PolyData,
    Position,
    QuaternionElement,
    QuaternionTrackingData,
    Ready,
    Sensor,
    Start,
    StatusMessage,
    Stop,
    String,
    TrackedElement,
    TrackingData,
    Trajectory,
    TrajectoryElement,
    Transform,
    cells,
    decode,
    encode,
)
from navnode.igtl.wire import HEADER_SIZE
from tests.conftest import SHARED, needs_cpp, peer_program

STAMP = {"timestamp_ns": 1_700_000_000_500_000_000, "stamp": 1_700_000_000 << 32 | 0x7FFFFFFF}
"""Half a second, as the C++ library rounds it."""
COMMON = {"device": "Device", **STAMP}
MATRIX = np.vstack([0.5 * np.arange(1, 13).reshape(3, 4), [0, 0, 0, 1]])


def _image(dtype: str, components: int = 1) -> Image:
    shape = (2, 3, 4, components) if components > 1 else (2, 3, 4)
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    voxels = (np.arange(count) % 63).astype(np.uint8).view(dtype).reshape(shape)
    return Image(voxels=voxels, ras_from_index=_ras_from_index(), big_endian=True, **COMMON)


def _ras_from_index() -> np.ndarray:
    """The C++ library's origin is the image's centre."""
    ras_from_index = np.diag([1.0, 2.0, 4.0, 1.0])
    ras_from_index[:3, 3] = np.array([10.0, 20.0, 30.0]) - np.array([1.0, 2.0, 4.0]) * (np.array([4, 3, 2]) - 1) / 2
    return ras_from_index


def _part() -> Image:
    voxels = (np.arange(8) % 63).astype(np.uint8).view(">u2").reshape(1, 2, 2)
    where = {"size": (4, 3, 2), "offset": (1, 1, 1)}
    return Image(voxels=voxels, ras_from_index=_ras_from_index(), big_endian=True, **where, **COMMON)


def _surface() -> PolyData:
    points = np.array([[i, 0.5 * i, -i] for i in range(5)], np.float32)
    return PolyData(
        points_mm=points,
        vertices=cells([(4,)]),
        lines=cells([(0, 1), (0, 1, 2)]),
        polygons=cells([(0, 1, 2), (3, 2, 1, 0)]),
        strips=cells([(3, 2, 1, 0)]),
        attributes=(
            Attribute("heat", 0.25 * np.arange(5, dtype=np.float32)[:, None]),
            Attribute("v", np.array([[0, 1, 0], [0, 1, 1]], np.float32), Attribute.VECTORS),
        ),
        **COMMON,
    )


def _meta() -> tuple[Message, Message]:
    image = ImageMetaElement(
        "Chest", "CT1", "CT", "Nobody", "0", STAMP["timestamp_ns"], STAMP["stamp"], (512, 256, 64), 4
    )
    label = LabelMetaElement("Spine", "Labels", 7, (10, 20, 30, 40), (64, 32, 16), "CT1")
    return ImageMeta(images=(image,), **COMMON), LabelMeta(labels=(label,), **COMMON)


def expected() -> dict[str, Message]:
    """The messages that tests/peers/vectors.cpp writes."""
    image_meta, label_meta = _meta()
    turned = QuaternionElement
    return {
        "transform": Transform(matrix=MATRIX, **COMMON),
        "position": Position(position_mm=(1, -2, 3.5), quaternion=(0.5, 0.5, -0.5, 0.5), **COMMON),
        "tdata": TrackingData(elements=(TrackedElement("Tool0", MATRIX), TrackedElement("Tool1", MATRIX)), **COMMON),
        "qtdata": QuaternionTrackingData(
            elements=tuple(turned(f"Tool{i}", (1, 2, 3), (0.5, -0.5, 0.5, 0.5), 3) for i in range(2)), **COMMON
        ),
        "point": Point(points=(PointElement("Entry", (1, 2, 3), "Landmark", (1, 2, 3, 4), 2.5, "Image"),), **COMMON),
        "trajectory": Trajectory(
            trajectories=(TrajectoryElement("Screw", (1, 2, 3), (4, 5, 6), "Plan", 3, (9, 8, 7, 6), 3.25, "CT"),),
            **COMMON,
        ),
        "status": StatusMessage(code=13, subcode=-3, error_name="NotReady", text="warming up", **COMMON),
        "string": String(text="hello", **COMMON),
        "capability": Capability(types=("IMAGE", "TRANSFORM"), **COMMON),
        "get_transform": Get(kind="TRANSFORM", **COMMON),
        "get_polydata": Get(kind="POLYDATA", **COMMON),
        "get_imgmeta": Get(kind="IMGMETA", **COMMON),
        "start_tdata": Start(kind="TDATA", resolution_ms=40, coordinate_name="Patient", **COMMON),
        "stop_tdata": Stop(kind="TDATA", **COMMON),
        "ready_tdata": Ready(kind="TDATA", status=0, **COMMON),
        "sensor": Sensor(values=np.array([0.0, 1.5, 3.0]), **COMMON),
        "ndarray": NDArray(array=np.arange(6, dtype=np.float32).reshape(2, 3), **COMMON),
        "colors": ColorTable(table=(np.arange(256) * 257).astype(np.uint16), **COMMON),
        "imgmeta": image_meta,
        "lbmeta": label_meta,
        "bind": Bind(children=(String(device="Odd", text="xyz"), Transform(device="T", matrix=MATRIX)), **COMMON),
        "polydata": _surface(),
        "image_u8": _image("u1"),
        "image_i16": _image(">i2"),
        "image_u16_rgb": _image(">u2", 3),
        "image_f32": _image(">f4"),
        "image_f64": _image(">f8"),
        "image_part": _part(),
    }


# Bytes of the body that the specification reserves: release 1.11 leaves in them whatever memory held.
RESERVED = {"imgmeta": (259,), "lbmeta": (85,), "qtdata": (21, 71)}


@pytest.fixture(scope="session")
def cpp_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    subprocess.run([peer_program("vectors"), folder], check=True)
    return folder


@needs_cpp
@pytest.mark.parametrize("name", sorted(expected()))
def test_the_same_bytes_as_the_cpp_library(cpp_vectors, name):
    theirs = bytearray((cpp_vectors / f"{name}.bin").read_bytes())
    again = bytearray(encode(decode(bytes(theirs))))
    ours = bytearray(encode(expected()[name]))
    if name in RESERVED:  # and the checksum over them
        for wire in (theirs, again, ours):
            for at in RESERVED[name]:
                wire[HEADER_SIZE + at] = 0
            wire[HEADER_SIZE - 8 : HEADER_SIZE] = bytes(8)
    assert ours == theirs
    assert again == theirs


VECTORS = SHARED / "igtl_vectors"


def _reference() -> list[dict[str, object]]:
    if not VECTORS.exists():
        return []
    return [entry for entry in json.loads((VECTORS / "index.json").read_text()) if entry["crc_ok"]]


@pytest.mark.skipif(not VECTORS.exists(), reason="the reference vectors are not beside this checkout")
@pytest.mark.parametrize("entry", _reference(), ids=lambda entry: entry["name"])
def test_the_vectors_of_the_reference_implementation(entry):
    wire = (VECTORS / entry["file"]).read_bytes()
    message = decode(wire)
    assert (message.type, message.device, message.version) == (entry["type"], entry["device"], entry["header_version"])
    assert encode(message) == wire


@pytest.mark.skipif(not VECTORS.exists(), reason="the reference vectors are not beside this checkout")
def test_what_the_vectors_of_the_reference_implementation_mean():
    def read(name: str) -> Message:
        return decode((VECTORS / f"{name}.bin").read_bytes())

    surface, video, position = read("polydata"), read("videometa"), read("positionFormat2")
    assert surface.points_mm.shape == (8, 3) and surface.triangles.shape == (12, 3)  # six quadrilaterals
    assert surface.attributes[0].name == "attr" and surface.attributes[0].values[7, 0] == 7
    assert [v.zoom_level for v in video.videos] == [4, -2, 0] and video.videos[0].focal_length == 50
    assert position.message_id == 1 and position.metadata["First patient age"] == "22"
    bundle = read("bind")
    assert [child.type for child in bundle.children] == ["TRANSFORM", "IMAGE", "SENSOR"]
    assert bundle.children[1].voxels.shape == (1, 50, 50)
    assert np.allclose(bundle.children[0].matrix, read("transform").matrix)
