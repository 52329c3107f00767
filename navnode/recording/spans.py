"""Times of every frame's stages, from its last byte to the pose sent; also as a trace for Perfetto."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from navnode.loop.runner import Step
from navnode.types import (
    Frame,
    ReconstructionRequest,
    RegistrationDone,
    RegistrationRequest,
    VolumeReady,
    VolumeUpdate,
)

__all__ = ["STAGES", "Span", "Spans", "chrome_trace"]

_MOST_OPEN = 64
"""Largest number of unfinished spans; those of dropped frames never end."""

STAGES = ("taken in", "waiting", "registration", "handed over", "sent")


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """The stages of a frame or a volume."""

    frame: int | UnsetType = UNSET
    """Sequence number of the frame."""
    volume: int | UnsetType = UNSET
    """Number of the request that the volume answers."""
    stages: list[str]
    at_ns: list[int]
    """Start of every stage, and end of the last one; node clock."""


class Spans:
    """Collects spans from the loop's steps."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, list[int]] = OrderedDict()
        self._requested_ns: dict[int, int] = {}

    def completed_by(self, step: Step, registration_began_ns: int) -> Span | None:
        """The span that a step completes; None: it completes none.

        Args:
            registration_began_ns: when the last registration began; node clock.
        """
        message, outputs, began_ns, ended_ns = step.message, step.outputs, step.began_ns, step.ended_ns
        if isinstance(message, Frame):
            self._open[message.sequence] = [message.received_ns, began_ns]
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        for output in outputs:
            if isinstance(output, RegistrationRequest) and output.frame.sequence in self._open:
                self._open[output.frame.sequence].append(ended_ns)
            elif isinstance(output, ReconstructionRequest):
                self._requested_ns = {output.request: ended_ns}
        if isinstance(message, RegistrationDone):
            times = self._open.pop(message.request.frame.sequence, [])
            if len(times) == 3:
                received_ns, fed_ns, _ = times
                at = [received_ns, fed_ns, registration_began_ns, message.now_ns, began_ns, ended_ns]
                return Span(frame=message.request.frame.sequence, stages=list(STAGES), at_ns=at)
        if isinstance(message, VolumeReady) and any(isinstance(output, VolumeUpdate) for output in outputs):
            requested_ns = self._requested_ns.pop(message.request, began_ns)
            at = [requested_ns, began_ns, ended_ns]
            return Span(volume=message.request, stages=["reconstruction", "sent"], at_ns=at)
        return None


def chrome_trace(spans: Iterable[Span]) -> dict[str, Any]:
    """Spans in Trace Event Format, for Perfetto and Chrome: one row per stage, times in microseconds."""
    events: list[dict[str, Any]] = []
    rows: dict[str, int] = {}
    for each in spans:
        name = f"volume {each.volume}" if each.frame is UNSET else f"frame {each.frame}"
        for stage, begin, end in zip(each.stages, each.at_ns, each.at_ns[1:], strict=False):
            row = rows.setdefault(stage, len(rows) + 1)
            events.append(
                {
                    "name": name,
                    "cat": stage,
                    "ph": "X",
                    "pid": 1,
                    "tid": row,
                    "ts": begin / 1e3,
                    "dur": max(end - begin, 0) / 1e3,
                }
            )
    named = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": row, "args": {"name": stage}} for stage, row in rows.items()
    ]
    return {"traceEvents": [*named, *events], "displayTimeUnit": "ms"}
