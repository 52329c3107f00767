"""Sessions for other programs: tables and pictures, Foxglove."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mcap.reader import make_reader

from navnode.igtl import Image
from tests.invoke import call
from tests.recording.written import pose, written


def test_tables_pictures_and_volumes(recorded, tmp_path):
    out = tmp_path / "tables"
    assert call("export", recorded, "--out", out)[0] == 0
    poses = np.genfromtxt(out / "poses" / "DrillToTracker.csv", delimiter=",", names=True)
    assert len(poses) > 200 and poses.dtype.names[:2] == ("timestamp_s", "m00")
    assert (
        len(list((out / "frames" / "XRay").glob("*.png")))
        == len((out / "frames" / "XRay.csv").read_text().splitlines()) - 1
    )
    rows = (out / "outputs" / "tool_Drill.csv").read_text().splitlines()
    assert rows[0].startswith("timestamp_s,status,reason,age_ms,m00") and any(",VALID," in row for row in rows)
    code, _, error = call("export", recorded, "--out", out)
    assert code == 2 and "exists already" in error
    code, _, error = call("export", recorded, "--out", tmp_path / "a.avi")
    assert code == 2 and ".mcap" in error


def test_foxglove_reads_pictures_and_transforms(recorded, tmp_path):
    out = tmp_path / "f.mcap"
    assert call("export", recorded, "--out", out)[0] == 0
    with out.open("rb") as file:
        found = [(s.name, c.topic, json.loads(m.data)) for s, c, m in make_reader(file).iter_messages()]
    kinds = {name for name, _, _ in found}
    assert kinds == {"foxglove.RawImage", "foxglove.FrameTransforms", "foxglove.Log"}
    image = next(content for name, _, content in found if name == "foxglove.RawImage")
    assert image["encoding"] == "mono16" and image["step"] == 512 and image["width"] == image["height"] == 256
    (moved,) = next(content["transforms"] for _, topic, content in found if topic == "DrillToTracker")
    assert (moved["parent_frame_id"], moved["child_frame_id"]) == ("Tracker", "Drill")
    assert sum(value**2 for value in moved["rotation"].values()) == pytest.approx(1)
    assert any(topic == "DrillToVolume" for _, topic, _ in found)


def test_devices_whose_names_look_alike_have_tables_of_their_own(tmp_path):
    session = written(
        tmp_path / "s.mcap", [pose(name, 1.0 + k) for k, name in enumerate(("Tool A", "Tool:A", "tool_a"))]
    )
    assert call("export", session, "--out", tmp_path / "out")[0] == 0
    tables = sorted((tmp_path / "out" / "poses").iterdir())
    assert [len(table.read_text().splitlines()) for table in tables] == [2, 2, 2]
    assert len({table.name.lower() for table in tables}) == 3


@pytest.mark.parametrize("out", ["s.igs.mha", "s.seq.nrrd", "s.fox.mcap", "folder"])
def test_what_cannot_be_exported_leaves_nothing_that_looks_whole(tmp_path, out):
    pictures = [
        Image(device="X", timestamp_ns=n + 1, voxels=np.ones((1, size, 4), kind), ras_from_index=np.eye(4))
        for n, (size, kind) in enumerate([(4, np.uint16), (5, np.uint16), (5, np.float64)])
    ]
    session = written(tmp_path / "s.mcap", [("in/IMAGE/X", image, 1.0 + n) for n, image in enumerate(pictures)])
    code, _, error = call("export", session, "--out", tmp_path / out)
    assert code == 1 and "X" in error
    assert [path.name for path in tmp_path.iterdir()] == ["s.mcap"]


def test_slices_are_not_left_out(tmp_path):
    volume = Image(device="U", timestamp_ns=9, voxels=np.ones((3, 4, 4), np.uint8), ras_from_index=np.eye(4))
    session = written(tmp_path / "s.mcap", [("in/IMAGE/U", volume, 1.0)])
    for out in ("folder", "u.igs.mha", "u.seq.nrrd"):
        code, _, error = call("export", session, "--out", tmp_path / out)
        assert code == 1 and "3 slices" in error


def test_pictures_of_one_moment_are_said_to_be_left_out(tmp_path, caplog):
    shown = Image(device="X", timestamp_ns=9 * 10**9, voxels=np.ones((1, 4, 4), np.uint8), ras_from_index=np.eye(4))
    session = written(tmp_path / "s.mcap", [("in/IMAGE/X", shown, 9.0 + n / 10) for n in range(3)])
    assert call("export", session, "--out", tmp_path / "x.igs.mha")[0] == 0
    assert "2 pictures or poses have the time stamp of another one" in caplog.text


def test_an_output_of_another_program_is_named(tmp_path):
    session = written(tmp_path / "s.mcap", [pose("A", 1.0), ("out/state", {"now_ns": 5}, 1.5)])
    code, _, error = call("export", session, "--out", tmp_path / "folder")
    assert code == 1 and "not as navnode writes it" in error and not (tmp_path / "folder").exists()
    code, _, error = call("inspect", session, "--json")
    assert code == 1 and "an entry of out/state cannot be read" in error
