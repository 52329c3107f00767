"""X-rays on disk: counts as they were measured, or a refusal; a display's attributes change no number."""

from __future__ import annotations

import logging
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from navnode.errors import ConfigError
from navnode.files.xrays import read_array, read_counts
from tests.files.made import xray

COUNTS = np.random.default_rng(1).integers(100, 4000, (20, 24)).astype(np.uint16)


def table(values, first=0):
    lut = Dataset()
    lut.LUTDescriptor = [len(values), first, 16]
    lut["LUTDescriptor"].VR = "US"
    lut.LUTData = [int(v) for v in values]
    lut["LUTData"].VR = "US"
    lut.ModalityLUTType = "US"
    return {"ModalityLUTSequence": Sequence([lut])}


DOUBLED = np.arange(4096) * 2


@pytest.mark.parametrize(
    ("counts", "more", "wanted", "line"),
    [
        (COUNTS, {}, COUNTS, ""),
        (COUNTS, {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": 1}, COUNTS, ""),
        (COUNTS, {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": "9", "WindowWidth": "3"}, COUNTS, ""),
        (COUNTS, {"BitsStored": 12, "HighBit": 11}, COUNTS, ""),
        (COUNTS << 4, {"BitsStored": 12, "HighBit": 15}, COUNTS, "4 bits up"),
        (COUNTS | 0xF000, {"BitsStored": 12, "HighBit": 11}, COUNTS, "more than the 12 bits"),
        (COUNTS * 16, {"BitsStored": 12, "HighBit": 11}, COUNTS * 16 % 4096, "more than the 12 bits"),
        (np.int16(COUNTS % 2048), {"BitsStored": 12, "HighBit": 11}, COUNTS % 2048, ""),
        (COUNTS.astype(np.int16), {}, COUNTS, ""),
        (COUNTS, {"PixelIntensityRelationship": "SQRT"}, COUNTS.astype(float) ** 2, "squared"),
        (COUNTS, {"RescaleSlope": "0.5", "RescaleIntercept": "3"}, COUNTS * 0.5 + 3, "RescaleSlope"),
        (COUNTS, table(DOUBLED), COUNTS * 2, "Modality LUT"),
        (COUNTS, table(DOUBLED[100:], 100) | {"PixelIntensityRelationship": "LOG"}, COUNTS * 2, "Modality LUT"),
    ],
)
@pytest.mark.parametrize("name", ["x.dcm", "1.2.840.10008.77", "frame.001", "IM0001"])
def test_counts_of_dicom(tmp_path, caplog, counts, more, wanted, line, name):
    caplog.set_level(logging.WARNING)
    found = read_counts(xray(tmp_path / name, counts, **more))
    assert np.array_equal(found, wanted)
    assert line in caplog.text and len(caplog.records) == bool(line)


@pytest.mark.parametrize(
    ("counts", "more", "reason"),
    [
        (COUNTS, {"PixelIntensityRelationship": "LOG"}, "LOG: not counts"),
        (COUNTS, {"PixelIntensityRelationship": "DISP"}, "DISP"),
        (COUNTS, {"PixelIntensityRelationshipSign": -1}, "less radiation"),
        (COUNTS, {"RescaleSlope": "-1", "RescaleIntercept": "4095"}, "not positive"),
        (COUNTS, {"SamplesPerPixel": 3}, "3 samples"),
        (COUNTS, {"Modality": "MR"}, "modality is MR"),
        (COUNTS, {"Rows": 21}, "bytes of pixels"),
        (COUNTS, {"NumberOfFrames": 2}, "bytes of pixels"),
        (np.stack([COUNTS, COUNTS]), {"NumberOfFrames": 2}, "2 frames"),
        (COUNTS, {"BitsStored": 17}, "cannot be"),
        (COUNTS, {"HighBit": 3}, "cannot be"),
        ((COUNTS.astype(int) - 2000).astype(np.int16), {}, "negative"),
    ],
)
def test_what_is_no_counts_in_dicom(tmp_path, counts, more, reason):
    with pytest.raises(ConfigError, match=rf"x\.001.*{reason}"):
        read_counts(xray(tmp_path / "x.001", counts, **more))


@pytest.mark.parametrize(
    ("more", "wanted", "line"),
    [
        ({"FieldOfViewHorizontalFlip": "NO", "FieldOfViewRotation": 0}, COUNTS, ""),
        ({"FieldOfViewHorizontalFlip": "YES"}, COUNTS[:, ::-1], "flipped back"),
        ({"FieldOfViewRotation": 90}, np.rot90(COUNTS), "turned back"),
        ({"FieldOfViewRotation": 180}, COUNTS[::-1, ::-1], "turned back"),
        ({"FieldOfViewRotation": 270}, np.rot90(COUNTS, -1), "turned back"),
    ],
)
def test_what_was_turned_since_it_was_taken_is_turned_back(tmp_path, caplog, more, wanted, line):
    """A picture that was turned clockwise is turned counter-clockwise."""
    caplog.set_level(logging.WARNING)
    assert np.array_equal(read_counts(xray(tmp_path / "x.dcm", COUNTS, **more)), wanted)
    assert line in caplog.text and len(caplog.records) == bool(line)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"FieldOfViewRotation": 45}, "45 degrees"),
        ({"FieldOfViewRotation": 90, "FieldOfViewHorizontalFlip": "YES"}, "turned and flipped"),
        ({"FieldOfViewRotation": 90, "ImagerPixelSpacing": [0.2, 0.3]}, "oblong"),
    ],
)
def test_what_cannot_be_turned_back_is_not_read(tmp_path, more, reason):
    with pytest.raises(ConfigError, match=reason):
        read_counts(xray(tmp_path / "x.dcm", COUNTS, **more))


def test_padding_is_no_counts(tmp_path, caplog):
    counts = COUNTS.copy()
    counts[:3] = 4095
    found = read_counts(xray(tmp_path / "x.dcm", counts, PixelPaddingValue=4095))
    assert (found[:3] == 0).all() and np.array_equal(found[3:], COUNTS[3:]) and "PixelPaddingValue" in caplog.text


# --- PNG, TIFF, .npy -------------------------------------------------------------------------------------------------


def small_png(bits):
    """Grey, 8 x 8, of less than 8 bits a pixel, which OpenCV scales to 255."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress((b"\0" + bytes(range(bits))) * 8)),
        (b"IEND", b""),
    ]
    rows = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(rows)


def png(path, *chunks, pixels=COUNTS):
    content = cv2.imencode(".png", pixels)[1].tobytes()
    added = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    path.write_bytes(content[:33] + added + content[33:])
    return path


def exif(orientation):
    return b"eXIf", b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 274, 3, 1, orientation, 0) + b"\0\0\0\0"


def test_pictures_are_read_as_stored(tmp_path):
    assert np.array_equal(read_counts(png(tmp_path / "a.png")), COUNTS)
    assert np.array_equal(read_counts(png(tmp_path / "a.000", exif(1))), COUNTS)
    for n, more in enumerate([{}, {"compression": "zlib"}, {"bigtiff": True}, {"byteorder": ">"}]):
        tifffile.imwrite(tmp_path / f"{n}.tif", COUNTS, **more)
        assert np.array_equal(read_counts(tmp_path / f"{n}.tif"), COUNTS)
    tifffile.imwrite(tmp_path / "imagej.tif", COUNTS, imagej=True)
    assert np.array_equal(read_counts(tmp_path / "imagej.tif"), COUNTS)
    tifffile.imwrite(tmp_path / "white.tif", COUNTS, photometric="miniswhite")
    assert np.array_equal(read_counts(tmp_path / "white.tif"), COUNTS)
    np.save(tmp_path / "a.npy", COUNTS)
    assert np.array_equal(read_counts(tmp_path / "a.npy"), COUNTS)


def _flip(content, place):
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: png(p, exif(6)), "orientation tag .6"),
        (lambda p: png(p, pixels=np.dstack([COUNTS] * 3)), "one value per pixel"),
        (lambda p: p.write_bytes(_flip(png(p).read_bytes(), 200)), "checksum"),
        (lambda p: p.write_bytes(png(p).read_bytes()[:-20]), "incomplete"),
        (lambda p: tifffile.imwrite(p, COUNTS, extratags=[(274, "H", 1, 3, True)]), "orientation tag .3"),
        (lambda p: tifffile.imwrite(p, np.stack([COUNTS, COUNTS]), photometric="minisblack"), "2 pages"),
        (lambda p: tifffile.imwrite(p, np.stack([COUNTS] * 3), imagej=True, truncate=True), "3 pictures in one page"),
        (lambda p: tifffile.imwrite(p, np.dstack([COUNTS] * 3), photometric="rgb"), "3 samples"),
        (lambda p: tifffile.imwrite(p, (COUNTS >> 4).astype(np.uint8), photometric="miniswhite"), "white is zero"),
        (lambda p: tifffile.imwrite(p, (COUNTS / 1000).astype(np.float32)), "line integrals"),
        (lambda p: p.write_bytes(b"II*\0\x08\0\0\0"), "damaged|not PNG"),
        (lambda p: p.write_bytes(b"text"), "not PNG"),
        (lambda p: p.write_bytes(cv2.imencode(".jpg", COUNTS >> 4)[1].tobytes()), "not PNG"),
        (lambda p: p.write_bytes(cv2.imencode(".jpg", COUNTS >> 4)[1].tobytes()[:600]), "not PNG"),
        (lambda p: p.write_bytes(cv2.imencode(".bmp", COUNTS >> 4)[1].tobytes()), "not PNG"),
        (lambda p: p.write_bytes(cv2.imencode(".pgm", COUNTS)[1].tobytes()), "not PNG"),
        (lambda p: p.write_bytes(small_png(1)), "1 bits a pixel, not 8 or 16"),
        (lambda p: p.write_bytes(small_png(2)), "2 bits a pixel"),
        (lambda p: p.write_bytes(small_png(4)), "4 bits a pixel"),
        (lambda p: tifffile.imwrite(p, (COUNTS >> 2).astype(np.float16)), "floating-point numbers of 16 bits"),
        (lambda p: tifffile.imwrite(p, COUNTS.astype(np.uint32)), "unsigned whole numbers of 32 bits"),
        (lambda p: np.save(p.open("wb"), np.where(COUNTS > 0, np.nan, 1.0)), "NaN or infinite"),
        (lambda p: p.write_bytes(b""), "not PNG|cannot be read"),
    ],
)
def test_pictures_that_are_no_counts(tmp_path, make, reason):
    make(tmp_path / "x.img")
    with pytest.raises(ConfigError, match=rf"x\.img.*({reason})"):
        read_counts(tmp_path / "x.img")


def test_line_integrals_are_no_counts_but_shares_of_a_stated_beam_are(tmp_path):
    np.save(tmp_path / "x.npy", COUNTS / 4000)
    with pytest.raises(ConfigError, match="line integrals"):
        read_counts(tmp_path / "x.npy")
    assert np.array_equal(read_counts(tmp_path / "x.npy", 1.0), COUNTS / 4000)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 9999999999), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 4), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 4), }",
        "{'descr': '<f8', 'shape': (2, 1), }",
        "(" * 3000,
        "nothing",
    ],
)
def test_arrays_with_impossible_headers(tmp_path, header):
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + bytes(16))
    for read in (read_counts, lambda p: read_array(p, 1 << 40)):
        with pytest.raises(ConfigError, match=r"x\.npy"):
            read(path)
