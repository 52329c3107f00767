"""The patient's marker from pose to pose: what a patient, a table and noise explain, and what not."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.loop.continuity import Continuity

MS = 1_000_000


def at_mm(x: float, turned_rad: float = 0.0) -> np.ndarray:
    return g.rigid(g.rotation_exp(np.array([0.0, 0.0, turned_rad])), (x, 0.0, 0.0))


class Marker:
    """One that is seen every 10 ms."""

    def __init__(self, period_ms: int = 10) -> None:
        self.continuity, self.now_ms, self.period_ms = Continuity(), 0, period_ms

    def seen(self, *xs_mm: float, turned_rad: float = 0.0) -> list[str]:
        """At these places, one after the other; what was said of each."""
        said = []
        for x_mm in xs_mm:
            self.now_ms += self.period_ms
            said.append(self.continuity.check(self.now_ms * MS, at_mm(x_mm, turned_rad)))
        return said

    def rested(self, poses: int = 10) -> Marker:
        assert self.seen(*[0.0] * poses) == [""] * poses
        return self


@pytest.mark.parametrize(("mm", "told"), [(2.1, False), (2.3, True), (-2.3, True)])
def test_a_step_in_sight(mm, told):
    """2 mm, and what a patient can accelerate by in 10 ms: 0.2 mm."""
    [said] = Marker().rested().seen(mm)
    assert bool(said) is told
    assert not told or said == "the patient's marker jumped by 2 mm"


@pytest.mark.parametrize(("rad", "told"), [(0.014, False), (0.0154, True)])
def test_a_turn_counts_where_the_anatomy_is(rad, told):
    """150 mm away from the marker."""
    [said] = Marker().rested().seen(0.0, turned_rad=rad)
    assert bool(said) is told
    assert not told or said == "the patient's marker jumped by 2 mm"


@pytest.mark.parametrize("poses", [1, 2, 3])
def test_a_step_while_few_poses_are_known(poses):
    assert Marker().rested(poses).seen(2.0) == [""]
    assert Marker().rested(poses).seen(2.3) != [""]


def test_even_motion_is_predicted():
    """Half a metre a second, begun gently."""
    speed = np.concatenate([np.linspace(0, 5, 40), np.full(60, 5.0)])
    assert not any(Marker().rested().seen(*np.cumsum(speed)))


def test_after_a_step_it_is_compared_with_poses_since():
    marker = Marker().rested()
    assert marker.seen(10.0)[0]
    assert marker.seen(*[10.0] * 8) == [""] * 8
    assert marker.seen(0.0)[0]


def test_noise_widens_what_is_allowed():
    """Six times the mean of what poses are off by; a quiet tracker's are held to 2 mm."""
    rng, marker = np.random.default_rng(0), Marker().rested()
    assert not any(marker.seen(*rng.normal(0, np.linspace(0.1, 1.0, 600))))
    assert marker.seen(3.5) == [""]
    assert marker.seen(40.0) != [""]


# --- hidden ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mm", "told"), [(1.9, False), (2.1, True)])
@pytest.mark.parametrize("periods", [0, 2, 50], ids=["lost, and back with the next pose", "2", "50 periods"])
def test_what_comes_back_elsewhere(mm, told, periods):
    marker = Marker().rested()
    marker.continuity.lost()
    marker.now_ms += 10 * periods
    [said] = marker.seen(mm)
    assert bool(said) is told
    assert not told or said == "the patient's marker was hidden and came back 2 mm away"


@pytest.mark.parametrize(("periods", "hidden"), [(2.4, False), (2.6, True)])
def test_a_gap_is_a_shadow_if_nothing_is_said_of_it(periods, hidden):
    marker = Marker().rested()
    marker.now_ms += round(10 * (periods - 1))
    [said] = marker.seen(9.0)
    assert ("was hidden" in said) is hidden and ("jumped" in said) is not hidden


def test_a_shadow_explains_no_motion():
    """Half a metre a second: the straight line is not followed while nobody sees."""
    marker = Marker().rested()
    assert not any(marker.seen(*np.cumsum(np.concatenate([np.linspace(0, 5, 40), np.full(10, 5.0)]))))
    marker.continuity.lost()
    assert "was hidden" in marker.seen(155.0)[0]


def test_after_a_shadow_it_is_watched_again():
    marker = Marker().rested()
    marker.continuity.lost()
    assert marker.seen(1.0, 1.0) == ["", ""]
    assert "jumped" in marker.seen(6.0)[0]


def test_what_is_forgotten_is_not_compared():
    marker = Marker().rested()
    marker.continuity.lost()
    marker.continuity.forget()
    assert marker.seen(500.0) == [""]


# --- bumps that take a while -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hz", [30, 60, 100, 250, 500])
@pytest.mark.parametrize(("mm", "took_ms"), [(8.0, 15), (6.0, 40), (10.0, 70), (20.0, 120)])
def test_a_bump_is_no_patient_however_often_it_is_seen(hz, mm, took_ms):
    """Told before it is half over, as far as poses show that: after two poses, or 4.5 mm."""
    continuity, told_mm = Continuity(), None
    for k in range(hz):
        moved_mm = mm * float(np.clip((1000 * k / hz - 500) / took_ms, 0, 1))
        if continuity.check(round(1e9 * (1 + k / hz)), at_mm(moved_mm)):
            told_mm = moved_mm
            break
    assert told_mm is not None
    assert told_mm < 1e-9 + max(4.5, mm / 2, min(mm, 2 * mm / (hz * took_ms / 1000)))


@pytest.mark.parametrize("hz", [20.5, 30, 60, 100, 250, 500])
@pytest.mark.parametrize("noise", [0.0, 1.0], ids=["quiet", "noisy"])
@pytest.mark.long
def test_breathing_and_a_table_that_starts_are_no_bump(hz, noise):
    """Breaths of 8 mm, four seconds long, on a table that at once drives with 100 mm/s, for a second."""
    rng, continuity, said = np.random.default_rng(0), Continuity(), []
    for k in range(round(20 * hz)):
        t_s = k / hz
        at = np.array([8 * np.sin(np.pi / 2 * t_s), 100 * np.clip(t_s - 5, 0, 1), 0.0])
        pose = g.rigid(None, tuple(at)) @ g.exp(noise * rng.normal(0, 1, 6) * ([2e-4] * 3 + [0.1] * 3))
        said.append(continuity.check(round(1e9 * (1 + t_s)), pose))
    assert not any(said)


@pytest.mark.parametrize("hz", [60, 100, 250])
@pytest.mark.parametrize("stamped", ["in pairs", "early and late"])
def test_stamps_of_arrival_are_no_bump(hz, stamped):
    """A patient breathes on a table that drives: two poses at one moment, or stamps off by a third of a period."""
    rng, continuity, said = np.random.default_rng(0), Continuity(), []
    for k in range(20 * hz):
        t_s = k / hz
        at = (8 * np.sin(np.pi / 2 * t_s), 50 * np.clip(t_s - 5, 0, 1), 0.0)
        pose = g.rigid(None, at) @ g.exp(rng.normal(0, 1, 6) * ([5e-5] * 3 + [0.02] * 3))
        late_s = (k + 1) % 2 / hz - 1e-4 * (k % 2 == 0) if stamped == "in pairs" else rng.uniform(-0.33, 0.33) / hz
        said.append(continuity.check(round(1e9 * (1 + t_s + late_s)), pose))
    assert not any(said)


# --- slow trackers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period_ms", "mm", "told"), [(40, 5.1, False), (40, 5.3, True), (60, 1.9, False), (60, 2.1, True)]
)
def test_between_poses_far_apart_a_marker_is_not_watched(period_ms, mm, told):
    """Up to 50 ms a table that starts explains a way; above that, it would hide a marker that moved."""
    [said] = Marker(period_ms).rested().seen(mm)
    assert bool(said) is told


def test_a_slow_tracker_may_see_a_patient_that_moves_evenly():
    """Either the straight line or the last place is near enough."""
    marker = Marker(100).rested()
    assert not any(marker.seen(*np.cumsum(np.linspace(0, 5, 8))[:1]))
    way = np.cumsum(np.full(10, 1.9))
    assert not any(marker.seen(*way))
    assert not any(marker.seen(*[way[-1]] * 3))


def bend_by_numpy(times_s: np.ndarray, points_mm: np.ndarray, poses: int = 1) -> list[float]:
    """Of three poses or means: off the line, explained by 2 m/s2, noise."""
    step_s, earlier_s = times_s[2] - times_s[1], max(times_s[1] - times_s[0], 1e-6)
    ahead = step_s / earlier_s
    off_mm = np.linalg.norm(points_mm[2] - points_mm[1] - ahead * (points_mm[1] - points_mm[0]), axis=1).max()
    noise = np.sqrt((1 + (1 + ahead) ** 2 + ahead**2) / (6 * poses))
    return [off_mm, 1000 * step_s * (step_s + earlier_s), noise]


def bends_by_numpy(times_s: np.ndarray, points_mm: np.ndarray, period_s: float) -> list[list[float]]:
    """What native code finds, by its words."""
    last = np.linalg.norm(points_mm[-1] - points_mm[-2], axis=1).max()
    bends = [[last, 1000 * (times_s[-1] - times_s[-2]) ** 2, 1.0]]
    first = len(times_s) - 3
    while first > max(0, len(times_s) - 6) and times_s[-2] - times_s[first] < period_s / 2:
        first -= 1
    bends.append(bend_by_numpy(times_s[[first, -2, -1]], points_mm[[first, -2, -1]]))
    for horizon_s in (0.1, 0.05, 0.025, 0.0125):
        ends = [int(np.sum(times_s <= times_s[-1] - ago * horizon_s)) for ago in (2.25, 2, 1.25, 1, 0.25, 0)]
        spans = [slice(min(begin, end - 1), end) for begin, end in zip(ends[::2], ends[1::2], strict=True)]
        if ends[0] and spans[0].stop <= spans[1].start and spans[1].stop <= spans[2].start:
            at_s = np.array([times_s[span].mean() for span in spans])
            at_mm = np.array([points_mm[span].mean(axis=0) for span in spans])
            bends.append(bend_by_numpy(at_s, at_mm, min(span.stop - span.start for span in spans)))
    ago_s = times_s[-5:-1] - times_s[-1]
    slopes = np.stack([np.ones(4), ago_s])
    weights = np.linalg.solve(slopes @ slopes.T, slopes)[0]  # of least squares, at the last pose
    off_mm = np.linalg.norm(points_mm[-1] - np.tensordot(weights, points_mm[-5:-1], 1), axis=1).max()
    return [*bends, [off_mm, 1000 * np.abs(weights) @ ago_s**2, np.sqrt((1 + weights @ weights) / 6)]]


@pytest.mark.parametrize("hz", [10, 60, 100, 1000])
def test_native_code_finds_what_numpy_finds(hz):
    """To the rounding of times in seconds since 1970: 2e-7 of the 1e-3 between poses at 1 kHz."""
    rng, most = np.random.default_rng(hz), 0
    for _ in range(20):
        watched, count = Continuity(), int(rng.integers(5, 250))
        steps_s = rng.uniform(0.7, 1.3, count) / hz
        if rng.random() < 0.5:
            steps_s[-3:] /= 100  # poses that came together
        times_s, points_mm = 1.8e9 + np.cumsum(steps_s), np.cumsum(rng.normal(0, 0.3, (count, 4, 3)), axis=0)
        watched._times_s[:count], watched._points_mm[:count], watched._period_s = times_s, points_mm, 1 / hz
        found, expected = watched._bends(count, means=True), bends_by_numpy(times_s, points_mm, 1 / hz)
        most = max(most, len(found))
        assert len(found) == len(expected)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)
        assert len(watched._bends(count, means=False)) == 3
    assert most > 3 or hz == 10
