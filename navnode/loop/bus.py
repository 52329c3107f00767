"""How values cross processes.

A value travels as a ZeroMQ multipart message: its topic, MessagePack of the value without its arrays, then the arrays'
bytes. Only types in the table of topics are accepted, sizes are checked before allocation, and nothing is unpickled.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import zmq

from navnode.errors import ConfigError, LocalError, PeerError
from navnode.loop.topics import TOPICS, topic_of

__all__ = ["MAX_MESSAGE_BYTES", "Publisher", "Subscriber", "limited", "listening", "pack", "unpack"]

MAX_MESSAGE_BYTES = 1 << 29
_MAX_PARTS = 64
_DTYPES = {np.dtype(code).str for code in ("u1", "u2", "i2", "u4", "i4", "i8", "f4", "f8")}


def pack(value: object) -> list[bytes | memoryview]:
    """Encode a value as multipart frames.

    Raises:
        LocalError: the value, or a part of it, has a type that does not cross processes.
    """
    arrays: list[np.ndarray[Any, Any]] = []

    def enc_hook(item: object) -> object:
        if isinstance(item, np.ndarray):
            arrays.append(np.ascontiguousarray(item))
            return {"array": len(arrays) - 1, "dtype": item.dtype.str, "shape": list(item.shape)}
        raise LocalError(f"{type(item).__name__} cannot cross processes")

    head = msgspec.msgpack.encode(value, enc_hook=enc_hook)
    # Views, not copies: ZeroMQ copies what it sends, or holds on to it.
    return [topic_of(value).name.encode(), head, *(array.reshape(-1).view(np.uint8).data for array in arrays)]


def unpack(parts: Sequence[bytes | memoryview]) -> Any:
    """Decode multipart frames; arrays are views of them.

    Raises:
        PeerError: the frames do not hold a value of a known topic.
    """
    if not 2 <= len(parts) <= _MAX_PARTS or sum(len(part) for part in parts) > MAX_MESSAGE_BYTES:
        raise PeerError("a message of the wrong number or size of parts")
    topic = TOPICS.get(bytes(parts[0]).decode("ascii", "replace"))
    if topic is None:
        raise PeerError("a message of an unknown topic")

    def dec_hook(kind: type, item: Any) -> Any:
        if not isinstance(item, dict) or item.get("dtype") not in _DTYPES:
            raise ValueError("not an array")
        part = parts[2 + int(item["array"])]
        return np.frombuffer(part, item["dtype"]).reshape(item["shape"])

    try:
        return _decoder(topic.kind, dec_hook)(parts[1])
    except (msgspec.DecodeError, ValueError, IndexError, KeyError, TypeError) as error:
        raise PeerError(f"topic {topic.name}: {error}") from error


def _decoder(kind: type, dec_hook: Callable[[type, Any], Any]) -> Callable[[bytes | memoryview], Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=dec_hook).decode


_TAIL = struct.Struct("<QQQ")
"""Behind every value that is published: its number in its topic, the number of the newest volume, when it was sent."""
_ONCE = "volume"
"""What is sent once, and must not be lost."""


class Publisher:
    """Sends values to all readers, numbered by topic: a reader that is too slow loses some, and knows how many.

    What a full queue has no room for are the newest values: after standing still, a reader finds old ones.
    """

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._socket = socket
        self._numbers: Counter[str] = Counter()

    def send(self, value: object) -> None:
        """Send to all readers without waiting for any.

        Raises:
            LocalError: as :func:`pack`.
        """
        topic = topic_of(value).name
        self._numbers[topic] += 1
        tail = _TAIL.pack(self._numbers[topic], self._numbers[_ONCE], time.monotonic_ns())
        self._socket.send_multipart([*pack(value), tail], zmq.NOBLOCK)


class Subscriber:
    """Reads what a :class:`Publisher` sends; drops and counts what the queue has no room for.

    Args:
        address: ZeroMQ address of the publisher.
        bound: number of values that may wait.
        topic: read this topic alone; '': all topics.
    """

    def __init__(self, address: str, bound: int, topic: str = "") -> None:
        context: zmq.Context[Any] = zmq.Context.instance()
        self._socket = context.socket(zmq.SUB)
        limited(self._socket, bound)
        self._socket.subscribe(topic.encode())
        self._socket.connect(address)
        self._topic, self._last = topic.encode(), dict[str, int]()
        self.dropped: Counter[str] = Counter()
        """Topic -> number of values for which the queue had no room."""
        self.sent_ns = 0
        """When the last value was sent, by the machine's monotonic clock: it may have waited."""
        self.lacks_volume = False
        """Whether the newest volume was among what was dropped."""

    def next(self) -> Any:
        """The next value; None: none waits.

        Raises:
            PeerError: the message does not hold a value of a known topic.
        """
        if not self._socket.poll(0):
            return None
        *parts, tail = self._socket.recv_multipart()
        value = unpack(parts)
        if len(tail) != _TAIL.size:
            raise PeerError("a message without its number")
        number, volumes, self.sent_ns = _TAIL.unpack(tail)
        topic = topic_of(value).name
        if volumes < self._last.get(_ONCE, 0):  # the node was restarted
            self._last[_ONCE] = 0
        last = self._last.get(topic, 0)
        self.dropped[topic] += number - last - 1 if 0 < last < number else 0  # a lower number: the node was restarted
        self._last[topic] = number
        self.lacks_volume = volumes > self._last.get(_ONCE, 0)
        return value

    def ask_again(self) -> None:
        """Have all volumes sent again, as to a reader that has just come."""
        self._socket.unsubscribe(self._topic)
        self._socket.subscribe(self._topic)

    def close(self) -> None:
        """Stop reading."""
        self._socket.close()


def limited(socket: zmq.Socket[Any], queued: int) -> None:
    """Set the limits that ZeroMQ leaves open (queue length, message size, no lingering at exit), and allow IPv6."""
    socket.set_hwm(queued)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.LINGER, 0)


def listening(socket: zmq.Socket[Any], address: str, queued: int) -> None:
    """Bind a socket, limited as :func:`limited` does.

    Raises:
        ConfigError: the address is not available.
    """
    limited(socket, queued)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise ConfigError(f"{address}: cannot listen ({error.strerror})") from error
