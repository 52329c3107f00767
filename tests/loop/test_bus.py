import numpy as np
import pytest

from navnode.errors import LocalError, PeerError
from navnode.loop import bus, topics
from navnode.types import (
    CArm,
    Frame,
    Mesh,
    RegisteredFrame,
    Status,
    ToolPose,
    Validity,
    Volume,
    VolumeReady,
    WorkerState,
)

FRAME = Frame(np.arange(12, dtype=np.uint16).reshape(3, 4), 5, 6, 7)
VALUES = [
    WorkerState(True, "SART", "", 3),
    ToolPose("Drill", np.eye(4) * 2, Validity(Status.DEGRADED, "why", 1, 2), 9),
    ToolPose("Drill", None, Validity(Status.INVALID, "why"), 0),
    RegisteredFrame(FRAME, CArm(4, 3, (1.0, 1.0), 9.0, (1.0, 1.0)), np.eye(4), Validity(Status.VALID), 0.1, 0.9, 1, 4),
    VolumeReady(
        Volume(np.ones((2, 3, 4), np.float32), np.eye(4), "v"),
        Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.uint32)),
        1,
        4,
        "SART",
        2.5,
        "",
        8,
        lungs=Mesh(np.ones((3, 3), np.float32), np.array([[0, 1, 2]], np.uint32)),
    ),
    VolumeReady(None, None, 1, 0, "SART", 2.5, "too few", 8),
]


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)
    return a == b


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_cross_processes(value):
    parts = [bytes(part) for part in bus.pack(value)]
    assert same(bus.unpack(parts), value)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"tool"],
        [b"secret", b"\x80"],
        [b"tool", b"\xc1"],
        [b"tool", b"\x80"],
        [b"\xff\xfe", b"\x80"],
        [b"worker"] + [b""] * 100,
    ],
)
def test_foreign_messages_are_refused(parts):
    with pytest.raises(PeerError):
        bus.unpack(parts)


def test_lying_arrays_are_refused():
    topic, head, *arrays = (bytes(part) for part in bus.pack(VALUES[1]))
    for bad in ([topic, head], [topic, head, b"xx"], [topic, head.replace(b"<f8", b"|O8"), *arrays]):
        with pytest.raises(PeerError):
            bus.unpack(bad)


def test_only_the_table_is_sent():
    with pytest.raises(LocalError):
        bus.pack("text")


def test_topics_have_one_type_each():
    kinds = [topic.kind for topic in topics.TOPICS.values()]
    assert len(set(kinds)) == len(kinds)


def test_a_worker_may_miss_a_heartbeat_or_two_before_it_is_lost():
    assert 3 * topics.HEARTBEAT_NS <= topics.max_age_ns("worker") <= 10 * topics.HEARTBEAT_NS
