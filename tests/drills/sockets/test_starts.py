"""Clocks that are apart when a node hears them first, over real sockets: nothing wrong is VALID, all becomes VALID."""

from __future__ import annotations

import os
import signal

import pytest

from tests.conftest import SLOW, slow
from tests.drills.sockets import phantom
from tests.drills.sockets.conftest import opened
from tests.drills.sockets.console import judge
from tests.drills.sockets.faults import TRACKER
from tests.drills.sockets.room import XRAY

pytestmark = pytest.mark.long

APART_S = [0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 10.0]


@pytest.mark.parametrize("whose", [(XRAY,), slow(TRACKER)], ids=["images", "tracker"])
@pytest.mark.parametrize(
    "apart_s", [-3600.0, *(slow(sign * s) for s in APART_S for sign in (-1, 1) if s * sign > -3600)]
)
def test_clocks_are_apart_when_the_node_starts(apart_s, whose, lines, hu, own_cache, tmp_path):
    clocks_ns = dict.fromkeys(whose, round(apart_s * 1e9))
    theatre = opened(tmp_path, lines, hu, phantom.volume_from_index(), clock_ns=clocks_ns)
    try:
        theatre.run(2.0)
        again_s = theatre.calm(90.0)
        theatre.run(8.0)  # a move of the C-arm to either side
        again_s += theatre.calm(90.0)
        theatre.run(1.0)
        mark = theatre.mark()
        theatre.run(16.0)
        verdict, last = judge(theatre.room, theatre.outputs(0)), theatre.verdict(mark)
        print(f"{apart_s:+.2f} s: {again_s:.1f} s;", verdict, "then", last, flush=True)
        assert not verdict.wrong, str(verdict)
        assert last.share > 0.9, str(last)
    finally:
        theatre.close()


@SLOW
@pytest.mark.parametrize("apart_s", [-1.0, 0.2, 3600.0])
def test_clocks_are_apart_when_the_node_starts_again(apart_s, theatre):
    """Set while the node was away: it knows nothing of how they were before."""
    mark, first, losses = theatre.mark(), theatre.node.pid("node"), theatre.console.losses
    os.kill(first, signal.SIGKILL)
    theatre.set_back = True
    theatre.room.set_clocks((XRAY,), round(apart_s * 1e9))
    theatre.until(lambda: theatre.node.pid("node") not in (None, first) and theatre.console.losses > losses)
    theatre.run(10.0)
    again_s, verdict = theatre.calm(60.0), theatre.verdict(mark)
    print(f"{apart_s:+.2f} s: all VALID {again_s:.1f} s later;", verdict, flush=True)
    assert not verdict.wrong, str(verdict)
    assert verdict.valid > 0, str(verdict)
