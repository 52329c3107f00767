"""Whose marker moves while the C-arm rests: as the tracker and X-rays show it."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.registration.resting import CArmAtRest

CENTER_MM = np.array([0.0, 10.0, -80.0])
TRACKER_FROM_PATIENT = g.rigid(g.rotation_exp(np.array([0.4, -1.1, 0.3])), (300.0, -50.0, 1900.0))
CARM_FROM_VOLUME = g.rigid(g.rotation_exp(np.array([-0.9, 0.2, 0.5])), (4.0, -6.0, 800.0))
VOLUME_FROM_PATIENT = g.rigid(g.rotation_exp(np.array([0.1, 0.7, -0.2])), (12.0, 3.0, 60.0))
NOTHING = np.eye(4)
EVERY_S, XRAYS = 0.1, 80


def by(mm: float) -> np.ndarray:
    return g.rigid(None, (0.0, mm, 0.0))


def judged(patient=NOTHING, carm=NOTHING, moved_carm=NOTHING, breathing_mm=0.0, noise_mm=0.0, every_s=EVERY_S):
    """After X-rays at rest, as many while markers and the C-arm go evenly to where they are moved: what of before is
    returned first, and by which part of the way.

    Args:
        patient, carm: displacement of a marker on what carries it.
        moved_carm: of the C-arm itself.
    """
    watched, random = CArmAtRest(), np.random.default_rng(5)
    tracker_from_carm = TRACKER_FROM_PATIENT @ g.inverse(VOLUME_FROM_PATIENT) @ g.inverse(CARM_FROM_VOLUME)
    for n in range(2 * XRAYS):
        part = max(0.0, (n + 1 - XRAYS) / XRAYS)

        def partly(moved, part=part):
            return g.exp(part * g.log(moved))

        breath = by(breathing_mm * np.sin(n / 7))
        true_carm = tracker_from_carm @ partly(moved_carm)
        patient_seen = breath @ TRACKER_FROM_PATIENT @ partly(patient)
        carm_seen = g.rigid(None, noise_mm * random.standard_normal(3)) @ true_carm @ partly(carm)
        true_volume = breath @ TRACKER_FROM_PATIENT @ g.inverse(VOLUME_FROM_PATIENT)
        carm_from_volume = g.inverse(true_carm) @ true_volume
        patient_from_carm = g.inverse(patient_seen) @ carm_seen
        shown = g.inverse(patient_from_carm @ carm_from_volume)
        known = VOLUME_FROM_PATIENT @ partly(patient)
        before = watched.before_creep(
            round(n * every_s * 1e9), patient_seen, patient_from_carm, shown, known, CENTER_MM
        )
        if before is not None:
            return before, part
    return None, 1.0


@pytest.mark.parametrize("breathing_mm", [0.0, 3.0])
@pytest.mark.parametrize("moved", [by(3.0), g.rigid(g.rotation_exp(np.array([0.005, 0.0, 0.0])))], ids=["mm", "turn"])
def test_the_carms_marker_moves(moved, breathing_mm):
    before, part = judged(carm=moved, breathing_mm=breathing_mm)
    assert before is not None and part < 0.6
    np.testing.assert_allclose(before, VOLUME_FROM_PATIENT)


@pytest.mark.parametrize("every_s", [0.1, 0.5, 2.0])
def test_it_shows_through_noise_and_however_seldom_xrays_come(every_s):
    before, part = judged(carm=by(3.0), noise_mm=0.2, every_s=every_s)
    assert before is not None and part < 0.8


@pytest.mark.parametrize("breathing_mm", [0.0, 3.0])
@pytest.mark.parametrize(
    "moves",
    [
        {},
        {"patient": by(5.0)},
        {"moved_carm": by(5.0)},
        {"moved_carm": g.rigid(g.rotation_exp(np.array([0.3, 0.0, 0.0])))},
        {"moved_carm": by(60.0), "patient": by(5.0)},
    ],
    ids=["nothing", "his marker", "the C-arm", "it turns", "both"],
)
def test_it_does_not(moves, breathing_mm):
    assert judged(**moves, breathing_mm=breathing_mm, noise_mm=0.2)[0] is None


def test_it_is_forgotten_with_what_was_before():
    watched = CArmAtRest()
    tracker_from_carm = TRACKER_FROM_PATIENT @ g.inverse(VOLUME_FROM_PATIENT) @ g.inverse(CARM_FROM_VOLUME)
    for n in range(60):
        if n == 30:
            watched.forget()
        patient_from_carm = g.inverse(TRACKER_FROM_PATIENT) @ tracker_from_carm @ by(0.0 if n < 30 else 4.0)
        shown = g.inverse(patient_from_carm @ CARM_FROM_VOLUME)
        assert (
            watched.before_creep(n * 100_000_000, TRACKER_FROM_PATIENT, patient_from_carm, shown, np.eye(4), CENTER_MM)
            is None
        )
