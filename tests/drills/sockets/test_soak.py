"""What lasts, and what crowds: clocks that drift for an hour, a hundred consoles and some that mean no good.

``NAVNODE_SOAK_S`` says how long: 3600 for the figures of docs/safety.md.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.conftest import SLOW
from tests.drills.sockets.conftest import Theatre
from tests.drills.sockets.faults import TRACKER
from tests.drills.sockets.room import XRAY
from tests.drills.sockets.test_room import late_ms

SOAK_S = float(os.environ.get("NAVNODE_SOAK_S", "60"))
WINDOW_S = 10.0
GROWN_MIB = 24.0
"""What queues and allocators may keep of a busy moment, of some hundred MiB."""
CLIENTS, SLOW_LORIS = 90, 8
"""Together with the judging console, under the hundred that a node takes."""


def held(theatre: Theatre) -> dict[str, tuple[float, int, int]]:
    """Of each process: resident memory (MiB), descriptors, threads."""
    held = {}
    for name in ("node", "worker"):
        process = psutil.Process(theatre.node.pid(name))
        held[name] = process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()
    return held


@SLOW
def test_clocks_drift_apart_for_long_and_nothing_grows(theatre):
    first, outputs, valid, worst_mm = None, 0, 0, 0.0
    with theatre.room.drifting({**dict.fromkeys(TRACKER, 200.0), XRAY: -200.0}):
        for window in range(round(SOAK_S / WINDOW_S)):
            mark = theatre.mark()
            theatre.run(WINDOW_S)
            verdict = theatre.never_wrong(mark)
            outputs, valid = outputs + verdict.outputs, valid + verdict.valid
            worst_mm = max(worst_mm, verdict.worst_mm)
            if window == 2:
                first = held(theatre)
            if window % 6 == 5:
                print(f"{(window + 1) * WINDOW_S:.0f} s: {valid / outputs:.2%} VALID, {held(theatre)}", flush=True)
            theatre.forget()
    last = held(theatre)
    print(f"{SOAK_S:.0f} s: {valid} of {outputs} VALID, worst {worst_mm:.1f} mm; {first} -> {last}")
    assert first is not None and valid >= 0.98 * outputs
    for name, (memory_mib, descriptors, threads) in last.items():
        assert memory_mib <= first[name][0] + GROWN_MIB, name
        assert (descriptors, threads) == first[name][1:], name


@contextlib.contextmanager
def crowd(port: int) -> Iterator[None]:
    """Other consoles, in a process of their own."""
    # Consoles are other machines: here they must not take the cores of room and node.
    command = [
        "nice",
        "-n",
        "19",
        sys.executable,
        "-m",
        "tests.drills.sockets.crowd",
        str(port),
        str(CLIENTS),
        str(SLOW_LORIS),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "all have read\n"
        try:
            yield
        finally:
            process.stdin.close()
            print("the crowd read", process.stdout.read().strip())


@SLOW
@pytest.mark.parametrize("rounds", [3])
def test_a_hundred_consoles_and_slow_loris_delay_nobody(theatre, rounds):
    """Alone twice, for what differs by itself, then in the crowd."""
    for _ in range(rounds):
        alone = []
        for _ in range(2):
            mark = theatre.mark()
            theatre.run(5.0)
            alone.append(late_ms(theatre, mark))
        with crowd(theatre.node.port):
            mark = theatre.mark()
            theatre.run(5.0)
            beside, verdict = late_ms(theatre, mark), theatre.never_wrong(mark)
        print(f"late by (median, p99 ms): alone {alone[0]}, {alone[1]}; beside {beside}", flush=True)
        assert verdict.share >= 0.95, str(verdict)
