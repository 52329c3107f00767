"""Sequences for 3D Slicer: as its developer guide describes them, and read back."""

from __future__ import annotations

import nrrd
import numpy as np
import pytest

from navnode.errors import RecordingError
from navnode.recording import sequences
from tests.invoke import call
from tests.recording.test_sequence_kinds import FRAMES, N, mha


def test_an_export_for_slicer_is_a_volume_sequence(tmp_path):
    assert call("import", mha(tmp_path / "s.igs.mha"), "--out", tmp_path / "s.mcap")[0] == 0
    assert call("export", tmp_path / "s.mcap", "--out", tmp_path / "s.seq.nrrd")[0] == 0
    data, header = nrrd.read(str(tmp_path / "s.seq.nrrd"))
    assert header["kinds"] == ["domain", "domain", "domain", "list"] and header["dimension"] == 4
    assert header["space"] == "left-posterior-superior" and header["axis 3 index type"] == "numeric"
    assert np.array_equal(data[:, :, 0].transpose(2, 1, 0), FRAMES)
    assert np.allclose(np.array(header["axis 3 index values"].split(), float), np.arange(N) / 20)
    back = sequences.read(tmp_path / "s.seq.nrrd")
    assert np.array_equal(back.frames, FRAMES) and np.allclose(back.times_s, np.arange(N) / 20)
    assert back.spacing_mm == (0.5, 0.25)


def test_colours_have_an_axis_of_their_own(tmp_path):
    colours = np.stack([FRAMES, FRAMES // 2, FRAMES // 3], axis=-1)
    sequences.write(tmp_path / "c.seq.nrrd", sequences.Sequence(colours, np.arange(N) / 4))
    data, header = nrrd.read(str(tmp_path / "c.seq.nrrd"))
    assert header["kinds"][0] == "vector" and header["axis 4 index values"].startswith("0 0.25")
    assert np.array_equal(data[:, :, :, 0].transpose(3, 2, 1, 0), colours)
    assert np.array_equal(sequences.read(tmp_path / "c.seq.nrrd").frames, colours)


@pytest.mark.parametrize("values", ["0 1 2", "0 1 2 3 x", "0 0 0 0 0"])
def test_indices_that_are_no_times_are_refused(tmp_path, values):
    path = tmp_path / "s.seq.nrrd"
    sequences.write(path, sequences.Sequence(FRAMES, np.arange(N) / 4))
    content = path.read_bytes()
    at = content.index(b"index values:=")
    path.write_bytes(content[:at] + b"index values:=" + values.encode() + content[content.index(b"\n", at) :])
    with pytest.raises(RecordingError, match=r"s\.seq\.nrrd"):
        sequences.read(path)


@pytest.mark.parametrize(("unit", "factor"), [("", 1), ("s", 1), ("ms", 1e-3), ("us", 1e-6)])
@pytest.mark.parametrize("first", [True, False])
def test_times_are_in_the_unit_of_their_axis(tmp_path, unit, factor, first):
    path, pixels = tmp_path / "xray.seq.nrrd", np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    axis, order = (0, (3, 5, 4, 1)) if first else (3, (5, 4, 1, 3))
    units, kinds, directions = ['""'] * 3, ["domain"] * 3, ["(0.5,0,0)", "(0,0.25,0)", "(0,0,1)"]
    for words, word in ((units, f'"{unit}"'), (kinds, "list"), (directions, "none")):
        words.insert(axis, word)
    lines = [
        "NRRD0005",
        "type: uint8",
        "dimension: 4",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, order))}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {' '.join(kinds)}",
        f"units: {' '.join(units)}",
        "encoding: raw",
        "space origin: (0,0,0)",
        f"axis {axis} index type:=numeric",
        f"axis {axis} index values:=0 100 250",
        "",
        "",
    ]
    data = (pixels.transpose(1, 2, 0) if first else pixels).tobytes()
    path.write_bytes("\n".join(lines).encode() + data)
    found = sequences.read(path)
    assert np.array_equal(found.frames, pixels) and found.spacing_mm == (0.5, 0.25)
    assert np.allclose(found.times_s, np.array([0, 100, 250]) * factor)
    path.write_bytes("\n".join(lines).replace(f'"{unit}"', '"mm"', 1 if unit else 4).encode() + data)
    with pytest.raises(RecordingError, match=r"seq\.nrrd"):
        sequences.read(path)
