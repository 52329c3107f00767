"""Sessions for other programs: tables and pictures, Foxglove."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mcap.reader import make_reader

from tests.invoke import call


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
