"""Topics: one table of what flows, how it queues and how old it may get; and how values cross processes.

Between processes a value travels as a ZeroMQ multipart message: topic, MessagePack of the value without its
arrays, then the arrays' bytes. Only the types of the table are accepted, sizes are checked before anything is
allocated, nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
import numpy as np
import zmq

from navnode.errors import LocalError, PeerError
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


MAX_MESSAGE_BYTES = 1 << 29
_MAX_PARTS = 64
_DTYPES = {np.dtype(code).str for code in ("u1", "u2", "i2", "u4", "i4", "i8", "f4", "f8")}


def topic_of(value: object) -> Topic:
    """The topic that carries a value."""
    for topic in TOPICS.values():
        if type(value) is topic.kind:
            return topic
    raise LocalError(f"{type(value).__name__} has no topic")


def pack(value: object) -> list[bytes | memoryview]:
    """A value of the table as multipart frames."""
    arrays: list[np.ndarray[Any, Any]] = []

    def enc_hook(item: object) -> object:
        if isinstance(item, np.ndarray):
            arrays.append(np.ascontiguousarray(item))
            return {"array": len(arrays) - 1, "dtype": item.dtype.str, "shape": list(item.shape)}
        raise LocalError(f"{type(item).__name__} cannot cross processes")

    head = msgspec.msgpack.encode(value, enc_hook=enc_hook)
    # Views, not copies: ZeroMQ copies what it sends, or holds on to it.
    return [topic_of(value).name.encode(), head, *(array.reshape(-1).view(np.uint8).data for array in arrays)]


def unpack(parts: Sequence[bytes | memoryview]) -> Any:
    """The value in multipart frames; arrays are views of them.

    Raises:
        PeerError: not a value of the table.
    """
    if not 2 <= len(parts) <= _MAX_PARTS or sum(len(part) for part in parts) > MAX_MESSAGE_BYTES:
        raise PeerError("a message of the wrong number or size of parts")
    topic = TOPICS.get(bytes(parts[0]).decode("ascii", "replace"))
    if topic is None:
        raise PeerError("a message of an unknown topic")

    def dec_hook(kind: type, item: Any) -> Any:
        if not isinstance(item, dict) or item.get("dtype") not in _DTYPES:
            raise ValueError("no array")
        part = parts[2 + int(item["array"])]
        return np.frombuffer(part, item["dtype"]).reshape(item["shape"])

    try:
        return _decoder(topic.kind, dec_hook)(parts[1])
    except (msgspec.DecodeError, ValueError, IndexError, KeyError, TypeError) as error:
        raise PeerError(f"topic {topic.name}: {error}") from error


def _decoder(kind: type, dec_hook: Callable[[type, Any], Any]) -> Callable[[bytes | memoryview], Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=dec_hook).decode


def limited(socket: zmq.Socket[Any], queued: int) -> None:
    """Set the limits that ZeroMQ leaves open: queue length, message size, and no lingering at exit."""
    socket.set_hwm(queued)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.LINGER, 0)
