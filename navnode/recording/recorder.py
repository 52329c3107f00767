"""Records a session beside the loop without delaying it: the loop appends to a queue, a thread writes.

Messages that do not fit the queue because the disk stalls are lost, counted, and recorded as a gap once it continues.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from navnode.clock import now_ns
from navnode.errors import RecordingError
from navnode.files.whole import EXISTS, refuse_existing
from navnode.igtl import Message, RawBytes, encode
from navnode.recording.container import Channel, Parts
from navnode.recording.format import FOLLOWED, FORMAT, arrival_channel, encoded, note_channel
from navnode.recording.writer import ContainerWriter

__all__ = ["About", "Item", "MAX_FILE_BYTES", "Recorder", "Written", "arrival", "noted", "part_path"]

log = logging.getLogger(__name__)

_MAX_QUEUED = 60_000
_MAX_QUEUED_BYTES = 1 << 28
_SYNC_EVERY_S, _BEGIN_EVERY_S = 1.0, 0.1
_LOOK_EVERY_S = 0.02
"""How often the writer polls the queue: waking it for every pose would cost the loop more than the poses do."""
_STOP_TIMEOUT_S = 20.0
_RATE_KNOWN_S = 5.0
MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True)
class About:
    """Metadata and attachments of a session."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)


Written = tuple[Channel, Parts, int]
"""Channel, parts and time (ns) of a message."""


class Item(NamedTuple):
    """Something to write; a tuple, as the loop makes thousands a second."""

    content: tuple[Channel, Parts] | Callable[[], Iterable[Written]]
    """Channel and parts of a message; or a function that makes several messages in the writer's thread."""
    log_time_ns: int
    publish_time_ns: int
    sequence: int
    size: int
    """Approximate memory in bytes."""


def arrival(
    message: Message, raw: RawBytes | None, received_ns: int, sequence: int, *, from_console: bool = False
) -> Item:
    """The item of a message that arrived.

    Args:
        raw: the bytes received; None: encode the message again.
        sequence: number of the arrival.
        from_console: the sender is a console that may not push; a replay does not feed the message to the loop.
    """
    channel = arrival_channel(message.type, message.device, from_console=from_console)
    parts: Parts = (encode(message),) if raw is None else raw
    return Item((channel, parts), received_ns, message.timestamp_ns, sequence, 500 + len(parts[-1]))


def noted(what: str, data: object, time_ns: int) -> Item:
    """The item of another event.

    Args:
        what: name of the event.
        data: encoded as JSON.
    """
    return Item((note_channel(what), (encoded(data),)), time_ns, time_ns, 0, 500)


class Recorder:
    """A recording, from construction to :meth:`stop`.

    Args:
        path: the file; must not exist. The writer's thread creates it, so that a stalled disk delays nobody.
        about: metadata and attachments; a mapping is metadata alone.
        before: items from before the recording.
        max_file_bytes: size after which another file begins: ``<name>.001.mcap`` and so on.
        wait: wait until the file exists; not for the loop.

    Raises:
        ConfigError: with ``wait``, the file exists already.
        RecordingError: with ``wait``, the file cannot be created.
    """

    def __init__(
        self,
        path: Path,
        about: About | Mapping[str, str] | None = None,
        before: Iterable[Item] = (),
        max_file_bytes: int = MAX_FILE_BYTES,
        *,
        wait: bool = True,
    ) -> None:
        if wait:
            refuse_existing(path)
        self.path = path
        self.messages = self.bytes = 0
        """Written so far."""
        self.safe = 0
        """Number of messages handed to the system, which survive a killed process."""
        self.lost = 0
        """Number of messages that did not fit the queue because the disk was too slow."""
        self.failed = ""
        """Why nothing is written any more; '': it has not failed."""
        self.minutes_left: float | None = None
        """Minutes until the disk is full at the rate so far; None: unknown yet."""
        self._created = threading.Event()
        self._about = about if isinstance(about, About) else About(about or {})
        self._max_file_bytes = max_file_bytes
        self._queue: deque[Item] = deque(before)
        # Items from before do not count against the limit: they must not crowd out what happens now.
        self._before = len(self._queue)
        # Two counters, each written by one thread: two threads changing one would lose counts.
        self._put_bytes = self._written_bytes = 0
        self._ending = False
        self._began_s = time.monotonic()
        self._unreported_losses = self._arrivals = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()
        if wait and not (self._created.wait(_STOP_TIMEOUT_S) and not self.failed):
            raise RecordingError(f"{path}: {self.failed or 'the disk does not answer'}")

    def record(self, message: Message, received_ns: int, raw: RawBytes | None = None) -> None:
        """Record a message that arrived; never waits."""
        self._arrivals += 1
        self.put(arrival(message, raw, received_ns, self._arrivals))

    def note(self, what: str, data: object) -> None:
        """Record another event; never waits."""
        self.put(noted(what, data, now_ns()))

    def put(self, item: Item) -> None:
        """Record an item; never waits."""
        if self.failed:
            self.lost += 1
            return
        waiting = self._put_bytes - self._written_bytes
        if len(self._queue) - self._before >= _MAX_QUEUED or waiting + item.size > _MAX_QUEUED_BYTES:
            self.lost += 1
            self._unreported_losses += 1
            return
        if self._unreported_losses:
            gap = noted("gap", {"lost": self._unreported_losses}, item.log_time_ns)
            self._unreported_losses = 0
            self._enqueue(gap)
        self._enqueue(item)

    def end(self) -> str:
        """Accept nothing more, without waiting for the disk; queued items are still written.

        Returns:
            A line for the operator.

        Raises:
            RecordingError: the recording failed before.
        """
        self._ending = True
        if self.failed:
            raise RecordingError(self._failure())
        return f"{self.path}: {self.messages + len(self._queue)} messages{self._losses()}"

    @property
    def ended(self) -> bool:
        """Whether the file is closed."""
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Number of items not written yet."""
        return len(self._queue)

    def stop(self) -> str:
        """As :meth:`end`, but wait until the file is closed; not for the loop.

        Raises:
            RecordingError: the recording failed before, or the disk is too slow.
        """
        self._ending = True
        self._thread.join(_STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise RecordingError(f"{self.path}: the disk is too slow to write the rest")
        if self.failed:
            raise RecordingError(self._failure())
        return f"{self.path}: {self.messages} messages, {self.bytes / 1e6:.1f} MB{self._losses()}"

    def _losses(self) -> str:
        return f", {self.lost} lost" if self.lost else ""

    def _failure(self) -> str:
        return f"{self.path}: {self.failed}; {self.safe} messages were written before"

    def _enqueue(self, item: Item) -> None:
        self._put_bytes += item.size
        self._queue.append(item)

    # --- the writer's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write_all()
        except FileExistsError:
            self.failed = EXISTS
            log.error("recording %s: %s", self.path, self.failed)
        except OSError as error:
            self.failed = f"cannot be written ({error.strerror})"
            log.error("recording %s: %s", self.path, self.failed)
        except Exception as error:  # the recording must not appear to continue
            self.failed = f"internal error ({type(error).__name__})"
            log.exception("recording %s", self.path)
        finally:
            self._created.set()
            if self.failed:  # what was not flushed to the disk is not there
                self.lost += self.messages - self.safe + len(self._queue)
                self.messages = self.safe
            self._queue.clear()

    def _write_all(self) -> None:
        part = 0
        more = True
        while more:
            path = part_path(self.path, part)
            with _created(path) as file, _Syncing(file, self._watch_disk):
                self._created.set()
                more = self._write_part(file, part)
            part += 1

    def _watch_disk(self, free_bytes: int) -> None:
        recorded_s = time.monotonic() - self._began_s
        if recorded_s > _RATE_KNOWN_S and self.bytes:
            self.minutes_left = free_bytes / (self.bytes / recorded_s) / 60

    def _write_part(self, file: BinaryIO, part: int) -> bool:
        """Write one file; True: another must follow."""
        writer = ContainerWriter(file)
        writer.describe("navnode", {**self._about.metadata, "format": str(FORMAT), "part": str(part)})
        for name, data in self._about.attachments.items():
            writer.attach(name, data, "application/octet-stream", now_ns())
        looked_s = time.monotonic()
        before = self.bytes
        while writer.size < self._max_file_bytes:
            ending = self._ending  # read before the queue: everything queued until then is written
            while self._queue and writer.size < self._max_file_bytes:
                self._write(writer, self._queue[0])
                item = self._queue.popleft()
                if self._before:
                    self._before -= 1
                else:
                    self._written_bytes += item.size
            self.bytes = before + writer.size
            if ending and not self._queue:
                writer.finish()
                return False
            if time.monotonic() - looked_s >= _SYNC_EVERY_S:
                looked_s = time.monotonic()
                writer.close_chunk()
                self.safe = self.messages
            if not self._queue:
                time.sleep(_LOOK_EVERY_S)
        writer.describe(FOLLOWED, {"part": str(part + 1)})
        writer.finish()
        return True

    def _write(self, writer: ContainerWriter, item: Item) -> None:
        content, time_ns, publish_ns, sequence, _ = item
        if isinstance(content, tuple):
            writer.add(*content, time_ns, publish_ns, sequence)
            self.messages += 1
        else:
            for channel, parts, at_ns in content():
                writer.add(channel, parts, at_ns, at_ns, sequence)
                self.messages += 1
        if not writer.waiting:
            self.safe = self.messages


class _Syncing:
    """Flushes the file to the disk in a separate thread: starts a few times a second, so that writes do not come in
    bursts, and waits for completion once a second."""

    def __init__(self, file: BinaryIO, on_free: Callable[[int], None]) -> None:
        self._descriptor, self._on_free = file.fileno(), on_free
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder-sync", daemon=True)

    def __enter__(self) -> _Syncing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        os.fsync(self._descriptor)

    def _run(self) -> None:
        synced_s, on_disk = time.monotonic(), 0
        while not self._over.wait(_BEGIN_EVERY_S):
            try:
                # Starts writing dirty pages and drops written ones: hours of X-rays must not displace everything else
                # from the page cache.
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(self._descriptor, on_disk, 0, os.POSIX_FADV_DONTNEED)
                if time.monotonic() - synced_s >= _SYNC_EVERY_S:
                    size = os.fstat(self._descriptor).st_size
                    os.fsync(self._descriptor)
                    disk = os.fstatvfs(self._descriptor)
                    self._on_free(disk.f_bavail * disk.f_frsize)
                    synced_s, on_disk = time.monotonic(), size & -(1 << 20)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ESPIPE):  # it cannot be synchronised, such as a pipe
                    return
                log.warning("the disk reports: %s", error.strerror)


def _created(path: Path) -> BinaryIO:
    """Create a file that only its owner can read, whatever the permissions of its folder."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return open(path, "xb", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))


def part_path(path: Path, part: int) -> Path:
    """The file of a part; part 0 has the session's name."""
    return path if part == 0 else path.with_name(f"{path.stem}.{part:03d}{path.suffix}")
