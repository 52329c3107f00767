"""Topics: one table of what flows, how it waits, how old it may get and how it is recorded; and all times of the loop.

No age and no bound is written anywhere else. What obeys the table is named at each policy; tests/loop/test_topics.py
walks the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from navnode.errors import LocalError
from navnode.types import (
    CArmPose,
    CommandResult,
    Frame,
    NodeState,
    OperatorCommand,
    PatientPose,
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


class Queue(StrEnum):
    """How values wait."""

    NONE = "none"
    """Not at all: the loop takes it, or the console is answered, in the call that brings it."""
    LATEST = "latest"
    """The newest ones wait; what they replace is dropped and counted (``Frames``; ``bus.Subscriber``)."""
    BY_TIME = "by time"
    """The last so many are kept to interpolate between (``PoseRing``)."""
    LOSSLESS = "lossless"
    """All wait; one that finds no room is answered with a failure (``Node``, ``worker.serve``)."""


class Recorded(StrEnum):
    """What a session keeps of a value (``recording.format``)."""

    ARRIVAL = "arrival"
    """The message it was, byte by byte; the step only says which."""
    STEP = "step"
    """The value, in the step."""
    ANSWER = "answer"
    """What a replay needs to have it again: which frame was registered, or all of a volume."""
    OUTPUT = "output"
    """As something that a step led to."""


@dataclass(frozen=True)
class Topic:
    """One row of the table."""

    name: str
    kind: type
    queue: Queue
    bound: int
    """Values that may wait; 0: none do."""
    max_age_ms: float
    """Older than this it is stale: what depends on it turns INVALID."""
    recorded: Recorded
    every_ms: float = 0.0
    """Sent to displays no more often, each tool by itself."""


TOPICS = {
    topic.name: topic
    for topic in (
        Topic("xray", Frame, Queue.LATEST, 1, 1_500, Recorded.ARRIVAL),
        Topic("pose", TrackedPose, Queue.BY_TIME, 400, 150, Recorded.ARRIVAL),
        Topic("rejected", Rejected, Queue.NONE, 0, inf, Recorded.STEP),
        Topic("tick", Tick, Queue.NONE, 0, inf, Recorded.STEP),
        Topic("source", SourceState, Queue.NONE, 0, inf, Recorded.STEP),
        Topic("command", OperatorCommand, Queue.NONE, 0, inf, Recorded.STEP),
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
        Topic("patient", PatientPose, Queue.LATEST, 8, 1_500, Recorded.OUTPUT),
        Topic("tool", ToolPose, Queue.LATEST, 32, 400, Recorded.OUTPUT, every_ms=30),
        Topic("volume", VolumeUpdate, Queue.LATEST, 4, inf, Recorded.OUTPUT),
        Topic("state", NodeState, Queue.LATEST, 4, 1_000, Recorded.OUTPUT),
    )
}
"""Every topic, in the order of a frame's way. ``frame`` ... ``state`` leave the node over ZeroMQ for displays."""

_BY_KIND = {topic.kind: topic for topic in TOPICS.values()}


def topic_of(value: object) -> Topic:
    """The topic that carries a value."""
    topic = _BY_KIND.get(type(value))
    if topic is None:
        raise LocalError(f"{type(value).__name__} has no topic")
    return topic


def max_age_ns(topic: str) -> int:
    """The age at which a topic's values are stale."""
    return round(TOPICS[topic].max_age_ms * 1e6)


def bound_of(*topics: str) -> int:
    """Values of these topics that may wait together, in one queue."""
    return sum(TOPICS[topic].bound for topic in topics)


TO_WORKER = ("reconstruction.request", "surface.request")
FROM_WORKER = ("reconstruction.done", "surface.done", "worker")
TO_DISPLAYS = ("frame", "patient", "tool", "volume", "state")
"""Which topics share a socket."""


# --- times that are nobody's age -------------------------------------------------------------------------------------

TICK_NS = 20_000_000
"""How promptly silence is noticed."""
STATE_EVERY_NS = 200_000_000
"""Between two reports of the node."""
HEARTBEAT_NS = 500_000_000
"""Between two signs of life of the worker."""

FRAME_WAITS_NS = 150_000_000
"""How long an X-ray may wait for tracker poses around its exposure."""
TOOL_WAITS_NS = 40_000_000
"""How long a tool's pose may wait for the patient's."""
POSE_GAP_NS = 120_000_000
"""Poses further apart than this (twelve at 100 Hz) are not interpolated across: the marker was hidden."""
PATIENT_HIDDEN_NS = 1_000_000_000
"""A patient's marker without a pose for this long was hidden, and may have moved."""
FRAME_LATE_NS = 150_000_000
"""A frame later than usual by more may be stamped by a clock that was set back: its pose would be another one's."""
CLOCKS_APART_NS = 60_000_000
"""Markers whose stamps differ by more against their arrival are not stamped by one clock; and by as much may the
images' clock move against the tracker's while they are connected."""
STILL_WITHIN_NS = 400_000_000
"""The C-arm stands still when it has not moved for this long."""
TRY_AGAIN_NS = 5_000_000_000
"""After a volume or a surface that could not be made."""
PICTURE_LIVE_NS = 600_000_000
"""The page calls an X-ray live for this long."""
