"""The interface of the package pyigtl (0.3), on navnode's OpenIGTLink::

    import navnode.igtl.pyigtl as pyigtl

That line is all that a program written for pyigtl has to change. Improvements: a message is available on arrival
instead of up to 10 ms later; any number of clients; checksums are checked; POLYDATA and standard POSITION messages can
be received. Names and signatures are pyigtl's, including spelling and units.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import math
import struct
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from navnode.errors import LocalError, PeerError
from navnode.igtl import messages as m
from navnode.igtl.client import Client
from navnode.igtl.server import DEFAULT_PORT, Server
from navnode.igtl.wire import HEADER_SIZE, decode_body, decode_header, encode
from navnode.types import Array

__all__ = [
    "ImageMessage",
    "MessageBase",
    "OpenIGTLinkClient",
    "OpenIGTLinkServer",
    "PointMessage",
    "PolyDataMessage",
    "PositionMessage",
    "StringMessage",
    "TransformMessage",
    "__version__",
    "comm",
    "messages",
]

log = logging.getLogger(__name__)

__version__ = "0.3.4"
"""Version of pyigtl whose interface this is."""

IGTL_BODY_RECEIVE_TIMEOUT_SEC = 5.0
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_YELLOW = (255, 255, 0, 255)
_START_TIMEOUT_S = 10.0
_SLOW_CLIENT_S = 0.25
_POSITION = struct.Struct(">64s32s4B3f4ff20s")
"""pyigtl's layout of a POSITION with names, colours or several poses, for which the standard has no room."""


class MessageBase:
    """Fields and methods of every message."""

    IANA_CHARACTER_SET_ASCII = 3
    IANA_CHARACTER_SET_UTF8 = 106
    IGTL_HEADER_SIZE = HEADER_SIZE
    _TYPE: ClassVar[str] = ""

    def __init__(self, timestamp: float | None = None, device_name: str | None = None) -> None:
        self.device_name = device_name if device_name is not None else ""
        self.timestamp = time.time() if timestamp is None else timestamp
        self.header_version = 1
        self.message_id = 0
        self.metadata: dict[str, str] = {}
        self._message_type = self._TYPE
        self._received: tuple[float, m.Message] | None = None

    @property
    def is_valid(self) -> bool:
        """Whether the message can be sent."""
        return True

    @property
    def message_type(self) -> str:
        """The type on the wire, such as ``TRANSFORM``."""
        return self._message_type

    def __str__(self) -> str:
        lines = [
            f"{self._message_type} message:",
            f"  Device name: {self.device_name}",
            f"  Timestamp: {self.timestamp}",
            f"  Header version: {self.header_version}",
        ]
        lines += [f"  {line}" for line in self.content_asstring().splitlines()]
        if self.metadata:
            lines += ["  Metadata:", *(f"    {line}" for line in self.metadata_asstring().splitlines())]
        return "\n".join(lines)

    def content_asstring(self) -> str:
        """The content as text for people."""
        return ""

    def metadata_asstring(self) -> str:
        """The metadata as text for people."""
        return "\n".join(f"{key}: {value}" for key, value in self.metadata.items())

    def pack(self) -> bytes:
        """The whole message as bytes.

        Raises:
            LocalError: the message cannot be sent.
        """
        return encode(self._to_wire(self._common()))

    def unpack(self, header_fields: Mapping[str, Any], body: bytes) -> None:
        """Set the content from a parsed header and its body.

        Raises:
            PeerError: the body is not such a message.
        """
        header = header_fields["header"]
        self._set(decode_body(header, memoryview(body)))

    @staticmethod
    def parse_header(header: bytes) -> dict[str, Any]:
        """Fields of a header.

        Raises:
            PeerError: the bytes are not a header.
        """
        parsed = decode_header(header)
        return {
            "header_version": parsed.version,
            "message_type": parsed.type,
            "device_name": parsed.device,
            "timestamp": parsed.timestamp_ns / 1e9,
            "body_size": parsed.body_size,
            "header": parsed,
        }

    @staticmethod
    def create_message(message_type: str) -> MessageBase | None:
        """An empty message of a type; None if the type is unknown."""
        kind = message_type_to_class_constructor.get(message_type)
        return None if kind is None else kind()

    def _common(self) -> dict[str, Any]:
        """Keyword arguments of :class:`messages.Message`; a received time stamp stays exact."""
        timestamp_ns, stamp = round(self.timestamp * 1e9), 0
        if self._received is not None and self._received[0] == self.timestamp:
            timestamp_ns, stamp = self._received[1].timestamp_ns, self._received[1].stamp
        device = self.device_name
        if self.header_version < 2:  # pyigtl cuts long names, too
            device = device.encode()[:20].decode(errors="ignore")
        return {
            "device": device,
            "timestamp_ns": timestamp_ns,
            "stamp": stamp,
            "version": 2 if self.header_version > 1 else 1,
            "message_id": self.message_id,
            "metadata": dict(self.metadata),
        }

    def _set(self, message: m.Message) -> None:
        self.device_name, self.timestamp = message.device, message.timestamp_ns / 1e9
        self.header_version, self.message_id = message.version, message.message_id
        self.metadata, self._message_type = dict(message.metadata), message.type
        self._received = self.timestamp, message
        self._from_wire(message)

    def _to_wire(self, common: dict[str, Any]) -> m.Message:
        raise LocalError("a MessageBase has no content")

    def _from_wire(self, message: Any) -> None:
        pass


class TransformMessage(MessageBase):
    """A transform; ``matrix``: 4x4"""

    _TYPE = "TRANSFORM"

    def __init__(self, matrix: Any = None, timestamp: float | None = None, device_name: str | None = None) -> None:
        super().__init__(timestamp, device_name)
        self.matrix: Array = np.eye(4, dtype=np.float32) if matrix is None else np.asarray(matrix, dtype=np.float32)
        if self.matrix.shape != (4, 4):
            raise ValueError(f"a transform matrix is 4x4, not {self.matrix.shape}")

    def content_asstring(self) -> str:
        return "Matrix:\n  " + str(self.matrix).replace("\n", "\n  ")

    def _to_wire(self, common: dict[str, Any]) -> m.Message:
        return m.Transform(matrix=np.asarray(self.matrix, np.float64), **common)

    def _from_wire(self, message: m.Transform) -> None:
        self.matrix = message.matrix


class ImageMessage(MessageBase):
    """An image: voxels (k, j, i[, components]), or 2-D or 1-D along the slowest axes.

    ``world_coordinate_system``, that of ``ijk_to_world_matrix``, is ``lps`` (default) or ``ras``.
    """

    _TYPE = "IMAGE"

    def __init__(
        self,
        image: Any = None,
        ijk_to_world_matrix: Any = None,
        world_coordinate_system: str | None = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.image: Array | None = None if image is None else np.asarray(image)
        if self.image is not None and not 1 <= self.image.ndim <= 4:
            raise ValueError("Invalid image, dimension must be between 1 and 4")
        self.world_coordinate_system = world_coordinate_system or "lps"
        self.ijk_to_world_matrix: Array = (
            np.eye(4) if ijk_to_world_matrix is None else np.asarray(ijk_to_world_matrix, dtype=np.float32)
        )

    def content_asstring(self) -> str:
        matrix = str(self.ijk_to_world_matrix).replace("\n", "\n  ")
        size = None if self.image is None else self.image.shape
        return f"Image size: {size}\nMatrix:\n  {matrix}\nWorld coordinate system: {self.world_coordinate_system}"

    def _to_wire(self, common: dict[str, Any]) -> m.Message:
        if self.image is None:
            raise LocalError("an image without voxels cannot be sent")
        voxels = (
            self.image if self.image.ndim >= 3 else self.image.reshape(*self.image.shape, *[1] * (3 - self.image.ndim))
        )
        lps = self.world_coordinate_system != "ras"
        world = np.asarray(self.ijk_to_world_matrix, np.float64)
        return m.Image(
            voxels=voxels,
            ras_from_index=_RAS_FROM_LPS @ world if lps else world,
            lps=lps,
            big_endian=voxels.dtype.byteorder == ">",
            **common,
        )

    def _from_wire(self, message: m.Image) -> None:
        self.image = message.voxels
        self.world_coordinate_system = "lps" if message.lps else "ras"
        world = message.part_ras_from_index
        self.ijk_to_world_matrix = _RAS_FROM_LPS @ world if message.lps else world


class StringMessage(MessageBase):
    """A text, ``string``."""

    _TYPE = "STRING"

    def __init__(
        self, string: str | None = None, timestamp: float | None = None, device_name: str | None = None
    ) -> None:
        super().__init__(timestamp, device_name)
        self.string = string if string is not None else ""

    def content_asstring(self) -> str:
        return "String: " + self.string

    def _to_wire(self, common: dict[str, Any]) -> m.Message:
        return m.String(text=self.string, **common)

    def _from_wire(self, message: m.String) -> None:
        self.string = message.text


class PointMessage(MessageBase):
    """Points: ``positions`` (3,) or (N, 3); the other arguments have one value for all points, or one for each."""

    _TYPE = "POINT"

    def __init__(
        self,
        positions: Any = None,
        names: Any = None,
        rgba_colors: Any = None,
        diameters: Any = None,
        groups: Any = None,
        owners: Any = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.positions, self.names, self.rgba_colors = positions, names, rgba_colors
        self.diameters, self.groups, self.owners = diameters, groups, owners

    def content_asstring(self) -> str:
        return "\n".join(
            f"Point {number}: name: '{e.name}', xyz: {e.position_mm}, rgba: {e.rgba}, diameter: {e.diameter_mm}"
            for number, e in enumerate(self._elements(), 1)
        )

    def _elements(self) -> list[m.PointElement]:
        xyz = _rows(self.positions, 3, "positions")
        n = len(xyz)
        names, groups, owners = (_texts(texts, n) for texts in (self.names, self.groups, self.owners))
        columns = zip(
            names,
            map(_triple, xyz),
            groups,
            _colors(self.rgba_colors, n),
            _numbers(self.diameters, n),
            owners,
            strict=True,
        )
        return [m.PointElement(*values) for values in columns]

    def _to_wire(self, common: dict[str, Any]) -> m.Message:
        return m.Point(points=tuple(self._elements()), **common)

    def _from_wire(self, message: m.Point) -> None:
        self.positions = [p.position_mm for p in message.points]
        self.names = [p.name for p in message.points]
        self.rgba_colors = [p.rgba for p in message.points]
        self.diameters = [p.diameter_mm for p in message.points]
        self.groups = [p.group for p in message.points]
        self.owners = [p.owner for p in message.points]


class PositionMessage(MessageBase):
    """Poses: ``positions`` (3,) or (N, 3) and ``quaternions`` (4,) or (N, 4).

    A single plain pose is sent in the standard's layout, anything more in pyigtl's.
    """

    _TYPE = "POSITION"

    def __init__(
        self,
        positions: Any = None,
        quaternions: Any = None,
        names: Any = None,
        rgba_colors: Any = None,
        diameters: Any = None,
        groups: Any = None,
        owners: Any = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.positions, self.quaternions, self.names = positions, quaternions, names
        self.rgba_colors, self.diameters, self.groups, self.owners = rgba_colors, diameters, groups, owners

    def content_asstring(self) -> str:
        poses = zip(_rows(self.positions, 3, "positions"), _rows(self.quaternions, 4, "quaternions"), strict=True)
        return "\n".join(
            f"Position {number}: xyz: {xyz.tolist()}, 0ijk: {turn.tolist()}"
            for number, (xyz, turn) in enumerate(poses, 1)
        )

    def _to_wire(self, common: dict[str, Any]) -> m.Message:
        xyz, turns = _rows(self.positions, 3, "positions"), _rows(self.quaternions, 4, "quaternions")
        n = len(xyz)
        plain = not any((self.names, self.rgba_colors, self.diameters, self.groups, self.owners))
        if n == 1 and plain:
            x, y, z, w = turns[0].tolist()
            return m.Position(position_mm=_triple(xyz[0]), quaternion=(x, y, z, w), **common)
        poses = [(*position, *turn) for position, turn in zip(xyz.tolist(), turns.tolist(), strict=True)]
        names, groups, owners = (_texts(texts, n) for texts in (self.names, self.groups, self.owners))
        colors, diameters = _colors(self.rgba_colors, n), _numbers(self.diameters, n)
        body = b"".join(
            _POSITION.pack(name.encode(), group.encode(), *rgba, *pose, diameter, owner.encode())
            for name, group, rgba, pose, diameter, owner in zip(
                names, groups, colors, poses, diameters, owners, strict=True
            )
        )
        return m.Raw(type_name=self._TYPE, body=body, **common)

    def _from_wire(self, message: m.Position | m.Raw) -> None:
        if isinstance(message, m.Position):
            self.positions, self.quaternions = [message.position_mm], [message.quaternion or (0.0, 0.0, 0.0, 1.0)]
            self.names = self.groups = self.owners = self.rgba_colors = self.diameters = None
            return
        rows = list(_POSITION.iter_unpack(message.body))
        self.names, self.groups, self.owners = (
            [row[at].split(b"\0", 1)[0].decode("utf-8", "replace") for row in rows] for at in (0, 1, 14)
        )
        self.rgba_colors = [row[2:6] for row in rows]
        self.positions, self.quaternions = [row[6:9] for row in rows], [row[9:13] for row in rows]
        self.diameters = [row[13] for row in rows]


class PolyDataMessage(MessageBase):
    """A surface: a vtkPolyData, or its arrays ``points`` (N, 3) and flat cells ``(n, i1 ... in, ...)``."""

    _TYPE = "POLYDATA"

    def __init__(
        self,
        vtk_poly_data: Any = None,
        points: Any = None,
        vertices: Any = None,
        lines: Any = None,
        polygons: Any = None,
        triangle_strips: Any = None,
        attributes: Any = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.points, self.vertices, self.lines, self.polygons = points, vertices, lines, polygons
        self.triangle_strips, self.attributes = triangle_strips, attributes
        if vtk_poly_data:
            from vtk.util.numpy_support import vtk_to_numpy  # type: ignore[import-not-found]

            self.points = vtk_to_numpy(vtk_poly_data.GetPoints().GetData())
            self.vertices = vtk_to_numpy(vtk_poly_data.GetVerts().GetData())
            self.lines = vtk_to_numpy(vtk_poly_data.GetLines().GetData())
            self.polygons = vtk_to_numpy(vtk_poly_data.GetPolys().GetData())
            self.triangle_strips = vtk_to_numpy(vtk_poly_data.GetStrips().GetData())

    def content_asstring(self) -> str:
        parts = {
            "Points": self.points,
            "Vertices": self.vertices,
            "Lines": self.lines,
            "Polygons": self.polygons,
            "Triangle strips": self.triangle_strips,
            "Attributes": self.attributes,
        }
        return "\n".join(f"{name}: {value}" for name, value in parts.items())

    def _to_wire(self, common: dict[str, Any]) -> m.Message:
        def flat(cells: Any) -> m.Words:
            return np.zeros(0, np.uint32) if cells is None else np.asarray(cells).astype(np.uint32).ravel()

        points = np.zeros((0, 3)) if self.points is None else np.asarray(self.points)
        return m.PolyData(
            points_mm=points.astype(np.float32).reshape(-1, 3),
            vertices=flat(self.vertices),
            lines=flat(self.lines),
            polygons=flat(self.polygons),
            strips=flat(self.triangle_strips),
            attributes=tuple(self.attributes or ()),
            **common,
        )

    def _from_wire(self, message: m.PolyData) -> None:
        self.points, self.vertices, self.lines = message.points_mm, message.vertices, message.lines
        self.polygons, self.triangle_strips = message.polygons, message.strips
        self.attributes = list(message.attributes)


message_type_to_class_constructor: dict[str, type[MessageBase]] = {
    kind._TYPE: kind
    for kind in (TransformMessage, ImageMessage, StringMessage, PointMessage, PositionMessage, PolyDataMessage)
}


def _rows(values: Any, width: int, what: str) -> Array:
    array = np.asarray(values, dtype=np.float32)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"{what} must be a {width}-element vector or Nx{width} matrix")
    return array


def _triple(row: Array) -> tuple[float, float, float]:
    x, y, z = row.tolist()
    return x, y, z


def _texts(values: str | Sequence[str] | None, count: int) -> list[str]:
    if isinstance(values, str):
        return [values] * count
    if not values:
        return [""] * count
    if len(values) != count:
        raise ValueError(f"{len(values)} texts for {count} points")
    return list(values)


def _colors(values: Any, count: int) -> list[tuple[int, int, int, int]]:
    if values is None or not len(values):
        return [_YELLOW] * count
    array = np.broadcast_to(np.asarray(values, dtype=np.uint8), (count, 4))
    return [(int(r), int(g), int(b), int(a)) for r, g, b, a in array]


def _numbers(values: Any, count: int) -> list[float]:
    if values is None or (isinstance(values, Iterable) and not len(np.atleast_1d(np.asarray(values)))):
        return [0.0] * count
    return [float(value) for value in np.broadcast_to(np.asarray(values, dtype=np.float64), (count,))]


# --- both ends ---------------------------------------------------------------------------------------


class OpenIGTLinkBase(ABC):
    """Queues between the program and a network thread: the newest message of each device, and up to 100 messages to
    send."""

    def __init__(self, body_receive_timeout_sec: float = IGTL_BODY_RECEIVE_TIMEOUT_SEC) -> None:
        self.body_receive_timeout_sec = body_receive_timeout_sec
        self.incoming_messages: dict[str, MessageBase] = {}
        self.outgoing_messages: collections.deque[MessageBase] = collections.deque(maxlen=100)
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._more = asyncio.Event()
        self._started = False

    def send_message(self, message: MessageBase, wait: bool = True) -> bool:
        """Queue a message; ``wait`` until all queued messages were sent."""
        if not isinstance(message, MessageBase) or not message.is_valid:
            return False
        with self._changed:
            self.outgoing_messages.append(message)
            loop = self._loop if self._started else None
        if loop is not None:
            loop.call_soon_threadsafe(self._more.set)
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self.outgoing_messages or not self._started)
        return True

    def wait_for_message(self, device_name: str, timeout: float = -1) -> MessageBase | None:
        """The newest message of a device; None after waiting ``timeout`` seconds (negative: forever)."""
        with self._changed:
            self._changed.wait_for(lambda: device_name in self.incoming_messages, None if timeout < 0 else timeout)
            return self.incoming_messages.pop(device_name, None)

    def get_latest_messages(self) -> list[MessageBase]:
        """The newest message of every device since the last call."""
        with self._changed:
            messages, self.incoming_messages = list(self.incoming_messages.values()), {}
        return messages

    @abstractmethod
    def is_connected(self) -> bool:
        """Whether there is a connection."""

    def start(self) -> None:
        """Start the network thread."""
        if self._started:
            return
        self._started = True
        ready: list[BaseException | None] = []
        self._thread = threading.Thread(target=self._run, args=(ready,), name="pyigtl", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: bool(ready), _START_TIMEOUT_S)
        if ready and ready[0] is not None:
            self._started = False
            raise ready[0]

    def stop(self) -> None:
        """Close the connections and end the thread."""
        if not self._started or self._loop is None:
            return
        with self._changed:
            self._started = False
            self._changed.notify_all()
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(_START_TIMEOUT_S)

    def _run(self, ready: list[BaseException | None]) -> None:
        async def talk() -> None:
            self._loop, self._more = asyncio.get_running_loop(), asyncio.Event()
            self._task = asyncio.ensure_future(self._talk(lambda error: self._say(ready, error)))
            await asyncio.gather(self._task, return_exceptions=True)

        asyncio.run(talk())

    def _say(self, ready: list[BaseException | None], error: BaseException | None) -> None:
        with self._changed:
            ready.append(error)
            self._changed.notify_all()

    @abstractmethod
    async def _talk(self, ready: Callable[[BaseException | None], None]) -> None:
        """Serve or connect until cancelled; call ``ready`` with None once that works, or with the error."""

    @abstractmethod
    async def _send(self, message: m.Message) -> None:
        """Send one message, waiting briefly for slow peers."""

    async def _pump(self) -> None:
        """Send queued messages whenever there is a connection."""
        self._more.set()
        while True:
            await self._more.wait()
            self._more.clear()
            while self.outgoing_messages and self.is_connected():
                message = self.outgoing_messages[0]
                try:
                    await self._send(message._to_wire(message._common()))
                except (LocalError, ValueError) as error:
                    log.error("not sent: %s", error)
                with self._changed:
                    if self.outgoing_messages and self.outgoing_messages[0] is message:
                        self.outgoing_messages.popleft()
                    self._changed.notify_all()

    def _heard(self, message: m.Message) -> None:
        received = MessageBase.create_message(message.type)
        if received is None:
            return
        try:
            received._set(message)
        except (struct.error, ValueError) as error:
            raise PeerError(f"{message.type} {message.device!r}: {error}") from error
        with self._changed:
            self.incoming_messages[message.device] = received
            self._changed.notify_all()


class OpenIGTLinkServer(OpenIGTLinkBase):
    """A server; ``local_server=False`` opens it to the network, without encryption."""

    def __init__(
        self,
        port: int | None = None,
        local_server: bool = True,
        iface: str | None = None,
        start_now: bool = True,
        body_receive_timeout_sec: float = IGTL_BODY_RECEIVE_TIMEOUT_SEC,
    ) -> None:
        super().__init__(body_receive_timeout_sec)
        self.port = port if port is not None else DEFAULT_PORT
        self.host = "127.0.0.1" if local_server else _address_of(iface or "eth0")
        self._server: Server | None = None
        if start_now:
            self.start()

    def is_connected(self) -> bool:
        return self._server is not None and bool(self._server.peers)

    async def _talk(self, ready: Callable[[BaseException | None], None]) -> None:
        def heard(message: m.Message, *_: Any) -> None:
            self._more.set()  # a client is connected
            self._heard(message)

        self._server = Server(
            self.host, self.port, heard, on_joined=lambda peer: self._more.set(), commands=None, insecure=True
        )
        try:
            await self._server.start()
        except Exception as error:
            ready(error)
            return
        self.port = self._server.port
        ready(None)
        try:
            await self._pump()
        finally:
            await self._server.stop()

    async def _send(self, message: m.Message) -> None:
        assert self._server is not None
        self._server.send(message)
        await self._server.drain(_SLOW_CLIENT_S)


class OpenIGTLinkClient(OpenIGTLinkBase):
    """A client that reconnects by itself."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        start_now: bool = True,
        body_receive_timeout_sec: float = IGTL_BODY_RECEIVE_TIMEOUT_SEC,
    ) -> None:
        super().__init__(body_receive_timeout_sec)
        self.host, self.port = host, port
        self._client: Client | None = None
        if start_now:
            self.start()

    def is_connected(self) -> bool:
        return self._client is not None and self._client.connected

    async def _talk(self, ready: Callable[[BaseException | None], None]) -> None:
        self._client = Client(
            self.host,
            self.port,
            on_message=lambda message, _: self._heard(message),
            on_state=lambda up, _: self._more.set(),
            silence_s=math.inf,  # a pyigtl server is silent while its program sends nothing
            version=1,
        )
        ready(None)
        await asyncio.gather(self._client.run(), self._pump())

    async def _send(self, message: m.Message) -> None:
        assert self._client is not None
        if self._client.send(message):
            await self._client.drain()


def _address_of(iface: str) -> str:
    """The address of a network interface; an address is returned unchanged."""
    if sys.platform == "linux" and not iface[:1].isdigit():
        import fcntl
        import socket

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                reply = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", iface[:15].encode()))  # SIOCGIFADDR
            except OSError:
                return "127.0.0.1"
            return socket.inet_ntoa(reply[20:24])
    return iface


comm = messages = sys.modules[__name__]
"""Make ``pyigtl.comm.OpenIGTLinkClient`` and ``pyigtl.messages.ImageMessage`` work."""
