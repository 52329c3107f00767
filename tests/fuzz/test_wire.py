"""Messages bent out of shape in millions of ways end in PeerError, quickly, and leave no memory behind.

`make fuzz` runs at least 10^6 cases, the test suite 200 000. NAVNODE_FUZZ_CASES and NAVNODE_FUZZ_SEED choose others.
"""

from __future__ import annotations

import os
import random
import resource
import struct

import pytest

from navnode.errors import PeerError
from navnode.igtl import Framer, decode, encode
from navnode.igtl.wire import HEADER_SIZE, crc64
from tests.igtl.test_vectors import expected

CASES = int(os.environ.get("NAVNODE_FUZZ_CASES", "200000"))
SEED = int(os.environ.get("NAVNODE_FUZZ_SEED", "1"))
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def corpus() -> list[bytes]:
    """One message of every type, at both header versions."""
    return [encode(message, version) for message in expected().values() for version in (1, 2)]


def bend(rng: random.Random, wire: bytes, others: list[bytes]) -> bytes:
    """One to four changes; mostly with a header that is right again, so that they reach the decoders."""
    bent = bytearray(wire)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(HEADER_SIZE if rng.random() < 0.9 else 0, len(bent) + 1)
        match rng.randrange(6):
            case 0 if at < len(bent):
                bent[at] ^= 1 << rng.randrange(8)
            case 1:
                size = rng.choice((1, 2, 4))
                bent[at : at + size] = (rng.choice(_EXTREMES) & (1 << 8 * size) - 1).to_bytes(size, "big")
            case 2:
                del bent[max(at, HEADER_SIZE) :]
            case 3:
                bent[at:at] = rng.randbytes(rng.randrange(1, 40))
            case 4:
                other = rng.choice(others)
                bent[at:] = other[min(at, len(other)) :]
            case _:
                bent[HEADER_SIZE - 56 : HEADER_SIZE - 44] = rng.choice(others)[2:14]  # another type
    if len(bent) >= HEADER_SIZE and rng.random() < 0.9:
        bent[42:58] = struct.pack(">QQ", len(bent) - HEADER_SIZE, crc64(memoryview(bent)[HEADER_SIZE:]))
    return bytes(bent)


@pytest.mark.long
def test_bent_messages_end_in_peer_errors_only():
    rng, wires = random.Random(SEED), corpus()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accepted = 0
    framer = Framer()
    for case in range(CASES):
        bent = bend(rng, rng.choice(wires), wires)
        try:
            if case % 4:
                decode(bent)
            else:
                cut = rng.randrange(len(bent) + 1)
                framer.feed(bent[:cut])
                framer.feed(bent[cut:])
            accepted += 1
        except PeerError:
            framer = Framer()
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    print(f"{CASES} cases, {accepted} of them still messages, {grown_mib:.0f} MiB grown")
    assert 0 < accepted < CASES
    assert grown_mib < 200
