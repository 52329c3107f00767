"""What a session is made of: topics, and what stands in their messages.

- ``in/<type>/<device>``: an OpenIGTLink message, byte by byte as it came. Log time: its arrival, node clock; publish
  time: its own stamp; sequence: which arrival it was.
- ``console/<type>/<device>``: likewise, from a console that may not push: nothing of it reaches the loop.
- ``step``: what the pipeline took next, JSON. Of a message that came in only ``of``, its sequence; else the value.
  Sequence: which step it was.
- ``volume``: the answer of the reconstruction worker that a step took, a volume or the surface of a CT, as it came
  over the bus; sequence of the step.
- ``out/<topic>``: JSON of what a step led to; sequence of the step, its cause.
- ``node/<what>``: JSON of what else happened: gaps of the recording, spans of a frame's way, the end.

Metadata ``navnode`` say what the file is; attached are the configuration, the calibrations it names, and versions.
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
    Input,
    Matrix,
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

FORMAT = 2
"""Counts up when older versions cannot read a session rightly; :mod:`migration` reads what they wrote."""
OPENIGTLINK, JSON, BUS = "openigtlink", "json", "navnode-bus"
STEP, VOLUME = Channel("step", JSON), Channel("volume", BUS)
CONFIGURATION, VERSIONS, CALIBRATION = "configuration.json", "versions.json", "calibration/"
_PLAIN: dict[str, type] = {
    topic.kind.__name__: topic.kind for topic in topics.TOPICS.values() if topic.recorded is topics.Recorded.STEP
}


def arrival_channel(kind: str, device: str, *, from_console: bool = False) -> Channel:
    """Of messages that came in."""
    return Channel(f"{'console' if from_console else 'in'}/{kind}/{device}", OPENIGTLINK)


def note_channel(what: str) -> Channel:
    """Of what else happened."""
    return Channel(f"node/{what}", JSON)


def encoded(value: object) -> bytes:
    """JSON; arrays as lists, so that every number comes back as it was."""
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
    """What is written of a step.

    Args:
        of: the sequence of the message that it was, if it was one.
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
    """The fields of a value."""
    kind: Any = type(value)
    return {name: getattr(value, name) for name in _names(kind)}


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


def step_of(document: Mapping[str, Any]) -> Input | None:
    """The step that a document holds; None for those whose content is elsewhere.

    Raises:
        DamagedError: it holds none.
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
    """A worker's answer, as it crosses processes, every part after its length."""
    return [piece for part in bus.pack(ready) for piece in (_LENGTH.pack(len(part)), part)]


def answer_of(data: memoryview) -> WorkerAnswer:
    """What :func:`answer_parts` wrote.

    Raises:
        DamagedError: it is not one.
    """
    parts, at = [], 0
    while at + _LENGTH.size <= len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        parts.append(data[at : at + size])
        at += size
    try:
        found = bus.unpack(parts)
    except PeerError as error:
        raise DamagedError(f"a recorded answer cannot be read ({error})") from error
    if not isinstance(found, WorkerAnswer) or at != len(data):
        raise DamagedError("a recorded answer cannot be read")
    return found


# --- outputs ---------------------------------------------------------------------------------------------------------


def output_channel(output: Output) -> Channel:
    """Where an output is written."""
    kind = type(output)
    if kind in _FIXED:
        return _FIXED[kind]
    name = topics.topic_of(output).name
    if isinstance(output, ToolPose):
        return Channel(f"out/{name}/{output.tool}", JSON)
    if isinstance(output, VolumeUpdate):
        return Channel(f"out/{name}/{output.role}", JSON)
    _FIXED[kind] = Channel(f"out/{name}", JSON)
    return _FIXED[kind]


_FIXED: dict[type, Channel] = {}
"""Of outputs whose channel depends on their type alone."""


def output_bytes(output: Output) -> bytes:
    """JSON of an output, without pictures and voxels: those are named by frame and by checksum."""
    return encoded(_document(output))


def _document(output: Output) -> object:
    match output:
        case RegistrationRequest():
            return {**plain(output), "frame": output.frame.sequence}
        case ReconstructionRequest():
            views = [{"timestamp_ns": v.timestamp_ns, "volume_from_carm": v.volume_from_carm} for v in output.views]
            return {**plain(output), "views": views}
        case RegisteredFrame():
            frame = output.frame
            named = {"sequence": frame.sequence, "timestamp_ns": frame.timestamp_ns, "received_ns": frame.received_ns}
            return {**{k: v for k, v in plain(output).items() if k != "carm"}, "frame": named}
        case SurfaceRequest():
            return {"volume": identity(output.volume)}
        case VolumeUpdate():
            bone = None if output.bone is None else len(output.bone.triangles)
            told = {**plain(output), "volume": identity(output.volume), "bone": bone}
            told["uncertainty_hu"] = None if output.uncertainty_hu is None else identity(output.uncertainty_hu)
            return told
        case _:
            return output


class VolumeIdentity(msgspec.Struct, frozen=True):
    """What tells one volume from another."""

    name: str
    shape: tuple[int, ...]
    volume_from_index: Matrix
    sha256: str
    """Of the voxels."""


def identity(volume: Volume) -> VolumeIdentity:
    """What tells a volume from others."""
    sha256 = hashlib.sha256(np.ascontiguousarray(volume.voxels).data).hexdigest()
    return VolumeIdentity(volume.name, volume.voxels.shape, volume.volume_from_index, sha256)
