"""The contents of a session: topics, and what their messages hold.

- ``in/<type>/<device>``: an OpenIGTLink message, byte by byte as it arrived. Log time: its arrival, node clock; publish
  time: its own stamp; sequence: number of the arrival.
- ``console/<type>/<device>``: likewise, from a console that may not push: the loop does not get it.
- ``step``: the pipeline's next input, JSON. For a message that arrived only ``of``, its sequence; otherwise the value.
  Sequence: number of the step.
- ``volume``: the reconstruction worker's answer in a step, a volume or the surface of a CT, as it came over the bus;
  sequence of the step.
- ``out/<topic>``: an output of a step, JSON; sequence of the step, its cause.
- ``node/<what>``: other events, JSON: gaps of the recording, spans of frames, the end.

The metadata record ``navnode`` describes the file; configuration, calibrations and versions are attached.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import msgspec
import numpy as np

from navnode.errors import DamagedError, LocalError, PeerError
from navnode.loop import bus, topics
from navnode.recording.container import Channel
from navnode.types import (
    BodyPose,
    Input,
    Matrix,
    NodeState,
    Output,
    ReconstructionRequest,
    RegisteredFrame,
    RegistrationDone,
    RegistrationRequest,
    SurfaceRequest,
    ToolPose,
    Volume,
    VolumeUpdate,
    WorkerAnswer,
)

__all__ = [
    "BUS",
    "CALIBRATION",
    "CONFIGURATION",
    "CT",
    "FOLLOWED",
    "FORMAT",
    "GAP",
    "JSON",
    "OPENIGTLINK",
    "RECOVERED",
    "STEP",
    "VERSIONS",
    "VOLUME",
    "VolumeIdentity",
    "answer_of",
    "answer_parts",
    "arrival_channel",
    "encoded",
    "identity",
    "is_of",
    "note_channel",
    "output_bytes",
    "output_channel",
    "plain",
    "step_bytes",
    "step_of",
]

FORMAT = 2
"""Increases when older versions cannot read new sessions correctly; :mod:`migration` reads older formats."""
FOLLOWED = "navnode.followed"
"""Metadata record at the end of a file: the session goes on in another one."""
RECOVERED = "navnode.recovered"
"""Metadata record at the end of a repaired session: what was lost of it."""
OPENIGTLINK, JSON, BUS = "openigtlink", "json", "navnode-bus"
STEP, VOLUME = Channel("step", JSON), Channel("volume", BUS)
CT, GAP = "node/ct", "node/gap"
"""Topics of which CT a node has, and of how many messages were lost."""
CONFIGURATION, VERSIONS, CALIBRATION = "configuration.json", "versions.json", "calibration/"
_PLAIN: dict[str, type] = {
    topic.kind.__name__: topic.kind for topic in topics.TOPICS.values() if topic.recorded is topics.Recorded.STEP
}


def arrival_channel(kind: str, device: str, *, from_console: bool = False) -> Channel:
    """The channel of messages that arrived.

    Args:
        kind: OpenIGTLink type.
        from_console: the sender is a console that may not push.
    """
    return Channel(f"{'console' if from_console else 'in'}/{kind}/{device}", OPENIGTLINK)


def note_channel(what: str) -> Channel:
    """The channel of other events."""
    return Channel(f"node/{what}", JSON)


def encoded(value: object) -> bytes:
    """Encode as JSON, arrays as lists; every number is restored exactly.

    Raises:
        LocalError: the value, or a part of it, has a type that cannot be recorded.
    """
    return _encoder().encode(value)


@cache
def _encoder() -> msgspec.json.Encoder:
    return msgspec.json.Encoder(enc_hook=_listed)


def _listed(item: object) -> object:
    if isinstance(item, np.ndarray):
        return item.tolist()
    if isinstance(item, np.generic):
        return item.item()
    raise LocalError(f"{type(item).__name__} cannot be recorded")


# --- steps -----------------------------------------------------------------------------------------------------------


def step_bytes(message: Input, of: int | None) -> bytes:
    """The record of a step, JSON.

    Args:
        of: sequence of the arrival that the message was made from; None: it did not arrive from outside.
    """
    kind = type(message).__name__
    if of is not None:
        return b'{"kind":"%b","of":%d}' % (kind.encode(), of)
    if isinstance(message, RegistrationDone):
        return encoded({"kind": kind, "frame": message.request.frame.sequence, "now_ns": message.now_ns})
    if isinstance(message, WorkerAnswer):
        return encoded({"kind": kind, "now_ns": message.now_ns})
    return encoded({"kind": kind, **plain(message)})


def plain(value: object) -> dict[str, Any]:
    """A dataclass value's fields as a dict."""
    kind: Any = type(value)
    return {name: getattr(value, name) for name in _names(kind)}


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


def step_of(document: Mapping[str, Any]) -> Input | None:
    """The input that a step's document holds; None: its content is recorded elsewhere.

    Raises:
        DamagedError: the document cannot be read.
    """
    kind = _PLAIN.get(str(document.get("kind")))
    if kind is None:
        return None
    try:
        return msgspec.convert({k: v for k, v in document.items() if k != "kind"}, kind)
    except msgspec.ValidationError as error:
        raise DamagedError(f"a step cannot be read ({error})") from error


_LENGTH = struct.Struct("<I")


def answer_parts(ready: WorkerAnswer) -> list[bytes | memoryview]:
    """A worker's answer as it crosses processes, with the length before every part."""
    return [piece for part in bus.pack(ready) for piece in (_LENGTH.pack(len(part)), part)]


def answer_of(data: memoryview) -> WorkerAnswer:
    """Decode what :func:`answer_parts` encoded.

    Raises:
        DamagedError: the data do not hold a worker's answer.
    """
    parts, at = [], 0
    while at + _LENGTH.size <= len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        parts.append(data[at : at + size])
        at += size
    try:
        answer = bus.unpack(parts)
    except PeerError as error:
        raise DamagedError(f"a recorded answer cannot be read ({error})") from error
    if not isinstance(answer, WorkerAnswer) or at != len(data):
        raise DamagedError("a recorded answer cannot be read")
    return answer


# --- outputs ---------------------------------------------------------------------------------------------------------


def output_channel(output: Output) -> Channel:
    """The channel of an output."""
    if isinstance(output, ToolPose):
        part = output.tool
    elif isinstance(output, BodyPose):
        part = output.body
    else:
        part = output.role if isinstance(output, VolumeUpdate) else ""
    kind = type(output)
    channel = _CHANNELS.get((kind, part))
    if channel is None:
        name = topics.topic_of(output).name
        channel = _CHANNELS[kind, part] = Channel(f"out/{name}/{part}" if part else f"out/{name}", JSON)
    return channel


_CHANNELS: dict[tuple[type, str], Channel] = {}
"""Channels of outputs so far, by kind and by tool, bone or role: they are few, and poses come by the thousand."""


def output_bytes(output: Output) -> bytes:
    """An output as JSON; frames are named by number, volumes by checksum."""
    return encoded(_document(output))


def _document(output: Output) -> object:
    match output:
        case RegistrationRequest():
            told = {**plain(output), "frame": output.frame.sequence}
            # Left out where there are none, as in sessions of before.
            unused = {key for key in ("bodies", "of_volume") if not getattr(output, key)}
            return {key: value for key, value in told.items() if key not in unused}
        case ReconstructionRequest():
            views = [{"timestamp_ns": v.timestamp_ns, "volume_from_carm": v.volume_from_carm} for v in output.views]
            told = {**plain(output), "views": views}
            return told if output.lungs else {key: value for key, value in told.items() if key != "lungs"}
        case RegisteredFrame():
            frame = output.frame
            named = {"sequence": frame.sequence, "timestamp_ns": frame.timestamp_ns, "received_ns": frame.received_ns}
            return {**{k: v for k, v in plain(output).items() if k != "carm"}, "frame": named}
        case SurfaceRequest():
            return {"volume": identity(output.volume)}
        case VolumeUpdate():
            bone = None if output.bone is None else len(output.bone.triangles)
            uncertainty = None if output.uncertainty_hu is None else identity(output.uncertainty_hu)
            found: dict[str, object] = {"volume": identity(output.volume), "bone": bone, "uncertainty_hu": uncertainty}
            told = {key: value for key, value in plain(output).items() if key != "lungs"} | found
            # Left out where there are none, as in sessions of before.
            return told if output.lungs is None else {**told, "lungs": len(output.lungs.triangles)}
        case NodeState():
            # Left out where there are none, as in sessions of before.
            unused = {key for key in ("bodies", "plans", "active_plan") if not getattr(output, key)}
            return {key: value for key, value in plain(output).items() if key not in unused}
        case _:
            return output


_SAME_PLACE_MM = 1e-3


class VolumeIdentity(msgspec.Struct, frozen=True):
    """Identifies a volume."""

    name: str
    shape: tuple[int, ...]
    volume_from_index: Matrix
    sha256: str
    """Checksum of the voxels."""


def is_of(recorded: Mapping[str, Any], volume: Volume) -> bool:
    """Whether a volume is the recorded one: its voxels, and where they lie, but for the rounding of files."""
    own = identity(volume)
    place = np.asarray(recorded.get("volume_from_index"), np.float64)
    return (
        own.sha256 == recorded.get("sha256")
        and tuple(recorded.get("shape", ())) == tuple(own.shape)
        and place.shape == (4, 4)
        and bool(np.allclose(place, own.volume_from_index, rtol=1e-5, atol=_SAME_PLACE_MM))
    )


def identity(volume: Volume) -> VolumeIdentity:
    """Name, shape, place and checksum of a volume."""
    sha256 = hashlib.sha256(np.ascontiguousarray(volume.voxels).data).hexdigest()
    return VolumeIdentity(volume.name, volume.voxels.shape, volume.volume_from_index, sha256)
