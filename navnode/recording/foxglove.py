"""A part of a session for Foxglove: MCAP with its schemas."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as LibraryWriter

from navnode.clock import NS_PER_S
from navnode.errors import RecordingError
from navnode.files.whole import whole
from navnode.igtl import Image, Transform
from navnode.igtl.conventions import is_seen
from navnode.recording.piece import Piece, placed
from navnode.types import Matrix, Progress

__all__ = ["write"]

_TIME_SCHEMA = {"type": "object", "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}}}
_FOXGLOVE: dict[str, dict[str, Any]] = {
    "foxglove.RawImage": {
        "timestamp": _TIME_SCHEMA,
        "frame_id": {"type": "string"},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "encoding": {"type": "string"},
        "step": {"type": "integer"},
        "data": {"type": "string", "contentEncoding": "base64"},
    },
    "foxglove.FrameTransforms": {
        "transforms": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "timestamp": _TIME_SCHEMA,
                    "parent_frame_id": {"type": "string"},
                    "child_frame_id": {"type": "string"},
                    "translation": {"type": "object", "properties": {a: {"type": "number"} for a in "xyz"}},
                    "rotation": {"type": "object", "properties": {a: {"type": "number"} for a in "xyzw"}},
                },
            },
        }
    },
    "foxglove.Log": {
        "timestamp": _TIME_SCHEMA,
        "level": {"type": "integer"},
        "message": {"type": "string"},
        "name": {"type": "string"},
        "file": {"type": "string"},
        "line": {"type": "integer"},
    },
}
_LOG_LEVELS = {"VALID": 2, "DEGRADED": 3, "INVALID": 4}


def write(source: Piece, out: Path, progress: Progress) -> list[Path]:
    """Write images, transforms, and a log of the registration's status.

    Raises:
        RecordingError: the piece holds neither images nor poses, or images that Foxglove does not show.
        OSError: ``out`` cannot be written.
    """
    with whole(out) as part, part.open("xb") as file:
        writer = LibraryWriter(file, compression=CompressionType.ZSTD)
        writer.start(profile="", library="navnode")
        channels: dict[str, int] = {}

        def put(topic: str, schema: str, stamp_ns: int, content: dict[str, Any]) -> None:
            if topic not in channels:
                shape = {"title": schema, "type": "object", "properties": _FOXGLOVE[schema]}
                number = writer.register_schema(schema, "jsonschema", json.dumps(shape).encode())
                channels[topic] = writer.register_channel(topic, "json", number)
            at = max(stamp_ns - source.zero_ns, 0)
            stamped = {"timestamp": dict(zip(("sec", "nsec"), divmod(at, NS_PER_S), strict=True)), **content}
            data = msgspec.json.encode({"transforms": [stamped]} if schema.endswith("Transforms") else stamped)
            writer.add_message(channels[topic], at, data, at)

        last = ""
        for entry in source.entries(lambda c: c.topic.startswith(("in/IMAGE/", "in/TRANSFORM/", "out/"))):
            progress((entry.time_ns - source.begin_ns) / max(source.end_ns - source.begin_ns, 1))
            content = entry.content
            if isinstance(content, Transform):
                if is_seen(content):
                    put(
                        content.device,
                        "foxglove.FrameTransforms",
                        content.timestamp_ns or entry.time_ns,
                        _frame_transform(content.device, content.matrix),
                    )
            elif isinstance(content, Image):
                put(content.device, "foxglove.RawImage", content.timestamp_ns or entry.time_ns, _raw_image(content))
            elif isinstance(content, dict):
                device, pose = placed(entry.topic, content)
                if pose is not None:
                    stamp = content["validity"]["source_time_ns"] or entry.time_ns
                    put(device, "foxglove.FrameTransforms", stamp, _frame_transform(device, np.array(pose)))
                elif entry.topic == "out/state" and content["registration"]["status"] != last:
                    last = content["registration"]["status"]
                    put(
                        "registration",
                        "foxglove.Log",
                        entry.time_ns,
                        {
                            "level": _LOG_LEVELS.get(last, 4),
                            "message": f"{last} {content['registration']['reason']}",
                            "name": "registration",
                            "file": "",
                            "line": 0,
                        },
                    )
        writer.finish()
        if not channels:
            raise RecordingError(f"{source.recording.path}: holds no images and no poses in this part")
    return [out]


def _frame_transform(device: str, matrix: Matrix) -> dict[str, Any]:
    child, _, parent = device.partition("To")
    x, y, z = matrix[:3, 3].tolist()
    w, i, j, k = _quaternion(matrix[:3, :3])
    return {
        "parent_frame_id": parent or "world",
        "child_frame_id": child,
        "translation": {"x": x, "y": y, "z": z},
        "rotation": {"x": i, "y": j, "z": k, "w": w},
    }


def _quaternion(rotation: Matrix) -> tuple[float, float, float, float]:
    from navnode.geometry import rotation_log

    vector = rotation_log(rotation)
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle > 1e-12 else np.zeros(3)
    i, j, k = (axis * np.sin(angle / 2)).tolist()
    return float(np.cos(angle / 2)), i, j, k


def _raw_image(image: Image) -> dict[str, Any]:
    pixels = image.voxels[0]
    encodings = {np.dtype(np.uint16): "mono16", np.dtype(np.uint8): "mono8"}
    if pixels.ndim == 3:
        encodings = {np.dtype(np.uint8): "rgb8"} if pixels.shape[2] == 3 else {}
    if pixels.dtype not in encodings:
        raise RecordingError(f"images of {image.device!r} are {pixels.dtype}, not 8 or 16 bits")
    return {
        "frame_id": image.device,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "encoding": encodings[pixels.dtype],
        "step": pixels.strides[0] if pixels.flags.c_contiguous else 0,
        "data": base64.b64encode(np.ascontiguousarray(pixels).data).decode(),
    }
