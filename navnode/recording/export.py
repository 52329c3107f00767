"""Exports sessions to other programs, and imports sequences of other programs as sessions.

Exports hold numbers and images, with times relative to the start of the session; nothing identifies people, except text
burned into images.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import cv2
import msgspec
import numpy as np

from navnode.clock import NS_PER_S
from navnode.errors import ConfigError, RecordingError
from navnode.files.placing import tell
from navnode.files.volumes import write_volume
from navnode.files.whole import refuse_existing
from navnode.geometry import series_at
from navnode.igtl import Image, Transform, encode
from navnode.igtl.conventions import STATUS_KEY, seen_pose
from navnode.loop.calibrations import Calibrations
from navnode.recording import foxglove, scene, sequences
from navnode.recording.edit import new_session
from navnode.recording.format import FORMAT, arrival_channel
from navnode.recording.piece import Piece, images_of, piece, pixels, refuse_slices
from navnode.recording.spans import Span, chrome_trace
from navnode.recording.tap import about_for
from navnode.types import Array, Matrix, Progress, VolumeReady

__all__ = ["Piece", "export", "import_sequence", "piece"]

_MOST_APART_S = 0.1
_EPOCH_S = 946_684_800.0
"""2000-01-01: start of imported sequences whose times are not since 1970."""
_POSE_HEADER = ["timestamp_s", *(f"m{i}{j}" for i in range(4) for j in range(4))]
_TRUTH = "Truth"


def export(source: Piece, out: Path, progress: Progress = lambda share: None) -> list[Path]:
    """Write a piece in the format that the extension of ``out`` selects.

    ``.mha``, ``.nrrd``: sequence; ``.mrml``: scene of 3D Slicer; ``.mcap``: for Foxglove; ``.json``: spans for
    Perfetto; none: a folder of tables, images and volumes.

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
        ".mcap": foxglove.write,
        ".mrml": scene.write,
        ".json": _trace,
        "": _folder,
    }
    write = writers.get(out.suffix.lower())
    if write is None:
        raise ConfigError(f"{out}: unknown extension; use {', '.join(filter(None, writers))} or none")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        before = set(out.parent.iterdir())
        try:
            return write(source, out, progress)
        except BaseException:  # a part of an export looks like all of it
            for path in set(out.parent.iterdir()) - before:
                if path == out or path.name.startswith(f"{out.stem}-"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise
    except OSError as error:
        raise RecordingError(f"{out}: cannot be written ({error.strerror})") from error
    except (KeyError, TypeError) as error:
        raise RecordingError(f"{source.recording.path}: an output is not as navnode writes it ({error})") from error


# --- sequences -------------------------------------------------------------------------------------------------------


def _sequence(source: Piece, out: Path, progress: Progress) -> list[Path]:
    """Pictures of one device, or poses alone. Times begin with the session, or with a picture before it: PLUS
    drops frames before 0."""
    device = images_of(source)
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
    if alike := len(stamps) - len(set(stamps)):
        tell(out, f"{alike} pictures or poses have the time stamp of another one, and are left out")
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
    sequences.write(out, sequence, pixels(source, device, stamps, sequence.frames, progress))
    return [out]


_DEVICE = re.compile(r"[!-.0-~]{1,20}")
"""A device's name on the wire (OpenIGTLink), and one level of a topic."""


def import_sequence(path: Path, out: Path, node: Calibrations | None, device: str) -> int:
    """Write a sequence as a session, as if a server had sent it.

    Args:
        node: the node that will replay it; the session stores its configuration and calibrations; None: unknown.
        device: device name of the images in the session.

    Returns:
        Number of messages written.

    Raises:
        RecordingError: the sequence cannot be read, the device's name cannot be used, or ``out`` cannot be written.
        ConfigError: ``out`` exists.
    """
    sequence = sequences.read(path)
    if not _DEVICE.fullmatch(device) or (device in sequence.transforms and sequence.pictured.any()):
        raise RecordingError(f"--device {device!r}: 1 to 20 printable letters without '/', and no transform's name")
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
    names = _Names()
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
                    out / "poses" / f"{names(content.device)}.csv",
                    _POSE_HEADER,
                    [f"{at:.9f}", *seen_pose(content).ravel().tolist()],
                )
            elif isinstance(content, Image):
                refuse_slices(content, source)
                name = names(content.device)
                n = numbers[name] = numbers.get(name, -1) + 1
                picture = out / "frames" / name / f"{n:06d}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                if content.voxels.dtype not in (np.uint8, np.uint16):
                    raise RecordingError(f"{picture}: cannot be written as PNG ({content.voxels.dtype})")
                picture.write_bytes(cv2.imencode(".png", _as_png(content.voxels[0]))[1].tobytes())
                at = source.seconds(content.timestamp_ns or entry.time_ns)
                row(out / "frames" / f"{name}.csv", ["timestamp_s", "image"], [f"{at:.9f}", f"{name}/{picture.name}"])
            elif isinstance(content, VolumeReady):
                if content.volume is not None:
                    n = numbers["volume"] = numbers.get("volume", -1) + 1
                    path = out / "volumes" / f"{n:03d}.nii.gz"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_volume(content.volume, path)
            elif isinstance(content, dict) and (line := _row_of(entry.topic, content, source)) is not None:
                row(out / "outputs" / f"{names(entry.topic.removeprefix('out/'))}.csv", *line)
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


class _Names:
    """Names of devices and topics as names of files: none is another's, also where a disk ignores capitals."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        if name not in self._given:
            plain = (
                "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).lstrip(".") or "_"
            )
            taken = {other.casefold() for other in self._given.values()}
            tries = (plain, *(f"{plain}-{n}" for n in range(2, len(taken) + 3)))
            self._given[name] = next(each for each in tries if each.casefold() not in taken)
        return self._given[name]


# --- Perfetto ---------------------------------------------------------------------------------------------------------


def _trace(source: Piece, out: Path, progress: Progress) -> list[Path]:
    spans = [msgspec.json.decode(entry.raw, type=Span) for entry in source.entries(lambda c: c.topic == "node/spans")]
    if not spans:
        raise RecordingError(f"{source.recording.path}: holds no spans; only nodes record them")
    progress(0.5)
    shifted = [msgspec.structs.replace(span, at_ns=[at - source.zero_ns for at in span.at_ns]) for span in spans]
    out.write_text(json.dumps(chrome_trace(shifted)))
    return [out]
