"""Image clock and tracker clock by themselves: what is added to an X-ray's time, and when it is not known.

The drills play the same over sockets and for minutes; this says which rule decides.
"""

from __future__ import annotations

import numpy as np
import pytest

from navnode.clock import Stamp
from navnode.loop.clocks import Clocks
from navnode.loop.topics import FRAME_LATE_NS
from navnode.types import Frame, Tick, TrackedPose, WorkerState

MS = 1_000_000
SECOND = 1_000 * MS
T0 = 1_700_000_000 * SECOND


class Room:
    """A tracker at 100 Hz and an X-ray source at 10 Hz, each with a clock of its own and a delay."""

    def __init__(self, image_behind_ns: int = 0, image_delay_ns: int = 0) -> None:
        self.clocks = Clocks("XRay", "CArm", ["CArm", "Patient"])
        self.now_ns, self.image_behind_ns, self.image_delay_ns = T0, image_behind_ns, image_delay_ns
        self.image_rate = self.tracker_rate = 1.0

    def run(self, seconds: float, *, xrays: bool = True) -> str:
        """Go on; what `drifted` said last."""
        said = ""
        for step in range(round(seconds * 100)):
            self.now_ns += 10 * MS
            self.clocks.advance(Tick(self.now_ns))
            for device in ("CArm", "Patient"):
                self.clocks.stamp(device, T0 + round((self.now_ns - T0) * self.tracker_rate), self.now_ns)
            if xrays and step % 10 == 9:
                self.clocks.mistimed(self.frame(), 0)
            said = self.clocks.drifted()
        return said

    def frame(self, received_after_ns: int = 0) -> Frame:
        taken_ns = self.now_ns - self.image_delay_ns
        stamp_ns = T0 + round((taken_ns - T0) * self.image_rate) - self.image_behind_ns
        return Frame(np.zeros((2, 2), np.uint16), stamp_ns, self.now_ns + received_after_ns, 1)

    def shift_now_ns(self) -> int:
        """What is added to the time of an X-ray taken now."""
        stamp_ns = self.frame().timestamp_ns
        return self.clocks.in_tracker_time_ns(stamp_ns) - stamp_ns


@pytest.mark.parametrize("delay_ms", [0, 40, 400, 1_900])
def test_stamps_of_one_clock_are_used_as_they_are(delay_ms):
    room = Room(image_delay_ns=delay_ms * MS)
    assert room.run(3.0) == "" and room.clocks.related
    assert room.shift_now_ns() == 0 and room.clocks.unrelated() == ""


@pytest.mark.parametrize("behind_s", [3, 3_600, -1, -3_600])
def test_clocks_that_are_apart_from_the_start_are_not_taken_for_one(behind_s):
    """A delay of hours is no delay, and nothing arrives before it is sent."""
    room = Room(image_behind_ns=behind_s * SECOND)
    room.run(3.0)
    assert not room.clocks.related
    assert f"{abs(behind_s):.1f} s apart" in room.clocks.unrelated()


@pytest.mark.parametrize("gap_ms", [-59, 1_999])
def test_the_widest_gap_that_delays_explain(gap_ms):
    room = Room(image_behind_ns=gap_ms * MS)
    room.run(3.0)
    assert room.clocks.related


@pytest.mark.parametrize("gap_ms", [-62, 2_002])
def test_a_gap_just_wider_is_not_explained(gap_ms):
    room = Room(image_behind_ns=gap_ms * MS)
    room.run(3.0)
    assert not room.clocks.related


@pytest.mark.parametrize("set_s", [0.3, -1.0, 3_600.0])
def test_an_image_clock_that_is_set_is_followed(set_s):
    """X-rays keep their times: what was set is added again."""
    room = Room()
    room.run(5.0)
    room.image_behind_ns = round(set_s * SECOND)
    room.run(3.0)
    assert room.shift_now_ns() == pytest.approx(set_s * SECOND, abs=2 * MS)
    assert room.clocks.drifted() == ""


def test_drift_of_clocks_is_followed():
    """200 parts in a million, 36 ms in three minutes."""
    room = Room()
    room.run(2.0)
    room.image_rate = 1 - 2e-4
    began_ns = room.shift_now_ns()
    assert room.run(180.0) == ""
    true_ns = (room.now_ns - T0) * 2e-4
    assert room.shift_now_ns() - began_ns == pytest.approx(true_ns, abs=5 * MS)


def test_first_xrays_that_waited_set_no_clock():
    """Five that lay in a queue come at once: their delay was misjudged, and the stamps mean what they meant."""
    room = Room(image_delay_ns=40 * MS)
    room.run(1.0, xrays=False)
    for waited_ms in (500, 400, 300, 200, 100):
        room.image_delay_ns = (40 + waited_ms) * MS
        room.clocks.mistimed(room.frame(), 0)
    room.image_delay_ns = 40 * MS
    assert room.run(3.0) == ""
    assert room.shift_now_ns() == 0


def test_nothing_is_known_before_both_have_sent():
    room = Room()
    assert room.run(2.0, xrays=False) == ""
    assert room.clocks.shift_ns == 0.0 and room.clocks.possible_shifts_ns().size == 0


# --- connected again -------------------------------------------------------------------------------------------------


def connected_again(image_behind_ns: int) -> Room:
    room = Room()
    room.run(5.0)
    room.clocks.reset()
    room.image_behind_ns = image_behind_ns
    return room


def test_the_gap_of_before_is_believed_at_once():
    room = connected_again(15 * MS)
    assert room.run(0.2) == ""
    assert room.shift_now_ns() == 0


def test_another_gap_is_believed_when_ten_xrays_agree():
    room = connected_again(800 * MS)
    said = room.run(0.95)
    assert "800 ms until they connected again" in said and "of 10 X-rays agree" in said
    assert room.run(0.5) == ""
    assert room.shift_now_ns() == pytest.approx(800 * MS, abs=2 * MS)


def test_of_a_gap_as_long_as_a_delay_xrays_decide():
    """Clock or delay: what X-rays contradict is reconsidered, once for each."""
    room = connected_again(300 * MS)
    room.run(3.0)
    shown = [room.shift_now_ns()]
    for _ in range(3):
        room.clocks.reconsider()
        shown.append(room.shift_now_ns())
    assert shown == pytest.approx([300 * MS, 0, 300 * MS, 300 * MS], abs=2 * MS)


def test_a_gap_that_no_delay_explains_is_not_reconsidered():
    room = connected_again(800 * MS)
    room.run(3.0)
    room.clocks.reconsider()
    assert room.shift_now_ns() == pytest.approx(800 * MS, abs=2 * MS)


# --- what X-rays of a move show --------------------------------------------------------------------------------------


def test_what_xrays_show_relates_the_clocks():
    room = Room(image_behind_ns=-10 * SECOND)
    room.run(3.0)
    said = room.clocks.pair(-9.95 * SECOND)
    assert "9.95 s ahead of" in said and room.clocks.related and room.clocks.unrelated() == ""
    assert room.shift_now_ns() == pytest.approx(-9.95 * SECOND, abs=1)
    assert "behind" in room.clocks.pair(2.0 * SECOND)


def test_possible_shifts_hold_the_true_one():
    """Images may be delayed by up to 0.6 s more than poses, whatever their clocks say; ascending, 10 ms apart."""
    for behind_ns, delay_ns in ((0, 0), (0, 580 * MS), (7 * SECOND, 250 * MS), (-7 * SECOND, 0)):
        room = Room(behind_ns, delay_ns)
        room.run(3.0)
        shifts_ns = room.clocks.possible_shifts_ns()
        assert (np.diff(shifts_ns) > 0).all()
        assert np.abs(shifts_ns - behind_ns).min() <= 5 * MS


# --- stamps ----------------------------------------------------------------------------------------------------------


def test_why_a_frame_is_not_used():
    room = Room()
    room.run(3.0)
    room.now_ns += 100 * MS
    assert room.clocks.mistimed(room.frame(), 0) == ("", False)
    late = room.clocks.mistimed(room.frame(FRAME_LATE_NS + 2 * MS), 0)
    assert "0.2 s late" in late[0] and not late[1]
    assert room.clocks.mistimed(room.frame(FRAME_LATE_NS - 2 * MS), 0) == ("", False)
    older = room.clocks.mistimed(room.frame(), room.frame().timestamp_ns + 1)
    assert older == ("the X-ray is older than the last one", False)
    assert room.clocks.mistimed(room.frame(), room.frame().timestamp_ns) == ("", False)


def test_a_clock_set_forward_is_known_by_the_fifth_stamp():
    room = Room()
    room.run(3.0)
    room.image_behind_ns = -SECOND
    said = []
    for _ in range(5):
        room.now_ns += 100 * MS
        said.append(room.clocks.mistimed(room.frame(), 0))
    assert said[:4] == [("the X-ray is stamped ahead of time", False)] * 4
    assert said[4] == ("the clock of the X-ray source was set", True)


@pytest.mark.parametrize(("apart_ms", "told"), [(59, False), (61, True)])
def test_markers_of_two_clocks(apart_ms, told):
    clocks = Clocks("XRay", "CArm", ["CArm", "Patient"])
    for k in range(10):
        now_ns = T0 + k * 10 * MS
        clocks.stamp("CArm", now_ns, now_ns)
        clocks.stamp("Patient", now_ns - apart_ms * MS, now_ns)
    assert bool(clocks.apart("CArm", "Patient")) is told
    assert not told or "61 ms" in clocks.apart("Patient", "CArm")


def test_the_age_of_a_measurement_counts_from_the_shortest_delay():
    room = Room(image_delay_ns=80 * MS)
    room.run(2.0)
    frame = room.frame()
    room.clocks.advance(Tick(room.now_ns + 30 * MS))
    assert room.clocks.image_age_ns(frame) == pytest.approx(30 * MS, abs=MS)
    pose = TrackedPose("CArm", np.eye(4), room.now_ns, room.now_ns + 25 * MS)
    assert room.clocks.late_ns(pose) == pytest.approx(25 * MS, abs=MS)
    assert room.clocks.stamp("CArm", room.now_ns + 10 * MS, room.now_ns + 10 * MS) is Stamp.EXPECTED


def test_time_comes_from_messages_and_never_goes_back():
    clocks = Clocks("XRay", "CArm", ["CArm", "Patient"])
    clocks.advance(Tick(T0 + 5 * MS))
    clocks.advance(TrackedPose("CArm", np.eye(4), T0, T0 + 9 * MS))
    clocks.advance(Tick(T0))
    assert clocks.now_ns == T0 + 9 * MS
    clocks.advance(WorkerState(True, "", "", T0 + SECOND))  # it may have waited in a queue
    assert clocks.now_ns == T0 + 9 * MS
