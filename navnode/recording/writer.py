"""Records a session beside the loop, never in its way.

MCAP (https://mcap.dev) without compression, chunks of 1 MiB with checksums: after a crash at most the open chunk is
lost. Channels:

- ``in/<type>/<device>``: OpenIGTLink messages, byte by byte as received; log time is the arrival (node clock), publish
  time the message's own stamp.
- ``node/<what>``: JSON of what the node did, such as operator commands and gaps of the recording.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mcap.writer import CompressionType, Writer

from navnode.clock import now_ns
from navnode.errors import RecordingError
from navnode.igtl import Message, encode
from navnode.igtl.messages import held_bytes

log = logging.getLogger(__name__)

_MAX_QUEUED = 2_000
_MAX_QUEUED_BYTES = 1 << 28
_SYNC_EVERY_S = 1.0
_CHUNK_BYTES = 1 << 20
_STOP_TIMEOUT_S = 20.0
OPENIGTLINK, JSON = "openigtlink", "json"


@dataclass(frozen=True, slots=True)
class _Item:
    topic: str
    content: Message | bytes
    """A message is encoded in the writer's thread, to the very bytes that it came as; notes are JSON already."""
    log_time: int
    publish_time: int
    size: int


class Recorder:
    """A recording under way, from construction to :meth:`stop`.

    Args:
        path: the file; must not exist.
        about: versions, configuration: kept in the file as metadata.

    Raises:
        RecordingError: the file exists or cannot be made.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self.messages = 0
        self.lost = 0
        """What did not fit the queue because the disk was too slow."""
        self.failed = ""
        """Why nothing is written any more."""
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._waiting = self._waiting_bytes = 0
        self._unsaid_losses = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        except FileExistsError as error:
            raise RecordingError(f"{path}: exists already; a recording never replaces one") from error
        except OSError as error:
            raise RecordingError(f"{path}: cannot be made ({error.strerror})") from error
        self._thread = threading.Thread(target=self._run, args=(file, dict(about)), name="recorder", daemon=True)
        self._thread.start()

    def take(self, message: Message, received_ns: int) -> None:
        """Record a message that came in; never waits."""
        topic = f"in/{message.type}/{message.device}"
        self._put(_Item(topic, message, received_ns, message.timestamp_ns, held_bytes(message)))

    def note(self, what: str, data: Mapping[str, Any]) -> None:
        """Record something that the node did."""
        now = now_ns()
        self._put(_note(what, data, now))

    def end(self) -> str:
        """Take nothing more; what waits is written by and by, without anybody waiting for the disk. For the operator.

        Raises:
            RecordingError: it had failed.
        """
        self._queue.put(None)
        if self.failed:
            raise RecordingError(self._failure())
        lost = f", {self.lost} lost" if self.lost else ""
        return f"{self.path}: {self.messages + self._waiting} messages{lost}"

    @property
    def ended(self) -> bool:
        """Whether the file is closed."""
        return not self._thread.is_alive()

    def stop(self) -> str:
        """:meth:`end`, and wait until the file is closed; never in the loop.

        Raises:
            RecordingError: it had failed, or did not end in time.
        """
        self._queue.put(None)
        self._thread.join(_STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise RecordingError(f"{self.path}: the disk does not take what is left")
        if self.failed:
            raise RecordingError(self._failure())
        size_mb = self.path.stat().st_size / 1e6
        lost = f", {self.lost} lost" if self.lost else ""
        return f"{self.path}: {self.messages} messages, {size_mb:.1f} MB{lost}"

    def _failure(self) -> str:
        return f"{self.path}: {self.failed}; {self.messages} messages were written before"

    def _put(self, item: _Item) -> None:
        if self.failed:
            return
        if self._waiting >= _MAX_QUEUED or self._waiting_bytes + item.size > _MAX_QUEUED_BYTES:
            self.lost += 1
            self._unsaid_losses += 1
            return
        if self._unsaid_losses:
            gap = _note("gap", {"lost": self._unsaid_losses}, item.log_time)
            self._unsaid_losses = 0
            self._enqueue(gap)
        self._enqueue(item)

    def _enqueue(self, item: _Item) -> None:
        self._waiting += 1
        self._waiting_bytes += item.size
        self._queue.put(item)

    def _run(self, file: BinaryIO, about: dict[str, str]) -> None:
        try:
            with file:
                writer = Writer(file, chunk_size=_CHUNK_BYTES, compression=CompressionType.NONE, enable_data_crcs=True)
                writer.start(profile="navnode", library="navnode")
                writer.add_metadata("navnode", about)
                self._write_all(writer, file)
                writer.finish()  # type: ignore[no-untyped-call]
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.failed = f"cannot be written ({error.strerror})"
            log.error("recording %s: %s", self.path, self.failed)
        except Exception as error:  # it must not be taken for a recording that goes on
            self.failed = f"an error of our own ({type(error).__name__})"
            log.exception("recording %s", self.path)

    def _write_all(self, writer: Writer, file: BinaryIO) -> None:
        channels: dict[str, int] = {}
        schemas: dict[str, int] = {}
        synced_s = time.monotonic()
        while (item := self._next()) is not None:
            content = item.content
            if item.topic not in channels:
                encoding = JSON if isinstance(content, bytes) else OPENIGTLINK
                if encoding not in schemas:
                    schemas[encoding] = writer.register_schema(encoding, encoding, b"")
                channels[item.topic] = writer.register_channel(item.topic, encoding, schemas[encoding])
            data = content if isinstance(content, bytes) else encode(content)
            writer.add_message(channels[item.topic], item.log_time, data, item.publish_time, self.messages)
            self.messages += 1
            if time.monotonic() - synced_s > _SYNC_EVERY_S:
                file.flush()
                os.fsync(file.fileno())
                synced_s = time.monotonic()

    def _next(self) -> _Item | None:
        item = self._queue.get()
        if item is not None:
            self._waiting -= 1
            self._waiting_bytes -= item.size
        return item


def _note(what: str, data: Mapping[str, Any], time_ns: int) -> _Item:
    content = json.dumps(data).encode()
    return _Item(f"node/{what}", content, time_ns, time_ns, len(content))
