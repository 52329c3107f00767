"""Reads sessions back."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader

from navnode.errors import RecordingError, WireError
from navnode.igtl import Message, decode
from navnode.recording.writer import OPENIGTLINK


@dataclass(frozen=True)
class Recorded:
    """One entry of a session."""

    topic: str
    time_ns: int
    """Of arrival, node clock."""
    content: Message | dict[str, Any]
    """An OpenIGTLink message, or what the node noted."""


class Recording:
    """A session; iterate over it for its entries in the order in which they were written.

    Raises, while iterating:
        RecordingError: the file is none, or damaged there; what comes before the damage is given first.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __iter__(self) -> Iterator[Recorded]:
        try:
            with self.path.open("rb") as file:
                reader = NonSeekingReader(file, validate_crcs=True)
                for _, channel, message in reader.iter_messages(log_time_order=False):
                    content = (
                        decode(message.data) if channel.message_encoding == OPENIGTLINK else json.loads(message.data)
                    )
                    yield Recorded(channel.topic, message.log_time, content)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be read ({error.strerror})") from error
        except (McapError, WireError, ValueError, struct.error) as error:
            what = str(error) or type(error).__name__
            raise RecordingError(f"{self.path}: damaged, or no recording ({what})") from error
