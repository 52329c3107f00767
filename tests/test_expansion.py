"""Bombs: small files that state, or unpack to, more than any machine holds. Each is refused before it is unpacked."""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from calibration import exchange
from calibration.inputs import Files, array, stack
from navnode.errors import CalibrationError, ConfigError, RecordingError
from navnode.expansion import Budget, TooLargeError, deflated_bytes, inflated, load_arrays
from navnode.files.deflated import check_deflated
from navnode.files.views import read_counts, read_views
from navnode.files.volumes import read_volume
from navnode.reconstruction.training import packs
from navnode.recording import sequences
from navnode.xray.correction import read_flat_field

MIB = 1 << 20


@pytest.fixture(autouse=True)
def little_memory():
    """A bomb that is unpacked all the same ends the test, not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with Path("/proc/self/statm").open() as statm:
        held = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def npy_head(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_2_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
    return head.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return packed.getvalue()


def zeros(count_bytes: int, window_bits: int = 31) -> bytes:
    """So many zeros, packed."""
    packer, packed = zlib.compressobj(9, zlib.DEFLATED, window_bits), b""
    for _ in range(count_bytes // MIB):
        packed += packer.compress(bytes(MIB))
    return packed + packer.flush()


def test_parts_count_together():
    budget = Budget(10)
    budget.take(6)
    with pytest.raises(TooLargeError):
        budget.take(5)
    budget.take(4)
    for count in (1, -1, float("nan"), float("inf")):
        with pytest.raises(TooLargeError):
            budget.take(count)


def test_streams_are_counted_without_being_kept():
    several = gzip.compress(bytes(3 * MIB)) + gzip.compress(bytes(MIB))
    assert deflated_bytes(io.BytesIO(several), 47) == 4 * MIB
    with pytest.raises(TooLargeError):
        deflated_bytes(io.BytesIO(zeros(64 * MIB)), 47, 8 * MIB)
    assert inflated(zeros(64 * MIB), MIB) == bytes(MIB) and inflated(zeros(MIB), 0) == b""


@pytest.mark.parametrize(
    "content",
    [
        npy_head((1 << 40,)),
        npy_head((1 << 20, 1 << 20, 1 << 20)),
        npy_head((1 << 28,)) + bytes(100),
        archive({"a.npy": npy_head((1 << 36,))}),
        archive({"a.npy": npy_head((1 << 28,)) + bytes(64)}),
    ],
    ids=["1 D", "3 D", "states more than it holds", "packed", "packed, states more"],
)
def test_arrays_that_state_more_than_there_is(tmp_path, content):
    path = tmp_path / "bomb.npy"
    path.write_bytes(content)
    with pytest.raises(TooLargeError):
        load_arrays(content)
    with pytest.raises(ConfigError, match="bomb"):
        array(path, Files())
    with pytest.raises(ConfigError, match="bomb"):
        read_counts(path)
    with pytest.raises(CalibrationError, match="bomb"):
        read_flat_field(path)


def test_several_arrays_count_together():
    each = npy_head((MIB,), "|u1") + bytes(MIB)
    content = archive({f"{n}.npy": each for n in range(16)})
    assert len(load_arrays(content).files) == 16
    with pytest.raises(TooLargeError):
        load_arrays(content, 12 * MIB)


def test_a_pack_whose_parts_expand(tmp_path):
    shares = b"".join(packs.lzma.compress(bytes(MIB)) for _ in range(3))
    size = len(shares) // 3
    many = {f"{n}": {"shares": size, "shape": [1 << 27]} for n in range(3)}
    head = json.dumps(many).encode()
    (tmp_path / "bomb.pack").write_bytes(
        archive(
            {
                packs._INDEX: json.dumps({"schema": packs._SCHEMA}).encode(),
                f"{packs.FOLDERS[0]}/a{packs.TRAINS}": len(head).to_bytes(4, "little") + head + shares,
            }
        )
    )
    with pytest.raises(ConfigError, match="bomb"):
        packs.unpack(tmp_path / "bomb.pack", tmp_path / "out")


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha"])
def test_volumes_that_state_more_than_is_read(tmp_path, ending):
    small = tmp_path / f"small.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((16, 16, 16), -1000, np.int16)), str(small), ending != "nii")
    content = small.read_bytes()
    if ending == "nii.gz":
        content = gzip.decompress(content)
    if ending.startswith("nii"):
        content = content[:42] + struct.pack("<3h", 32_000, 32_000, 32_000) + content[48:]
    else:
        content = content.replace(b"16 16 16", b"32000 32000 32000")
    bomb = tmp_path / f"bomb.{ending}"
    bomb.write_bytes(gzip.compress(content) if ending == "nii.gz" else content)
    with pytest.raises(ConfigError, match="bomb"):
        read_volume(bomb)


def test_voxels_of_many_numbers_are_counted(tmp_path):
    head = "NRRD0004\ntype: double\ndimension: 4\nspace: left-posterior-superior\nsizes: 500 256 256 256\n"
    head += "kinds: vector domain domain domain\nspace directions: none (1,0,0) (0,1,0) (0,0,1)\nencoding: gzip\n\n"
    (tmp_path / "bomb.nrrd").write_bytes(head.encode() + zeros(MIB))
    with pytest.raises(ConfigError, match="bomb"):
        read_volume(tmp_path / "bomb.nrrd")


def test_a_nifti_that_ends_in_the_middle_of_its_stream_is_incomplete(tmp_path):
    whole = tmp_path / "whole.nii.gz"
    rng = np.random.default_rng(0)
    sitk.WriteImage(sitk.GetImageFromArray(rng.integers(-1000, 1000, (32, 32, 32)).astype(np.int16)), str(whole))
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(whole.read_bytes()[:20_000])
    with pytest.raises(ConfigError, match="cut"):
        read_volume(cut)


def dicom(data_set: bytes, syntax: bytes = b"1.2.840.10008.1.2.1.99") -> bytes:
    padded = syntax + b"\0" * (len(syntax) % 2)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(padded)) + padded
    version = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(version + element))
    return bytes(128) + b"DICM" + length + version + element + data_set


@pytest.mark.long
def test_deflated_dicom_files_count_together(tmp_path):
    for n in range(6):
        (tmp_path / f"{n}.dcm").write_bytes(dicom(zeros(8 * MIB, -15)))
    (tmp_path / "other.dcm").write_bytes(dicom(zeros(64 * MIB, -15), b"1.2.840.10008.1.2.1"))
    (tmp_path / "damaged.txt").write_bytes(bytes(50))
    files = sorted(tmp_path.iterdir())
    check_deflated(files, 48 * MIB)
    with pytest.raises(ConfigError, match=r"5\.dcm"):
        check_deflated(files, 47 * MIB)
    with pytest.raises(ConfigError, match=r"0\.dcm"):
        check_deflated(files, 7 * MIB)
    (tmp_path / "bomb.dcm").write_bytes(dicom(zeros(600 * MIB, -15)))
    with pytest.raises(ConfigError, match="bomb"):
        read_counts(tmp_path / "bomb.dcm")


def test_images_that_state_more_pixels_than_a_detector_has(tmp_path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zeros(16 * MIB, 15)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(body)
    with pytest.raises(ConfigError, match="bomb"):
        read_counts(tmp_path / "bomb.png")
    with pytest.raises(ConfigError, match="bomb"):
        stack(tmp_path, Files())


def test_views_count_together(tmp_path):
    carm = {
        "width_px": 4096,
        "height_px": 4096,
        "pixel_spacing_mm": [0.1, 0.1],
        "source_to_detector_mm": 1000.0,
        "principal_point_px": [2047.5, 2047.5],
    }
    views = [{"image": "a.png"}] * 200
    (tmp_path / "bomb.json").write_text(json.dumps({"schema": "navnode/views/1", "carm": carm, "views": views}))
    with pytest.raises(ConfigError, match=r"bomb.*together"):
        read_views(tmp_path / "bomb.json")


@pytest.mark.parametrize("encoding", ["gzip", "raw"])
def test_sequences_that_state_more_than_is_read(tmp_path, encoding):
    head = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 60000 60000 60000\nencoding: {encoding}\n\n"
    (tmp_path / "bomb.nrrd").write_bytes(head.encode() + zeros(MIB))
    with pytest.raises(RecordingError, match="bomb"):
        sequences.read(tmp_path / "bomb.nrrd")


LAUGHS = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
ENTITIES = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 9}">' for n in range(1, 12))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bomb.yaml", f"l0: &l0 [1]\n{LAUGHS}camera_matrix: {{data: *l11}}\nimage_width: 3\nimage_height: 3\n"),
        ("bomb.xml", f'<!DOCTYPE a [<!ENTITY l0 "ha">{ENTITIES}]><PlusConfiguration>&l11;</PlusConfiguration>'),
        ("bomb.h5", "\0" * (2 * MIB)),
    ],
)
def test_a_few_lines_that_repeat_themselves(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match="bomb"):
        exchange.read(tmp_path / name)
