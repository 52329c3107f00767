"""Sessions as arrays, tables and plots."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import navnode
from navnode.errors import ConfigError, RecordingError
from navnode.recording.writer import ContainerWriter
from tests.conftest import GOLDEN


@pytest.fixture(scope="module")
def session(recorded):
    return navnode.Session(recorded)


def test_poses_are_arrays(session):
    drill = session.poses("DrillToTracker")
    assert drill.matrix.shape == (len(drill.time_s), 4, 4) and len(drill.time_s) > 200
    assert np.all(np.diff(drill.time_s) >= 0) and drill.time_s[-1] <= session.seconds
    assert np.allclose(np.linalg.det(drill.matrix[drill.seen][:, :3, :3]), 1, atol=1e-3)
    assert np.median(np.diff(drill.stamp_ns)) == pytest.approx(1e7, rel=0.05), "at 100 Hz"


def test_xrays_come_one_by_one(session):
    frames = list(session.frames())
    assert len(frames) == session.topics["in/IMAGE/XRay"] and {frame.counts.shape for frame in frames} == {(256, 256)}
    assert frames[0].counts.dtype == np.uint16 and frames[0].stamp_ns > 0


def test_outputs_are_what_the_node_said(session):
    said = list(session.outputs("tool/Drill"))
    assert len(said) == session.topics["out/tool/Drill"]
    assert {each["validity"]["status"] for each in said} <= {"VALID", "DEGRADED", "INVALID"}


def test_outputs_are_a_table(session):
    pd = pytest.importorskip("pandas")
    table = session.table("tool/Drill")
    assert isinstance(table, pd.DataFrame) and len(table) == session.topics["out/tool/Drill"]
    shown = table[table["validity.status"] != "INVALID"]
    assert shown["volume_from_tool"].iloc[0].shape == (4, 4)
    assert table["time_s"].is_monotonic_increasing
    assert session.table("state")["target_sigma_mm"].notna().any()


def test_a_session_is_a_picture(session, tmp_path):
    pytest.importorskip("matplotlib")
    session.plot().savefig(tmp_path / "session.png")
    assert (tmp_path / "session.png").stat().st_size > 10_000


def test_what_there_is_is_named(session):
    for ask in (session.poses, session.outputs, session.frames):
        with pytest.raises(ConfigError, match="there is no 'elsewhere'; there is "):
            list(ask("elsewhere"))


def test_inputs_alone_are_a_session_too():
    golden = navnode.Session(GOLDEN)
    assert "DrillToTracker" in golden.devices and next(golden.frames()).counts.ndim == 2
    pytest.importorskip("matplotlib")
    with pytest.raises(RecordingError, match="no outputs"):
        golden.plot()


def test_what_is_no_session_is_named(tmp_path):
    with pytest.raises(RecordingError):
        navnode.Session(tmp_path / "none.mcap").poses("DrillToTracker")
    with (tmp_path / "empty.mcap").open("wb") as file:
        ContainerWriter(file).finish()
    assert navnode.Session(tmp_path / "empty.mcap").devices == []


def test_the_package_itself_loads_nothing():
    code = "import sys, navnode; print('numpy' in sys.modules); navnode.Session; print('numpy' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.split() == ["False", "True"]
