import numpy as np
import pytest

from navnode import geometry as g
from navnode.loop.poses import SETTLE_SAMPLES, Missing, PoseRing
from navnode.loop.topics import POSE_GAP_NS

STEP = 10_000_000


def at_x(x: float) -> np.ndarray:
    return g.rigid(None, (x, 0.0, 0.0))


def filled(count: int = 20) -> PoseRing:
    ring = PoseRing("DrillToTracker")
    for k in range(1, count + 1):
        assert ring.add(k * STEP, at_x(k))
    return ring


def test_poses_are_interpolated():
    pose = filled().at(15 * STEP + STEP // 4)
    assert np.allclose(pose, at_x(15.25))


def test_many_times_at_once_say_what_each_by_itself_says():
    """Gaps, samples after them, exact times, and times outside included."""
    rng, ring, now = np.random.default_rng(4), PoseRing("CArmToTracker"), 0
    times = []
    for k in range(60):
        now += int(POSE_GAP_NS + STEP if k in (20, 26, 45) else rng.integers(STEP // 2, STEP))
        ring.add(now, g.exp(np.concatenate([rng.normal(0, 1e-3, 3), [k, 2.0 * k, -k]])))
        times += [now, now - 1, now + STEP // 3]
    asked = np.array([0, *times, now + 10 * STEP], np.int64)
    together = ring.many(asked)
    for at_ns, pose in zip(asked.tolist(), together, strict=True):
        alone = ring.at(at_ns)
        if isinstance(alone, Missing):
            assert np.isnan(pose).all(), at_ns
        else:
            assert np.allclose(pose, alone, atol=1e-4), at_ns
    assert 60 < np.isfinite(together[:, 0, 0]).sum() < len(asked) - 10


def test_the_last_sample_before_a_time():
    ring = filled()
    assert [ring.before(at) for at in (STEP, STEP + 1, 7 * STEP, 99 * STEP)] == [0, STEP, 6 * STEP, 20 * STEP]


def test_the_period_of_a_tracker_is_known_from_nine_samples_on():
    assert filled(8).period_ns == 0 and filled(9).period_ns == STEP


def test_the_period_is_the_usual_one_whatever_single_gaps_are():
    ring, now = PoseRing("DrillToTracker"), 0
    for gap in (STEP, STEP, 3 * STEP, STEP, STEP, STEP // 2, STEP, 2 * STEP, STEP):
        now += gap
        ring.add(now, at_x(now))
    assert ring.period_ns == STEP


@pytest.mark.parametrize("samples", range(SETTLE_SAMPLES + 2))
def test_a_marker_is_trusted_from_its_first_few_samples_on(samples):
    assert filled(samples).settled == (samples >= SETTLE_SAMPLES)


def test_poses_too_far_apart_are_said_to_be_so_in_milliseconds():
    ring = PoseRing("DrillToTracker")
    for k in range(1, 12):
        ring.add(200_000_000 * k, at_x(k))
    told = "poses of DrillToTracker come every 200 ms: too far apart to interpolate"
    missing = ring.at(200_000_000 * 10 + 5)
    assert isinstance(missing, Missing) and missing.reason.startswith(told) and not missing.not_yet


def test_nothing_is_carried_beyond_the_newest_sample():
    missing = filled().at(20 * STEP + 1)
    assert isinstance(missing, Missing) and missing.not_yet


def test_nothing_is_known_before_the_first_sample():
    missing = filled().at(STEP // 2)
    assert isinstance(missing, Missing) and not missing.not_yet


def test_old_and_repeated_samples_are_refused():
    ring = filled()
    assert not ring.add(20 * STEP, at_x(0))
    assert not ring.add(3 * STEP, at_x(0))


def test_a_gap_is_not_bridged_and_the_marker_must_settle_after_it():
    ring = filled()
    back = 20 * STEP + POSE_GAP_NS + 1
    ring.add(back, at_x(500))
    for time_ns in (20 * STEP + POSE_GAP_NS // 2, back):
        missing = ring.at(time_ns)
        assert isinstance(missing, Missing)
    for k in range(1, SETTLE_SAMPLES):
        ring.add(back + k * STEP, at_x(500))
    assert not isinstance(ring.at(back + (SETTLE_SAMPLES - 1) * STEP), Missing)
    # What was measured before the gap is still known.
    assert np.allclose(ring.at(15 * STEP), at_x(15))


def test_a_flickering_marker_is_believed_again():
    ring = PoseRing("x")
    ring.add(STEP, at_x(0))
    ring.add(STEP + 2 * POSE_GAP_NS, at_x(0))
    for k in range(1, 10):
        ring.add(STEP + 4 * POSE_GAP_NS + k * STEP, at_x(7))
    assert np.allclose(ring.at(STEP + 4 * POSE_GAP_NS + 9 * STEP), at_x(7))


def test_a_lost_sample_breaks_the_run():
    ring = filled()
    ring.lost()
    ring.add(21 * STEP, at_x(21))
    assert isinstance(ring.at(20 * STEP + STEP // 2), Missing) and isinstance(ring.at(21 * STEP), Missing)
    for k in range(22, 24 + SETTLE_SAMPLES):
        ring.add(k * STEP, at_x(k))
    assert np.allclose(ring.at((22 + SETTLE_SAMPLES) * STEP), at_x(22 + SETTLE_SAMPLES))


def test_memory_is_bounded():
    """At 100 Hz 13 s, twice that at most; however many a tracker sends, a number."""
    ring = PoseRing("x")
    for k in range(8000):
        ring.add((k + 1) * STEP, np.eye(4))
        assert len(ring._times_ns) <= 2 * 1301
    assert len(ring._times_ns) >= 1300 and not isinstance(ring.at(7999 * STEP), Missing)
    for k in range(40_000):
        ring.add(8000 * STEP + (k + 1) * 10_000, np.eye(4))
        assert len(ring._times_ns) <= 1 << 14


def test_a_marker_that_moves_faster_than_a_hand_must_settle_again():
    ring = filled()
    ring.add(21 * STEP, at_x(71))
    assert ring.jumps == 1 and isinstance(ring.at(21 * STEP), Missing)
    turned = g.rigid(g.rotation_exp(np.array([0.0, 0.0, 1.0])), (72.0, 0.0, 0.0))
    ring.add(22 * STEP, turned)
    assert ring.jumps == 2


def test_a_quick_hand_is_believed():
    ring = PoseRing("DrillToTracker")
    for k in range(1, 30):  # 0.9 m/s and 2 turns a second
        turn = g.rotation_exp(np.array([0.0, 0.0, 2 * np.pi * 2 * k * 0.01]))
        ring.add(k * STEP, g.rigid(turn, (9.0 * k, 0.0, 0.0)))
    assert ring.jumps == 0


@pytest.mark.parametrize(("period_ms", "stale_ms"), [(10, 70), (5, 60), (90, 150), (120, 180), (260, 390), (280, 150)])
def test_how_long_a_silence_hides_a_marker(period_ms, stale_ms):
    """Seven periods, from 60 to 150 ms; one and a half of those that nothing is interpolated between."""
    ring = PoseRing("DrillToTracker")
    for k in range(1, 12):
        ring.add(k * period_ms * 1_000_000, at_x(k))
    assert ring.stale_ns == stale_ms * 1_000_000


def test_a_pose_that_changes_is_no_repetition():
    """So many equal ones in a row are, whatever came before them."""
    ring = filled(5)
    assert [ring.frozen(at_x(5), 3) for _ in range(3)] == [False, False, False]
    assert not ring.frozen(at_x(5.001), 3)
    assert [ring.frozen(at_x(5), 3) for _ in range(5)] == [False, False, False, True, True]
    assert not any(ring.frozen(at_x(5), 0) for _ in range(20))


def test_poses_sent_in_turn_are_a_repetition():
    """A tracker that holds its last two poses, under new stamps."""
    ring = filled(5)
    said = [ring.frozen(at_x(3 + k % 2), 3) for k in range(10)]
    assert said == [False] * 7 + [True] * 3


@pytest.mark.parametrize("length", [2, 4, 5, 12, 60, 700])
def test_old_measurements_that_are_played_again_in_turn_are_frozen(length):
    """A replay of the last seconds under new stamps: noise repeats no measurement, let alone a row of them."""
    ring, rng = PoseRing("Drill"), np.random.default_rng(0)
    honest = [at_x(5 + each) for each in rng.normal(0, 0.1, 3000)]
    assert not any(ring.frozen(pose, 3) for pose in honest)
    said = [ring.frozen(pose, 3) for pose in (honest[-length:] * 20)[: length + 30]]
    first = said.index(True)
    assert first < 9 and all(said[first:]), "and it stays so"
    if length > 4:
        assert all(ring.frozen(honest[-1 - k % 3 % length], 3) for k in range(20)), "though some are left out"
    assert not ring.frozen(at_x(9), 3), "until it measures again"


def test_coarse_numbers_that_repeat_by_chance_are_not():
    """Of 50 places, in any order: each was there before."""
    ring, rng = PoseRing("Drill"), np.random.default_rng(1)
    assert not any(ring.frozen(at_x(int(place)), 3) for place in rng.integers(0, 50, 30_000))


def test_coarse_numbers_of_a_quiet_tracker_are_measured():
    """Steps of 0.01 mm, of a marker at rest with a noise of 0.005 mm, for five minutes."""
    rng, ring = np.random.default_rng(0), PoseRing("x")
    for _ in range(60 * 300):
        assert not ring.frozen(g.rigid(None, tuple(np.round(rng.normal(0, 0.005, 3), 2))), 3)
