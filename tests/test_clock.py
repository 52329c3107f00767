"""What is thought of time stamps."""

from navnode.clock import Lateness, Stamp

MS = 1_000_000


def learnt(offset_ms: int = 40) -> Lateness:
    lateness = Lateness()
    for k in range(5):
        assert lateness.observe(k * 10 * MS, (k * 10 + offset_ms) * MS) is Stamp.LEARNING
    return lateness


def test_the_shortest_way_is_learnt_and_what_exceeds_it_is_delay():
    lateness = learnt()
    assert lateness.observe(50 * MS, (50 + 38) * MS) is Stamp.EXPECTED
    assert lateness.age_ns(60 * MS, (60 + 38) * MS) == 0
    assert lateness.observe(60 * MS, (60 + 138) * MS) is Stamp.EXPECTED
    assert abs(lateness.age_ns(60 * MS, (60 + 138) * MS) - 100 * MS) < MS


def test_one_wrong_stamp_among_the_first_is_outvoted():
    lateness = Lateness()
    lateness.observe(3_000 * MS, 40 * MS)
    for k in range(1, 6):
        lateness.observe(k * 10 * MS, (k * 10 + 40) * MS)
    assert lateness.observe(60 * MS, 100 * MS) is Stamp.EXPECTED
    assert lateness.age_ns(60 * MS, 100 * MS) == 0


def test_stamps_ahead_are_dropped_until_several_agree():
    lateness = learnt()
    said = [lateness.observe((k * 10 + 1_000) * MS, (k * 10 + 40) * MS) for k in range(5, 12)]
    assert said[:4] == [Stamp.AHEAD] * 4 and said[4] is Stamp.CLOCK_SET and said[5] is Stamp.EXPECTED


def test_a_delay_that_stays_is_no_habit():
    lateness = learnt()
    for k in range(5, 1_000):
        lateness.observe(k * 10 * MS, (k * 10 + 540) * MS)
    assert lateness.age_ns(10_000 * MS, 10_540 * MS) > 490 * MS
