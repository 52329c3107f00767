"""A transform's status means the same to whoever reads it; one that is not said, or empty, stands by the pose."""

import csv
import json

import numpy as np
import pytest
from mcap.reader import make_reader

from calibration import heard as heard_poses
from calibration import inputs, recordings
from navnode.igtl import Image, Transform, encode
from navnode.igtl.conventions import is_seen, is_shown, seen_pose, status_of, transform_metadata
from navnode.loop.ingest import Ingest
from navnode.recording import Recording, export, sequences
from navnode.recording.container import Channel
from navnode.recording.writer import ContainerWriter
from tests.loop.theatre import configuration

AT = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])
DEVICE = "DrillToTracker"
START_NS = 1_700_000_000_000_000_000
STATUSES = [(None, True), ("", True), ("OK", True), ("MISSING", False), ("INVALID", False), ("UNHEARD_OF", False)]


def transform(status: str | None) -> Transform:
    metadata = {} if status is None else {"TransformStatus": status}
    return Transform(device=DEVICE, matrix=AT, timestamp_ns=START_NS, version=2, metadata=metadata)


@pytest.fixture(params=STATUSES, ids=lambda given: repr(given[0]))
def message(request):
    """A transform, and whether its status stands by it."""
    status, stands = request.param
    return transform(status), stands


@pytest.fixture
def session(message, tmp_path):
    """A recording of the transform and of one picture at the same time."""
    picture = Image(
        device="XRay", timestamp_ns=START_NS, voxels=np.ones((1, 4, 4), np.uint16), ras_from_index=np.eye(4), version=2
    )
    path = tmp_path / "session.mcap"
    with path.open("wb") as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "1", "session": "s"})
        writer.add(Channel(f"in/TRANSFORM/{DEVICE}", "openigtlink"), (encode(message[0]),), START_NS, START_NS, 1)
        writer.add(Channel("in/IMAGE/XRay", "openigtlink"), (encode(picture),), START_NS, START_NS, 2)
        writer.finish()
    return path


def test_the_rule(message):
    given, stands = message
    assert is_seen(given) is is_shown(given) is stands
    assert np.array_equal(seen_pose(given), AT if stands else np.full((4, 4), np.nan), equal_nan=True)


def test_the_loop(message):
    given, stands = message
    assert (Ingest(configuration())(given, START_NS).tracker_from_marker is not None) is stands


def test_poses_collected_for_a_calibration(message):
    given, stands = message
    heard = heard_poses.Heard()
    heard_poses.record(heard, given, START_NS, {DEVICE})
    assert np.isfinite(heard.series(DEVICE, None).poses).all() == stands


def test_recorded_poses_of_a_calibration(message, session):
    found = recordings.poses(session, DEVICE, inputs.Files())
    assert np.isfinite(found.poses).all() == message[1]


def test_tables(message, session, tmp_path):
    export.export(export.piece(Recording(session)), tmp_path / "tables")
    with (tmp_path / "tables" / "poses" / f"{DEVICE}.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (float(row["m03"]) == 10) is message[1]


def test_sequences(message, session, tmp_path):
    path = tmp_path / "sequence.mha"
    export.export(export.piece(Recording(session)), path)
    assert [pose is not None for pose in sequences.read(path).transforms[DEVICE]] == [message[1]]


def test_sequences_of_other_programs(message, tmp_path):
    status = message[0].metadata.get("TransformStatus")
    line = b"" if status is None else f"Seq_Frame0000_{DEVICE}TransformStatus = {status}\n".encode()
    pose = " ".join(map(str, AT.ravel()))
    path = tmp_path / "plus.mha"
    path.write_bytes(
        b"ObjectType = Image\nDimSize = 2 2 1\nElementType = MET_UCHAR\n"
        + f"Seq_Frame0000_{DEVICE}Transform = {pose}\n".encode()
        + line
        + b"ElementDataFile = LOCAL\n1234"
    )
    assert [pose is not None for pose in sequences.read(path).transforms[DEVICE]] == [message[1]]


def test_foxglove(message, session, tmp_path):
    export.export(export.piece(Recording(session)), tmp_path / "foxglove.mcap")
    with (tmp_path / "foxglove.mcap").open("rb") as file:
        placed = [json.loads(m.data) for s, _, m in make_reader(file).iter_messages() if s.name.endswith("Transforms")]
    assert len(placed) == message[1]


def test_what_is_said_of_a_transform():
    assert [status_of(AT), status_of(None), status_of(None, seen=True)] == ["OK", "MISSING", "INVALID"]
    assert transform_metadata(AT) == {"TransformValid": "true", "TransformStatus": "OK"}
    assert transform_metadata(None, seen=True) == {"TransformValid": "false", "TransformStatus": "INVALID"}
