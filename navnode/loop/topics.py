"""Topics: one table of all messages, how they queue, how old they may get, how they are recorded; and the loop's times.

No maximum age and no queue bound is defined elsewhere. Each policy names the code that obeys it;
tests/loop/test_topics.py checks every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from navnode.errors import LocalError
from navnode.types import (
    BodyPose,
    CArmPose,
    CommandResult,
    Frame,
    NodeState,
    OperatorCommand,
    PatientPose,
    PlanCommand,
    PlanDeviation,
    ReconstructionRequest,
    RegisteredFrame,
    RegistrationDone,
    RegistrationRequest,
    Rejected,
    SourceState,
    SurfaceReady,
    SurfaceRequest,
    Tick,
    ToolPose,
    TrackedPose,
    VolumeReady,
    VolumeUpdate,
    WorkerState,
)

__all__ = [
    "CLOCKS_APART_NS",
    "FRAME_LATE_NS",
    "FRAME_WAITS_NS",
    "FROM_WORKER",
    "HEARTBEAT_NS",
    "PATIENT_HIDDEN_NS",
    "PICTURE_LIVE_NS",
    "POSE_GAP_NS",
    "Queue",
    "Recorded",
    "STATE_EVERY_NS",
    "STILL_WITHIN_NS",
    "TICK_NS",
    "TOOL_WAITS_NS",
    "TOPICS",
    "TO_DISPLAYS",
    "TO_WORKER",
    "TRY_AGAIN_NS",
    "Topic",
    "bound_of",
    "max_age_ns",
    "topic_of",
]


class Queue(StrEnum):
    """How values wait."""

    NONE = "none"
    """Not at all: the loop handles it, or the console is answered, in the call that brings it."""
    LATEST = "latest"
    """The newest ones wait; older ones are dropped and counted (``Frames``; ``bus.Subscriber``)."""
    BY_TIME = "by time"
    """The last ones are kept to interpolate between them (``PoseRing``)."""
    LOSSLESS = "lossless"
    """All wait; one that does not fit is answered with a failure (``Node``, ``worker.serve``)."""


class Recorded(StrEnum):
    """What a session keeps of a value (``recording.format``)."""

    ARRIVAL = "arrival"
    """The original message's bytes; the step refers to them."""
    STEP = "step"
    """The value, in the step."""
    ANSWER = "answer"
    """What a replay needs to reproduce it: which frame was registered, or the whole volume."""
    OUTPUT = "output"
    """As an output of a step."""


@dataclass(frozen=True)
class Topic:
    """One row of the table."""

    name: str
    kind: type
    queue: Queue
    bound: int
    """Number of values that may wait; 0: none."""
    max_age_ms: float
    """An older value is stale: results that depend on it turn INVALID."""
    recorded: Recorded
    every_ms: float = 0.0
    """Shortest time between two values sent to displays, for each tool separately."""


TOPICS = {
    topic.name: topic
    for topic in (
        Topic("xray", Frame, Queue.LATEST, 1, 1_500, Recorded.ARRIVAL),
        Topic("pose", TrackedPose, Queue.BY_TIME, 400, 150, Recorded.ARRIVAL),
        Topic("rejected", Rejected, Queue.NONE, 0, inf, Recorded.STEP),
        Topic("tick", Tick, Queue.NONE, 0, inf, Recorded.STEP),
        Topic("source", SourceState, Queue.NONE, 0, inf, Recorded.STEP),
        Topic("command", OperatorCommand, Queue.NONE, 0, inf, Recorded.STEP),
        Topic("plan", PlanCommand, Queue.NONE, 0, inf, Recorded.STEP),
        Topic("result", CommandResult, Queue.NONE, 0, inf, Recorded.OUTPUT),
        Topic("registration.request", RegistrationRequest, Queue.LOSSLESS, 1, 1_500, Recorded.OUTPUT),
        Topic("registration.done", RegistrationDone, Queue.LOSSLESS, 1, 1_500, Recorded.ANSWER),
        Topic("reconstruction.request", ReconstructionRequest, Queue.LOSSLESS, 2, 60_000, Recorded.OUTPUT),
        Topic("reconstruction.done", VolumeReady, Queue.LOSSLESS, 2, 60_000, Recorded.ANSWER),
        Topic("surface.request", SurfaceRequest, Queue.LOSSLESS, 2, 60_000, Recorded.OUTPUT),
        Topic("surface.done", SurfaceReady, Queue.LOSSLESS, 2, 60_000, Recorded.ANSWER),
        Topic("worker", WorkerState, Queue.LATEST, 4, 2_500, Recorded.STEP),
        Topic("frame", RegisteredFrame, Queue.LATEST, 8, 1_500, Recorded.OUTPUT),
        Topic("carm", CArmPose, Queue.LATEST, 8, 1_500, Recorded.OUTPUT),
        Topic("patient", PatientPose, Queue.NONE, 0, 1_500, Recorded.OUTPUT),
        Topic("body", BodyPose, Queue.NONE, 0, 1_500, Recorded.OUTPUT),
        Topic("tool", ToolPose, Queue.LATEST, 32, 400, Recorded.OUTPUT, every_ms=30),
        Topic("deviation", PlanDeviation, Queue.LATEST, 8, 400, Recorded.OUTPUT, every_ms=30),
        Topic("volume", VolumeUpdate, Queue.LATEST, 4, inf, Recorded.OUTPUT),
        Topic("state", NodeState, Queue.LATEST, 4, 1_000, Recorded.OUTPUT),
    )
}
"""Every topic, in the order in which a frame passes them. ``frame`` ... ``state`` go to displays over ZeroMQ."""

_BY_KIND = {topic.kind: topic for topic in TOPICS.values()}


def topic_of(value: object) -> Topic:
    """The topic that carries a value.

    Raises:
        LocalError: no topic carries values of this type.
    """
    topic = _BY_KIND.get(type(value))
    if topic is None:
        raise LocalError(f"{type(value).__name__} has no topic")
    return topic


def max_age_ns(topic: str) -> int:
    """The age at which a topic's values are stale."""
    return round(TOPICS[topic].max_age_ms * 1e6)


def bound_of(*topics: str) -> int:
    """Number of values of these topics that may wait in one queue."""
    return sum(TOPICS[topic].bound for topic in topics)


TO_WORKER = ("reconstruction.request", "surface.request")
FROM_WORKER = ("reconstruction.done", "surface.done", "worker")
TO_DISPLAYS = ("frame", "tool", "deviation", "volume", "state")
"""Topics that share a socket."""


# --- times other than maximum ages -----------------------------------------------------------------------------------

TICK_NS = 20_000_000
"""Period of ticks, and so how promptly silence is noticed."""
STATE_EVERY_NS = 200_000_000
"""Period of the node's reports."""
HEARTBEAT_NS = 500_000_000
"""Period of the worker's heartbeats."""

FRAME_WAITS_NS = 150_000_000
"""How long an X-ray may wait for tracker poses around its exposure."""
TOOL_WAITS_NS = 40_000_000
"""How long a tool's pose may wait for the patient's."""
POSE_GAP_NS = 120_000_000
"""Poses further apart than this (twelve at 100 Hz) are not interpolated across: the marker was hidden."""
PATIENT_HIDDEN_NS = 1_000_000_000
"""A patient's marker without a pose for this long was hidden, and may have moved."""
FRAME_LATE_NS = 150_000_000
"""A frame that is late by more may carry the stamp of a clock that was set back, and would get a wrong pose."""
CLOCKS_APART_NS = 60_000_000
"""If the delays of two markers differ by more, their stamps come from different clocks; also how far the clocks of
images and tracker may move apart while they are connected."""
STILL_WITHIN_NS = 400_000_000
"""The C-arm stands still if it has not moved for this long."""
TRY_AGAIN_NS = 5_000_000_000
"""Wait before the next request, after a volume or a surface could not be made."""
PICTURE_LIVE_NS = 600_000_000
"""The page calls an X-ray live for this long."""
