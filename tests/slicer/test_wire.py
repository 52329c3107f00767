"""The Slicer module's reader against the node's own encoder, byte by byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from NavnodeConsoleLib import wire

from navnode import igtl

KEYS = st.dictionaries(st.text("AbC", min_size=1, max_size=8), st.text(max_size=20), max_size=4)
NUMBERS = st.floats(-1e4, 1e4, width=32)


def read(message: igtl.Message) -> wire.Message:
    (found,) = wire.Framer().feed(igtl.encode(message, 2))
    assert (found.type, found.device) == (message.type, message.device)
    return found


@given(st.lists(NUMBERS, min_size=12, max_size=12), KEYS)
def test_transforms(numbers, metadata):
    matrix = np.vstack([np.array(numbers).reshape(3, 4), (0, 0, 0, 1)])
    found = read(igtl.Transform(device="DrillToVolume", matrix=matrix, metadata=metadata))
    assert np.array_equal(found.content, matrix) and found.metadata == metadata


def test_long_names_travel_in_metadata():
    name = "LeftProximalFemurFragmentToVolume"
    (found,) = wire.Framer().feed(igtl.encode(igtl.Transform(device=name, matrix=np.eye(4)), 2))
    assert found.device == name


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_pictures(kind):
    rng = np.random.default_rng(1)
    voxels = (rng.random((3, 4, 5)) * 100).astype(kind)
    ras_from_index = np.array([[0, -2, 0, 10], [1.5, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    found = read(igtl.Image(device="Volume", voxels=voxels, ras_from_index=ras_from_index)).content
    assert np.array_equal(found.voxels, voxels) and found.voxels.dtype == np.dtype(kind)
    assert np.allclose(found.ras_from_index, ras_from_index, atol=1e-4)


def test_surfaces_plans_numbers_and_states():
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.5]], np.float32)
    surface = igtl.PolyData(
        device="BoneModel",
        points_mm=points,
        polygons=igtl.cells(np.array([[0, 1, 2]])),
        lines=igtl.cells([(0, 1), (1, 2)]),
    )
    found = read(surface).content
    assert np.array_equal(found.points_mm, points) and found.polygons.tolist() == [3, 0, 1, 2]
    assert found.lines.tolist() == [2, 0, 1, 2, 1, 2]
    plan = igtl.TrajectoryElement("L4 left", (1.0, 2.0, 3.0), (4.0, 5.0, 6.5), rgba=(0, 220, 120, 255))
    (path,) = read(igtl.Trajectory(device="Plans", trajectories=(plan,))).content
    assert (path.name, path.entry_mm, path.target_mm, path.rgba) == (plan.name, (1, 2, 3), (4, 5, 6.5), plan.rgba)
    numbers = read(igtl.Sensor(device="PlanDeviation", values=np.array([1.0, np.nan]))).content
    assert numbers[0] == 1 and np.isnan(numbers[1])
    assert read(igtl.StatusMessage(device="NodeStatus", code=1, text="VALID")).content == "VALID"


@given(st.integers(1, 400), st.integers(1, 5))
def test_bytes_may_come_in_any_pieces(piece, count):
    data = b"".join(igtl.encode(igtl.Transform(device=f"T{n}", matrix=np.eye(4)), 2) for n in range(count))
    framer = wire.Framer()
    found = [m for at in range(0, len(data), piece) for m in framer.feed(data[at : at + piece])]
    assert [message.device for message in found] == [f"T{n}" for n in range(count)]


@given(st.integers(0, 10_000), st.integers(1, 255), st.sampled_from(["TRANSFORM", "POLYDATA", "IMAGE"]))
def test_damage_is_named_never_shown(at, change, kind):
    message = {
        "TRANSFORM": igtl.Transform(device="T", matrix=np.eye(4)),
        "POLYDATA": igtl.PolyData(device="P", points_mm=np.eye(3, dtype=np.float32), polygons=igtl.cells([(0, 1, 2)])),
        "IMAGE": igtl.Image(device="I", voxels=np.ones((1, 2, 2), np.uint8), ras_from_index=np.eye(4)),
    }[kind]
    data = bytearray(igtl.encode(message, 2))
    body = 58 + at % (len(data) - 58)
    data[body] ^= change
    with pytest.raises(wire.WireError, match="checksum"):
        wire.Framer().feed(bytes(data))


def test_a_cell_of_a_missing_point_and_a_huge_message_are_refused():
    bad = igtl.PolyData(device="P", points_mm=np.eye(3, dtype=np.float32), polygons=igtl.cells([(0, 1, 2)]))
    data = bytearray(igtl.encode(bad, 1))
    data[-1] = 9  # the last index; the checksum is made right again
    data[50:58] = wire.crc64(bytes(data[58:])).to_bytes(8, "big")
    with pytest.raises(wire.WireError, match="missing point"):
        wire.Framer().feed(bytes(data))
    data[42:50] = (1 << 40).to_bytes(8, "big")
    with pytest.raises(wire.WireError, match="message of"):
        wire.Framer().feed(bytes(data))


def test_the_node_reads_what_the_module_sends():
    said = igtl.decode(wire.command(7, "PlanActivate", {"Plan": 'L4 "left" & right'}))
    assert isinstance(said, igtl.Command) and (said.command_id, said.name, said.version) == (7, "PlanActivate", 2)
    assert said.text == '<Command Name="PlanActivate" Plan=\'L4 "left" &amp; right\'/>'
    assert isinstance(igtl.decode(wire.hello()), igtl.ClientInfo)
