"""Sequences of all kinds that PLUS records: an import holds what IGSIO's reader would hold, or is refused in words."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from navnode.errors import RecordingError
from navnode.files.dicom_read import kept_locale
from navnode.igtl import Image, Transform
from navnode.recording import Recording, sequences
from tests.conftest import SHARED
from tests.invoke import call

N, H, W = 5, 6, 8
FRAMES = np.random.default_rng(2).integers(0, 255, (N, H, W)).astype(np.uint8)
POSES = [np.array([[1, 0, 0, n], [0, 0, -1, 2], [0, 1, 0, 3], [0, 0, 0, 1.0]]) for n in range(N)]


def mha(path, pixels=FRAMES, drop=(), frame_fields=None, **more):
    """A MetaImage as PLUS writes it."""
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "DimSize": f"{W} {H} {N}",
        "ElementSpacing": "0.5 0.25 1",
        "ElementType": "MET_UCHAR",
        "Kinds": "domain domain list",
        "Offset": "0 0 0",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "UltrasoundImageOrientation": "MF",
        "UltrasoundImageType": "BRIGHTNESS",
    } | more
    lines = [f"{key} = {value}" for key, value in fields.items() if key not in drop]
    for n in range(N):
        own = {
            "ProbeToTrackerTransform": " ".join(f"{x:g}" for x in POSES[n].ravel()),
            "ProbeToTrackerTransformStatus": "OK",
            "Timestamp": f"{10 + n / 20:.3f}",
            "ImageStatus": "OK",
        } | (frame_fields(n) if frame_fields else {})
        lines += [f"Seq_Frame{n:04}_{key} = {value}" for key, value in own.items() if value is not None]
    data = pixels if isinstance(pixels, bytes) else np.ascontiguousarray(pixels).tobytes()
    path.write_bytes("\n".join([*lines, "ElementDataFile = LOCAL", ""]).encode() + data)
    return path


def nrrd(path, pixels=FRAMES, kinds="domain domain list", sizes=f"{W} {H} {N}", **more):
    fields = {
        "type": "uint8",
        "dimension": str(len(sizes.split())),
        "sizes": sizes,
        "kinds": kinds,
        "encoding": "raw",
        "endian": "little",
    } | {key.replace("_", " "): value for key, value in more.items()}
    lines = ["NRRD0004", *(f"{key}: {value}" for key, value in fields.items() if value), "Seq_Frame0000_Timestamp:=1"]
    lines += ["Seq_Frame0000_Status:=OK"]
    lines += [f"Seq_Frame{n:04}_Timestamp:={1 + n}" for n in range(1, N)] if "list" in kinds else []
    data = pixels if isinstance(pixels, bytes) else np.ascontiguousarray(pixels).tobytes()
    path.write_bytes("\n".join([*lines, "", ""]).encode() + data)
    return path


RGB = np.random.default_rng(3).integers(0, 255, (N, H, W, 3)).astype(np.uint8)
PAIRS = FRAMES.reshape(N, H // 2, 2 * W)[:, :, ::-1].reshape(N, H, W)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, FRAMES),
        ({"UltrasoundImageOrientation": "MFA"}, FRAMES),
        ({"UltrasoundImageOrientation": "MN"}, FRAMES[:, ::-1]),
        ({"UltrasoundImageOrientation": "MND"}, FRAMES[:, ::-1]),
        ({"UltrasoundImageOrientation": "UF"}, FRAMES[:, :, ::-1]),
        ({"UltrasoundImageOrientation": "UNA"}, FRAMES[:, ::-1, ::-1]),
        ({"UltrasoundImageOrientation": "FM", "UltrasoundImageType": "RF_REAL"}, FRAMES),
        ({"UltrasoundImageOrientation": "NM", "UltrasoundImageType": "RF_IQ_LINE"}, FRAMES[:, :, ::-1]),
        ({"UltrasoundImageOrientation": "FU", "UltrasoundImageType": "RF_REAL"}, FRAMES[:, ::-1]),
        ({"UltrasoundImageOrientation": "NM", "UltrasoundImageType": "RF_I_LINE_Q_LINE"}, PAIRS),
        ({"pixels": RGB, "ElementNumberOfChannels": "3", "UltrasoundImageType": "RGB_COLOR"}, RGB),
        (
            {
                "pixels": RGB,
                "ElementNumberOfChannels": "3",
                "DimSize": f"3 {W} {H} {N}",
                "NDims": "4",
                "Kinds": "vector domain domain list",
            },
            RGB,
        ),
        ({"DimSize": f"{W} {H} 1 {N}", "NDims": "4", "Kinds": "domain domain domain list"}, FRAMES),
        ({"pixels": zlib.compress(FRAMES.tobytes()), "CompressedData": "True"}, FRAMES),
        (
            {"pixels": FRAMES.astype(">i2").tobytes(), "ElementType": "MET_SHORT", "BinaryDataByteOrderMSB": "True"},
            FRAMES,
        ),
        ({"drop": ("Kinds",)}, FRAMES),
    ],
)
def test_pictures_of_metaimages(tmp_path, more, wanted):
    found = sequences.read(mha(tmp_path / "s.igs.mha", **more))
    assert np.array_equal(found.frames, wanted) and found.pictured.all()
    assert np.allclose(found.times_s, 10 + np.arange(N) / 20)
    assert all(np.array_equal(a, b) for a, b in zip(found.transforms["ProbeToTracker"], POSES, strict=True))


@pytest.mark.parametrize(
    ("more", "wanted", "spacing"),
    [
        ({}, FRAMES, (1, 1)),
        ({"ultrasound_image_orientation": "MN"}, FRAMES[:, ::-1], (1, 1)),
        (
            {"space_dimension": "2", "space_directions": "(0,0.4) (-0.2,0) none", "space_origin": "(0,0)"},
            FRAMES,
            (0.4, 0.2),
        ),
        ({"spacings": "0.3 0.2 nan"}, FRAMES, (0.3, 0.2)),
        ({"spacings": "0.03 0.02 nan", "units": '"cm" "cm" ""'}, FRAMES, (0.3, 0.2)),
        ({"pixels": gzip.compress(FRAMES.tobytes()), "encoding": "gzip"}, FRAMES, (1, 1)),
        ({"pixels": FRAMES.transpose(1, 2, 0), "kinds": "list domain domain", "sizes": f"{N} {W} {H}"}, FRAMES, (1, 1)),
        ({"pixels": RGB, "kinds": "vector domain domain list", "sizes": f"3 {W} {H} {N}"}, RGB, (1, 1)),
        ({"pixels": RGB[0], "kinds": "vector domain domain", "sizes": f"3 {W} {H}"}, RGB[:1], (1, 1)),
        ({"pixels": FRAMES[0], "kinds": "domain domain", "sizes": f"{W} {H}"}, FRAMES[:1], (1, 1)),
        ({"kinds": "domain domain domain list", "sizes": f"{W} {H} 1 {N}"}, FRAMES, (1, 1)),
    ],
)
def test_pictures_of_nrrds(tmp_path, more, wanted, spacing):
    if "ultrasound_image_orientation" in more:
        more = {"kinds": f"domain domain list\nultrasound image orientation:={more['ultrasound_image_orientation']}"}
    path = nrrd(tmp_path / "s.igs.nrrd", **more)
    found = sequences.read(path)
    assert np.array_equal(found.frames, wanted) and found.spacing_mm == pytest.approx(spacing)


@pytest.mark.parametrize("packed", [False, True])
def test_pixels_beside_the_header(tmp_path, packed):
    image = sitk.GetImageFromArray(FRAMES)
    with kept_locale():
        sitk.WriteImage(image, str(tmp_path / "s.mhd"), packed)
    assert np.array_equal(sequences.read(tmp_path / "s.mhd").frames, FRAMES)
    beside = tmp_path / ("s.zraw" if packed else "s.raw")
    beside.write_bytes(beside.read_bytes()[:-5])
    with pytest.raises(RecordingError, match=r"s\.z?raw: (truncated|incomplete)"):
        sequences.read(tmp_path / "s.mhd")


def _field(key, value, of=None):
    return lambda n: {key: value} if of in (None, n) else {}


def test_poses_alone_come_and_go(tmp_path):
    path = mha(
        tmp_path / "s.igs.mha",
        b"",
        DimSize=f"0 0 {N}",
        ElementType="MET_OTHER",
        UltrasoundImageOrientation="XX",
        frame_fields=_field("ImageStatus", "INVALID"),
    )
    assert call("import", path, "--out", tmp_path / "s.mcap")[0] == 0
    messages = [e.content for e in Recording(tmp_path / "s.mcap").entries()]
    assert len(messages) == N and all(isinstance(m, Transform) for m in messages)
    assert call("export", tmp_path / "s.mcap", "--out", tmp_path / "back.igs.mha")[0] == 0
    back = sequences.read(tmp_path / "back.igs.mha")
    assert back.frames.shape == (N, 0, 0) and not back.pictured.any()
    assert all(np.allclose(a, b) for a, b in zip(back.transforms["ProbeToTracker"], POSES, strict=True))
    assert call("export", tmp_path / "s.mcap", "--out", tmp_path / "back.nrrd")[0] == 1


def test_statuses_and_missing_pictures_stay(tmp_path):
    statuses = ["OK", "MISSING", "OUT_OF_VIEW", "INVALID", "OK"]
    path = mha(
        tmp_path / "s.igs.mha",
        frame_fields=lambda n: {
            "ProbeToTrackerTransformStatus": statuses[n],
            "ImageStatus": "INVALID" if n == 1 else "OK",
        },
    )
    assert call("import", path, "--out", tmp_path / "s.mcap")[0] == 0
    messages = [e.content for e in Recording(tmp_path / "s.mcap").entries()]
    assert [m.metadata["TransformStatus"] for m in messages if isinstance(m, Transform)] == statuses
    pictures = [m.voxels[0] for m in messages if isinstance(m, Image)]
    assert np.array_equal(pictures, np.delete(FRAMES, 1, axis=0))


def test_a_matrix_without_axes_is_not_seen(tmp_path, caplog):
    none = " ".join(["0"] * 15 + ["1"])
    path = mha(tmp_path / "s.igs.mha", frame_fields=lambda n: {"ProbeToTrackerTransform": none} if n == 2 else {})
    found = sequences.read(path)
    assert [pose is None for pose in found.transforms["ProbeToTracker"]] == [n == 2 for n in range(N)]
    assert found.statuses["ProbeToTracker"] == ["INVALID" if n == 2 else "OK" for n in range(N)]
    assert "poses of ProbeToTracker without axes, 1" in caplog.text


def test_an_nrrd_may_say_of_its_pictures_what_a_metaimage_does(tmp_path):
    path = nrrd(tmp_path / "s.nrrd")
    content = path.read_bytes().replace(b"Seq_Frame0000_Status:=OK", b"Seq_Frame0000_ImageStatus:=INVALID")
    path.write_bytes(
        content.replace(b"Seq_Frame0001_Timestamp", b"Seq_Frame0001_ImageStatus:=OK\nSeq_Frame0001_Timestamp")
    )
    assert list(sequences.read(path).pictured[:2]) == [False, True]


def test_colour_goes_through_a_session(tmp_path):
    path = mha(tmp_path / "s.igs.mha", RGB, ElementNumberOfChannels="3", UltrasoundImageType="RGB_COLOR")
    assert call("import", path, "--out", tmp_path / "s.mcap")[0] == 0
    for ending in (".igs.mha", ".nrrd"):
        assert call("export", tmp_path / "s.mcap", "--out", tmp_path / f"back{ending}")[0] == 0
        assert np.array_equal(sequences.read(tmp_path / f"back{ending}").frames, RGB)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"frame_fields": _field("Timestamp", None)}, "states no times"),
        ({"frame_fields": _field("ProbeToTrackerTransformStatus", None)}, "states no status of ProbeToTracker"),
        ({"drop": ("UltrasoundImageOrientation",)}, "states no UltrasoundImageOrientation"),
        ({"frame_fields": lambda n: {"Timestamp": str(9 - n)}}, "not in the order of their times"),
    ],
)
def test_what_is_taken_by_rule_is_told(tmp_path, caplog, more, line):
    found = sequences.read(mha(tmp_path / "s.igs.mha", **more))
    assert len(found.frames) == N and (np.diff(found.times_s) > 0).all()
    (record,) = caplog.records
    assert "s.igs.mha" in record.getMessage() and line in record.getMessage()
    if "order" in line:
        assert np.array_equal(found.frames, FRAMES[::-1])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"UltrasoundImageOrientation": "FM"}, "cannot be brought to MF"),
        ({"UltrasoundImageOrientation": "XX"}, "cannot be brought to MF"),
        ({"ElementSpacing": "-0.5 0.25 1"}, "not positive"),
        ({"ElementSpacing": "nan 0.25 1"}, "not positive"),
        ({"DimSize": f"{W} {H} 4"}, "more than its header|fields of frame 4"),
        ({"DimSize": f"{W} {H} 6"}, "truncated"),
        ({"Kinds": "domain domain domain"}, "sequence of volumes"),
        ({"Kinds": "domain list"}, "Kinds has 2 entries"),
        ({"ElementNumberOfChannels": "0"}, "ElementNumberOfChannels is 0"),
        ({"frame_fields": _field("Timestamp", None, 2)}, "frame 2 states no Timestamp"),
        ({"frame_fields": _field("Timestamp", "3")}, "same time stamp"),
        ({"frame_fields": _field("Timestamp", "nan", 1)}, "not finite"),
        ({"frame_fields": _field("ProbeToTrackerTransform", "1 0 0", 1)}, "frame 1: ProbeToTracker"),
        ({"frame_fields": _field("ProbeToTrackerTransform", " ".join(["nan"] * 16), 1)}, "frame 1: ProbeToTracker"),
        ({"pixels": zlib.compress(FRAMES.tobytes())[:-2], "CompressedData": "True"}, "incomplete"),
        ({"pixels": zlib.compress(FRAMES.tobytes())[:-1] + b"?", "CompressedData": "True"}, "damaged"),
        ({"DimSize": f"{W} {H} {N}\nDimSize = {W} {H} 9"}, "occurs twice"),
    ],
)
def test_sequences_that_nobody_can_read_are_refused(tmp_path, more, reason):
    path = mha(tmp_path / "s.igs.mha", **more)
    with pytest.raises(RecordingError, match=rf"s\.igs\.mha.*({reason})"):
        sequences.read(path)


def test_exports_say_what_plus_needs(tmp_path):
    found = sequences.read(mha(tmp_path / "s.igs.mha"))
    sequences.write(tmp_path / "out.igs.mha", found)
    head = (tmp_path / "out.igs.mha").read_bytes().partition(b"ElementDataFile")[0].decode()
    assert "Kinds = domain domain list" in head and "UltrasoundImageOrientation = MF" in head
    sequences.write(tmp_path / "out.nrrd", found)
    head = (tmp_path / "out.nrrd").read_bytes().partition(b"\n\n")[0].decode()
    assert "ultrasound image orientation:=MF" in head and "Seq_Frame0000_Status:=OK" in head
    assert sequences.read(tmp_path / "out.nrrd").spacing_mm == (0.5, 0.25)


TRACKER = SHARED / "tracker"


@pytest.mark.skipif(not TRACKER.is_dir(), reason="the shared sequences are not here")
@pytest.mark.parametrize("name", json.loads((TRACKER / "expected.json").read_text()) if TRACKER.is_dir() else [])
def test_sequences_that_plus_recorded(name):
    expected = json.loads((TRACKER / "expected.json").read_text())[name]
    try:
        found = sequences.read(Path(TRACKER / name))
    except RecordingError:
        assert expected["igsio_refuses"]
        return
    assert len(found.frames) == expected["frames"]
    missing = expected["frames_without_picture"]
    assert [n for n, there in enumerate(found.pictured) if not there] == (
        list(range(expected["frames"])) if missing == "all" else missing
    )
    if found.frames.size:
        assert found.frames.shape[2:0:-1] == tuple(expected["size_px"])
        sums = found.frames.reshape(len(found.frames), -1).astype(np.int64).sum(axis=1)
        assert all(sums[n] == expected["pixel_sums"][n] for n in np.flatnonzero(found.pictured))
