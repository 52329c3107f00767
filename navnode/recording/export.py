"""Exports sessions to other programs, and imports sequences of other programs as sessions.

Exports hold numbers and images, with times relative to the start of the session; nothing identifies people, except text
burned into images.
"""

from __future__ import annotations

import base64
import csv
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import cv2
import msgspec
import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as LibraryWriter

from navnode.clock import NS_PER_S
from navnode.errors import ConfigError, RecordingError
from navnode.files.volumes import write_volume
from navnode.files.whole import refuse_existing
from navnode.geometry import series_at
from navnode.igtl import Image, Transform, encode
from navnode.igtl.conventions import STATUS_KEY, is_seen, seen_pose
from navnode.loop.calibrations import Calibrations
from navnode.recording import sequences
from navnode.recording.container import Channel
from navnode.recording.edit import new_session
from navnode.recording.format import FORMAT, arrival_channel
from navnode.recording.recording import Recorded, Recording
from navnode.recording.spans import Span, chrome_trace
from navnode.recording.tap import about_for
from navnode.types import Array, Matrix, VolumeReady

__all__ = ["Piece", "Progress", "export", "import_sequence", "piece"]

_MOST_APART_S = 0.1
_EPOCH_S = 946_684_800.0
"""2000-01-01: start of imported sequences whose times are not since 1970."""
_POSE_HEADER = ["timestamp_s", *(f"m{i}{j}" for i in range(4) for j in range(4))]
_TRUTH = "Truth"

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Piece:
    """The part of a session to export.

    Args:
        xray: device of the images; '': the only one.
        begin_ns, end_ns: time span, node clock.
        zero_ns: time that is exported as 0.
    """

    recording: Recording
    xray: str
    begin_ns: int
    end_ns: int
    zero_ns: int

    def entries(self, wanted: Callable[[Channel], bool]) -> Iterator[Recorded]:
        """The entries of the wanted channels."""
        for entry in self.recording.entries(wanted, self.begin_ns, in_time_order=True):
            if entry.time_ns <= self.end_ns:
                yield entry

    def seconds(self, time_ns: int) -> float:
        """A time as exported, in s."""
        return (time_ns - self.zero_ns) / NS_PER_S


def piece(
    recording: Recording,
    *,
    xray: str = "",
    start_s: float = 0.0,
    duration_s: float | None = None,
    absolute: bool = False,
) -> Piece:
    """Choose a part of a session.

    Args:
        xray: device of the images; '': the only one.
        start_s: start of the part, relative to the start of the session.
        duration_s: None: to the end of the session.
        absolute: export times since 1970 instead of since the start of the session.

    Raises:
        RecordingError: nothing is recorded there.
    """
    begin_ns = recording.start_ns + round(start_s * NS_PER_S)
    end_ns = recording.end_ns if duration_s is None else begin_ns + round(duration_s * NS_PER_S)
    if not recording.start_ns or begin_ns > recording.end_ns:
        raise RecordingError(f"{recording.path}: nothing is recorded from {start_s:g} s on")
    return Piece(recording, xray, begin_ns, end_ns, 0 if absolute else recording.start_ns)


def export(source: Piece, out: Path, progress: Progress = lambda share: None) -> list[Path]:
    """Write a piece in the format that the extension of ``out`` selects.

    ``.mha``, ``.nrrd``: sequence; ``.mcap``: for Foxglove; ``.json``: spans for Perfetto; none: a folder of tables,
    images and volumes.

    Returns:
        The files written; images in a folder are not listed.

    Raises:
        RecordingError: the piece holds no such content, or ``out`` cannot be written.
        ConfigError: ``out`` exists, or its extension or a device is unknown.
    """
    refuse_existing(out)
    writers: dict[str, Callable[[Piece, Path, Progress], list[Path]]] = {
        ".mha": _sequence,
        ".nrrd": _sequence,
        ".mcap": _foxglove,
        ".json": _trace,
        "": _folder,
    }
    write = writers.get(out.suffix.lower())
    if write is None:
        raise ConfigError(f"{out}: unknown extension; use {', '.join(filter(None, writers))} or none")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return write(source, out, progress)
    except OSError as error:
        raise RecordingError(f"{out}: cannot be written ({error.strerror})") from error


# --- sequences -------------------------------------------------------------------------------------------------------


def _sequence(source: Piece, out: Path, progress: Progress) -> list[Path]:
    """Pictures of one device, or poses alone. Times begin with the session, or with a picture before it: PLUS
    drops frames before 0."""
    device = _images(source)
    stamps: list[int] = []
    poses: dict[str, dict[int, Matrix]] = {}
    first: Image | None = None
    for entry in source.entries(lambda c: c.topic.startswith("in/TRANSFORM/") or c.topic == f"in/IMAGE/{device}"):
        message = entry.content
        if isinstance(message, Image):
            first = first or message
            stamps.append(message.timestamp_ns or entry.time_ns)
        elif isinstance(message, Transform) and not message.device.startswith(_TRUTH):
            poses.setdefault(message.device, {})[message.timestamp_ns or entry.time_ns] = seen_pose(message)
    if first is None:
        if device:
            raise ConfigError(f"--device {device}: {source.recording.path} holds no images of it in this part")
        if not poses:
            raise RecordingError(f"{source.recording.path}: holds neither images nor poses in this part")
        stamps = list(poses[max(poses, key=lambda name: len(poses[name]))])
    stamps = sorted(set(stamps))
    zero_ns = min(source.zero_ns, stamps[0])
    times_s = np.array([(stamp - zero_ns) / NS_PER_S for stamp in stamps])
    transforms = {}
    for name, by_time in poses.items():
        at = sorted(by_time)
        rows = np.array([by_time[stamp] for stamp in at])
        wanted = series_at((np.array(at) - zero_ns) / NS_PER_S, rows, times_s, _MOST_APART_S)
        transforms[name] = [None if np.isnan(pose).any() else pose for pose in wanted]
    if first is None:
        none = np.zeros((len(stamps), 0, 0), np.uint8)
        sequences.write(out, sequences.Sequence(none, times_s, transforms=transforms), ())
        return [out]
    shape = (len(stamps), *first.voxels.shape[1:])
    spacing = np.linalg.norm(first.ras_from_index[:3, :2], axis=0)
    sequence = sequences.Sequence(
        np.broadcast_to(np.zeros((), first.voxels.dtype), shape),
        times_s,
        (float(spacing[0]), float(spacing[1])),
        transforms,
    )
    sequences.write(out, sequence, _pixels(source, device, stamps, sequence.frames, progress))
    return [out]


def _pixels(source: Piece, device: str, stamps: list[int], like: Array, progress: Progress) -> Iterator[Array]:
    """The pictures in the order of their stamps, which is nearly that of their arrivals."""
    late: dict[int, Array] = {}
    wanted = iter(stamps)
    due = next(wanted, None)
    done = 0
    for entry in source.entries(lambda c: c.topic == f"in/IMAGE/{device}"):
        message = entry.content
        if not isinstance(message, Image):
            continue
        if message.voxels.shape[1:] != like.shape[1:] or message.voxels.dtype != like.dtype:
            raise RecordingError(f"{source.recording.path}: images of {device!r} have several sizes or types")
        stamp = message.timestamp_ns or entry.time_ns
        if due is not None and stamp >= due:
            late.setdefault(stamp, message.voxels[0])
        while due is not None and due in late:
            done += 1
            progress(done / len(stamps))
            yield late.pop(due)
            due = next(wanted, None)


def _images(source: Piece) -> str:
    """The device whose images are exported; '': there are none."""
    if source.xray:
        return source.xray
    topics: set[str] = set()
    for file in source.recording.files:
        for chunk in file.chunks[:200]:
            topics |= {e.channel.topic for e in file.entries(chunk) if e.channel.topic.startswith("in/IMAGE/")}
    names = sorted(topic.removeprefix("in/IMAGE/") for topic in topics)
    if not names:
        return ""  # poses alone
    if len(names) > 1:
        raise RecordingError(f"{source.recording.path}: holds images of {', '.join(names)}; choose with --device")
    return names[0]


def import_sequence(path: Path, out: Path, node: Calibrations | None, device: str) -> int:
    """Write a sequence as a session, as if a server had sent it.

    Args:
        node: the node that will replay it; the session stores its configuration and calibrations; None: unknown.
        device: device name of the images in the session.

    Returns:
        Number of messages written.

    Raises:
        RecordingError: the sequence cannot be read, or ``out`` cannot be written.
        ConfigError: ``out`` exists.
    """
    sequence = sequences.read(path)
    session = about_for(node)
    base_s = 0.0 if sequence.times_s[0] > _EPOCH_S else _EPOCH_S
    count = 0
    with new_session(out) as writer:
        metadata = {
            **session.metadata,
            "session": uuid.uuid4().hex,
            "part": "0",
            "format": str(FORMAT),
            "imported": path.suffix,
        }
        writer.describe("navnode", metadata)
        for name, data in session.attachments.items():
            writer.attach(name, data, "application/octet-stream", 0)
        u, v = sequence.spacing_mm
        pictured = sequence.pictured
        for n, at in enumerate(sequence.times_s):
            stamp = round((base_s + float(at)) * NS_PER_S)
            for name, poses in sequence.transforms.items():
                pose, status = poses[n], sequence.statuses[name][n]
                if not status:
                    continue
                transform = Transform(
                    device=name,
                    timestamp_ns=stamp,
                    matrix=np.eye(4) if pose is None else pose,
                    version=2,
                    metadata={STATUS_KEY: status},
                )
                count += 1
                writer.add(arrival_channel("TRANSFORM", name), (encode(transform),), stamp, stamp, count)
            if not pictured[n]:
                continue
            image = Image(
                device=device,
                timestamp_ns=stamp,
                voxels=np.ascontiguousarray(sequence.frames[n])[None],
                version=2,
                ras_from_index=np.diag([u, v, 1.0, 1.0]),
            )
            count += 1
            writer.add(arrival_channel("IMAGE", device), (encode(image),), stamp, stamp, count)
    return count


# --- a folder of ordinary files --------------------------------------------------------------------------------------


def _folder(source: Piece, out: Path, progress: Progress) -> list[Path]:
    """Write ``poses/<device>.csv``, ``outputs/<topic>.csv``, ``frames/<device>/000000.png`` with
    ``frames/<device>.csv``, and ``volumes/<n>.nii.gz``."""
    tables: dict[Path, tuple[TextIO, Any]] = {}
    numbers: dict[str, int] = {}
    with ExitStack() as stack:

        def row(path: Path, header: list[str], values: list[object]) -> None:
            if path not in tables:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("x", newline=""))
                tables[path] = file, csv.writer(file)
                tables[path][1].writerow(header)
            tables[path][1].writerow(values)

        for entry in source.entries(lambda c: c.topic.startswith(("in/IMAGE/", "in/TRANSFORM/", "out/", "volume"))):
            progress((entry.time_ns - source.begin_ns) / max(source.end_ns - source.begin_ns, 1))
            content = entry.content
            if isinstance(content, Transform):
                at = source.seconds(content.timestamp_ns or entry.time_ns)
                row(
                    out / "poses" / f"{_safe(content.device)}.csv",
                    _POSE_HEADER,
                    [f"{at:.9f}", *seen_pose(content).ravel().tolist()],
                )
            elif isinstance(content, Image):
                name = _safe(content.device)
                n = numbers[name] = numbers.get(name, -1) + 1
                picture = out / "frames" / name / f"{n:06d}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                if content.voxels.dtype not in (np.uint8, np.uint16) or not cv2.imwrite(
                    str(picture), _as_png(content.voxels[0])
                ):
                    raise RecordingError(f"{picture}: cannot be written as PNG ({content.voxels.dtype})")
                at = source.seconds(content.timestamp_ns or entry.time_ns)
                row(out / "frames" / f"{name}.csv", ["timestamp_s", "image"], [f"{at:.9f}", f"{name}/{picture.name}"])
            elif isinstance(content, VolumeReady):
                if content.volume is not None:
                    n = numbers["volume"] = numbers.get("volume", -1) + 1
                    path = out / "volumes" / f"{n:03d}.nii.gz"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_volume(content.volume, path)
            elif isinstance(content, dict) and (line := _row_of(entry.topic, content, source)) is not None:
                row(out / "outputs" / f"{_safe(entry.topic.removeprefix('out/'))}.csv", *line)
    if not tables and not numbers:
        raise RecordingError(f"{source.recording.path}: nothing is recorded there")
    return sorted(path for path in out.rglob("*") if path.is_file() and path.suffix != ".png")


def _as_png(pixels: Array) -> Array:
    """Pixels (H, W) or (H, W, 3) as OpenCV writes them; grey where every colour is."""
    if pixels.ndim == 2 or pixels.shape[2] != 3:
        return pixels
    if (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0])
    return np.ascontiguousarray(pixels[..., ::-1])


def _row_of(topic: str, output: Mapping[str, Any], source: Piece) -> tuple[list[str], list[object]] | None:
    """Header and row of an output that is a state, or a transform with a validity; None for others."""
    if topic == "out/state":
        figures = ("frames_received", "frames_registered", "frame_rate_hz", "volumes")
        status = output["registration"]
        at = source.seconds(output["now_ns"])
        return (
            ["timestamp_s", "status", "reason", *figures],
            [f"{at:.9f}", status["status"], status["reason"], *(output[name] for name in figures)],
        )
    names = [key for key in output if key.startswith("volume_from_")]
    if "validity" not in output or len(names) != 1:
        return None
    pose, validity = output[names[0]], output["validity"]
    matrix = np.full((4, 4), np.nan) if pose is None else np.array(pose, np.float64)
    stamp = validity["source_time_ns"]
    at = source.seconds(stamp) if stamp else float("nan")
    return (
        [_POSE_HEADER[0], "status", "reason", "age_ms", *_POSE_HEADER[1:]],
        [f"{at:.9f}", validity["status"], validity["reason"], validity["age_ns"] / 1e6, *matrix.ravel().tolist()],
    )


def _safe(name: str) -> str:
    """A device or topic name as a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).lstrip(".") or "_"


# --- Perfetto and Foxglove -------------------------------------------------------------------------------------------


def _trace(source: Piece, out: Path, progress: Progress) -> list[Path]:
    spans = [msgspec.json.decode(entry.raw, type=Span) for entry in source.entries(lambda c: c.topic == "node/spans")]
    if not spans:
        raise RecordingError(f"{source.recording.path}: holds no spans; only nodes record them")
    progress(0.5)
    shifted = [msgspec.structs.replace(span, at_ns=[at - source.zero_ns for at in span.at_ns]) for span in spans]
    out.write_text(json.dumps(chrome_trace(shifted)))
    return [out]


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


def _foxglove(source: Piece, out: Path, progress: Progress) -> list[Path]:
    """Write MCAP with the schemas of foxglove.dev: images, transforms, and a log of the registration's status."""
    with out.open("xb") as file:
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
                device, pose = _placed(entry.topic, content)
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
        writer.finish()  # type: ignore[no-untyped-call]
    if not channels:
        out.unlink()
        raise RecordingError(f"{source.recording.path}: holds no images and no poses in this part")
    return [out]


def _placed(topic: str, output: Mapping[str, Any]) -> tuple[str, Any]:
    if topic.startswith("out/tool/"):
        return f"{output['tool']}ToVolume", output["volume_from_tool"]
    if topic == "out/carm":
        return "CArmToVolume", output["volume_from_carm"]
    if topic == "out/patient":
        return "PatientToVolume", output["volume_from_patient"]
    return "", None


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
