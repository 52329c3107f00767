"""Sequences, as Slicer and Plus keep them."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.igtl import Image, Transform
from navnode.recording import Recording, sequences
from tests.invoke import call


@pytest.mark.parametrize("ending", [".igs.mha", ".mha", ".nrrd"])
@pytest.mark.long
def test_sequences_come_back(recorded, tmp_path, ending):
    path, back = tmp_path / f"s{ending}", tmp_path / "back.mcap"
    assert call("export", recorded, "--out", path, "--duration", 5)[0] == 0
    found = sequences.read(path)
    assert found.frames.shape[1:] == (256, 256) and found.frames.dtype == np.uint16 and len(found.frames) > 10
    assert found.spacing_mm == pytest.approx((300 / 256, 300 / 256))
    first_s, delay_s = found.times_s[0], 0.5
    assert -delay_s < first_s < 2, "the first X-ray may have been exposed just before the recording began"
    assert set(found.transforms) == {"DrillToTracker", "CArmToTracker", "PatientToTracker"}
    first = next(e.content for e in Recording(recorded).entries() if isinstance(e.content, Image))
    assert np.array_equal(found.frames[0], first.voxels[0])
    assert call("import", path, "--out", back, "--device", "XRay")[0] == 0
    again = [e.content for e in Recording(back).entries()]
    pictures = [m for m in again if isinstance(m, Image)]
    assert len(pictures) == len(found.frames) and np.array_equal(pictures[-1].voxels[0], found.frames[-1])
    seen = [pose for pose in found.transforms["DrillToTracker"] if pose is not None]
    moved = [m for m in again if isinstance(m, Transform) and m.device == "DrillToTracker"]
    good = [m.matrix for m in moved if m.metadata["TransformStatus"] == "OK"]
    assert len(good) == len(seen) and np.allclose(good, seen, atol=1e-3)


def test_simpleitk_reads_the_pictures_of_a_sequence(recorded, tmp_path):
    import SimpleITK as sitk

    for ending in (".mha", ".nrrd"):
        path = tmp_path / f"s{ending}"
        assert call("export", recorded, "--out", path, "--duration", 3)[0] == 0
        pictures = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        pictures = np.moveaxis(pictures, -1, 0) if ending == ".nrrd" else pictures  # a list is a vector to it
        assert np.array_equal(pictures, sequences.read(path).frames)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ObjectType = Image\n",
        b"NRRD0004\ntype: uint16\n\n",
        b"NRRD0004\ntype: uint16\nsizes: 9 9 9999999999\n\n",
        b"ObjectType = Image\nDimSize = 4 4 2\nElementType = MET_USHORT\nElementDataFile = LOCAL\nshort",
        b"ObjectType = Image\nDimSize = 4 4 2\nElementType = MET_USHORT\nElementDataFile = /etc/passwd\n",
        b"NRRD0004\ntype: uint8\nsizes: 2 2 1\nencoding: gzip\n\nnothing packed",
        b"ObjectType = Image\nDimSize = 2 2 1\nElementType = MET_UCHAR\nSeq_Frame0000_ATransform = 1 2\n"
        b"ElementDataFile = LOCAL\n1234",
    ],
)
def test_sequences_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / ("x.nrrd" if content.startswith(b"NRRD") else "x.mha")
    path.write_bytes(content)
    code, _, error = call("import", path, "--out", tmp_path / "o.mcap")
    assert code == 1 and str(path) in error and not (tmp_path / "o.mcap").exists()
