"""Where a frame's time goes: from its last byte to the pose that is sent, stage by stage; and how Perfetto shows it."""

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

_MOST_OPEN = 64
"""Frames under way; one that is dropped never ends."""

STAGES = ("taken in", "waiting", "registration", "handed over", "sent")


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A frame's or a volume's way, stage by stage."""

    frame: int | UnsetType = UNSET
    """Its sequence."""
    volume: int | UnsetType = UNSET
    """Which request it answers."""
    stages: list[str]
    at_ns: list[int]
    """When each begins, and when the last one ends; node clock."""


class Spans:
    """Puts together what the loop sees of a frame's way."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, list[int]] = OrderedDict()
        self._asked: dict[int, int] = {}

    def completed_by(self, step: Step, registration_began_ns: int) -> Way | None:
        """What a step completes: a frame's or a volume's way, times of the node's clock; None if it completes none."""
        message, outputs, began_ns, ended_ns = step.message, step.outputs, step.began_ns, step.ended_ns
        if isinstance(message, Frame):
            self._open[message.sequence] = [message.received_ns, began_ns]
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        for output in outputs:
            if isinstance(output, RegistrationRequest) and output.frame.sequence in self._open:
                self._open[output.frame.sequence].append(ended_ns)
            elif isinstance(output, ReconstructionRequest):
                self._asked = {output.request: ended_ns}
        if isinstance(message, RegistrationDone):
            times = self._open.pop(message.request.frame.sequence, [])
            if len(times) == 3:
                received_ns, taken_ns, _ = times
                at = [received_ns, taken_ns, registration_began_ns, message.now_ns, began_ns, ended_ns]
                return Way(frame=message.request.frame.sequence, stages=list(STAGES), at_ns=at)
        if isinstance(message, VolumeReady) and any(isinstance(output, VolumeUpdate) for output in outputs):
            asked_ns = self._asked.pop(message.request, began_ns)
            at = [asked_ns, began_ns, ended_ns]
            return Way(volume=message.request, stages=["reconstruction", "sent"], at_ns=at)
        return None


def chrome_trace(spans: Iterable[Way]) -> dict[str, Any]:
    """The document in Trace Event Format, as Perfetto and Chrome show it: one row for every stage; microseconds."""
    events: list[dict[str, Any]] = []
    rows: dict[str, int] = {}
    for each in spans:
        of = f"volume {each.volume}" if each.frame is UNSET else f"frame {each.frame}"
        for stage, begin, end in zip(each.stages, each.at_ns, each.at_ns[1:], strict=False):
            row = rows.setdefault(stage, len(rows) + 1)
            events.append(
                {
                    "name": of,
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
