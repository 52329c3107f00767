"""A storage SCP (PS3.4, annex B): X-rays that a C-arm sends become pictures, CT series go to a folder.

pynetdicom speaks the protocol. Here stands what it does not bound: the length of units of transfer, what unfinished
objects hold together, how long one may take, and how many connections wait.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pynetdicom
from pynetdicom import AE, evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from navnode.clock import now_ns
from navnode.config import DicomSource
from navnode.errors import ConfigError
from navnode.files import dicom_read
from navnode.gateways.objects import STARTS, XrayFrame, frames_of
from navnode.gateways.outlet import Outlet
from navnode.gateways.series import SeriesStore
from navnode.igtl import Image

__all__ = ["CTS", "SYNTAXES", "XRAYS", "DicomIntake"]

log = logging.getLogger(__name__)

_STORAGE = "1.2.840.10008.5.1.4.1.1."
XRAYS = tuple(_STORAGE + part for part in ("1", "1.1", "1.1.1", "12.1", "12.1.1", "12.2", "12.2.1"))
"""CR, DX for presentation and for processing, XA, enhanced XA, RF, enhanced RF (PS3.4, B.5)."""
CTS = tuple(_STORAGE + part for part in ("2", "2.1", "2.2"))
"""CT, enhanced CT, enhanced CT converted from old ones."""
_VERIFICATION = "1.2.840.10008.1.1"
SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
)
"""Explicit and implicit little endian; JPEG, JPEG-LS and JPEG 2000 without loss; RLE. Pixels that lost something are no
counts, and a data set that is deflated as a whole need not say how large it becomes."""

_DONE, _NO_ROOM, _NOT_READABLE = 0x0000, 0xA700, 0xC000
_MOST_COMMENT = 64
_SLOWEST_BYTES_PER_S = 100_000
"""An object may take as long as at this rate, and no longer, however steadily it trickles in."""
_KNOWN_OBJECTS = 4096
_NEGOTIATION_BYTES = 1 << 20
_STOP_S = 3.0


class _TooMuchError(OSError):
    """A peer sent more, or more slowly, than is accepted; pynetdicom ends a connection that raises OSError."""


class DicomIntake:
    """Takes in what is sent to one AE title.

    Raises:
        ConfigError: certificates cannot be used.
    """

    def __init__(self, source: DicomSource) -> None:
        self._source = source
        self._context = source.tls.server_context() if source.tls else None
        self._store = SeriesStore(Path(source.store), source.store_mb << 20) if source.store else None
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._one_at_a_time = threading.Lock()
        """Decoding takes several times the memory of an object."""
        self._seen: OrderedDict[str, bytes] = OrderedDict()
        """SOPInstanceUID -> a hash of the pixels that came with it."""
        self._told_starts = ""
        self.held = _Held(source.memory_mb << 20)

    def start(self, outlet: Outlet) -> None:
        """Listen.

        Raises:
            ConfigError: the port cannot be opened.
        """
        pynetdicom._config.LOG_HANDLER_LEVEL = "none"  # its lines hold what objects say
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        logging.getLogger("navnode.files.placing").addFilter(_Once())
        source = self._source
        entity = AE(source.ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(source.callers)
        entity.maximum_associations = source.associations
        entity.maximum_pdu_size = source.pdu_kb << 10
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = source.timeout_s
        entity.add_supported_context(_VERIFICATION)
        for kind in (*XRAYS, *(CTS if self._store else ())):
            entity.add_supported_context(kind, list(SYNTAXES))
        handlers = [
            (evt.EVT_C_STORE, lambda event: self._stored(event, outlet)),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            self._server = entity.make_server(
                (source.listen, source.listen_port),
                ssl_context=self._context,
                evt_handlers=handlers,
                server_class=_Server,
                request_handler=_Handler,
            )
        except OSError as error:
            raise ConfigError(f"DICOM port {source.listen_port}: cannot be opened ({error})") from error
        self._server.limits = source, self.held
        entity._servers.append(self._server)  # its shutdown removes it there
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and end all associations."""
        if self._server is None or self._thread is None:
            return
        for association in self._server.active_associations:
            association.abort(block=False)
        with contextlib.suppress(ValueError, OSError):
            self._server.shutdown()
        self._thread.join(_STOP_S)

    def lives(self) -> bool:
        """Whether connections are accepted."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def port(self) -> int:
        """The port on which DICOM is accepted."""
        return int(self._server.server_address[1])

    # --- events, in the threads of associations ---------------------------------------------------

    def _stored(self, event: Any, outlet: Outlet) -> Any:
        arrived_ns = now_ns()
        caller = str(event.assoc.requestor.ae_title).strip()
        guard: _Guard = event.assoc.dul.socket.guard
        size = event.request.DataSet.getbuffer().nbytes
        try:
            with self._one_at_a_time:
                status, comment = self._taken(event, Path(f"object from {caller}"), arrived_ns, outlet)
        except ConfigError as error:
            status, comment = _NOT_READABLE, str(error).partition(": ")[2] or str(error)
            self._refused(outlet, f"an object from {caller} is refused: {comment}")
        except (MemoryError, OSError) as error:
            status, comment = _NO_ROOM, type(error).__name__
            self._refused(outlet, f"an object from {caller} is refused: out of resources ({comment})")
        except Exception as error:
            # Its text may hold what the object says; the type names the fault.
            status, comment = _NOT_READABLE, type(error).__name__
            self._refused(outlet, f"an object from {caller} could not be read ({comment})")
        finally:
            guard.finished(size)
        return _answer(status, comment)

    def _taken(self, event: Any, name: Path, arrived_ns: int, outlet: Outlet) -> tuple[int, str]:
        kind, instance = str(event.request.AffectedSOPClassUID), str(event.request.AffectedSOPInstanceUID)
        content = event.encoded_dataset()
        if kind in CTS:
            if self._store is None:
                raise ConfigError(f"{name}: CTs are not taken (store is not set)")
            room = self._store.add(content, name, event.assoc.requestor.address_info)
            return (_DONE, "") if room else (_NO_ROOM, "the folder for CTs is full (store_mb)")
        dataset = dicom_read.read_dataset(content, name)
        self._check_size(dataset, name)
        by_arrival = self._source.stamps == "arrival"
        frames = list(frames_of(dataset, name, arrived_ns if by_arrival else None))
        del dataset, content
        pixels = hashlib.blake2b(digest_size=16)
        for frame in frames:
            pixels.update(np.ascontiguousarray(frame.counts).data)
        if (before := self._seen.get(instance)) == pixels.digest():  # sent again: it was exposed once
            outlet.held += 1
            return _DONE, ""
        if before is not None:
            raise ConfigError(f"{name}: an object with other pixels had the same SOPInstanceUID")
        self._tell_starts(frames[0].metadata)
        outlet.show_in_order(self._image(frame, outlet.device) for frame in frames)
        self._seen[instance] = pixels.digest()
        if len(self._seen) > _KNOWN_OBJECTS:
            self._seen.popitem(last=False)
        outlet.tell("")
        return _DONE, ""

    def _check_size(self, dataset: Any, name: Path) -> None:
        """Refuse pixels that become more than may be held: compressed ones are small."""
        size = 1.0
        for keyword in ("Rows", "Columns", "NumberOfFrames", "BitsAllocated"):
            size *= max(dicom_read.number(dataset, keyword, name) or 1.0, 1.0)
        if size / 8 > self._source.memory_mb << 20:
            raise ConfigError(f"{name}: {size / 8 / (1 << 20):.0f} MB of pixels; memory_mb is {self._source.memory_mb}")

    def _image(self, frame: XrayFrame, device: str) -> Image:
        return Image(
            device=device,
            timestamp_ns=frame.timestamp_ns - round(self._source.delay_ms * 1e6),
            voxels=frame.counts[None],
            ras_from_index=frame.ras_from_index,
            metadata=frame.metadata,
        )

    def _tell_starts(self, metadata: dict[str, str]) -> None:
        """Say what the header states of the geometry, when that changes."""
        said = ", ".join(f"{keyword} {metadata[keyword]}" for keyword in STARTS if keyword in metadata)
        if said and said != self._told_starts:
            self._told_starts = said
            log.warning("the C-arm states %s mm: where a calibration may start, none is used", said)

    def _refused(self, outlet: Outlet, problem: str) -> None:
        outlet.refused += 1
        outlet.tell(problem)

    def _rejected(self, event: Any) -> None:
        caller = str(event.assoc.requestor.ae_title).strip()
        called = str(getattr(event.assoc.requestor.primitive, "called_ae_title", "")).strip()
        log.warning("%s may not send to %s: not among callers or ae_title, or too many at a time", caller, called)

    def _closed(self, event: Any) -> None:
        guard = getattr(event.assoc.dul.socket, "guard", None)
        if guard is not None:
            guard.closed()
        if self._store is not None:
            for folder, files in self._store.completed(event.assoc.requestor.address_info):
                log.warning("a CT of %d files is in %s: volume.ct can name this folder", files, folder)


def _answer(status: int, comment: str) -> Any:
    from pydicom.dataset import Dataset

    answer = Dataset()
    answer.Status = status
    if comment:
        answer.ErrorComment = comment.encode("ascii", "replace").decode().replace("\\", "/")[:_MOST_COMMENT]
    return answer


class _Once(logging.Filter):
    """Passes each line once: what is told of an object holds for thousands of them."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.getMessage()
        if line in self._passed or len(self._passed) > 1000:
            return False
        self._passed.add(line)
        return True


class _Held:
    """Bytes that all unfinished objects hold together."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._lock = limit_bytes, threading.Lock()
        self.used_bytes = 0

    def take(self, size: int) -> bool:
        with self._lock:
            if self.used_bytes + size > self._limit_bytes:
                return False
            self.used_bytes += size
            return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self.used_bytes -= size


class _Guard:
    """Reads from one peer's socket, within bounds; in the thread that pynetdicom reads in."""

    def __init__(self, association: Any, source: DicomSource, held: _Held) -> None:
        self._association, self._held, self._timeout_s = association, held, source.timeout_s
        self._longest = (source.pdu_kb << 10) + 64
        self._lock = threading.Lock()
        self._mine = 0
        self._object_s: float | None = None
        self._object_bytes = 0

    def recv(self, count: int) -> bytearray:
        """Exactly so many bytes, or fewer where the peer closed the connection.

        Raises:
            OSError: they are too many, or come too slowly.
        """
        established = self._association.is_established
        if count > (self._longest if established else max(self._longest, _NEGOTIATION_BYTES)):
            raise self._ended(f"a unit of {count} bytes")
        if self._association.dimse.message is None:
            self._object_s, self._object_bytes = None, 0
        elif self._object_s is None:
            self._object_s = time.monotonic()
        if not self._take(count):
            raise self._ended("unfinished objects hold too much")
        self._object_bytes += count
        if self._object_s is not None:
            allowed_s = self._timeout_s + self._object_bytes / _SLOWEST_BYTES_PER_S
            if time.monotonic() - self._object_s > allowed_s:
                raise self._ended("an object takes too long")
        return self._read(count)

    def _read(self, count: int) -> bytearray:
        peer = self._association.dul.socket.socket
        content, at = bytearray(count), 0
        view = memoryview(content)
        deadline_s = time.monotonic() + self._timeout_s
        while at < count:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._ended("a unit takes too long")
            peer.settimeout(left_s)
            got = peer.recv_into(view[at:])
            if not got:
                if self._association.requestor.primitive is None:  # pynetdicom would wait for what it never asked
                    self._association.dul.to_user_queue.put(None)
                break
            at += got
        view.release()
        peer.settimeout(self._timeout_s)
        return content[:at] if at < count else content

    def _take(self, size: int) -> bool:
        if not self._held.take(size):
            return False
        with self._lock:
            self._mine += size
        return True

    def finished(self, size: int) -> None:
        """An object of so many bytes was dealt with."""
        association = self._association
        idle = association.dimse.message is None and association.dimse.msg_queue.empty()
        with self._lock:
            freed = self._mine if idle else min(size, self._mine)
            self._mine -= freed
        self._held.give_back(freed)

    def closed(self) -> None:
        """The connection is gone, and what it held."""
        with self._lock:
            freed, self._mine = self._mine, 0
        self._held.give_back(freed)

    def _ended(self, why: str) -> _TooMuchError:
        log.warning("the DICOM connection of %s is ended: %s", self._association.requestor.address, why)
        return _TooMuchError(why)


class _Handler(RequestHandler):
    def handle(self) -> None:
        """Greet a peer in its own thread, so that one that says nothing keeps nobody waiting."""
        if self.server.ssl_context is not None:
            self.request.settimeout(self.server.limits[0].timeout_s)
            self.request.do_handshake()
        super().handle()

    def _create_association(self) -> Any:
        association = super()._create_association()
        reader = association.dul
        guard = reader.socket.guard = _Guard(association, *self.server.limits)
        reader.socket.recv = guard.recv
        reader.run = functools.partial(_read, association, guard, reader.run)
        return association


def _read(association: Any, guard: _Guard, run: Callable[[], None]) -> None:
    """Run what reads from a peer; an order of units that the protocol does not know ends it, and its association."""
    try:
        run()
    except Exception as error:
        log.warning("the DICOM connection of %s is ended: %s", association.requestor.address, type(error).__name__)
        association._kill = True
        association.is_established = False
    finally:
        guard.closed()


class _Server(ThreadedAssociationServer):
    limits: Any = None
    daemon_threads = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._lock = threading.Lock()
        self._greeted = 0
        """Peers in a thread of their own that are no associations yet: their handshake goes on."""
        super().__init__(*arguments, **named)

    def get_request(self) -> tuple[Any, Any]:
        """Accept a peer; its handshake comes later (:class:`_Handler`)."""
        peer, address = self.socket.accept()
        if self.ssl_context is not None:
            peer = self.ssl_context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
        return peer, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a peer may try: twice as many as may be associated."""
        with self._lock:
            return bool(self._greeted + len(self.active_associations) < 2 * self.limits[0].associations)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Greet a peer in a thread; it counts from now on."""
        with self._lock:
            self._greeted += 1
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._no_longer_greeted()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Greet a peer, which then counts as an association or is gone."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._no_longer_greeted()

    def _no_longer_greeted(self) -> None:
        with self._lock:
            self._greeted -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer failed before it was associated: at its handshake."""
        log.warning("a DICOM connection of %s failed before it began", client_address[0])
