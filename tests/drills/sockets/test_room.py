"""Images, senders, clocks and processes over real sockets: nothing wrong is VALID, and everything comes back by itself.

After each drill the fixture waits until all is VALID again, and judges what came until then, too.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import statistics
import time

import numpy as np
import pytest

from tests.conftest import SLOW, slow
from tests.drills.sockets import wire
from tests.drills.sockets.conftest import Theatre
from tests.drills.sockets.console import Console, judge
from tests.drills.sockets.faults import FAR, TRACKER, usable
from tests.drills.sockets.phantom import SPINE_MM
from tests.drills.sockets.rigid import Matrix, rigid, rotation
from tests.drills.sockets.room import CARM, DRILL, PATIENT, XRAY
from tests.drills.sockets.truth import LOOP_S, volume_from_carm

pytestmark = pytest.mark.long

# --- images ----------------------------------------------------------------------------------------------------------


def moved_mm(theatre: Theatre, stamp_ns: int, exposure_s: float) -> float:
    """How far the C-arm truly moved at the anatomy during an exposure that ended at a stamp."""
    end_s = (stamp_ns - theatre.room.faults.clock_ns.get(XRAY, 0) - theatre.room.began_ns) / 1e9
    ways = []
    for side in ((0, 0, 0), (60, 0, 0), (0, 60, 0), (0, 0, 60)):
        point = np.append(SPINE_MM + side, 1.0)
        before, after = (np.linalg.inv(volume_from_carm(t_s)) @ point for t_s in (end_s - exposure_s, end_s))
        ways.append(float(np.linalg.norm((after - before)[:3])))
    return max(ways)


@pytest.mark.parametrize(("frames", "stated_ms"), [(3, 300.0), slow(1, 100.0), slow(2, 200.0), slow(1, None)], ids=str)
def test_the_carm_moves_during_the_exposure(theatre, frames, stated_ms):
    mark = theatre.mark()
    theatre.room.faults.stated_exposure_ms = stated_ms
    theatre.room.faults.blurred_frames = frames
    theatre.run(4.2)  # a move of the C-arm lies in every four seconds
    theatre.never_wrong(mark)
    seen = theatre.console.since(mark, "XRay")[8:]
    blurred = [heard for heard in seen if moved_mm(theatre, heard.stamp_ns, frames * 0.1) > 3.0]
    assert len(blurred) > 5
    assert not [heard for heard in blurred if usable(heard)]


@SLOW
@pytest.mark.parametrize("frames", [1, 3])
def test_blurred_images_that_state_a_short_exposure_place_nothing_wrong(theatre, frames):
    mark = theatre.mark()
    theatre.room.faults.blurred_frames = frames
    theatre.run(8.0)
    print("stated 5 ms:", theatre.verdict(mark, "CArmToVolume"), "/", theatre.verdict(mark, "DrillToVolume"))
    assert theatre.never_wrong(mark).outputs > 400
    assert theatre.verdict(mark, "CArmToVolume").outputs > 20


# --- other senders ---------------------------------------------------------------------------------------------------


def test_a_console_pushes_the_drill(theatre):
    mark = theatre.mark()
    other = Console(theatre.node.port, theatre.room.now_ns)
    theatre.until(lambda: other.heard)
    elsewhere: Matrix = rigid(rotation(0.1, 0.2, 0.3), (100.0, 50.0, -1700.0))
    pushed = wire.transform(DRILL, elsewhere, TransformStatus="OK")
    for turn in range(100):
        elsewhere[:3, 3] += 0.01 * turn
        other.push(wire.stamped(pushed, theatre.room.now_ns()))
        time.sleep(0.01)
    other.close()
    verdict = theatre.never_wrong(mark)
    assert verdict.share >= 0.95, str(verdict)


@SLOW
def test_a_second_console_pushes_everything(theatre):
    mark = theatre.mark()
    other = Console(theatre.node.port, theatre.room.now_ns)
    theatre.until(lambda: other.heard)
    images = theatre.room._images[0][0]
    for turn in range(200):
        for device in TRACKER:
            other.push(wire.stamped(wire.transform(device, FAR / 3), theatre.room.now_ns()))
        if turn % 10 == 0:
            other.push(wire.stamped(images, theatre.room.now_ns()))
        time.sleep(0.01)
    other.close()
    verdict = theatre.never_wrong(mark)
    assert verdict.share >= 0.95, str(verdict)


@SLOW
def test_a_console_that_never_reads_disturbs_nobody(theatre):
    before, mark = theatre.mark(), 0
    theatre.run(4.0)
    usual = late_ms(theatre, before)
    mark = theatre.mark()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect(("127.0.0.1", theatre.node.port))
        deaf.sendall(wire.stamped(wire.command(1, "Version"), theatre.room.now_ns()))
        began, dropped_s = time.monotonic(), None
        poll = select.poll()
        poll.register(deaf, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
        while dropped_s is None and time.monotonic() - began < 20:
            if poll.poll(50):
                dropped_s = time.monotonic() - began
    verdict = theatre.never_wrong(mark)
    print(f"deaf console dropped after {dropped_s} s; lateness ms: {usual} alone, {late_ms(theatre, mark)} beside it")
    assert verdict.share >= 0.95 and verdict.outputs > 80 * (time.monotonic() - began) * 0.5, str(verdict)


def late_ms(theatre: Theatre, mark: int) -> tuple[float, float]:
    """From a pose's way out of the room to its overlay: median, 99th percentile."""
    shown = theatre.outputs(mark, "DrillToVolume")
    pairs = [(heard, theatre.room.true_at(heard.device, heard.stamp_ns, heard.arrived_ns)) for heard in shown]
    late = sorted((heard.arrived_ns - true.sent_ns) / 1e6 for heard, true in pairs if true is not None)
    return round(statistics.median(late), 1), round(late[int(0.99 * len(late))], 1)


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, slow(-1.0), slow(0.3), slow(-0.3), slow(3_600.0), slow(-3_600.0)])
@pytest.mark.parametrize("devices", [TRACKER, slow((XRAY,)), slow((XRAY, *TRACKER))], ids=["tracker", "X-rays", "both"])
def test_a_clock_is_set(theatre, devices, seconds):
    mark, connections = theatre.mark(), theatre.room.accepted
    theatre.set_back = seconds <= -1  # less does not make stamps go back
    theatre.room.after(1, lambda: theatre.room.set_clocks(devices, round(seconds * 1e9)))
    theatre.run(2.0)
    assert theatre.never_wrong(mark).outputs > 50
    if seconds > -1:
        assert not theatre.verdict(mark).restamped
    print(f"VALID again after {theatre.calm():.1f} s more")
    assert theatre.room.accepted == connections, "without another connection"


@pytest.mark.parametrize("while_away", [False, slow(True)], ids=["before", "while away"])
@pytest.mark.parametrize("seconds", [0.3, slow(-0.3), slow(2.0), slow(-3_600.0)])
@pytest.mark.parametrize("devices", [(XRAY,), slow(TRACKER)], ids=["X-rays", "tracker"])
def test_sources_come_back_with_clocks_that_are_apart(theatre, devices, seconds, while_away):
    """Stands in for days of drift: it is the difference that the node finds when they connect again."""
    mark = theatre.mark()
    theatre.set_back = True
    if not while_away:
        theatre.room.set_clocks(devices, round(seconds * 1e9))
        theatre.run(2.0)
        theatre.calm()
    before = theatre.room.accepted
    theatre.room.disconnect()
    if while_away:
        theatre.room.after(1, lambda: theatre.room.set_clocks(devices, round(seconds * 1e9)))
    theatre.until(lambda: theatre.room.accepted > before)
    again_s = theatre.calm(20.0)
    print(f"VALID again after {again_s:.1f} s")
    assert theatre.room.accepted == before + 1, "without another connection"
    theatre.run(LOOP_S)  # C-arm moves, which shows whether X-rays are paired with the right poses
    verdict = theatre.never_wrong(mark)
    frames = theatre.console.since(mark, "XRay")[-60:]
    assert sum(map(usable, frames)) >= 0.9 * len(frames), str(verdict)


@SLOW
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("frames", [1, 3, 6])
def test_the_first_frames_are_late(theatre, frames, in_order):
    mark, before = theatre.mark(), theatre.room.accepted
    theatre.room.faults.in_order = in_order
    theatre.room.disconnect()
    theatre.room.faults.late_frames = frames
    theatre.until(lambda: theatre.room.accepted > before)
    theatre.never_wrong(mark)
    again = theatre.calm()
    print(f"VALID again after {again:.1f} s")
    assert theatre.room.accepted == before + 1, "without another connection"
    theatre.never_wrong(mark)


@SLOW
@pytest.mark.parametrize("ppm", [3_000.0, -3_000.0])
@pytest.mark.parametrize("devices", [TRACKER, (XRAY,)], ids=["tracker", "X-rays"])
def test_a_clock_drifts_far_too_fast(theatre, devices, ppm):
    """Stands in for hours of 200 ppm, which cannot be hurried: the stamps drift, arrivals do not. The node follows 500
    ppm, so this must end in a refusal, never in something wrong, and be over when the drift is."""
    mark = theatre.mark()
    theatre.set_back = True
    with theatre.room.drifting(dict.fromkeys(devices, ppm)):
        theatre.run(30.0)
        verdict = theatre.never_wrong(mark)
        assert verdict.outputs > 500 and verdict.share < 1, str(verdict)  # refused, for a while at least
    theatre.room.set_clocks(devices, round(-ppm * 30e3))
    theatre.console.command("Reconnect")  # what no clock does takes minutes to be followed
    theatre.calm()


@SLOW
@pytest.mark.parametrize("ppm", [200.0, -200.0])
@pytest.mark.parametrize("devices", [TRACKER, (XRAY,), (XRAY, *TRACKER)], ids=["tracker", "X-rays", "both"])
def test_a_clock_drifts_as_clocks_do(theatre, devices, ppm):
    mark = theatre.mark()
    with theatre.room.drifting(dict.fromkeys(devices, ppm)):
        theatre.run(60.0)
        verdict = theatre.never_wrong(mark)
    assert verdict.share >= 0.95, str(verdict)


@pytest.mark.parametrize("seconds", [5.0, slow(0.5), slow(3_600.0)])
@pytest.mark.parametrize("device", [XRAY, DRILL, slow(PATIENT), slow(CARM)])
def test_one_stamp_lies_in_the_future(theatre, device, seconds):
    mark = theatre.mark()
    theatre.room.faults.future_ns[device] = round(seconds * 1e9)
    theatre.until(lambda: device not in theatre.room.faults.future_ns)
    theatre.run(1.0)
    verdict = theatre.never_wrong(mark)
    ahead_ns = max(theatre.room.faults.clock_ns.values(), default=0) + 50_000_000
    assert not [h.device for h in theatre.console.heard[mark:] if h.stamp_ns > h.arrived_ns + max(0, ahead_ns)]
    assert verdict.share > 0.8, str(verdict)


# --- processes -------------------------------------------------------------------------------------------------------


ROUNDS = int(os.environ.get("NAVNODE_DRILL_ROUNDS", "1"))
"""How often each process is killed or stopped; more for figures."""


@pytest.mark.parametrize("how", [signal.SIGKILL, slow(signal.SIGSTOP)], ids=["SIGKILL", "SIGSTOP"])
def test_the_worker_dies_or_stands_still(theatre, how):
    took_s = []
    for turn in range(ROUNDS):
        if how is signal.SIGSTOP:
            theatre.run(8.0)  # only a worker that was heard can fall silent
        mark, first = theatre.mark(), theatre.node.pid("worker")
        os.kill(first, how)
        took_s.append(theatre.until(lambda first=first: theatre.node.pid("worker") not in (None, first)))
        theatre.run(0.5)
        verdict = theatre.never_wrong(mark)
        assert verdict.share >= 0.95 or ROUNDS > 1, str(verdict)
        print(f"{how.name} {turn + 1}: another worker after {took_s[-1]:.1f} s, {verdict.share:.1%} VALID", flush=True)


@SLOW
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["SIGSTOP", "SIGKILL"])
def test_the_node_stands_still_or_dies(theatre, how):
    for turn in range(ROUNDS):
        mark, first, losses = theatre.mark(), theatre.node.pid("node"), theatre.console.losses
        os.kill(first, how)
        took_s = theatre.until(lambda first=first: theatre.node.pid("node") not in (None, first))
        theatre.until(lambda mark=mark, losses=losses: theatre.outputs(mark)[-1:] and theatre.console.losses > losses)
        again_s = theatre.calm(120.0)
        print(f"{how.name} {turn + 1}: another node after {took_s:.1f} s, all VALID {again_s:.1f} s later", flush=True)
        assert took_s < 15
        theatre.never_wrong(mark)


@SLOW
def test_the_node_is_stopped_for_a_moment(theatre):
    """Too short to be replaced: what it missed meanwhile must not be taken for the present."""
    mark, node = theatre.mark(), theatre.node.pid("node")
    for stopped_s in (0.2, 0.5, 1.0):
        os.kill(node, signal.SIGSTOP)
        theatre.run(stopped_s)
        os.kill(node, signal.SIGCONT)
        theatre.run(2.0)
    assert theatre.never_wrong(mark).outputs > 200
    assert theatre.node.pid("node") == node, "it was not replaced"


@SLOW
def test_the_source_comes_back(theatre):
    mark = theatre.mark()
    theatre.room.disconnect()
    theatre.run(0.5)
    theatre.never_wrong(mark)
    assert judge(theatre.room, theatre.outputs(mark)).outputs
