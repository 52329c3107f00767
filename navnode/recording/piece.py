"""A part of a session, as it is exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from navnode.clock import NS_PER_S
from navnode.errors import RecordingError
from navnode.igtl import Image
from navnode.recording.container import Channel
from navnode.recording.recording import Recorded, Recording
from navnode.types import Array, Progress

__all__ = ["Piece", "images_of", "piece", "pixels", "placed", "refuse_slices", "stamps_of"]


EARLY_NS = 5 * NS_PER_S
"""A picture arrives at most so long before what the node said of it."""


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

    def entries(self, wanted: Callable[[Channel], bool], early_ns: int = 0) -> Iterator[Recorded]:
        """The entries of the wanted channels.

        Args:
            early_ns: so much of what was before is given, too.
        """
        for entry in self.recording.entries(wanted, self.begin_ns - early_ns, in_time_order=True):
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


def placed(topic: str, output: Mapping[str, Any]) -> tuple[str, Any]:
    """Name of the transform of an output, and its 4x4, None where there is none; '': the output is no pose."""
    if topic.startswith("out/tool/"):
        return f"{output['tool']}ToVolume", output["volume_from_tool"]
    if topic == "out/carm":
        return "CArmToVolume", output["volume_from_carm"]
    if topic == "out/patient":
        return "PatientToVolume", output["volume_from_patient"]
    return "", None


def pixels(source: Piece, device: str, stamps: list[int], like: Array, progress: Progress) -> Iterator[Array]:
    """The pictures, (H, W) or (H, W, components), of a device by their stamps: nearly the order of their arrivals.

    Args:
        stamps: of the pictures wanted, ns, in order.
        like: (N, H, W) or (N, H, W, components), of which every picture must have the size and type.

    Raises:
        RecordingError: one has another size or type, or is not there.
    """
    late: dict[int, Array] = {}
    wanted = iter(stamps)
    due = next(wanted, None)
    done = 0
    for entry in source.entries(lambda c: c.topic == f"in/IMAGE/{device}", EARLY_NS):
        message = entry.content
        if not isinstance(message, Image):
            continue
        if message.voxels.shape[1:] != like.shape[1:] or message.voxels.dtype != like.dtype:
            raise RecordingError(f"{source.recording.path}: images of {device!r} have several sizes or types")
        refuse_slices(message, source)
        stamp = message.timestamp_ns or entry.time_ns
        if due is not None and stamp >= due:
            late.setdefault(stamp, message.voxels[0])
        while due is not None and due in late:
            done += 1
            progress(done / len(stamps))
            yield late.pop(due)
            due = next(wanted, None)
    if due is not None:
        raise RecordingError(f"{source.recording.path}: {len(stamps) - done} images of {device!r} are not there")


def stamps_of(source: Piece, device: str) -> set[int]:
    """Stamps of the pictures of a device that :func:`pixels` finds, ns."""
    return {
        entry.publish_time_ns or entry.log_time_ns
        for entry in source.recording.raw(source.begin_ns - EARLY_NS, in_time_order=True)
        if entry.channel.topic == f"in/IMAGE/{device}" and entry.log_time_ns >= source.begin_ns - EARLY_NS
    }


def refuse_slices(image: Image, source: Piece) -> None:
    """Refuse an image of several slices where pictures are exported.

    Raises:
        RecordingError: it has several.
    """
    if len(image.voxels) != 1:
        what = f"an image of {image.device!r} has {len(image.voxels)} slices; only pictures of one are exported"
        raise RecordingError(f"{source.recording.path}: {what}")


def images_of(source: Piece) -> str:
    """The device whose images are exported; '': there are none.

    Raises:
        RecordingError: there are several, and none is chosen.
    """
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
