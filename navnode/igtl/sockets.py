"""What the operating system knows of a TCP connection: bytes that wait, and whether its other end is still there."""

from __future__ import annotations

import array
import contextlib
import socket
import struct
import sys
from typing import Any

__all__ = ["is_gone", "tune", "unsent_bytes"]

_SEND_BUFFER_BYTES = 1 << 18
"""Kept small in the kernel: bytes on their way to a slow reader only grow old."""

_UNANSWERED_MS = 1_000
"""For how long a peer may leave segments or probes unacknowledged."""

_RETRANSMITS, _PROBES_UNANSWERED = 2, 3


def unsent_bytes(connection: Any) -> int:
    """Bytes that the peer's operating system has not acknowledged (Linux; elsewhere 0)."""
    held = array.array("i", [0])
    with contextlib.suppress(ImportError, OSError):
        import fcntl
        import termios

        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, held)
    return held[0]


def tune(connection: Any) -> None:
    """Set up a socket: small messages leave at once, little waits in the kernel, a silent peer is probed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 1)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


# struct tcp_info of Linux: 8 bytes (state, ca_state, retransmits, probes, ...), then 32-bit numbers, the fifth being
# `unacked` (segments in flight) and the thirteenth `last_ack_recv` (ms).
_TCP_INFO = struct.Struct("=8B13I")


def is_gone(connection: Any) -> bool:
    """Whether the peer's operating system has stopped acknowledging (Linux).

    TCP_USER_TIMEOUT would also close connections to live but busy consoles: it counts the time in which a full receive
    window holds data back.
    """
    if sys.platform != "linux":
        return False
    raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    if len(raw) < _TCP_INFO.size:
        return False
    fields = _TCP_INFO.unpack(raw)
    retransmits, probes, unacked, last_ack_ms = (int(fields[at]) for at in (2, 3, 12, 20))
    in_flight = unacked > 0 and retransmits >= _RETRANSMITS and last_ack_ms > _UNANSWERED_MS
    return in_flight or (probes >= _PROBES_UNANSWERED and last_ack_ms > _UNANSWERED_MS)
