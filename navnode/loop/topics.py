"""Topics: one table of what flows, how it queues and how old it may get."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from navnode.errors import LocalError
from navnode.types import (
    CArmPose,
    Frame,
    NodeState,
    OperatorCommand,
    PatientPose,
    ReconstructionRequest,
    RegisteredFrame,
    RegistrationDone,
    RegistrationRequest,
    ToolPose,
    TrackedPose,
    Volume,
    VolumeReady,
    VolumeUpdate,
    WorkerState,
)


class Policy(Enum):
    """What a queue does when its reader is slower than its writer."""

    LATEST = "latest wins; the older one is dropped and counted"
    RING = "kept by time for interpolation, the oldest overwritten"
    BOUNDED = "nothing is dropped; overflow is a fault"


@dataclass(frozen=True)
class Topic:
    """One row of the table."""

    name: str
    kind: type
    policy: Policy
    max_age_ms: float
    """Older than this it is stale: what depends on it turns INVALID."""
    recorded: bool


@dataclass(frozen=True)
class SurfaceRequest:
    """A volume whose bone surface is wanted."""

    volume: Volume


TOPICS = {
    topic.name: topic
    for topic in (
        Topic("xray", Frame, Policy.LATEST, 1_500, True),
        Topic("pose", TrackedPose, Policy.RING, 150, True),
        Topic("registration.request", RegistrationRequest, Policy.LATEST, 1_500, False),
        Topic("registration.done", RegistrationDone, Policy.BOUNDED, 1_500, True),
        Topic("reconstruction.request", ReconstructionRequest, Policy.BOUNDED, 60_000, True),
        Topic("surface.request", SurfaceRequest, Policy.BOUNDED, 60_000, False),
        Topic("reconstruction.done", VolumeReady, Policy.BOUNDED, 60_000, True),
        Topic("command", OperatorCommand, Policy.BOUNDED, float("inf"), True),
        Topic("worker", WorkerState, Policy.LATEST, 2_000, True),
        Topic("frame", RegisteredFrame, Policy.LATEST, 1_500, True),
        Topic("carm", CArmPose, Policy.LATEST, 1_500, True),
        Topic("patient", PatientPose, Policy.LATEST, 1_500, True),
        Topic("tool", ToolPose, Policy.LATEST, 150, True),
        Topic("volume", VolumeUpdate, Policy.LATEST, float("inf"), True),
        Topic("state", NodeState, Policy.LATEST, 1_000, True),
    )
}
"""Every topic. ``frame`` ... ``state`` also leave the node over ZeroMQ for the display and the terminal."""


def max_age_ns(topic: str) -> int:
    """The age at which a topic's values are stale."""
    return round(TOPICS[topic].max_age_ms * 1e6)


def topic_of(value: object) -> Topic:
    """The topic that carries a value."""
    for topic in TOPICS.values():
        if type(value) is topic.kind:
            return topic
    raise LocalError(f"{type(value).__name__} has no topic")
