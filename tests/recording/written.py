"""Sessions of a few entries, written by hand."""

from __future__ import annotations

import msgspec
import numpy as np

from navnode.igtl import Transform, encode
from navnode.recording import format as session_format
from navnode.recording.container import Channel
from navnode.recording.writer import ContainerWriter


def written(path, entries, about=None, configuration=b""):
    """A session of (topic, JSON or message, time in s)."""
    with path.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "2", "session": path.stem, **(about or {})})
        if configuration:
            writer.attach(session_format.CONFIGURATION, configuration, "application/json", 0)
        for number, (topic, content, at_s) in enumerate(entries, 1):
            at_ns = round(at_s * 1e9)
            data = msgspec.json.encode(content) if isinstance(content, dict) else encode(content)
            kind = "json" if isinstance(content, dict) else "openigtlink"
            writer.add(Channel(topic, kind), (data,), at_ns, at_ns, number)
            writer.close_chunk()
        writer.finish()
    return path


def pose(device, at_s):
    """An entry of a pose that arrived when it was measured."""
    return f"in/TRANSFORM/{device}", Transform(device=device, timestamp_ns=round(at_s * 1e9), matrix=np.eye(4)), at_s
