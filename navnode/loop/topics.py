"""Topics: one table of what flows and how old it may get."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Topic:
    """One row of the table."""

    name: str
    kind: type
    max_age_ms: float
    """Older than this it is stale: what depends on it turns INVALID."""


@dataclass(frozen=True)
class SurfaceRequest:
    """A volume whose bone surface is wanted."""

    volume: Volume


TOPICS = {
    topic.name: topic
    for topic in (
        Topic("xray", Frame, 1_500),
        Topic("pose", TrackedPose, 150),
        Topic("registration.request", RegistrationRequest, 1_500),
        Topic("registration.done", RegistrationDone, 1_500),
        Topic("reconstruction.request", ReconstructionRequest, 60_000),
        Topic("surface.request", SurfaceRequest, 60_000),
        Topic("reconstruction.done", VolumeReady, 60_000),
        Topic("command", OperatorCommand, float("inf")),
        Topic("worker", WorkerState, 2_500),
        Topic("frame", RegisteredFrame, 1_500),
        Topic("carm", CArmPose, 1_500),
        Topic("patient", PatientPose, 1_500),
        Topic("tool", ToolPose, 400),
        Topic("volume", VolumeUpdate, float("inf")),
        Topic("state", NodeState, 1_000),
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
