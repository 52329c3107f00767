"""Damaged files of every kind that is read: each is read, or refused by an error that names it. Nothing else happens.

NAVNODE_FUZZ_FILES and NAVNODE_FUZZ_SEED choose more cases, and others.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from calibration import exchange
from calibration.inputs import Files, array
from navnode.errors import NavError
from navnode.files.views import read_counts, read_views
from navnode.files.volumes import read_mesh, read_volume
from navnode.recording import sequences
from navnode.xray.correction import read_flat_field

CASES = int(os.environ.get("NAVNODE_FUZZ_FILES", "60"))
"""Of each kind."""
SEED = int(os.environ.get("NAVNODE_FUZZ_SEED", "1"))


def _image(ending: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rng = np.random.default_rng(0)
        voxels = rng.integers(-1000, 1000, (10, 12, 14)).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path), ending != "nii")

    return write


def _png(path: Path) -> None:
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 60_000, (20, 30)).astype(np.uint16))


def _dicom(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((1, 20, 30), np.uint16)), str(path))


def _npy(path: Path) -> None:
    np.save(path, np.arange(600, dtype=np.uint16).reshape(20, 30))


def _flat(path: Path) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, dark=np.zeros((8, 8)), gain=np.ones((8, 8)), bad=np.zeros((8, 8), bool))
    path.write_bytes(content.getvalue())


def _views(path: Path) -> None:
    carm = {
        "width_px": 30,
        "height_px": 20,
        "pixel_spacing_mm": [0.1, 0.1],
        "source_to_detector_mm": 1000.0,
        "principal_point_px": [14.5, 9.5],
    }
    views = [{"image": "a.png", "volume_from_carm": np.eye(4).tolist()}]
    path.write_text(json.dumps({"schema": "navnode/views/1", "carm": carm, "views": views}))


def _sequence(path: Path) -> None:
    head = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 3\nencoding: raw\n\n"
    path.write_bytes(head.encode() + bytes(48))


def _mesh(path: Path) -> None:
    import trimesh

    trimesh.creation.icosphere(1).export(path)


_XML = "<PlusConfiguration><Transform From='a' To='b' Matrix='1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1'/></PlusConfiguration>"
_YAML = (
    "image_width: 30\nimage_height: 20\ncamera_matrix: {rows: 3, cols: 3, data: [900, 0, 15, 0, 900, 10, 0, 0, 1]}\n"
)

KINDS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "a.nii": (_image("nii"), read_volume),
    "a.nii.gz": (_image("nii.gz"), read_volume),
    "a.nrrd": (_image("nrrd"), read_volume),
    "a.mha": (_image("mha"), read_volume),
    "a.png": (_png, read_counts),
    "a.tif": (_png, read_counts),
    "a.dcm": (_dicom, read_counts),
    "a.npy": (_npy, lambda path: array(path, Files())),
    "b.npy": (_npy, read_counts),
    "a.npz": (_flat, read_flat_field),
    "a.json": (_views, read_views),
    "b.nrrd": (_sequence, sequences.read),
    "a.ply": (_mesh, read_mesh),
    "a.stl": (_mesh, read_mesh),
    "a.xml": (lambda path: path.write_text(_XML), exchange.read),
    "a.yaml": (lambda path: path.write_text(_YAML), exchange.read),
}


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut out, repeated, or the end missing; more often near the head."""
    content = bytearray(whole)
    for _ in range(int(rng.integers(1, 6))):
        near = min(len(content), 400) if rng.random() < 0.7 else len(content)
        at, length = int(rng.integers(0, max(1, near))), int(rng.integers(1, 9))
        match int(rng.integers(0, 5)):
            case 0:
                content[at : at + length] = rng.bytes(length)
            case 1:
                del content[at : at + length]
            case 2:
                content[at:at] = content[at : at + 8 * length]
            case 3:
                content[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", b"9999"])
            case _:
                content = content[: max(at, 1)] if rng.random() < 0.3 else content
    return bytes(content)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_read_or_named(tmp_path, name):
    write, read = KINDS[name]
    path, rng = tmp_path / name, np.random.default_rng(SEED)
    write(path)
    whole, refused = path.read_bytes(), 0
    for case in range(CASES):
        content = damaged(whole, rng)
        path.write_bytes(content)
        try:
            read(path)
        except NavError as error:
            assert name in str(error), f"case {case}: {error}"
            refused += 1
        except Exception as error:
            raise AssertionError(f"case {case} of seed {SEED}: {type(error).__name__}: {error}") from error
    print(f"{name}: {CASES} cases, {refused} refused")
    assert refused
