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
