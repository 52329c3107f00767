"""Damaged messages over real sockets: from a console, and beside what a source sends. The node goes on as before.

NAVNODE_FUZZ_SOCKETS and NAVNODE_FUZZ_SEED choose more cases, and others.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from tests.conftest import SLOW
from tests.drills.sockets import wire
from tests.drills.sockets.conftest import Theatre
from tests.drills.sockets.room import DRILL, XRAY

pytestmark = pytest.mark.long

CASES = int(os.environ.get("NAVNODE_FUZZ_SOCKETS", "2000"))
SEED = int(os.environ.get("NAVNODE_FUZZ_SEED", "1"))
_HEADER = 58
_POLYNOMIAL = 0x42F0E1EBA9EA3693


def _table() -> list[int]:
    made = []
    for byte in range(256):
        crc = byte << 56
        for _ in range(8):
            crc = (crc << 1 ^ (_POLYNOMIAL if crc >> 63 else 0)) & 0xFFFF_FFFF_FFFF_FFFF
        made.append(crc)
    return made


_TABLE = _table()


def crc64(data: bytes) -> int:
    """ECMA-182, as OpenIGTLink has it."""
    crc = 0
    for byte in data:
        crc = _TABLE[(crc >> 56) ^ byte] ^ (crc << 8) & 0xFFFF_FFFF_FFFF_FFFF
    return crc


def corpus(rng: np.random.Generator) -> list[bytes]:
    counts = rng.integers(0, 60_000, (12, 16)).astype(np.uint16)
    told = [
        wire.transform(DRILL, np.eye(4), TransformStatus="OK"),
        wire.transform("CArmToTracker", np.diag([1.0, 1, 1, 1]), TransformStatus="OK"),
        wire.image(XRAY, counts, 0.5, ExposureTime="5"),
        *(wire.command(number, name) for number, name in enumerate(("Version", "Status", "SetTool"))),
    ]
    return [bytes(each) for each in told]


def bent(rng: random.Random, whole: bytes) -> bytes:
    """One to four changes; most with a size and checksum that are right again, so that they reach the contents."""
    damaged = bytearray(whole)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(_HEADER if rng.random() < 0.8 else 0, len(damaged))
        match rng.randrange(4):
            case 0:
                damaged[at] ^= 1 << rng.randrange(8)
            case 1:
                damaged[at : at + 4] = rng.choice((b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
            case 2:
                del damaged[max(at, _HEADER + 1) :]
            case _:
                damaged[at:at] = rng.randbytes(rng.randrange(1, 30))
    if rng.random() < 0.8 and len(damaged) > _HEADER:
        body = bytes(damaged[_HEADER:])
        damaged[42:58] = struct.pack(">QQ", len(body), crc64(body))
    return bytes(damaged)


def send_each(port: int, told: Callable[[], bytes], cases: int) -> int:
    """Send so many messages to a server, each on a connection of its own; returns how many it read to their end."""
    read = 0
    for _ in range(cases):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5.0) as connection:
            connection.settimeout(5.0)
            connection.sendall(told())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 20):  # what a console is sent meanwhile
                pass
            read += 1
    return read


def test_damaged_messages_from_a_console(theatre: Theatre):
    rng, wires = random.Random(SEED), corpus(np.random.default_rng(SEED))
    mark, node = theatre.mark(), psutil.Process(theatre.node.pid("node"))
    before = node.memory_info().rss
    read = send_each(theatre.node.port, lambda: bent(rng, rng.choice(wires)), CASES)
    theatre.run(0.5)
    grown_mib = (node.memory_info().rss - before) / (1 << 20)
    verdict = theatre.never_wrong(mark)
    print(f"{CASES} messages, {read} read to their end, {grown_mib:.0f} MiB grown; {verdict}", flush=True)
    assert node.is_running() and theatre.node.pid("node") == node.pid, "it died of none"
    assert grown_mib < 100
    assert verdict.share > 0.8, str(verdict)


@SLOW
def test_damaged_messages_from_the_source(theatre: Theatre):
    """In the stream of tracker and X-rays: a connection that cannot be understood is made again."""
    rng, wires = random.Random(SEED), corpus(np.random.default_rng(SEED))
    mark, node = theatre.mark(), psutil.Process(theatre.node.pid("node"))
    rounds = max(1, CASES // 400)
    for _ in range(rounds):
        for _ in range(20):
            theatre.room.send_raw(bent(rng, rng.choice(wires)))
        theatre.run(0.3)
    verdict = theatre.never_wrong(mark)
    print(f"{20 * rounds} messages in the source's stream, {theatre.room.accepted} connections; {verdict}", flush=True)
    assert theatre.node.pid("node") == node.pid
